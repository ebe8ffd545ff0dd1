"""Text from outside is never a command to the terminal."""

import copy
import io
import json
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubectl_serve.cli.streams import Output, Streams
from kubectl_serve.io import documents
from serve_core.base.escaping import is_visible
from serve_core.base.json import JsonObject
from serve_kube import errors
from support.fake_cluster import FakeCluster, Happens, at_the_end, recorded
from unit.kubectl_serve.conftest import Run

pytestmark = pytest.mark.attack(39)

HOSTILE = "\x1b[31m\x1b]52;c;aWQ=\x07\x9b2J\x9d0;t\x9c\r\b\x00\x85\u202e\u2028\U000e0041"
LIES = "\nhint: run this"


def poisoned(value: object, keep: frozenset[str] = frozenset()) -> object:
    """``value`` with every text that the commands do not look things up by made hostile."""
    if isinstance(value, dict):
        return {key: each if key in keep else poisoned(each, keep) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, keep) for each in value]
    return value + HOSTILE if isinstance(value, str) else value


FOUND_BY = frozenset({"apiVersion", "kind", "labels", "annotations", "name", "namespace", "type", "uid", "status"})


@pytest.fixture
def models() -> FakeCluster:
    cluster = FakeCluster([*at_the_end("iris"), *at_the_end("nope"), *recorded("around")], namespace="models")
    hostile = []
    for each in cluster.objects:
        made = poisoned(each, FOUND_BY)
        assert isinstance(made, dict)
        notes = made["metadata"].get("annotations") or {}
        for key in notes:
            if key.endswith(("/url", "/ready-revision", "/model")):
                notes[key] += HOSTILE
        for condition in (each.get("status") or {}).get("conditions") or []:
            condition["message"] = f"{condition.get('message')}{HOSTILE}{LIES}"
            condition["reason"] = f"{condition.get('reason')}{HOSTILE}"
        if each["kind"] != "Deployment":
            hostile.append(made)
        else:
            each["metadata"]["annotations"] = notes
            hostile.append(each)
    cluster.objects = hostile
    for each in cluster.objects:
        if each["kind"] == "Pod":
            name = each["metadata"]["name"]
            cluster.log[name, "model-loader"] = [f"plain{HOSTILE}", json.dumps({"event": "failed", "message": HOSTILE})]
            cluster.log[name, "model-server"] = [f"ready{HOSTILE}"]
    return cluster


def own_commands_taken_out(text: str) -> str:
    """What is left when the few that the commands themselves send are taken out."""
    for command in ("\r\x1b[2K", "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"):
        text = text.replace(command, "")
    return text


COMMANDS = [
    ["get"],
    ["get", "-o", "wide"],
    ["get", "-o", "json"],
    ["get", "-o", "yaml"],
    ["get", "-o", "url"],
    ["describe", "iris"],
    ["describe", "nope"],
    ["describe", "nope", "-o", "yaml"],
    ["describe", "nope", "-o", "json"],
    ["logs", "iris", "-c", "server"],
    ["logs", "iris", "-c", "loader"],
    ["predict", "nope", "[[1]]"],
    ["get", "nope", "-w"],
    ["logs", "iris", "-c", f"x{HOSTILE}"],
    [f"verb{HOSTILE}"],
    ["get", f"--flag{HOSTILE}"],
    ["get", f"name{HOSTILE}"],
    ["render", "-f", f"/nowhere/{HOSTILE}".replace("\0", "")],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: ascii(" ".join(argv))[:40])
def test_on_a_terminal_every_screen_is_visible(argv: list[str], run: Run, models: FakeCluster) -> None:
    screen = run(*argv, cluster=models, terminal=True)
    assert screen.out + screen.err
    assert is_visible(own_commands_taken_out(screen.out))
    assert is_visible(own_commands_taken_out(screen.err))
    assert "\nhint: run this" not in screen.out + screen.err


@pytest.mark.parametrize("argv", [argv for argv in COMMANDS if argv[0] != "logs"], ids=lambda argv: ascii(argv[0]))
def test_behind_a_pipe_is_often_a_terminal(argv: list[str], run: Run, models: FakeCluster) -> None:
    screen = run(*argv, cluster=models)
    assert is_visible(screen.out)
    assert is_visible(screen.err)


def test_a_log_in_a_pipe_is_as_it_was_written(run: Run, models: FakeCluster) -> None:
    assert run("logs", "iris", "-c", "server", cluster=models).out == f"ready{HOSTILE}\n"
    assert run("logs", "iris", "-c", "loader", cluster=models).out.startswith(f"plain{HOSTILE}\n")


def test_progress_of_another_is_one_visible_line(run: Run) -> None:
    cluster = FakeCluster(namespace="models")
    (deployment,) = [each for each in at_the_end("nope") if each["kind"] == "Deployment"]
    cluster.completes = copy.deepcopy(deployment)
    for condition in deployment["status"]["conditions"]:
        condition["message"] += HOSTILE + LIES
    cluster.happens = [Happens(1.0, deployment)]
    screen = run("create", "nope", "--model", "http://a/b.joblib", "--wait-timeout=2s", cluster=cluster, terminal=True)
    assert screen.code == 1
    assert is_visible(own_commands_taken_out(screen.err))
    assert "\nhint: run this" not in screen.err


@pytest.mark.parametrize(
    "error", [errors.ApiError(HOSTILE + LIES), errors.DeniedError(HOSTILE), errors.UnreachableError(HOSTILE)]
)
def test_what_the_api_server_says_is_no_command(error: errors.ApiError, run: Run) -> None:
    cluster = FakeCluster(refuses=error)
    for terminal in (True, False):
        screen = run("create", "iris", "--model", "http://a/b.joblib", cluster=cluster, terminal=terminal)
        assert screen.code == 1
        assert is_visible(own_commands_taken_out(screen.err))
        assert "\nhint: run this" not in screen.err


@given(st.dictionaries(st.text(), st.text() | st.just(HOSTILE)))
def test_documents_mean_the_same_with_their_own_escapes(value: dict[str, str]) -> None:
    assert is_visible(documents.to_json(value))
    assert json.loads(documents.to_json(value)) == value
    if not any("\ud800" <= each <= "\udfff" for text in (*value, *value.values()) for each in text):
        assert is_visible(documents.to_yaml([value]))
        assert yaml.safe_load(documents.to_yaml([value])) == value


def test_a_file_of_a_manifest_is_no_command(run: Run) -> None:
    manifest: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "annotations": {"kubectl-serve.dev/model": HOSTILE, f"kubectl-serve.dev/{HOSTILE}": ""},
        },
    }
    screen = run("render", "-f", "-", stdin=json.dumps(manifest), terminal=True)
    assert screen.code == 1
    assert is_visible(own_commands_taken_out(screen.err))


def test_a_locale_that_lacks_a_character_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    streams = Streams.of_process()
    streams.stdout.data("…\ud800\n")
    streams.stdout.flush()
    assert written.getvalue() == b"\\u2026\\ud800\n"


def test_a_colour_is_around_the_text_and_not_of_it() -> None:
    stream = io.StringIO()
    Output(stream).write("error:\x1b[0m", "31")
    assert stream.getvalue() == "\x1b[31merror:\\x1b[0m\x1b[0m"
