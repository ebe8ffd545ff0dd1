"""logs: which container's, and the loader's events as text."""

import pytest

from kubectl_serve.status import loader_events
from serve_core.api import loader_protocol
from serve_kube import errors
from support.fake_cluster import FakeCluster, at_the_end
from unit.kubectl_serve.conftest import Run

LOADED = [
    '{"event":"plan","files":1,"bytes":991}',
    '{"event":"progress","bytes":450,"total":991,"files":1,"seconds":0.5,"rate":900}',
    '{"event":"retry","code":"Unreachable","message":"no route to host","hint":"Check the host.","attempt":2,"wait":3}',
    '{"event":"loaded","code":"Loaded","bytes":991,"files":1,"seconds":2.5,"digest":"sha256:23e0"}',
]


@pytest.fixture
def models() -> FakeCluster:
    cluster = FakeCluster([*at_the_end("iris"), *at_the_end("nope")], namespace="models")
    for each in cluster.objects:
        if each["kind"] == "Pod":
            cluster.log[each["metadata"]["name"], "model-loader"] = LOADED
            cluster.log[each["metadata"]["name"], "model-server"] = ["Uvicorn running", "ready"]
            cluster.log[each["metadata"]["name"], "queue-proxy"] = ["proxy"]
    return cluster


def test_the_model_server_comes_first(run: Run, models: FakeCluster) -> None:
    screen = run("logs", "iris", cluster=models)
    assert (screen.code, screen.out, screen.err) == (0, "Uvicorn running\nready\n", "")
    assert run("logs", "iris", "--tail", "1", cluster=models).out == "ready\n"
    assert run("logs", "iris", "-c", "queue-proxy", cluster=models).out == "proxy\n"


def test_the_loaders_lines_are_for_people(run: Run, models: FakeCluster) -> None:
    assert run("logs", "iris", "-c", "loader", cluster=models).out == (
        "downloading 991 B in 1 file\n"
        "45 % of 991 B, 900 B/s\n"
        "trying again (attempt 2, next in 3 s): Unreachable: no route to host. Check the host.\n"
        "model loaded: 991 B in 1 file in 2.5 s, sha256:23e0\n"
    )


def test_as_json_they_are_as_the_loader_wrote_them(run: Run, models: FakeCluster) -> None:
    out = run("logs", "iris", "-c", "loader", "-o", "json", cluster=models).out
    assert out.splitlines() == LOADED


def test_progress_is_a_bar_on_a_terminal(run: Run, models: FakeCluster) -> None:
    out = run("logs", "iris", "-c", "loader", cluster=models, terminal=True).out
    assert "[#########           ] 45 % of 991 B, 900 B/s\r\x1b[2Ktrying again" in out


def test_before_the_model_server_starts_it_is_the_loader(run: Run, models: FakeCluster) -> None:
    screen = run("logs", "nope", cluster=models)
    assert (
        screen.err
        == "The model server has not started; these are the logs of the loader. -c server shows the server's.\n"
    )
    assert screen.out.startswith("downloading ")


def test_an_unknown_container_is_refused_with_those_there_are(run: Run, models: FakeCluster) -> None:
    assert run("logs", "iris", "-c", "sidecar", cluster=models).err == (
        "error: its pods have no container sidecar.\nhint: They have: model-loader, model-server, queue-proxy.\n"
    )


def test_a_pod_that_no_node_has_taken_is_said(run: Run, models: FakeCluster) -> None:
    for each in models.objects:
        if each["kind"] == "Pod":
            del each["spec"]["nodeName"]
    screen = run("logs", "nope", cluster=models)
    assert (screen.code, screen.out) == (1, "")
    assert (
        "has not started: it is not scheduled to a node.\nhint: `kubectl serve describe nope` shows why.\n"
        in screen.err
    )


def test_a_loader_that_has_not_started_is_not_looked_for_in_its_own_log(run: Run, models: FakeCluster) -> None:
    models.unreadable = errors.InvalidError('container "model-loader" in pod "a" is waiting to start: PodInitializing')
    assert run("logs", "nope", cluster=models).err.endswith("hint: `kubectl serve describe nope` shows why.\n")
    assert run("logs", "nope", "-c", "server", cluster=models).err.endswith(
        "hint: `kubectl serve logs nope -c loader` shows the loader.\n"
    )


def test_scaled_to_zero_is_said(run: Run, models: FakeCluster) -> None:
    models.objects = [each for each in models.objects if each["kind"] != "Pod"]
    assert run("logs", "iris", cluster=models).err.startswith(
        "error: iris has no pods at the moment: it is scaled to zero, or has not started.\nhint: "
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"event": "plan", "files": 2, "bytes": 12_300_000}, "downloading 11.7 MiB in 2 files"),
        (
            {
                "event": "loaded",
                "bytes": 9,
                "seconds": 1,
                "skipped": 1,
                "skipped_bytes": 4096,
                "skipped_first": "a.bin",
            },
            (
                'model loaded: 9 B in 1.0 s. 1 file with copies of the weights (4.0 KiB) skipped, for example "a.bin": '
                'kubectl-serve.dev/files "*" loads all.'
            ),
        ),
        ({"event": "failed", "code": "NotFound", "message": "answered 404"}, "failed: NotFound: answered 404."),
    ],
)
def test_each_event_of_the_loader_is_one_line(words: dict[str, object], line: str) -> None:
    assert loader_events.line_of(loader_protocol.from_object(words)) == line
