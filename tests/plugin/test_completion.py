"""Completion: what kubectl reads after a Tab."""

import pytest

from kubectl_serve import completion
from kubectl_serve.verbs import VERBS


def complete(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], str]:
    """The candidates without their meanings, and the last line."""
    assert completion.main(list(words)) == 0
    *found, directive = capsys.readouterr().out.splitlines()
    return [line.partition("\t")[0] for line in found], directive


def test_verbs_come_with_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert complete(capsys, "") == ([verb.name for verb in VERBS], ":4")
    completion.main(["cre"])
    assert capsys.readouterr().out == "create\tServe a model, and wait until it answers\n:4\n"


def test_flags_are_those_of_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert complete(capsys, "create", "iris", "--mo") == (["--mode", "--model"], ":4")
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


def test_without_a_cluster_there_are_no_names_and_no_noise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert complete(capsys, "get", "")[0] == []
    assert capsys.readouterr().err == ""
