"""Completion: the output for kubectl after a Tab."""

from pathlib import Path

import pytest

from kubectl_serve import completion
from kubectl_serve.cli.verbs import VERBS


def complete(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], str]:
    """The candidates without their meanings, and the last line; nothing else is said, whatever happens."""
    assert completion.main(list(words)) == 0
    screen = capsys.readouterr()
    assert screen.err == ""
    *found, directive = screen.out.splitlines()
    return [line.partition("\t")[0] for line in found], directive


def test_verbs_come_with_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert complete(capsys, "") == ([verb.name for verb in VERBS], ":4")
    completion.main(["cre"])
    assert capsys.readouterr().out == "create\tServe a model, and wait until it is ready\n:4\n"


def test_flags_are_those_of_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert complete(capsys, "create", "iris", "--mo") == (["--mode", "--model", "--mount"], ":4")
    assert "--namespace" in complete(capsys, "get", "--")[0]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["get", "-o", ""], ["wide", "json", "yaml", "name", "url"]),
        (["-n", "models", "get", "-o", "j"], ["json"]),
        (["create", "--dry-run=s"], ["--dry-run=server"]),
        (["create", "x", "--metric", ""], ["concurrency", "rps"]),
        (["create", "x", "--visibility", "c"], ["cluster-local"]),
        (["create", "x", "--mesh", ""], ["auto", "istio", "none"]),
        (["create", "x", "--runtime", "mlserver-s"], ["mlserver-sklearn"]),
        (["completion", "z"], ["zsh"]),
        (["policy", ""], ["test", "list", "explain", "audit"]),
        (["nonsense", ""], []),
    ],
)
def test_values_are_what_is_allowed(capsys: pytest.CaptureFixture[str], words: list[str], found: list[str]) -> None:
    assert complete(capsys, *words) == (found, ":4")


@pytest.mark.parametrize("words", [["render", "-f", ""], ["get", "--kubeconfig", "x"]])
def test_files_are_left_to_the_shell(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert complete(capsys, *words) == ([], ":0")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["get", "--context", ""], ["home", "work", "workshop"]),
        (["--context", "wor"], ["work", "workshop"]),
        (["get", "-n", "models", "--context=wor"], ["--context=work", "--context=workshop"]),
        (["--kubeconfig", "/nowhere", "get", "--context", ""], []),
    ],
)
def test_contexts_are_those_of_all_kubeconfigs(
    words: list[str],
    found: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for file, names in (("a", ["home", "work"]), ("b", ["workshop", "work"])):
        contexts = ", ".join(f"{{name: {name}, context: {{cluster: c, user: u}}}}" for name in names)
        (tmp_path / file).write_text(f"{{apiVersion: v1, kind: Config, contexts: [{contexts}]}}")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/a:{tmp_path}/b")
    assert complete(capsys, *words)[0] == found


def test_without_a_cluster_there_are_no_names_and_no_noise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert complete(capsys, "get", "")[0] == []
    assert complete(capsys, "get", "--context", "")[0] == []
