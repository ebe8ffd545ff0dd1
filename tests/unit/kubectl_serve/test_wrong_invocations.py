"""A hundred and more wrong invocations, as a new user mixes them up, with the whole answer to each.

``tests/golden/invocations/transcript.txt`` is to be read in one sitting. A line with ``$`` is what was typed, in the
folder ``files`` beside it; ``UPDATE_GOLDEN=1`` writes the answers anew.
"""

import copy
import os
import re
import shlex

import pytest

from serve_core.base.json import JsonObject
from support.fake_cluster import FakeCluster, at_the_end
from support.paths import ROOT
from unit.kubectl_serve.conftest import Run

FOLDER = ROOT / "tests/golden/invocations"
TRANSCRIPT = FOLDER / "transcript.txt"
_MOST_LINES = 20
"""Of a document that was rendered, its beginning says enough here."""
WEB: JsonObject = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "models"}}


def answer(typed: str, run: Run) -> str:
    """What is on the screen after a line was typed."""
    program, verb, *argv = shlex.split(typed)
    assert (program, verb) == ("kubectl", "serve")
    objects = copy.deepcopy([*at_the_end("iris"), *at_the_end("nope"), WEB])
    screen = run(*argv, cluster=FakeCluster(objects, namespace="default", elapsed=300), width=120)
    assert "Traceback" not in screen.err
    assert screen.out + screen.err, "nothing is said"
    lines = screen.out.splitlines()
    shown = lines if len(lines) < _MOST_LINES else [*lines[:3], "… more lines"]
    return "".join(f"{line}\n" for line in shown) + f"{screen.err}exit {screen.code}\n"


def typed_lines() -> list[str]:
    return [line for line in TRANSCRIPT.read_text().splitlines() if line.startswith(("$ ", "# "))]


def written(run: Run) -> str:
    blocks = [
        f"{line}\n{answer(line.removeprefix('$ '), run)}" if line.startswith("$ ") else f"{line}\n"
        for line in typed_lines()
    ]
    return "\n".join(blocks)


def test_every_wrong_invocation_is_answered_with_what_helps(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER / "files")
    text = written(run)
    if os.environ.get("UPDATE_GOLDEN"):
        TRANSCRIPT.write_text(text)
    assert text == TRANSCRIPT.read_text()


def test_there_are_a_hundred_and_each_says_what_to_do() -> None:
    blocks = [block for block in re.split(r"^(?=\$ )", TRANSCRIPT.read_text(), flags=re.MULTILINE) if block[0] == "$"]
    assert len(blocks) >= 100
    silent = [block for block in blocks if "exit 0" not in block and "hint:" not in block and "refused:" not in block]
    assert [block.splitlines()[0] for block in silent if "exit 1" in block and len(block.splitlines()) < 4] == []
