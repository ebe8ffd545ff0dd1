"""The tutorial, typed as a reader does: every block of commands, in the order of the pages, in one folder.

The commands of the other pages need more than a cluster has. Of these, kubectl itself says whether it has their verbs
and flags.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.support import Namespace
from support.documentation import PAGES, SHELLS, Block, blocks
from support.paths import ROOT

TUTORIAL = ROOT / "docs/tutorial"


class Reader:
    """A shell in a folder and a namespace of its own, with ``manifests`` in the folder as in a checkout."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder = folder
        (folder / "manifests").symlink_to(ROOT / "manifests")
        config = folder / "kubeconfig"
        shutil.copy(os.environ["KUBECONFIG"], config)
        self.environment = os.environ | {"KUBECONFIG": str(config)}
        self.run("kubectl", "config", "set-context", "--current", f"--namespace={namespace}")

    def run(self, *command: str) -> tuple[int, str]:
        """The exit code and the output. What the command left in the background is ended."""
        with (self.folder / "output").open("w+") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(300)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            output.seek(0)
            return code, output.read()

    def follow(self, page: Path) -> None:
        """Make the files and run the commands of a page, from top to bottom."""
        for block in blocks(page):
            if block.language == "yaml" and block.title:
                (self.folder / block.title).write_text(block.text)
            elif block.language == "shell" and block.kind != "not run":
                self._type(block)

    def _type(self, block: Block) -> None:
        code, output = self.run("bash", "-euo", "pipefail", "-c", block.text)
        shown = f"{block.text}\n{output}"
        if block.kind == "fails":
            assert code != 0, shown
            assert block.note in output, shown
        else:
            assert code == 0, shown


@pytest.fixture
def reader(empty: Namespace, tmp_path: Path) -> Iterator[Reader]:
    found = Reader(tmp_path, empty.name)
    yield found
    for left in ("servingpolicy/teams", "namespace/team-a", "policyexception/pilot"):
        found.run("kubectl", "delete", left, "-n", "kubectl-serve", "--ignore-not-found", "--wait=false")


def test_the_first_model_and_its_canary(reader: Reader) -> None:
    reader.follow(TUTORIAL / "first-model.md")
    reader.follow(TUTORIAL / "canary.md")


def test_the_policy(reader: Reader) -> None:
    reader.follow(TUTORIAL / "policy.md")


@functools.cache
def help_of(*words: str) -> str:
    done = subprocess.run(["kubectl", *words], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def unknown_flags(command: list[str]) -> list[str]:
    """The flags of a command of kubectl that its help does not have; its verb, if there is none such."""
    words = [word for word in command[1:] if not word.startswith("-")]
    text = help_of(*words[:3], "--help")
    if f"kubectl {words[0]}" not in text.partition("Usage:")[2]:
        return [words[0]]
    known = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", text + help_of("options")))
    given = [word.partition("=")[0] for word in command if re.match(r"--?[a-zA-Z]", word)]
    return [flag for flag in given if flag not in known]


def test_kubectl_has_every_verb_and_flag_of_the_documentation() -> None:
    commands = [
        words
        for page in PAGES
        for block in blocks(page)
        if block.language in SHELLS
        for words in block.commands
        if words[0] == "kubectl" and words[1:2] != ["serve"]
    ]
    assert len(commands) > 20
    assert [words for words in commands if unknown_flags(words)] == []
