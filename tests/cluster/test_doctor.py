"""The doctor on a real cluster: its findings, and that its fixes work."""

import json
from collections.abc import Iterator

import pytest

from cluster.support import Ingress, Namespace, diagnose, obey

KNATIVE = Namespace("knative-serving")


FLAWS = {
    "config-features": {"kubernetes.podspec-affinity": "enabeld"},
    "config-deployment": {"registries-skipping-tag-resolving": "kind.local"},
    "config-autoscaler": {"enable-scale-to-zero": "false"},
}
PLANTED = {"knative-flags", "knative-tags", "knative-scale-to-zero", "server-mutating-webhook", "rights-server"}


@pytest.fixture
def flawed() -> Iterator[None]:
    """A cluster with a handful of faults."""
    rules = KNATIVE.get("clusterrole", "kubectl-serve")["rules"]
    for name, data in FLAWS.items():
        KNATIVE.kubectl("patch", "configmap", name, "--type=merge", "-p", json.dumps({"data": data}))
    change("mutatingwebhookconfiguration", "/webhooks/0/failurePolicy", "Ignore")
    change("clusterrole", "/rules", rules[1:])
    yield
    # Whatever the test came to: without its rights the server fails every test that follows.
    change("clusterrole", "/rules", rules)
    change("mutatingwebhookconfiguration", "/webhooks/0/failurePolicy", "Fail")
    for name, data in FLAWS.items():
        back = json.dumps({"data": dict.fromkeys(data)})
        KNATIVE.kubectl("patch", "configmap", name, "--type=merge", "-p", back)


def change(kind: str, path: str, value: object) -> None:
    """Put a value into one of our objects without a namespace."""
    operation = {"op": "replace", "path": path, "value": value}
    KNATIVE.kubectl("patch", kind, "kubectl-serve", "--type=json", "-p", json.dumps([operation]))


def test_a_cluster_that_serves_is_ready(ingress: Ingress) -> None:
    code, found = diagnose()
    assert (code, [each for each in found.values() if each["verdict"] in ("failed", "warning")]) == (0, [])


def test_what_is_wrong_is_found_and_the_fix_puts_it_right(ingress: Ingress, flawed: None) -> None:
    code, found = diagnose()
    assert code == 1
    assert {check for check, each in found.items() if each["verdict"] in ("failed", "warning")} == PLANTED
    for fix in dict.fromkeys(found[check]["fix"] for check in sorted(PLANTED)):
        obey(fix)
    code, found = diagnose()
    assert (code, {check: found[check]["verdict"] for check in PLANTED}) == (0, dict.fromkeys(PLANTED, "ok"))
