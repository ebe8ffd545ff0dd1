"""The port that serves the model, wherever people write it."""

from typing import Any

import pytest
import yaml

from serve_core.api import servers
from serve_core.workload import command_line
from serve_core.workload.model_server import front_container
from serve_core.workload.serving_port import ServingPort, Source, choose
from support.paths import ROOT

KNOWN = tuple(servers.parse(yaml.safe_load(file.read_text())) for file in (ROOT / "manifests/servers").glob("*.yaml"))


def port(annotated: int | None = None, **container: Any) -> ServingPort:
    line = command_line.read(container)
    server = servers.recognize(str(container.get("image", "registry.example/srv:1")), line.words, KNOWN)
    return choose(container, line, server, annotated)


def ports(*numbers: int) -> list[dict[str, Any]]:
    return [{"containerPort": number} for number in numbers]


NAMED = {"containerPort": 1}
PROBE = {"httpGet": {"path": "/health", "port": 9500}}


@pytest.mark.parametrize(
    ("container", "annotated", "number", "source"),
    [
        ({"ports": ports(9500)}, None, 9500, Source.DECLARED),
        ({"ports": ports(9500), "readinessProbe": {"tcpSocket": {"port": 9501}}}, None, 9500, Source.DECLARED),
        ({}, 9500, 9500, Source.ANNOTATION),
        ({"readinessProbe": PROBE}, None, 9500, Source.PROBE),
        ({"readinessProbe": PROBE}, 9600, 9600, Source.ANNOTATION),
        ({"livenessProbe": {"grpc": {"port": 9500}}}, None, 9500, Source.PROBE),
        ({"readinessProbe": {"httpGet": {"port": "9500"}}}, None, 9500, Source.PROBE),
        ({"args": ["--port", "9500"]}, None, 9500, Source.FLAG),
        ({"args": ["serve", "--http_port=9500"]}, None, 9500, Source.FLAG),
        ({"command": ["gunicorn", "--bind", "0.0.0.0:9500", "app"]}, None, 9500, Source.FLAG),
        ({"args": ["--listen", ":9500"]}, None, 9500, Source.FLAG),
        ({"env": [{"name": "PORT", "value": "9500"}]}, None, 9500, Source.FLAG),
        ({"image": "vllm/vllm-openai:v1", "env": [{"name": "PORT", "value": "9500"}]}, None, 8000, Source.SERVER),
        ({"image": "vllm/vllm-openai:v1"}, None, 8000, Source.SERVER),
        ({"image": "vllm/vllm-openai:v1", "args": ["--port=9500"]}, None, 9500, Source.FLAG),
        (
            {"image": "ollama/ollama", "env": [{"name": "OLLAMA_HOST", "value": "0.0.0.0:9500"}]},
            None,
            9500,
            Source.FLAG,
        ),
        ({"image": "ollama/ollama"}, None, 11434, Source.SERVER),
        ({"image": "nvcr.io/nvidia/tritonserver:1", "args": ["--port=1"]}, None, 8000, Source.SERVER),
        ({}, None, None, None),
        ({"args": ["--port", "$(PORT)"]}, None, None, None),
        ({"ports": "no list", "readinessProbe": 3}, None, None, None),
        ({"ports": [{"containerPort": True}]}, None, None, Source.DECLARED),
    ],
)
def test_without_several_ports(
    container: dict[str, Any], annotated: int | None, number: int | None, source: Source | None
) -> None:
    found = port(annotated, **container)
    assert (found.number, found.source, found.others) == (number, source, ())


@pytest.mark.parametrize(
    ("container", "annotated", "index", "source"),
    [
        ({"ports": ports(8001, 9500), "readinessProbe": PROBE}, None, 1, Source.PROBE),
        ({"ports": ports(8001, 9500), "readinessProbe": PROBE}, 8001, 0, Source.ANNOTATION),
        ({"ports": ports(8001, 9500), "args": ["--port=9500"]}, None, 1, Source.FLAG),
        ({"ports": ports(8001, 8000, 8002), "image": "nvcr.io/nvidia/tritonserver:1"}, None, 1, Source.SERVER),
        ({"ports": [NAMED | {"name": "grpc"}, {"name": "http", "containerPort": 2}]}, None, 1, Source.DECLARED),
        ({"ports": ports(1, 2)}, None, None, None),
        ({"ports": ports(1, 2), "readinessProbe": PROBE}, None, None, None),
        ({"ports": ports(1, 2)}, 3, None, Source.ANNOTATION),
    ],
)  # fmt: skip
def test_of_several_ports(
    container: dict[str, Any], annotated: int | None, index: int | None, source: Source | None
) -> None:
    found = port(annotated, **container)
    everything = set(range(len(container["ports"])))
    assert (found.index, found.source) == (index, source)
    assert set(found.others) == everything - {index}


def test_a_declared_port_that_is_not_the_annotated_one_is_left_aside() -> None:
    assert port(9600, ports=ports(9500)) == ServingPort(9600, Source.ANNOTATION, None, (0,))


def test_a_probe_by_a_ports_name_finds_its_number() -> None:
    named = [{"name": "a", "containerPort": 1}, {"name": "b", "containerPort": 2}]
    assert port(ports=named, readinessProbe={"httpGet": {"port": "b"}}).index == 1


def container(name: str, *numbers: int, **fields: Any) -> dict[str, Any]:
    return {"name": name, "ports": ports(*numbers), **fields}


METRICS = [{"containerPort": 9113, "name": "http-metrics"}]


@pytest.mark.parametrize(
    ("containers", "annotated", "expected"),
    [
        ([container("model-server"), container("transformer", 9000)], None, "transformer"),
        ([container("transformer", 9000), container("model-server", image="a")], None, "transformer"),
        ([container("model-server", 8080), container("transformer", 9000)], None, None),
        ([container("model-server"), container("transformer")], None, None),
        ([container("model-server"), container("transformer")], 9000, "transformer"),
        ([container("model-server", image="a"), container("transformer")], 9000, None),
        ([container("model-server"), container("one"), container("two")], 9000, None),
        ([container("model-server"), container("one", 9000), container("two", 9001)], None, None),
        ([container("model-server"), container("one", 9000), container("two", 9001)], 9001, "two"),
        ([container("model-server"), container("exporter") | {"ports": METRICS}], None, None),
        ([container("server"), container("transformer", 9000)], None, None),
        ([container("model-server")], None, None),
    ],
)
def test_a_container_with_the_port_is_in_front_of_a_model_server_without(
    containers: list[dict[str, Any]], annotated: int | None, expected: str | None
) -> None:
    front = front_container(containers, annotated)
    assert (front or {}).get("name") == expected
