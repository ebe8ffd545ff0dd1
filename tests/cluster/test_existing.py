"""Knative accepts what the core accepts of ``tests/golden/existing``: dry runs of the Knative Services."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cluster.api_server import ApiServer
from cluster.support import Json
from serve_core.knative.features import FIELD_FLAGS
from support import existing
from support.existing import Case

NAMESPACE = "existing-deployments"
SERVICES = f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/services"
FEATURES = "/api/v1/namespaces/knative-serving/configmaps/config-features"
CASES = [case for case in map(existing.read, existing.CASES) if case.with_all_flags.service is not None]


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    """An API server of a Knative with all feature flags, and with what the pods name; afterwards all is as before."""
    with ApiServer() as connected, ExitStack() as afterwards:
        before = connected.get(FEATURES)["data"]
        back = {"data": {flag: before.get(flag) for flag in FIELD_FLAGS}}
        for path, document in _named():
            status, answer = connected.request("POST", path, document)
            assert status in (201, 409), answer
            if status == 201:
                afterwards.callback(connected.delete, f"{path}/{document['metadata']['name']}")
        afterwards.callback(connected.patch, FEATURES, back)
        connected.patch(FEATURES, {"data": dict.fromkeys(FIELD_FLAGS, "enabled")})
        _wait_for_flags(connected)
        yield connected


def _named() -> Iterator[tuple[str, Json]]:
    """What must exist before Knative's dry run of a pod succeeds: paths of collections, and objects."""
    yield "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}
    pods = [case.with_all_flags.service["spec"]["template"]["spec"] for case in CASES if case.with_all_flags.service]
    for name in {pod["serviceAccountName"] for pod in pods if "serviceAccountName" in pod}:
        yield f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": name}}
    for name in {pod["runtimeClassName"] for pod in pods if "runtimeClassName" in pod}:
        yield "/apis/node.k8s.io/v1/runtimeclasses", {"metadata": {"name": name}, "handler": "runc"}
    for name in {pod["priorityClassName"] for pod in pods if "priorityClassName" in pod}:
        yield "/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": name}, "value": 1}


def _wait_for_flags(api: ApiServer) -> None:
    """Wait until Knative's webhook has seen the flags; only a dry run shows that."""
    probe: Json = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "probe"},
        "spec": {"template": {"spec": {"containers": [{"image": "example.com/app:1"}], "hostPID": True}}},
    }
    deadline = time.monotonic() + 30
    while api.dry_run(SERVICES, probe)[0] != 201:
        assert time.monotonic() < deadline, "Knative's webhook has not seen the flags"
        time.sleep(0.1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_knative_accepts_it(case: Case, api: ApiServer) -> None:
    service = case.with_all_flags.service
    assert service is not None
    moved = {**service, "metadata": {**service["metadata"], "namespace": NAMESPACE}}
    status, answer = api.dry_run(SERVICES, moved)
    assert status == 201, answer.get("message")
