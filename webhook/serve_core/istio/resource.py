"""Istio's resources about the pods of one model: their common part."""

from serve_core.base.constants import DEPLOYMENT_LABEL, EXPLANATION
from serve_core.base.json import JsonObject
from serve_core.base.workload import Workload
from serve_core.knative.name_conflict import service_name

_SERVICE_LABEL = "serving.knative.dev/service"
"""On every pod of every revision of a Knative Service."""


def resource(
    api_version: str, kind: str, workload: Workload, spec: JsonObject, why: list[str], *, by_knative: bool
) -> JsonObject:
    """A resource that selects the pods of one model. ``why``: its explanation, line by line."""
    metadata: JsonObject = {
        "name": workload.name,
        "labels": {DEPLOYMENT_LABEL: workload.name},
        "annotations": {EXPLANATION: "\n".join(why)},
    }
    if workload.namespace:
        metadata["namespace"] = workload.namespace
    selector = {"matchLabels": selected(workload, by_knative=by_knative)}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": {"selector": selector, **spec}}


def selected(workload: Workload, *, by_knative: bool) -> dict[str, str]:
    """The labels that all pods of one model have, and no others. ``by_knative``: whether Knative runs the pods."""
    if by_knative:
        return {_SERVICE_LABEL: service_name(workload.manifest)}
    return {DEPLOYMENT_LABEL: workload.name}
