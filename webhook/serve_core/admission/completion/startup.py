"""How soon the kubelet sees that a container is ready: startup probes for mode ``deployment``, and warnings.

The warnings are about probes that the user wrote and that delay each start.
"""

from collections.abc import Iterator
from typing import Any

from serve_core.admission.working_set import Admission
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import Diagnostic, diagnostic
from serve_core.base.workload import POD
from serve_core.workload.model_server import with_defaults

TIMING = {"periodSeconds": 1, "successThreshold": 1, "failureThreshold": 86400}
"""The threshold is a day at least: a server that starts slowly is never restarted."""
_HANDLERS = ("exec", "grpc", "httpGet", "tcpSocket")
_LONG = 10
"""Seconds, the API server's default period."""


def complete(admission: Admission) -> None:
    """Give the containers of a Deployment that runs its own pods a startup probe, and warn about slow probes.

    The kubelet runs a readiness probe once when a container starts, and then every ``periodSeconds``. When a startup
    probe succeeds, it runs the readiness probe at once (Kubernetes, ``pkg/kubelet/prober``, ``UpdatePodStatus``).
    """
    containers = admission.workload.containers
    filled = [] if admission.by_knative else [each for each in containers if _lacks_startup_probe(each)]
    for index, container in enumerate(containers):
        admission.findings.warnings += _delays(container, f"{POD}.containers[{index}]", by_knative=admission.by_knative)
    if filled:
        probes: list[JsonObject] = [{"name": each["name"], "startupProbe": _startup_probe(each)} for each in filled]
        admission.fill({"spec": {"template": {"spec": {"containers": probes}}}})


def _lacks_startup_probe(container: JsonObject) -> bool:
    """Whether a startup probe would help. With a liveness probe it would also delay restarts of a server that hangs
    while it starts."""
    probe = container.get("readinessProbe")
    asks = isinstance(probe, dict) and any(isinstance(probe.get(handler), dict) for handler in _HANDLERS)
    return asks and not container.get("startupProbe") and not _is_restarted(container)


def _is_restarted(container: JsonObject) -> bool:
    return bool(container.get("livenessProbe"))


def _startup_probe(container: JsonObject) -> JsonObject:
    """Asks what the readiness probe asks, once a second."""
    probe = with_defaults(container["readinessProbe"])
    return {**{key: probe[key] for key in (*_HANDLERS, "timeoutSeconds") if key in probe}, **TIMING}


def _delays(container: JsonObject, path: str, *, by_knative: bool) -> Iterator[Diagnostic]:
    """Probes that the user wrote and after which a ready server still waits for ten seconds or more."""
    startup, readiness = container.get("startupProbe"), container.get("readinessProbe")
    if startup:
        first, period = _seconds(startup, "initialDelaySeconds", 0), _seconds(startup, "periodSeconds", _LONG)
        patience = first + period * _seconds(startup, "failureThreshold", 3)
        line = f"startupProbe.periodSeconds to 1 and failureThreshold to {patience}, without initialDelaySeconds"
        yield from _delay(container, f"{path}.startupProbe", max(first, period), line)
    if not readiness:
        return
    first = _seconds(readiness, "initialDelaySeconds", 0)
    yield from _delay(container, f"{path}.readinessProbe", first, "readinessProbe.initialDelaySeconds to 0")
    if not by_knative and not startup and _is_restarted(container):
        period = _seconds(readiness, "periodSeconds", _LONG)
        line = "startupProbe to the handler of readinessProbe, with periodSeconds: 1 and failureThreshold: 600"
        yield from _delay(container, f"{path}.readinessProbe", period, line)


def _delay(container: JsonObject, path: str, seconds: int, line: str) -> Iterator[Diagnostic]:
    if seconds >= _LONG:
        yield diagnostic("StartDelayed", path, name=container.get("name"), seconds=seconds, line=line)


def _seconds(probe: Any, key: str, default: int) -> int:
    """A number of a probe; ``default``: the API server's."""
    found = value_at(probe, key)
    return found if isinstance(found, int) and found > 0 else default
