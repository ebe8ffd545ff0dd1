"""The state of a pod in one word."""

from typing import Any

import pytest

from kubectl_serve.status.describe import pod_state
from serve_core.base.json import JsonObject

MISSING = '{"code": "NotFound", "message": "there is no such object"}'


def pod(*, metadata: JsonObject | None = None, **status: Any) -> JsonObject:
    return {"metadata": {"name": "p"} | (metadata or {}), "status": status}


def init(name: str, **state: JsonObject) -> JsonObject:
    return pod(initContainerStatuses=[{"name": name, "state": state}])


def server(**state: JsonObject) -> JsonObject:
    loaded = {"name": "model-loader", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    return pod(initContainerStatuses=[loaded], containerStatuses=[{"name": "model-server", "state": state}])


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("Terminating", pod(metadata={"deletionTimestamp": "2026-11-18T00:00:00Z"}, conditions=[])),
        ("Ready", pod(conditions=[{"type": "Ready", "status": "True"}])),
        ("Unschedulable", pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}])),
        ("Pending", pod(conditions=[{"type": "PodScheduled", "status": "False"}])),
        ("Loading", init("model-loader", running={})),
        ("Init:prepare", init("prepare", running={})),
        ("Starting", init("model-loader", waiting={"reason": "PodInitializing"})),
        ("Init:ImagePullBackOff", init("model-loader", waiting={"reason": "ImagePullBackOff"})),
        ("Init:NotFound", init("model-loader", terminated={"exitCode": 1, "reason": "Error", "message": MISSING})),
        ("Init:OOMKilled", init("model-loader", terminated={"exitCode": 137, "reason": "OOMKilled"})),
        ("Init:Error", init("model-loader", terminated={"exitCode": 1})),
        ("CrashLoopBackOff", server(waiting={"reason": "CrashLoopBackOff"})),
        ("OOMKilled", server(terminated={"exitCode": 137, "reason": "OOMKilled"})),
        ("Starting", server(waiting={"reason": "ContainerCreating"})),
        ("Starting", server(running={})),
        ("Starting", pod()),
    ],
)
def test_a_pods_state_is_the_reason_that_it_is_not_ready(state: str, found: JsonObject) -> None:
    assert pod_state(found) == state
