"""queue-proxy, the container that Knative adds to each pod: its startup probe, so that no start waits for a timer."""

from serve_core.base.json import JsonObject, objects_in, value_at

NAME = "queue-proxy"
TIMING = {"periodSeconds": 1, "timeoutSeconds": 10, "successThreshold": 1, "failureThreshold": 86400}
"""queue-proxy answers a probe within 10 s (``pkg/queue/readiness/probe.go``). The threshold is a day at least: a server
that starts slowly is never restarted."""
_HANDLERS = ("httpGet", "grpc", "tcpSocket")


def startup_probe_patch(pod: JsonObject) -> list[JsonObject]:
    """Return the JSON Patch that gives queue-proxy a startup probe; empty where there is nothing to copy or to add.

    Knative moves the readiness probe of a model server to queue-proxy, which the kubelet asks every 10 s. So a server
    that is not ready at the first probe would wait for the next. When a startup probe succeeds, the kubelet never runs
    it again, and runs the readiness probes at once (Kubernetes, ``pkg/kubelet/prober``, ``UpdatePodStatus``). It asks
    what the readiness probe asks, as Knative or a mesh wrote it.

    The probe is not in the Knative Service: for a revision with a startup probe, the activator waits for Kubernetes
    instead of asking queue-proxy itself (``pkg/activator/net/revision_backends.go``). That takes a second more from
    zero.
    """
    for index, container in enumerate(objects_in(value_at(pod, "spec", "containers"))):
        probe = container.get("readinessProbe")
        if container.get("name") != NAME or container.get("startupProbe") or not isinstance(probe, dict):
            continue
        if handler := {key: probe[key] for key in _HANDLERS if probe.get(key)}:
            return [{"op": "add", "path": f"/spec/containers/{index}/startupProbe", "value": {**handler, **TIMING}}]
    return []
