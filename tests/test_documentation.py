"""What the README shows exists: its verbs, scripts, files and links."""

import re
from pathlib import Path

import pytest

from kubectl_serve.verbs import BY_NAME

ROOT = Path(__file__).resolve().parents[1]
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
