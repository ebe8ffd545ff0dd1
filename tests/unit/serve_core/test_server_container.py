"""Which container of a pod serves the model."""

from typing import Any

import pytest

from serve_core.workload.model_server import server_container


def container(name: str, *ports: int, gpu: bool = False, probed: object = None, **more: Any) -> dict[str, Any]:
    found = {"name": name, "image": "example.com/a:1", "ports": [{"containerPort": port} for port in ports], **more}
    if gpu:
        found["resources"] = {"limits": {"nvidia.com/gpu": 1}}
    if probed is not None:
        found["readinessProbe"] = {"httpGet": {"port": probed}}
    return found


SERVER = container("server", 8000, gpu=True, probed=8000)


@pytest.mark.parametrize(
    ("containers", "chosen"),
    [
        ([SERVER, container("model-server")], "model-server"),
        ([SERVER, {"name": "empty"}], "empty"),
        ([container("alone")], "alone"),
        ([container("server"), container("proxy", 80)], "proxy"),
        ([SERVER, container("agent", 8080, probed=8080)], "server"),
        ([container("server", 8000, gpu=True), container("agent", 8080, probed=8080)], None),
        ([container("server", 8000, gpu=True, args=["--port=8000"]), container("agent", 8080, probed=8080)], "server"),
        ([container("server", 8000, gpu=True, args=["--port", "9"]), container("agent", 8080)], None),
        ([container("server", 8000, args=["--port=8000"]), container("agent", 8080)], None),
        ([container("server", 8000, gpu=True, args=["--port=8000"]), container("engine", 9, gpu=True, probed=9)], None),
        ([container("helper"), container("server", probed=8000)], "server"),
        ([container("helper", probed=9000), container("server", probed=8000)], None),
        ([container("helper", probed=9000), container("a", 1), container("b", 2)], None),
        ([container("engine", 9000, gpu=True, probed=8000), container("front", 8000)], "front"),
        ([container("engine", 9000, gpu=True, probed=8001), container("front", 8000)], None),
        ([SERVER, container("other", 9000, gpu=True, probed=9000)], None),
        ([container("a", 1, gpu=True, probed={"no": "port"}), container("b", 2)], None),
        ([], None),
    ],
)
def test_the_container_is_the_first_that_one_rule_leaves_alone(
    containers: list[dict[str, Any]], chosen: str | None
) -> None:
    found = server_container(containers)
    assert (found and found["name"]) == chosen


def test_a_probe_can_name_its_port() -> None:
    named = container("server", gpu=True, probed="http", ports=[{"name": "http", "containerPort": 8000}])
    assert server_container([named, container("agent", 8080)]) is named
