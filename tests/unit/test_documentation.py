"""What the README shows exists: its verbs, scripts, files and links."""

import re
from pathlib import Path

import pytest

from kubectl_serve.cli.verbs import BY_NAME
from support.paths import ROOT

PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_that_is_shown_exists(page: Path) -> None:
    shown = set(re.findall(r"kubectl serve ([a-z]+)", page.read_text()))
    assert shown <= set(BY_NAME)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    paths = re.findall(r"(?<![\w/$-])((?:scripts|manifests|webhook|plugin|tests|docs)/[\w./-]*\w)", text)
    assert [path for path in [*links, *paths] if "NAME" not in path and not (ROOT / path).exists()] == []


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
