"""Parking a Deployment, and handing its traffic over without an outage.

A served Deployment is parked: no replicas of its own, the user's number kept in an annotation. One that is running
when it is first annotated, or that leaves ``mode: deployment``, is handed over: its pods go on serving, unchanged
because it is paused, until the Knative Service is ready. Taking the annotation off, or that mode, does the reverse: the
pods come first, then the Knative Service goes.
"""

from typing import Any

from serve_core.api.annotations import HANDOVER, REPLICAS, is_current
from serve_core.base.json import JsonObject

TO_KNATIVE = "to-knative"
FROM_KNATIVE = "from-knative"

_MOST = 2**31 - 1


def park(deployment: JsonObject, *, running: bool) -> None:
    """Keep the user's replicas in an annotation and leave none to the Deployment's own controller.

    ``running``: it has pods that serve and was not served by Knative before. Those stay until :func:`finish`.
    """
    notes, spec = deployment["metadata"]["annotations"], deployment["spec"]
    replicas = wanted_replicas(deployment)
    if running:
        notes[HANDOVER] = TO_KNATIVE
    notes[REPLICAS] = str(replicas)
    if notes.get(HANDOVER) == TO_KNATIVE:
        spec["paused"] = True
    else:
        spec["replicas"] = 0


def is_paused_by_us(deployment: JsonObject) -> bool:
    """Whether it says that it is paused for the sake of a handover."""
    notes, spec = deployment["metadata"].get("annotations") or {}, deployment.get("spec") or {}
    return notes.get(HANDOVER) == TO_KNATIVE and spec.get("paused") is True


def wanted_replicas(deployment: JsonObject) -> int:
    """The replicas that the user wants of a Deployment, parked or not."""
    written = (deployment.get("spec") or {}).get("replicas")
    kept = (deployment["metadata"].get("annotations") or {}).get(REPLICAS, "")
    if written in (None, 0) and kept.isascii() and kept.isdigit():
        return min(int(kept[:10]), _MOST)
    return written if isinstance(written, int) else 1


def finish() -> JsonObject:
    """The merge patch that parks a Deployment whose Knative Service has taken over."""
    return {"metadata": {"annotations": {HANDOVER: None}}, "spec": {"paused": None, "replicas": 0}}


def unpark(deployment: JsonObject) -> None:
    """Give the Deployment its replicas back; its controller starts them from the template as the user wrote it."""
    notes, spec = deployment["metadata"].get("annotations") or {}, deployment["spec"]
    if notes.pop(HANDOVER, None) == TO_KNATIVE:
        spec.pop("paused", None)
    elif spec.get("replicas") == 0 and REPLICAS in notes:
        spec["replicas"] = wanted_replicas(deployment)
    notes.pop(REPLICAS, None)


def is_back(deployment: JsonObject) -> bool:
    """Whether a Deployment that was given back has all its own pods, so that the Knative Service may go.

    As ``kubectl rollout status`` has it: while there are pods of an earlier template, it may be those that serve.
    """
    generation = deployment["metadata"].get("generation", 0)
    if is_current(deployment):
        generation -= 1  # our own note made this one, of which its controller has nothing to see
    status: dict[str, Any] = deployment.get("status") or {}
    wanted = (deployment.get("spec") or {}).get("replicas", 1)
    updated = status.get("updatedReplicas", 0)
    return bool(
        status.get("observedGeneration", 0) >= generation
        and updated >= max(wanted, status.get("replicas", 0))
        and status.get("availableReplicas", 0) >= wanted
    )
