"""Golden cases: folders of inputs and reviewed outputs. ``tests/golden/README.md`` has the convention."""

import os
from collections.abc import Mapping
from pathlib import Path

from support.paths import ROOT

GOLDEN = ROOT / "tests/golden"
INPUTS = frozenset({"input.yaml", "previous.yaml", "features.yaml", "istio.yaml", "policies.yaml", "services.yaml"})
OUTPUTS = frozenset({"deployment.yaml", "service.yaml", "extras.yaml", "messages.txt", "screen.txt"})


def cases(tree: str) -> list[Path]:
    """The case folders of a tree, by name."""
    return sorted(file.parent for file in (GOLDEN / tree).glob("*/input.yaml"))


def input_of(case: Path) -> str:
    """The text of the case's ``input.yaml``, whose first line is a comment that says why the case exists."""
    text = (case / "input.yaml").read_text()
    assert text.startswith("# "), "the first line says why the case exists"
    return text


def optional(case: Path, name: str) -> str | None:
    """The text of a file that a case can have."""
    file = case / name
    return file.read_text() if file.exists() else None


def compare(case: Path, made: Mapping[str, str | None]) -> None:
    """Assert that the outputs are the reviewed ones; with ``UPDATE_GOLDEN=1`` in the environment, write them first.

    ``made`` maps a file name to its text. An output that is None or not in ``made`` must not exist.
    """
    made = dict.fromkeys(sorted(OUTPUTS)) | dict(made)
    if os.environ.get("UPDATE_GOLDEN"):
        for name, text in made.items():
            if text is None:
                (case / name).unlink(missing_ok=True)
            else:
                (case / name).write_text(text)
    assert made == {name: optional(case, name) for name in made}
