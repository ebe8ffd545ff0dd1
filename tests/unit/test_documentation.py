"""Documentation is true: the verbs, scripts, files, links and headings that it names exist."""

import re
from pathlib import Path

import pytest

from kubectl_serve.cli.verbs import BY_NAME
from support.paths import ROOT

PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]


LINKING = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tests").rglob("*.md"))]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_that_is_shown_exists(page: Path) -> None:
    shown = set(re.findall(r"kubectl serve ([a-z]+)", page.read_text()))
    assert shown <= set(BY_NAME)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    paths = re.findall(r"(?<![\w/$-])((?:scripts|manifests|webhook|plugin|tests|docs)/[\w./-]*\w)", page.read_text())
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []


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


def test_every_module_that_meets_an_attack_exists() -> None:
    named = re.findall(r"`((?:serve_\w+|model_\w+)/[\w/.]+)`", (ROOT / "docs/security.md").read_text())
    assert [name for name in named if not (ROOT / "webhook" / name).exists()] == []
