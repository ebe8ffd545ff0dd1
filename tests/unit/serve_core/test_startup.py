"""Probes that decide how soon a pod is seen as ready."""

from typing import Any

import pytest

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import Verdict, judge
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject
from serve_core.knative.queue_proxy import startup_probe_patch

READINESS = {"httpGet": {"path": "/ready", "port": 9}, "timeoutSeconds": 5}
LIVENESS = {"tcpSocket": {"port": 9}}


def verdict(mode: str = "deployment", **probes: Any) -> Verdict:
    container = {"name": "server", "image": "example.com/server:1", "ports": [{"containerPort": 9}], **probes}
    notes = {f"{PREFIX}model": "s3://models/iris/model.joblib", f"{PREFIX}mode": mode}
    found = judge(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "iris", "namespace": "ml", "annotations": notes},
            "spec": {"template": {"spec": {"containers": [container]}}},
        },
        default_context(),
    )
    assert not found.refused, found.problems
    return found


def container_of(found: Verdict) -> JsonObject:
    assert found.deployment is not None
    container: JsonObject = found.deployment["spec"]["template"]["spec"]["containers"][0]
    return container


def delays(found: Verdict) -> list[str]:
    return [str(each) for each in found.warnings if each.code == "StartDelayed"]


def test_a_deployment_is_asked_each_second_until_it_is_ready_once() -> None:
    container = container_of(verdict(readinessProbe=READINESS))
    assert container["readinessProbe"] == READINESS, "a user's probe stays as it is"
    startup = container["startupProbe"]
    assert startup["httpGet"] == {"path": "/ready", "port": 9, "scheme": "HTTP"}
    assert (startup["periodSeconds"], startup["timeoutSeconds"]) == (1, 5)
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 86400, "a slow start never restarts the server"


@pytest.mark.parametrize(
    "probes",
    [
        {},
        {"readinessProbe": READINESS, "livenessProbe": LIVENESS},
        {"readinessProbe": READINESS, "startupProbe": {**LIVENESS, "periodSeconds": 3}},
        {"readinessProbe": {"periodSeconds": 1}},
        {"readinessProbe": {"httpGet": "nothing"}},
    ],
    ids=["nothing to ask", "restarted while it starts", "its own", "no handler", "no object"],
)
def test_other_containers_keep_their_probes(probes: JsonObject) -> None:
    container = container_of(verdict(**probes))
    assert {key: value for key, value in container.items() if key.endswith("Probe")} == probes


def test_a_knative_service_gets_none_so_that_the_activator_asks_queue_proxy_itself() -> None:
    found = verdict("knative", readinessProbe=READINESS)
    assert "startupProbe" not in container_of(found)
    assert found.service is not None
    assert "startupProbe" not in found.service["spec"]["template"]["spec"]["containers"][0]


def knative_pod(**queue: Any) -> JsonObject:
    """A pod of a revision, with these fields in queue-proxy."""
    return {"spec": {"containers": [{"name": "server"}, {"name": "queue-proxy", **queue}]}}


@pytest.mark.parametrize(
    "handler",
    [
        {"httpGet": {"path": "/", "port": 8012, "httpHeaders": [{"name": "K-Network-Probe", "value": "queue"}]}},
        {"httpGet": {"path": "/app-health/queue-proxy/readyz", "port": 15020}},
        {"grpc": {"port": 8013, "service": ""}},
    ],
    ids=["as Knative writes it", "as Istio rewrites it", "gRPC"],
)
def test_queue_proxy_is_asked_each_second_until_it_is_ready_once(handler: JsonObject) -> None:
    (operation,) = startup_probe_patch(knative_pod(readinessProbe={**handler, "periodSeconds": 10}))
    assert (operation["op"], operation["path"]) == ("add", "/spec/containers/1/startupProbe")
    startup = operation["value"]
    assert {key: startup[key] for key in handler} == handler
    assert startup["periodSeconds"] == 1
    assert startup["timeoutSeconds"] == 10, "queue-proxy repeats the server's probe for up to 10 s"
    assert startup["failureThreshold"] >= 86400, "a slow start never restarts the server"


@pytest.mark.parametrize(
    "pod",
    [
        knative_pod(),
        knative_pod(readinessProbe={"periodSeconds": 1}),
        knative_pod(readinessProbe={"exec": {"command": ["true"]}}),
        knative_pod(readinessProbe=READINESS, startupProbe=READINESS),
        {"spec": {"containers": [{"name": "server", "readinessProbe": READINESS}]}},
        {"spec": {"containers": [7, None]}},
        {},
    ],
    ids=["no probe", "no handler", "a command", "its own", "no queue-proxy", "no containers", "no pod"],
)
def test_other_pods_stay_as_they_are(pod: JsonObject) -> None:
    assert startup_probe_patch(pod) == []


@pytest.mark.parametrize("mode", ["knative", "deployment"])
@pytest.mark.parametrize(
    ("probes", "line"),
    [
        ({"startupProbe": {"httpGet": {"port": 9}, "failureThreshold": 60}}, "to 1 and failureThreshold to 600"),
        ({"startupProbe": {"httpGet": {"port": 9}, "periodSeconds": 20}}, "failureThreshold to 60"),
        (
            {"startupProbe": {"httpGet": {"port": 9}, "periodSeconds": 1, "initialDelaySeconds": 30}},
            "failureThreshold to 33, without initialDelaySeconds",
        ),
        ({"readinessProbe": READINESS | {"initialDelaySeconds": 15}}, "readinessProbe.initialDelaySeconds to 0"),
    ],
    ids=["period by default", "long period", "late startup probe", "late readiness probe"],
)
def test_a_probe_that_delays_each_start_gets_the_line_to_write(mode: str, probes: JsonObject, line: str) -> None:
    (warning,) = delays(verdict(mode, **probes))
    assert line in warning


@pytest.mark.parametrize(
    "probes",
    [
        {"readinessProbe": READINESS | {"periodSeconds": 30}},
        {"startupProbe": {"httpGet": {"port": 9}, "periodSeconds": 5}},
    ],
    ids=["a startup probe comes first", "short"],
)
def test_other_probes_get_no_warning(probes: JsonObject) -> None:
    assert delays(verdict("knative", **probes)) == []


def test_a_readiness_probe_beside_a_liveness_probe_is_slow_without_knative() -> None:
    probes: JsonObject = {"readinessProbe": READINESS, "livenessProbe": LIVENESS}
    (warning,) = delays(verdict(**probes))
    assert "startupProbe" in warning
    assert delays(verdict("knative", **probes)) == []
