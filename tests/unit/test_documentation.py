"""Documentation is true: what it names exists, and ARCHITECTURE.md shows the packages as they are."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubectl_serve.cli.verbs import BY_NAME
from serve_core.base.reasons import CATALOGUE, Kind
from support.paths import ROOT

PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
LINKING = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tests").rglob("*.md"))]
STYLE = ROOT / "docs/style.md"
WRITTEN = [page for page in LINKING if page != STYLE and "Written by scripts/docs" not in page.read_text()]
"""The pages that people write; scripts/docs writes the others."""
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
PICTURE = {
    folder: re.findall(r"^  (\w+) ", block, re.MULTILINE)
    for folder, block in re.findall(r"^((?:plugin|webhook)/\w+)\n((?:  .*\n)+)", ARCHITECTURE, re.MULTILINE)
}
"""For each import package, its parts in the picture, from top to bottom."""
WALK = re.findall(r"^\| \d+ \| `([\w/.]+)` \| ([^|]+) \|", ARCHITECTURE, re.MULTILINE)
"""The file and the functions of each step."""


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page, code blocks left out."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(f"{target}#{anchor}")
    return broken


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_word_that_the_style_page_avoids(page: Path) -> None:
    avoided = re.findall(r"\*([a-z ]+)\*", " ".join(STYLE.read_text().split("\nAvoid: ")[1].split("\n\n")[0].split()))
    text = re.sub(r"<!-- \w+: written by .*?<!-- end", "", page.read_text(), flags=re.DOTALL)
    assert "told" in avoided
    assert re.findall(rf"\b(?:{'|'.join(avoided)})\b", " ".join(text.split()), re.IGNORECASE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_that_is_shown_exists(page: Path) -> None:
    shown = set(re.findall(r"kubectl serve ([a-z]+)", page.read_text()))
    assert shown <= set(BY_NAME)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    paths = re.findall(r"(?<![\w/$-])((?:scripts|manifests|webhook|plugin|tests|docs)/[\w./-]*\w)", page.read_text())
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []


def nav_pages(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict | list):
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from nav_pages(each)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    """One decision record is reached from the list of them."""
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    listed = list(nav_pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert sorted(listed) == sorted(page for page in pages if not re.match(r"adr/\d", page))


def test_troubleshooting_has_every_cause_that_a_condition_names_and_no_other_code() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    causes = {reason.code for reason in CATALOGUE.values() if reason.kind is Kind.CONDITION and reason.hint}
    assert causes - named - {"PolicyViolated"} == set()
    assert {code for code in named if code[0].isupper()} - set(CATALOGUE) == set()


def test_every_metric_that_is_named_exists() -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    for page in LINKING:
        for name in re.findall(r"\bkubectl_serve_\w+", page.read_text()):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in known or name in known, f"{page.name}: {name}"


def test_every_test_that_is_named_exists() -> None:
    sources = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    for page in WRITTEN:
        for name in re.findall(r"`(test_\w+)`", page.read_text()):
            assert f"def {name}(" in sources, f"{page.name}: {name}"


def test_every_attack_that_is_listed_has_a_test_that_says_so() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/security.md").read_text(), re.MULTILINE)
    marks = [
        number
        for file in (ROOT / "tests").rglob("test_*.py")
        for numbers in re.findall(r"^(?:@|.*= )pytest\.mark\.attack\(([\d, ]+)\)", file.read_text(), re.MULTILINE)
        for number in numbers.split(", ")
    ]
    assert rows == [str(number) for number in range(1, len(rows) + 1)]
    assert set(marks) == set(rows)


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "docs/security.md"])
def test_every_module_that_is_named_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    modules = re.findall(r"`((?:serve_\w+|model_\w+|kubectl_serve)/[\w/.]+)`", text)
    assert [path for path in modules if not any((ROOT / top / path).exists() for top in ("webhook", "plugin"))] == []


def import_packages() -> list[Path]:
    return sorted(path.parent for top in ("plugin", "webhook") for path in (ROOT / top).glob("*/__init__.py"))


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports, in dotted form. ``from a import b`` gives both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_import_package_is_in_the_picture() -> None:
    assert sorted(PICTURE) == [str(package.relative_to(ROOT)) for package in import_packages()]


@pytest.mark.parametrize("package", import_packages(), ids=lambda package: package.name)
def test_every_sub_package_and_module_is_named_once_and_everything_named_exists(package: Path) -> None:
    named = PICTURE[str(package.relative_to(ROOT))]
    assert len(named) == len(set(named))
    modules = {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    assert {path.parent.name for path in package.glob("*/__init__.py")} | modules <= set(named)
    assert [name for name in named if not list(package.glob(f"{name}.py")) and not (package / name).is_dir()] == []


@pytest.mark.parametrize("package", import_packages(), ids=lambda package: package.name)
def test_imports_go_down_in_the_picture(package: Path) -> None:
    named = PICTURE[str(package.relative_to(ROOT))]
    up = []
    for place, name in enumerate(named):
        part = package / name
        for file in part.rglob("*.py") if part.is_dir() else [part.with_suffix(".py")]:
            used = {module.split(".")[1] for module in imports(file) if module.startswith(f"{package.name}.")}
            up += [f"{file.relative_to(package)} imports {above}" for above in used.intersection(named[:place])]
    assert up == []


def test_the_walk_names_files_and_functions_that_exist() -> None:
    assert WALK
    for name, functions in WALK:
        text = (ROOT / "webhook" / name).read_text()
        for function in re.findall(r"`(\w+)`", functions):
            assert re.search(rf"^(?:async )?(?:def|class) {function}\b", text, re.MULTILINE), f"{name}: {function}"
