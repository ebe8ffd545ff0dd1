"""The steps of a model until it is ready, and when waiting is over."""

import json
from typing import Any

import pytest

from kubectl_serve.status import wait
from kubectl_serve.status.model import ModelSnapshot
from serve_core.api import loader_protocol
from serve_core.base.constants import CONDITION_READY
from serve_core.base.json import JsonObject
from support.recorded_state import entry

STARTING = {"waiting": {"reason": "PodInitializing"}}
LOADED = {
    "terminated": {"exitCode": 0, "message": json.dumps({"code": "Loaded", "bytes": 8, "files": 1, "seconds": 1})}
}


def deployment(status: str = "Unknown", reason: str = "Progressing", **recorded: str) -> JsonObject:
    metadata = {"name": "iris", "generation": 1}
    ready = {"type": CONDITION_READY, "status": status, "reason": reason, "message": "It is so."}
    return {"metadata": metadata, "status": {"conditions": [ready, entry(1, **recorded)]}}


def pod(loader: Any = STARTING, server: Any = STARTING, *, scheduled: Any = None, ready: str = "False") -> JsonObject:
    conditions = [scheduled or {"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": ready}]
    return {
        "metadata": {"name": "a", "labels": {"serving.knative.dev/revision": "iris-00001"}},
        "spec": {
            "nodeName": "node-1",
            "initContainers": [{"name": "istio-proxy"}, {"name": "model-loader"}] if loader else [],
            "containers": [{"name": "model-server"}, {"name": "queue-proxy"}],
        },
        "status": {
            "conditions": conditions,
            "initContainerStatuses": [{"name": "model-loader", "state": loader}] if loader else [],
            "containerStatuses": [{"name": "model-server", "state": server}],
        },
    }


def texts(*pods: JsonObject, line: Any = None, service: Any = None) -> list[str]:
    return [
        step.text
        for step in wait.steps(ModelSnapshot(deployment(), service, pods, loader_protocol.from_object(line or {})))
    ]


def failed(code: str | None, **more: Any) -> JsonObject:
    return {"terminated": {"exitCode": 1, **more} | ({"message": json.dumps({"code": code})} if code else {})}


NO_NODE = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available."}
RETRY = {"event": "retry", "code": "Unreachable"}


@pytest.mark.parametrize(
    ("text", "found", "line"),
    [
        ("no node can run the pod: 0/1 nodes are available.", pod(scheduled=NO_NODE), {}),
        ("revision iris-00001 created", pod(scheduled={"type": "PodScheduled", "status": "False"}), {}),
        ("loader starting", pod({"waiting": {}}), {}),
        ("loader starting", pod(STARTING), {}),
        ("loader starting", pod({"waiting": {"reason": "ContainerCreating"}}), {}),
        ("loader: ImagePullBackOff", pod({"waiting": {"reason": "ImagePullBackOff"}}), {}),
        ("model loading", pod({"running": {}}), {}),
        ("model loading", pod({"running": {}}), {"event": "progress", "bytes": 1, "total": 2}),
        ("loader retries: no route", pod({"running": {}}), RETRY | {"message": "no route"}),
        ("loader retries: Unreachable", pod({"running": {}}), RETRY),
        ("loader failed: NotFound", pod({"running": {}}), {"event": "failed", "code": "NotFound"}),
        ("loader failed: NotFound", pod(failed("NotFound", reason="Error")), {}),
        ("loader failed: OOMKilled", pod(failed(None, reason="OOMKilled")), {}),
        ("loader failed: Error", pod(failed(None)), {}),
        ("model server starting", pod(LOADED, {"running": {}}), {}),
        ("model server starting", pod(None, {"running": {}}), {}),
        ("model server ready", pod(LOADED, {"running": {}}, ready="True"), {}),
        ("model server ended with exit code 3, and restarts", pod(LOADED, {"terminated": {"exitCode": 3}}), {}),
        ("model server: CrashLoopBackOff", pod(LOADED, {"waiting": {"reason": "CrashLoopBackOff"}}), {}),
        ("pod scheduled on node-1", pod(None, {"waiting": {"reason": "ContainerCreating"}}), {}),
        ("pod scheduled on node-1", pod(None, STARTING), {}),
        ("pod scheduled on node-1", pod(None, {}), {}),
    ],
)
def test_the_last_step_is_what_goes_on(text: str, found: JsonObject, line: JsonObject) -> None:
    assert texts(found, line=line)[-1] == text


def test_until_the_loader_has_ended_nothing_is_said_of_the_server() -> None:
    found = pod({"running": {}}, {"waiting": {"reason": "ErrImagePull"}})
    assert texts(found)[-2:] == ["pod scheduled on node-1", "model loading"]


def test_the_revision_can_come_from_a_pod() -> None:
    assert texts() == ["Deployment iris accepted"]
    assert texts(service={"metadata": {}})[1:] == ["Knative Service created"]
    assert "revision iris-00001 created" in texts(pod())
    newer = {"metadata": {}, "status": {"latestCreatedRevisionName": "iris-00002"}}
    assert texts(pod(), service=newer)[1:] == ["Knative Service created", "revision iris-00002 created"]


def test_at_the_end_stands_the_url() -> None:
    for notes, text in (({"url": "http://iris"}, "ready at http://iris"), ({}, "ready at no URL")):
        assert wait.steps(ModelSnapshot(deployment("True", "Ready", **notes)))[-1].text == text


@pytest.mark.parametrize(
    ("found", "end"),
    [
        (deployment("True", "Ready"), wait.WaitResult(True)),
        (deployment("False", "NotFound"), wait.WaitResult(False, True, "NotFound", "It is so.")),
        (deployment("False", "Unreachable"), wait.WaitResult(False, False, "Unreachable", "It is so.")),
        (deployment("Unknown", "NotStarted"), wait.WaitResult(False, False, "NotStarted", "It is so.")),
        (deployment(), None),
        (None, wait.WaitResult(False, True, "Deleted", "the Deployment was deleted.")),
    ],
)
def test_waiting_is_over_when_it_is_ready_or_something_is_wrong(found: Any, end: wait.WaitResult | None) -> None:
    assert wait.result_of(found) == end


def test_of_a_deployment_that_was_deleted_there_is_no_step() -> None:
    assert wait.steps(ModelSnapshot(None)) == []
