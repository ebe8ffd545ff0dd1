"""Parking a Deployment, and the handover of its traffic without an outage.

A served Deployment is parked: it has no replicas of its own, and an annotation keeps the user's number. It is not
paused: Argo CD would report it as Suspended. A Deployment
that is running when it is first annotated, or that leaves mode ``deployment``, is handed over: it is paused, and its
pods serve until the Knative Service is ready. Removing the model annotation, or choosing mode ``deployment``, does the
reverse: first the pods start, then the Knative Service is deleted.
"""

from typing import Any

from serve_core.api.annotations import HANDOVER, REPLICAS
from serve_core.base.json import JsonObject
from serve_core.base.workload import Workload

TO_KNATIVE = "to-knative"
FROM_KNATIVE = "from-knative"

_MOST = 2**31 - 1


def park(deployment: JsonObject, *, running: bool) -> None:
    """Keep the user's replicas in an annotation and leave none to the Deployment's controller.

    ``running``: it has pods of its own that may be serving. They stay until :func:`finish`.
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
    """Whether it is paused for a handover."""
    workload = Workload(deployment)
    return workload.annotations.get(HANDOVER) == TO_KNATIVE and workload.spec.get("paused") is True


def wanted_replicas(deployment: JsonObject) -> int:
    """The replicas that the user wants, whether the Deployment is parked or not."""
    workload = Workload(deployment)
    written, kept = workload.spec.get("replicas"), workload.annotations.get(REPLICAS, "")
    if written in (None, 0) and kept.isascii() and kept.isdigit():
        return min(int(kept[:10]), _MOST)
    return written if isinstance(written, int) else 1


def finish() -> JsonObject:
    """The merge patch that parks a Deployment whose Knative Service has taken over."""
    return {"metadata": {"annotations": {HANDOVER: None}}, "spec": {"paused": None, "replicas": 0}}


def unpark(deployment: JsonObject) -> None:
    """Give the Deployment its replicas back."""
    notes, spec = Workload(deployment).annotations, deployment["spec"]
    if notes.pop(HANDOVER, None) == TO_KNATIVE:
        spec.pop("paused", None)
    elif spec.get("replicas") == 0 and REPLICAS in notes:
        spec["replicas"] = wanted_replicas(deployment)
    notes.pop(REPLICAS, None)


def is_back(deployment: JsonObject) -> bool:
    """Whether a Deployment that was given back has all its pods, so that the Knative Service can be deleted.

    The rule of ``kubectl rollout status``: while there are pods of an earlier template, those may be serving.
    """
    status: dict[str, Any] = deployment.get("status") or {}
    wanted = Workload(deployment).spec.get("replicas", 1)
    updated = status.get("updatedReplicas", 0)
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        and updated >= max(wanted, status.get("replicas", 0))
        and status.get("availableReplicas", 0) >= wanted
    )
