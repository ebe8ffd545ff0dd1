"""queue-proxy, the container that Knative adds to each pod: its probe, changed so that no start waits for a timer."""

from typing import Any

from serve_core.base.json import JsonObject, object_of, objects_in, value_at

NAME = "queue-proxy"
PATIENCE = 10
"""Seconds for which queue-proxy repeats a probe without a period, every 50 ms (``pkg/queue/readiness/probe.go``)."""
STARTUP = {"periodSeconds": 1, "timeoutSeconds": PATIENCE, "successThreshold": 1, "failureThreshold": 86400}
"""The threshold is a day at least: a server that starts slowly is never restarted."""
PORTS = (8012, 8013)
"""Where queue-proxy takes requests and probes (``knative.dev/networking``, ``pkg/networking/constants.go``)."""
_PROBE_OF_SERVER = "SERVING_READINESS_PROBE"
"""The variable with the probe of the model server in JSON; with several containers, a list of probes."""
_HANDLERS = ("httpGet", "grpc", "tcpSocket")


def probe_patch(pod: JsonObject) -> list[JsonObject]:
    """Return the JSON Patch that makes the kubelet see at once that queue-proxy is ready; empty where it does.

    Knative moves the readiness probe of a model server to queue-proxy. The kubelet asks it every 10 s and waits 1 s for
    the answer. So a server that is not ready after a second would wait for the next probe.

    - Where queue-proxy repeats the server's probe, the kubelet waits as long as queue-proxy: then one probe follows the
      other, and the answer comes as soon as the server is ready.
    - Elsewhere queue-proxy gets a startup probe that asks the same, once a second. When it succeeds, the kubelet never
      runs it again, and runs the readiness probe at once (Kubernetes, ``pkg/kubelet/prober``, ``UpdatePodStatus``).
      This is also so where a mesh has rewritten the probe: its agent ends its own request after a second.

    Nothing of this is in the Knative Service: for a revision with a startup probe, the activator waits for Kubernetes
    instead of asking queue-proxy itself (``pkg/activator/net/revision_backends.go``). That takes a second more from
    zero.
    """
    for index, container in enumerate(objects_in(value_at(pod, "spec", "containers"))):
        probe = container.get("readinessProbe")
        if container.get("name") != NAME or container.get("startupProbe") or not isinstance(probe, dict):
            continue
        path = f"/spec/containers/{index}"
        if value_at(probe, "httpGet", "port") in PORTS and _repeats(container):
            return [{"op": "add", "path": f"{path}/readinessProbe/timeoutSeconds", "value": PATIENCE}]
        if handler := {key: probe[key] for key in _HANDLERS if probe.get(key)}:
            return [{"op": "add", "path": f"{path}/startupProbe", "value": {**handler, **STARTUP}}]
    return []


def _repeats(container: JsonObject) -> bool:
    """Whether queue-proxy repeats the server's probe until it succeeds: the probe has no period."""
    values: list[Any] = [
        each.get("value") for each in objects_in(container.get("env")) if each.get("name") == _PROBE_OF_SERVER
    ]
    probe = object_of(values[0]) if len(values) == 1 else {}
    return bool(probe) and not probe.get("periodSeconds")
