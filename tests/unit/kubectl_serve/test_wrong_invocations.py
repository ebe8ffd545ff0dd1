"""More than a hundred wrong invocations that a new user could type, each with the whole output.

They stand in one file, ``tests/golden/invocations/screen.txt``: a line with ``$`` is the command, run in the folder
``files`` beside it.
"""

import copy
import re
import shlex

import pytest

from serve_core.base.json import JsonObject
from support import golden
from support.fake_cluster import FakeCluster, at_the_end
from unit.kubectl_serve.conftest import Run

pytestmark = pytest.mark.usefixtures("frozen_runtimes")
FOLDER = golden.GOLDEN / "invocations"
SCREEN = FOLDER / "screen.txt"
_MAX_LINES = 20
"""Of a longer output, such as a rendered document, the file has the first lines only."""
WEB: JsonObject = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "models"}}


def answer(typed: str, run: Run) -> str:
    """The screen after one command, with its exit code."""
    program, verb, *argv = shlex.split(typed)
    assert (program, verb) == ("kubectl", "serve")
    objects = copy.deepcopy([*at_the_end("iris"), *at_the_end("nope"), WEB])
    screen = run(*argv, cluster=FakeCluster(objects, namespace="default", elapsed=300), width=120)
    assert "Traceback" not in screen.err
    assert screen.out + screen.err, "there is no output"
    lines = screen.out.splitlines()
    shown = lines if len(lines) < _MAX_LINES else [*lines[:3], "… more lines"]
    return "".join(f"{line}\n" for line in shown) + f"{screen.err}exit {screen.code}\n"


def typed_lines() -> list[str]:
    return [line for line in SCREEN.read_text().splitlines() if line.startswith(("$ ", "# "))]


def written(run: Run) -> str:
    blocks = [
        f"{line}\n{answer(line.removeprefix('$ '), run)}" if line.startswith("$ ") else f"{line}\n"
        for line in typed_lines()
    ]
    return "\n".join(blocks)


def test_every_wrong_invocation_is_answered_with_what_helps(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER / "files")
    golden.compare(FOLDER, {"screen.txt": written(run)})


def test_there_are_a_hundred_and_each_says_what_to_do() -> None:
    blocks = [block for block in re.split(r"^(?=\$ )", SCREEN.read_text(), flags=re.MULTILINE) if block[0] == "$"]
    assert len(blocks) >= 100
    silent = [block for block in blocks if "exit 0" not in block and "hint:" not in block and "refused:" not in block]
    assert [block.splitlines()[0] for block in silent if "exit 1" in block and len(block.splitlines()) < 4] == []
