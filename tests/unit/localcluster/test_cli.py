"""The command line of scripts/cluster."""

import fcntl
import json
import subprocess
from pathlib import Path

import pytest

from localcluster import build, pins
from localcluster.cli import main
from localcluster.paths import State
from localcluster.product import Product

PRODUCT = Product("product", "dev.local/product", "product.test", "product.product.svc", ())


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("verb", ["status", "env"])
def test_a_missing_cluster_is_an_error_with_a_hint(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--name", "nowhere"], PRODUCT) == 1
    assert capsys.readouterr().err == (
        "error: there is no cluster nowhere\nhint: Make it: scripts/cluster up --name nowhere\n"
    )


@pytest.mark.parametrize("name", ["Upper", "1st", "a/b", "a" * 41, "-a", "a-"])
def test_an_invalid_name_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", f"--name={name}"], PRODUCT) == 1
    assert "is not a name" in capsys.readouterr().err


def test_env_quotes_paths_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    state = State("here", PRODUCT)
    state.folder.mkdir(parents=True)
    state.facts.write_text(json.dumps({"block": "10.9.0.0/16", "version": "x"}))

    assert main(["env", "--name", "here"], PRODUCT) == 0
    script = capsys.readouterr().out + '\nprintf "%s\\n" "$KUBECONFIG" "${PATH%%:*}"'
    shell = subprocess.run(["sh", "-euc", script], check=True, capture_output=True, text=True)
    assert shell.stdout.splitlines() == [str(state.kubeconfig), str(state.bin)]


def test_an_image_for_a_cluster_that_does_not_run_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    state = State("here", PRODUCT)
    state.folder.mkdir(parents=True)
    state.facts.write_text(json.dumps({"block": "10.9.0.0/16", "version": "x"}))
    assert main(["load-image", "--name", "here", "dev.local/none:1"], PRODUCT) == 1
    assert "the cluster here does not run" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["stop-node", "start-node"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("here", "error: the control plane runs on here\nhint: Only the other nodes can be stopped"),
        ("here-3", "error: the cluster here has no node here-3\nhint: Its nodes: here, here-2\n"),
    ],
)
def test_only_another_node_can_be_stopped(
    verb: str, name: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localcluster.prerequisites.need_root", lambda: None)
    state = State("here", PRODUCT)
    state.folder.mkdir(parents=True)
    state.facts.write_text(json.dumps({"block": "10.9.0.0/16", "version": "x", "nodes": 2}))
    assert main([verb, "--name", "here", name], PRODUCT) == 1
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("number", ["0", "9", "two"])
def test_an_impossible_number_of_nodes_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--nodes", number], PRODUCT) == 1
    assert "--nodes" in capsys.readouterr().err


def test_an_unknown_way_of_injection_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--istio", "ambient"], PRODUCT) == 1
    said = capsys.readouterr().err
    assert "invalid choice: 'ambient'" in said
    assert "native" in said


def test_another_name_is_for_one_image(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["load-image", "--as", "docker.io/a/b:1", "dev.local/none:1", "dev.local/none:2"]
    assert main(arguments, PRODUCT) == 1
    assert "--as names one image" in capsys.readouterr().err


def test_a_program_that_is_built_is_printed_while_another_build_holds_the_cache(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = next(each for each in pins.TOOLS if each.name == "helm")
    built = PRODUCT.cache / "bin" / build.folder_name(module) / "helm"
    built.parent.mkdir(parents=True)
    built.touch()
    with (PRODUCT.cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["program", "helm"], PRODUCT) == 0
    assert capsys.readouterr().out == f"{built}\n"
