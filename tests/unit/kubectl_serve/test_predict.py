"""predict: requests, ways, answers and errors. The model is a real HTTP server."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kubectl_serve import dispatch
from kubectl_serve.cli.streams import Output, Streams
from serve_core.api import annotations
from support.fake_cluster import FakeCluster, at_the_end, recorded
from unit.kubectl_serve.conftest import Run

ROWS = "[[5.1, 3.5, 1.4, 0.2]]"


@dataclass
class Model:
    """What was asked, and what is answered."""

    port: int = 0
    status: int = 200
    answer: str = '{"outputs": [{"data": [0]}]}'
    events: tuple[str, ...] = ()
    """What is answered instead, as server-sent events."""
    after_first: threading.Event | None = None
    """What the model waits for before the second event."""
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    metadata: str | None = None
    """What is answered to a GET; without it, such a request is not known."""
    looked_at: list[str] = field(default_factory=list)
    """The paths of these."""

    @property
    def ingress(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def model() -> Iterator[Model]:
    state = Model()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.looked_at.append(self.path)
            self.send_response(404 if state.metadata is None else 200)
            self.end_headers()
            self.wfile.write((state.metadata or "").encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.asked.append((self.headers["Host"], self.path, json.loads(body)))
            self.send_response(state.status)
            if state.events:
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.end_headers()
                self.stream()
                return
            self.send_header("Content-Length", str(len(state.answer.encode())))
            self.end_headers()
            self.wfile.write(state.answer.encode())

        def stream(self) -> None:
            for number, event in enumerate(state.events):
                if number == 1 and state.after_first is not None and not state.after_first.wait(20):
                    return
                self.wfile.write(f"data: {event}\n\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster([*at_the_end("iris"), *at_the_end("nope"), *recorded("around")], namespace="models")


def test_rows_are_asked_over_the_runtimes_protocol_under_the_models_own_host(
    run: Run, cluster: FakeCluster, model: Model
) -> None:
    screen = run("predict", "iris", ROWS, "--ingress", model.ingress, cluster=cluster)
    assert (screen.code, screen.out, screen.err) == (0, '{"outputs": [{"data": [0]}]}\n', "")
    ((host, path, body),) = model.asked
    assert (host, path) == ("iris.models.kubectl-serve.test", "/v2/models/iris/infer")
    assert body["inputs"][0]["shape"] == [1, 4]


def test_the_ingress_may_come_from_the_environment(run: Run, cluster: FakeCluster, model: Model) -> None:
    environment = {"KUBECTL_SERVE_INGRESS": model.ingress}
    assert run("predict", "iris", ROWS, cluster=cluster, environment=environment).code == 0


def test_protocol_and_path_can_be_chosen(run: Run, cluster: FakeCluster, model: Model) -> None:
    run("predict", "iris", ROWS, "--protocol", "v1", "--ingress", model.ingress, cluster=cluster)
    run("predict", "iris", "{}", "--path", "/own", "--ingress", model.ingress, cluster=cluster)
    assert [(path, body) for _, path, body in model.asked] == [
        ("/v1/models/iris:predict", {"instances": json.loads(ROWS)}),
        ("/own", {}),
    ]


def test_the_annotation_decides_the_protocol(run: Run, cluster: FakeCluster, model: Model) -> None:
    deployment = next(each for each in cluster.objects if each["kind"] == "Deployment")
    deployment["metadata"]["annotations"][annotations.PROTOCOL] = "v1"
    run("predict", "iris", ROWS, "--ingress", model.ingress, cluster=cluster)
    assert model.asked[0][1] == "/v1/models/iris:predict"


def test_data_comes_from_a_file_or_from_standard_input(
    run: Run, cluster: FakeCluster, model: Model, tmp_path: Path
) -> None:
    (tmp_path / "rows.json").write_text(ROWS)
    way = ("--ingress", model.ingress)
    assert run("predict", "iris", "-f", str(tmp_path / "rows.json"), *way, cluster=cluster).code == 0
    assert run("predict", "iris", "-", *way, stdin=ROWS, cluster=cluster).code == 0
    assert run("predict", "iris", *way, stdin=ROWS, cluster=cluster).code == 0
    assert len({json.dumps(body) for _, _, body in model.asked}) == 1
    assert "DATA and -f cannot be combined" in run("predict", "iris", ROWS, "-f", "x", cluster=cluster).err
    assert "cannot be read: No such file" in run("predict", "iris", "-f", str(tmp_path / "no"), cluster=cluster).err


def test_an_error_of_the_model_is_reported_with_a_hint(run: Run, cluster: FakeCluster, model: Model) -> None:
    model.status, model.answer = 400, '{"error": "Invalid input to LogisticRegression"}'
    screen = run("predict", "iris", ROWS, "--ingress", model.ingress, cluster=cluster)
    assert (screen.code, screen.out) == (1, "")
    assert screen.err == (
        "error: the model responds with status 400: Invalid input to LogisticRegression\n"
        "hint: The model server rejects the data: check its shape and types. An object is sent unchanged.\n"
    )


def test_the_answer_can_be_indented_or_yaml(run: Run, cluster: FakeCluster, model: Model) -> None:
    argv = ("predict", "iris", ROWS, "--ingress", model.ingress, "-o")
    assert run(*argv, "json", cluster=cluster).out.startswith('{\n    "outputs": [')
    assert run(*argv, "yaml", cluster=cluster).out == "outputs:\n- data:\n  - 0\n"


def test_verbose_prints_the_way_and_the_times(run: Run, cluster: FakeCluster, model: Model) -> None:
    err = run("predict", "iris", ROWS, "-v", "--ingress", model.ingress, cluster=cluster).err
    assert err == (
        f"way: ingress {model.ingress}, as specified (0 ms)\n"
        "POST http://iris.models.kubectl-serve.test/v2/models/iris/infer\n"
        "status 200 (0 ms)\n"
    )


def test_the_way_is_found_through_knatives_ingress(run: Run, cluster: FakeCluster, model: Model) -> None:
    """The recorded Service, with its address and port where the test's server is."""
    service = next(each for each in cluster.objects if each["metadata"]["name"] == "traefik")
    service["status"] = {"loadBalancer": {}}
    service["spec"]["ports"] = [{"port": 80, "nodePort": model.port, "targetPort": "web"}]
    cluster.objects.append(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "node"},
            "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]},
        }
    )
    screen = run("predict", "iris", ROWS, "-v", cluster=cluster)
    assert screen.code == 0, screen.err
    assert screen.err.splitlines()[:2] == [
        "iris.models.kubectl-serve.test does not resolve",
        f"way: Service traefik/traefik at node 127.0.0.1:{model.port} (0 ms)",
    ]


def test_without_the_right_to_find_the_way_there_is_a_hint(run: Run, cluster: FakeCluster) -> None:
    cluster.hidden = frozenset({"ingresses"})
    assert run("predict", "iris", ROWS, cluster=cluster).err == (
        "error: no way to the ingress was found: ingresses is forbidden\n"
        "hint: Set --ingress URL, or KUBECTL_SERVE_INGRESS.\n"
    )


def said(text: str, finish: str | None = None) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


@pytest.fixture
def llm(cluster: FakeCluster) -> FakeCluster:
    """The same cluster, with a language model in iris' place."""
    deployment = next(each for each in cluster.objects if each["metadata"]["name"] == "iris")
    deployment["metadata"]["annotations"][annotations.PROTOCOL] = "openai"
    return cluster


def test_a_language_model_is_asked_in_plain_words_and_answers_so(run: Run, llm: FakeCluster, model: Model) -> None:
    model.events = (said("Because "), said("of Rayleigh."), said("", "stop"), "[DONE]")
    screen = run("predict", "iris", "Why is the sky blue?", "--ingress", model.ingress, cluster=llm)
    assert (screen.code, screen.out, screen.err) == (0, "Because of Rayleigh.\n", "")
    ((_, path, body),) = model.asked
    assert path == "/v1/chat/completions"
    assert body == {"model": "iris", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "stream": True}


def test_what_a_language_model_says_is_shown_as_it_comes(llm: FakeCluster, model: Model) -> None:
    """The model goes on only once its first word is on the screen."""
    shown = threading.Event()

    class Screen(io.StringIO):
        def flush(self) -> None:
            if self.getvalue() == "Hello":
                shown.set()

    model.events, model.after_first = (said("Hello"), said(", you"), "[DONE]"), shown
    out = Screen()
    streams = Streams(io.StringIO(), Output(out), Output(io.StringIO()))
    code = dispatch.main(["predict", "iris", "Hi", "--ingress", model.ingress], streams, lambda *_: llm)
    assert (code, out.getvalue()) == (0, "Hello, you\n")


def test_a_closed_pipe_during_a_stream_is_not_reported(llm: FakeCluster, model: Model) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    model.events = (said("Hello"), "[DONE]")
    err = io.StringIO()
    streams = Streams(io.StringIO(), Output(Gone()), Output(err))
    assert dispatch.main(["predict", "iris", "Hi", "--ingress", model.ingress], streams, lambda *_: llm) == 1
    assert err.getvalue() == ""


def test_a_whole_answer_of_a_language_model_can_be_had(run: Run, llm: FakeCluster, model: Model) -> None:
    model.answer = '{"choices": [{"message": {"content": "Hi"}}]}'
    way = ("--ingress", model.ingress)
    assert run("predict", "iris", "Hello", "-o", "yaml", *way, cluster=llm).out.startswith("choices:\n- message:\n")
    assert "stream" not in model.asked[0][2]
    assert run("predict", "iris", "Hello", *way, cluster=llm).out == "Hi\n"  # the server streams nothing
    assert run("predict", "iris", '{"prompt": "A"}', *way, cluster=llm).out == model.answer + "\n"
    assert model.asked[2][1:] == ("/v1/completions", {"model": "iris", "prompt": "A"})
    refused = run("predict", "iris", '{"prompt": "A", "stream": true}', "-o", "json", *way, cluster=llm)
    assert "-o cannot be combined with a request for a stream" in refused.err


@pytest.mark.parametrize(
    ("events", "code", "err"),
    [
        ((said("Once"), said("", "length"), "[DONE]"), 0, "iris stopped at its limit of tokens; a whole request can "),
        ((said("Once"), said("", "stop")), 0, ""),
        ((said("Once"),), 1, "error: the response ended early.\n"),
        (
            (said("Once"), '{"error": {"message": "out of memory"}}', "[DONE]"),
            1,
            "error: the model aborted its response: out of memory\nhint: `kubectl serve logs iris` shows more.\n",
        ),
        ((said("Once"), "7" * (3 << 20)), 1, "error: the response is not an event stream: "),
    ],
)
def test_the_end_of_a_streamed_answer_is_reported(
    events: tuple[str, ...], code: int, err: str, run: Run, llm: FakeCluster, model: Model
) -> None:
    model.events = events
    screen = run("predict", "iris", "Hello", "--ingress", model.ingress, cluster=llm)
    assert (screen.code, screen.out, screen.err[: len(err) or None]) == (code, "Once\n", err)


def test_a_language_models_words_are_no_commands_to_the_terminal(run: Run, llm: FakeCluster, model: Model) -> None:
    model.events = (said("a\x1b]0;title\x07b\n"), "[DONE]")
    argv = ("predict", "iris", "Hello", "--ingress", model.ingress)
    assert run(*argv, cluster=llm, terminal=True).out == "a\\x1b]0;title\\x07b\n"
    assert run(*argv, cluster=llm).out == "a\x1b]0;title\x07b\n"


def test_a_model_without_a_chat_template_says_what_to_do(run: Run, llm: FakeCluster, model: Model) -> None:
    model.status, model.answer = 400, '{"error": {"message": "you must provide a chat template", "code": 400}}'
    assert run("predict", "iris", "Hello", "--ingress", model.ingress, cluster=llm).err == (
        "error: the model responds with status 400: you must provide a chat template\n"
        "hint: Text is sent as a chat. Without a chat template, send a completion: "
        '\'{"prompt": "Once upon a"}\'.\n'
    )


def test_the_protocol_is_that_of_the_runtime_it_was_completed_with(
    run: Run, cluster: FakeCluster, model: Model
) -> None:
    """Also of a runtime that only the cluster has, with an image that this command does not know."""
    record = {"asked": "", "loader": "", "runtime": {"digest": "", "name": "own", "protocol": "openai"}}
    deployment = next(each for each in cluster.objects if each["metadata"]["name"] == "iris")
    deployment["metadata"]["annotations"][annotations.COMPLETED_WITH] = json.dumps(record)
    run("predict", "iris", "Hello", "--ingress", model.ingress, cluster=cluster)
    assert model.asked[0][1] == "/v1/chat/completions"


def own_server(cluster: FakeCluster, **container: Any) -> FakeCluster:
    """The same cluster, with a container of the user's own in iris' place."""
    deployment = next(each for each in cluster.objects if each["metadata"]["name"] == "iris")
    deployment["metadata"]["annotations"][annotations.COMPLETED_WITH] = '{"asked": "", "loader": ""}'
    deployment["spec"]["template"]["spec"]["containers"] = [{"name": "server", **container}]
    return cluster


def test_a_known_server_is_asked_over_its_protocol_by_the_name_that_it_lists(
    run: Run, cluster: FakeCluster, model: Model
) -> None:
    own_server(cluster, image="vllm/vllm-openai:v0.30.0", args=["--model=/mnt/models"])
    model.metadata = '{"data": [{"id": "/mnt/models"}]}'
    model.events = (said("Hi"), "[DONE]")
    screen = run("predict", "iris", "Hello", "--ingress", model.ingress, cluster=cluster)
    assert (screen.code, screen.out, screen.err) == (0, "Hi\n", "")
    assert model.looked_at == ["/v1/models"]
    assert [(path, body["model"]) for _, path, body in model.asked] == [("/v1/chat/completions", "/mnt/models")]


@pytest.mark.parametrize(
    ("container", "path"),
    [
        ({"image": "michaelf34/infinity:0.0.76"}, "/embeddings"),
        ({"image": "michaelf34/infinity:0.0.76", "args": ["v2", "--url-prefix", "/v1/"]}, "/v1/embeddings"),
        ({"image": "registry.example/a:1", "command": ["text-embeddings-router"]}, "/v1/embeddings"),
    ],
)
def test_a_known_servers_base_path_is_respected(
    run: Run, cluster: FakeCluster, model: Model, container: dict[str, Any], path: str
) -> None:
    run("predict", "iris", '{"input": "a"}', "--ingress", model.ingress, cluster=own_server(cluster, **container))
    assert [asked for _, asked, _ in model.asked] == [path]


def test_a_known_server_of_the_open_inference_protocol_is_asked_for_its_models_name(
    run: Run, cluster: FakeCluster, model: Model
) -> None:
    own_server(cluster, image="nvcr.io/nvidia/tritonserver:25.01-py3")
    model.answer = '[{"name": "density", "version": "1", "state": "READY"}]'
    run("predict", "iris", ROWS, "--ingress", model.ingress, cluster=cluster)
    assert [path for _, path, _ in model.asked] == ["/v2/repository/index", "/v2/models/density/infer"]


def test_a_name_that_the_user_gives_is_not_looked_up(run: Run, cluster: FakeCluster, model: Model) -> None:
    own_server(cluster, image="vllm/vllm-openai:v0.30.0")
    way = ("--ingress", model.ingress)
    run("predict", "iris", '{"prompt": "A"}', "--model-name", "adapter", *way, cluster=cluster)
    run("predict", "iris", '{"prompt": "A", "model": "adapter"}', *way, cluster=cluster)
    assert [body["model"] for _, _, body in model.asked] == ["adapter", "adapter"]
    assert model.looked_at == []


def test_the_annotation_counts_more_than_a_known_server(run: Run, cluster: FakeCluster, model: Model) -> None:
    own_server(cluster, image="vllm/vllm-openai:v0.30.0")
    deployment = next(each for each in cluster.objects if each["metadata"]["name"] == "iris")
    deployment["metadata"]["annotations"][annotations.PROTOCOL] = "v1"
    run("predict", "iris", ROWS, "--ingress", model.ingress, cluster=cluster)
    assert model.asked[0][1] == "/v1/models/iris:predict"


def test_plain_text_instead_of_rows_names_the_protocol_of_language_models(run: Run, cluster: FakeCluster) -> None:
    err = run("predict", "iris", "Hello", cluster=cluster).err
    assert "the data is not JSON" in err
    assert "--protocol openai" in err


def test_a_model_that_is_not_ready_is_not_asked(run: Run, cluster: FakeCluster) -> None:
    screen = run("predict", "nope", ROWS, cluster=cluster)
    assert screen.code == 1
    assert screen.err.startswith("error: nope is not ready: NotFound: ")
    assert screen.err.endswith("hint: `kubectl serve describe nope` shows more.\n")


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            ["started", "ValueError: X has 3 features, but 4 are expected", "INFO 500"],
            "ValueError: X has 3 features, but 4 are expected",
        ),
        (["ERROR CUDA out of memory", "shutting down"], "ERROR CUDA out of memory"),
        (["all is well"], ""),
    ],
)
def test_an_error_of_the_server_is_said_with_the_last_fault_of_its_log(
    log: list[str], cause: str, run: Run, cluster: FakeCluster, model: Model
) -> None:
    model.status, model.answer = 500, '{"error": "Internal Server Error"}'
    for each in cluster.objects:
        cluster.log[each["metadata"]["name"], "model-server"] = log
    screen = run("predict", "iris", ROWS, "--ingress", model.ingress, cluster=cluster)
    said = f"\n  Its log says: {cause}" if cause else ""
    assert (screen.code, screen.out) == (1, "")
    assert screen.err == (
        f"error: the model responds with status 500: Internal Server Error{said}\n"
        "hint: `kubectl serve logs iris` shows the log of the model server.\n"
    )


def test_no_data_at_a_terminal_is_no_endless_wait(run: Run) -> None:
    screen = run("predict", "iris", terminal=True)
    assert screen.code == 1
    assert screen.err.endswith("there is no data.\nhint: kubectl serve predict iris '[[5.1, 3.5, 1.4, 0.2]]'\n")


@pytest.mark.parametrize("address", ["http://[", "ftp://10.0.0.1", "//"])
def test_a_wrong_ingress_is_refused(run: Run, cluster: FakeCluster, address: str) -> None:
    screen = run("predict", "iris", ROWS, "--ingress", address, cluster=cluster)
    assert (screen.code, screen.err.splitlines()[0]) == (1, f"error: {address} is not the address of an ingress.")


def test_an_ingress_where_nothing_listens_is_said_in_plain_words(run: Run, cluster: FakeCluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    screen = run("predict", "iris", ROWS, "--ingress", f"http://127.0.0.1:{port}", cluster=cluster)
    address = f"127.0.0.1:{port}"
    reported = f"error: {address} cannot be reached: Connection refused (ingress http://{address}, as specified)."
    assert screen.err.splitlines()[0] == reported


def test_a_file_that_is_no_text_is_refused(run: Run, tmp_path: Path, cluster: FakeCluster) -> None:
    (tmp_path / "model.joblib").write_bytes(b"\x80")
    screen = run("predict", "iris", "-f", str(tmp_path / "model.joblib"), cluster=cluster)
    assert screen.err == f"error: {tmp_path / 'model.joblib'} is not text in UTF-8.\nhint: Is this the right file?\n"


# The shape of the data.


def metadata(*shapes: list[int]) -> str:
    return json.dumps({"name": "iris", "inputs": [{"name": "x", "datatype": "FP32", "shape": each} for each in shapes]})


@pytest.mark.parametrize(
    ("rows", "wanted", "shape"),
    [
        ("[[5.1, 3.5, 1.4]]", [-1, 4], "[1, 3]"),
        ("[5.1, 3.5, 1.4]", [-1, 4], "[1, 3]"),
        ("[[1], [2]]", [1, 1], "[2, 1]"),
        ("[[1, 2], [3, 4]]", [-1, 28, 28], "[2, 2]"),
        ("[[[1, 2]]]", [-1, 2], "[1, 1, 2]"),
        ("[1, 2]", [3], "[1, 2]"),
    ],
)
def test_data_of_another_shape_is_not_sent(
    rows: str, wanted: list[int], shape: str, run: Run, cluster: FakeCluster, model: Model
) -> None:
    model.metadata = metadata(wanted)
    screen = run("predict", "iris", rows, "--ingress", model.ingress, cluster=cluster)
    any_number = "-1 is any number. " if -1 in wanted else ""
    assert (screen.code, screen.out) == (1, "")
    assert screen.err == (
        f"error: the data has shape {shape}, and the model takes {wanted}.\nhint: {any_number}Nothing was sent. "
        "Correct the data, or write a whole request as a JSON object, which is sent unchanged.\n"
    )
    assert model.asked == []
    assert model.looked_at == ["/v2/models/iris"]


@pytest.mark.parametrize(
    "said",
    [
        None,
        metadata([-1, 4]),
        metadata([1, 4]),
        metadata([4]),
        metadata([-1, -1]),
        metadata([-1, 3], [-1, 1]),
        metadata(),
        metadata([]),
        '{"inputs": [{"shape": ["batch", 3]}]}',
        '{"inputs": [{"shape": 3}]}',
        '{"inputs": [null]}',
        '{"inputs": 7}',
        "[" * 100_000,
        "null",
        "<html>",
    ],
)
def test_data_of_a_shape_that_may_be_right_is_sent(
    said: str | None, run: Run, cluster: FakeCluster, model: Model
) -> None:
    model.metadata = said
    screen = run("predict", "iris", ROWS, "--ingress", model.ingress, cluster=cluster)
    assert (screen.code, screen.out, screen.err) == (0, '{"outputs": [{"data": [0]}]}\n', "")
    assert len(model.asked) == 1


def test_rows_have_the_name_of_the_models_input(run: Run, cluster: FakeCluster, model: Model) -> None:
    model.metadata = metadata([-1, 4])
    run("predict", "iris", ROWS, "--ingress", model.ingress, cluster=cluster)
    ((_, _, body),) = model.asked
    assert (body["inputs"][0]["name"], body["inputs"][0]["datatype"]) == ("x", "FP32")


@pytest.mark.parametrize(
    "words",
    [
        ['{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}]}'],
        ["[[1, 2, 3]]", "--protocol", "v1"],
        ["[[1, 2, 3]]", "--path", "/own"],
    ],
)
def test_whole_requests_and_other_protocols_are_sent_as_they_are(
    words: list[str], run: Run, cluster: FakeCluster, model: Model
) -> None:
    model.metadata = metadata([-1, 4])
    assert run("predict", "iris", *words, "--ingress", model.ingress, cluster=cluster).code == 0
    assert (len(model.asked), model.looked_at) == (1, [])
