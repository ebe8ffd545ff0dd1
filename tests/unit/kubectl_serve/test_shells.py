"""Text of the cluster never reaches a shell as a command: not by completion, and not in a proposed command."""

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import yaml

from kubectl_serve import completion, connection
from kubectl_serve.commands.completion import _OWN_SHELLS
from serve_core.base.json import JsonObject
from serve_core.base.reasons import CATALOGUE, condition_message, diagnostic
from support.fake_cluster import FakeCluster, at_the_end
from unit.kubectl_serve.conftest import Run

pytestmark = pytest.mark.attack(38)

RAN = "ran"
"""A file that is there once a hostile name was run."""
HOSTILE = [
    f"iris$(touch {RAN})",
    f"iris$(touch${{IFS}}{RAN})",
    f"iris`touch {RAN}`",
    f"iris;touch {RAN};",
    f"iris\ntouch {RAN}\n",
    f"iris|touch {RAN}",
    f"iris&touch {RAN}",
    f"iris>{RAN}",
    f"iris<(touch {RAN})",
    f"iris(touch {RAN})",
    f"iris${{x:=$(touch {RAN})}}",
    f"iris$[$(touch {RAN})]",
    f"iris'$(touch {RAN})'",
    f'iris"$(touch {RAN})"',
    "iris*",
    "iris{a,b}",
    "iris a",
    "iris\\",
    "iris!!",
    "iris~",
    "iris#",
    "iris\t$(touch ran)",
    "iris\x1b]52;c;aWQ=\x07",
    "-iris",
    "--kubeconfig=iris",
    ":4",
    "iris\u202e",
    "",
]
GOOD = [
    "iris",
    "iris-2.prod",
    "iris_a",
    "arn:aws:eks:eu-west-1:1:cluster/iris",
    "user@iris",
    "default/api:6443/kube:admin",
]


def completed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert completion.main(list(words)) == 0
    screen = capsys.readouterr()
    assert screen.err == ""
    *found, directive = screen.out.splitlines()
    assert directive == ":4"
    return found


def kubeconfig(names: list[str], file: Path) -> None:
    contexts = [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in names]
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "contexts": contexts}))


def test_a_context_that_is_not_plain_is_no_candidate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubeconfig(HOSTILE + GOOD, tmp_path / "config")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert completed(capsys, "get", "--context", "") == GOOD
    assert completed(capsys, "get", "--context=") == [f"--context={name}" for name in GOOD]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["get", ""], "Deployment"),
        (["logs", "iris"], "Deployment"),
        (["policy", "explain", ""], "Deployment"),
        (["runtimes", "--roll-out", ""], "Deployment"),
        (["runtimes", "--roll-out="], "Deployment"),
        (["get", "-n", ""], "Namespace"),
        (["--namespace", ""], "Namespace"),
    ],
)
def test_an_object_of_the_cluster_that_is_not_plainly_named_is_no_candidate(
    words: list[str], kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(name: object) -> JsonObject:
        api_version = "apps/v1" if kind == "Deployment" else "v1"
        labels = {"kubectl-serve.dev/served": "true"}
        return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "labels": labels}}

    objects = [named(name) for name in [*HOSTILE, *GOOD, None, 1, ["iris"]]]
    monkeypatch.setattr(connection, "connect", lambda *_: FakeCluster(objects))
    flag = f"{words[-1]}" if words[-1].startswith("--") else ""
    assert completed(capsys, *words) == [flag + name for name in GOOD if name.startswith(words[-1]) or flag]


# In the shells themselves.

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
BEGIN = {
    "bash": "source completion.sh",
    "zsh": "autoload -Uz compinit; compinit -u -D; source completion.sh",
    "fish": "source completion.sh",
}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> "Shell":
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "completion.sh").write_text(_OWN_SHELLS[name])
    return Shell(name, tmp_path)


class Shell:
    """An interactive shell in its own folder, with typed input."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        self.program("kubectl-serve", "#!/bin/sh\n")

    def program(self, name: str, text: str) -> None:
        """Put a program into the shell's PATH."""
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def type(self, *lines: str) -> str:
        """Type each of ``lines`` without its end, press Tab twice, and take the line back; what was on the screen."""
        environment = {
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.folder / "config"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "TERM": "xterm",
        }
        master, slave = pty.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", *SHELLS[self.name]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=self.folder,
            env=environment,
        )
        os.close(slave)
        try:
            screen = self._say(master, f"{BEGIN[self.name]}\n", 0)
            for number, line in enumerate(lines, 1):
                screen += self._say(master, f"{line}\t\t\x15", number)
            return screen
        finally:
            process.kill()
            process.wait()
            os.close(master)

    def _say(self, master: int, keys: str, number: int) -> str:
        """Press keys, and read until the shell has come as far as the command after them, and edits a line again."""
        os.write(master, f"{keys}echo do'ne'-{number}\n".encode())
        screen, end = "", time.monotonic() + 30
        while f"done-{number}" not in screen or termios.tcgetattr(master)[3] & termios.ICANON:
            assert time.monotonic() < end, f"{self.name} hangs: {screen}"
            if select.select([master], [], [], 0.05)[0]:
                screen += os.read(master, 65536).decode(errors="replace")
        return screen


def test_tab_in_a_shell_runs_no_context_of_a_kubeconfig(shell: Shell) -> None:
    code = "import sys; from kubectl_serve.__main__ import run_completion; run_completion()"
    shell.program("kubectl_complete-serve", f"#!{sys.executable}\n{code}\n")
    kubeconfig([*HOSTILE, "iris-good"], shell.folder / "config")
    screen = shell.type("kubectl-serve get --context ir", "kubectl-serve get --context ")
    assert "iris-good" in screen
    assert "touch" not in screen
    assert not (shell.folder / RAN).exists()


def test_tab_in_a_shell_runs_nothing_that_the_program_offers(shell: Shell) -> None:
    """The scripts do not rest on what the program leaves out."""
    names = [each for each in HOSTILE if "\n" not in each]
    for number, name in enumerate(names):
        (shell.folder / f"alone-{number}").write_text(f"{name}\n:4\n")
        (shell.folder / f"beside-{number}").write_text(f"{name}\niris-good\n:4\n")
    shell.program("kubectl_complete-serve", f'#!/bin/sh\ncat "{shell.folder}/$2"\n')
    shell.type(*(f"kubectl-serve get {how}-{number} ir" for number in range(len(names)) for how in ("alone", "beside")))
    assert not (shell.folder / RAN).exists()


def test_tab_in_a_shell_offers_words_with_colons(shell: Shell) -> None:
    shell.program("kubectl_complete-serve", "#!/bin/sh\nprintf 'arn:aws:iris-7\\n:4\\n'\n")
    assert "get arn:aws:iris-7" in re.sub(r"\r?\x1b\[[0-9]+C", "", shell.type("kubectl-serve get ar"))


# In commands that messages propose.

COMMAND = re.compile(r"`([^`]*)`")


@pytest.mark.parametrize("name", [each for each in HOSTILE if "`" not in each and each.isprintable() and each])
@pytest.mark.parametrize("code", ["LoaderCrashed", "ServerCrashed", "RevisionFailed", "PolicyViolated"])
def test_a_name_in_a_command_of_the_catalogue_is_one_word(code: str, name: str) -> None:
    message = condition_message(code, name=name, namespace=name, found="x")
    (command,) = COMMAND.findall(message)
    assert shlex.split(command).count(name) == (2 if "-n" in command and "{namespace}" in CATALOGUE[code].hint else 1)


def test_a_plain_name_stays_plain() -> None:
    assert "`kubectl serve logs iris -n models`" in condition_message("ServerCrashed", name="iris", namespace="models")
    assert "nothing" in diagnostic("InvalidObject", "spec", why="`nothing` {is} formatted").message


@pytest.mark.parametrize("namespace", [each for each in HOSTILE if "`" not in each and each.isprintable() and each])
def test_a_namespace_of_a_kubeconfig_in_a_command_is_one_word(namespace: str, run: Run) -> None:
    deployment: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris", "namespace": namespace},
    }
    screen = run("get", "iris", cluster=FakeCluster([deployment], namespace=namespace))
    (command,) = COMMAND.findall(screen.err)
    assert shlex.split(command)[3:6] == ["iris", "-n", namespace]


@pytest.mark.parametrize("context", [each for each in HOSTILE if "`" not in each and each.isprintable() and each])
def test_a_context_in_a_command_is_one_word(context: str, run: Run) -> None:
    models = FakeCluster(at_the_end("nope"), namespace="models")
    screen = run("predict", "nope", "[[1]]", f"--context={context}", cluster=models)
    commands = COMMAND.findall(screen.err)
    assert commands
    assert all(shlex.split(command)[4:6] == ["--context", context] for command in commands)


@pytest.mark.parametrize("argv", ["get", "describe", "delete", "predict", "logs", "promote", "rollback", "get -n"])
def test_what_cannot_be_a_name_is_no_name(argv: str, run: Run) -> None:
    for name in (*HOSTILE, "Iris", "iris_a", "a" * 254, "../secrets"):
        if name.startswith("-"):
            continue  # a flag
        screen = run(*argv.split(), name, cluster=FakeCluster())
        assert screen.code == 1
        assert "is not a valid" in screen.err or "is not a Deployment" in screen.err
