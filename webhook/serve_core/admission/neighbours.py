"""Warnings about autoscalers and disruption budgets beside a Deployment.

Under Knative, the Deployment has no replicas: Kubernetes then does not autoscale it, and the bounds of its autoscaler
are lost. In mode ``deployment`` the annotation ``scale`` becomes an autoscaler of its own, and two autoscalers of one
Deployment work against each other.
"""

from collections.abc import Iterator
from itertools import chain, islice

from serve_core.api.annotations import SCALE, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import Diagnostic, capped, diagnostic
from serve_core.base.workload import POD, Workload
from serve_core.context.neighbours import AutoscalerSummary, Measure, Neighbours

CODES = frozenset({"AutoscalerTwice", "BoundsLost", "EvictionBlocked", "RequestMissing", "ScaledByKeda"})
"""The codes of these warnings."""
_MOST_AUTOSCALERS = 10
"""Of one Deployment, that are looked at: two are one too many already."""
_MOST_MEASURES = 100
"""Of them together."""
_OWN = "the autoscaler of kubectl-serve.dev/scale"


def by_knative(workload: Workload, spec: ServingSpec, around: Neighbours, *, has_bounds: bool) -> list[Diagnostic]:
    """Mode ``knative``. ``has_bounds``: the user or a policy wrote the bounds that Knative scales by."""
    found = _autoscalers_lost(workload, around, has_bounds=has_bounds)
    minimum = spec.scale.minimum if spec.scale is not None else 0
    return capped(chain(found, _blocked(workload, around, minimum)))


def by_deployment(workload: Workload, spec: ServingSpec, around: Neighbours) -> list[Diagnostic]:
    """Mode ``deployment``."""
    return capped(_of_autoscalers(workload, spec, around))


def _of_autoscalers(workload: Workload, spec: ServingSpec, around: Neighbours) -> Iterator[Diagnostic]:
    others = list(_others(workload, around))
    if spec.scale is not None:
        for each in others:
            yield diagnostic("AutoscalerTwice", path_of(SCALE), kind=each.kind, name=each.name)
        if spec.scale.minimum != spec.scale.maximum:
            yield from _requests_missing(workload, _OWN, Measure("cpu"))
        yield from _blocked(workload, around, spec.scale.minimum)
    measured = ((each, measure) for each in others for measure in each.measures)
    for each, measure in islice(measured, _MOST_MEASURES):
        yield from _requests_missing(workload, f"{each.kind} {each.name}", measure)


def _others(workload: Workload, around: Neighbours) -> Iterator[AutoscalerSummary]:
    """The autoscalers of the Deployment, without its own."""
    found = (each for each in around.autoscalers if each.target == workload.name and each.owner != workload.name)
    return islice(found, _MOST_AUTOSCALERS)


def _autoscalers_lost(workload: Workload, around: Neighbours, *, has_bounds: bool) -> Iterator[Diagnostic]:
    for each in _others(workload, around):
        if not has_bounds:
            bounds = f"{each.minimum}..{each.maximum}"
            yield diagnostic("BoundsLost", path_of(SCALE), kind=each.kind, name=each.name, bounds=bounds)
        elif each.is_keda:
            yield diagnostic("ScaledByKeda", path_of(SCALE), name=each.name)


def _blocked(workload: Workload, around: Neighbours, minimum: int) -> Iterator[Diagnostic]:
    """Budgets that keep as many pods as the model runs at its minimum; at zero there is nothing to evict."""
    least, labels = max(minimum, 1), workload.pod_labels
    for each in around.budgets:
        if each.minimum >= least and each.selects(labels):
            words = {"name": each.name, "count": each.minimum, "minimum": least, "more": each.minimum + 1}
            yield diagnostic("EvictionBlocked", "spec.template.metadata.labels", **words)


def _requests_missing(workload: Workload, who: str, measure: Measure) -> Iterator[Diagnostic]:
    """The containers that an autoscaler cannot measure. The API server takes a limit for a missing request."""
    if _requests(workload.pod, measure.resource):  # of the pod as a whole
        return
    for index, container in enumerate(workload.containers):
        if measure.container in ("", container.get("name")) and not _requests(container, measure.resource):
            at = f"{POD}.containers[{index}].resources.requests"
            name = container.get("name")
            yield diagnostic("RequestMissing", at, name=name, resource=measure.resource, autoscaler=who)


def _requests(holder: JsonObject, resource: str) -> bool:
    return any(value_at(holder, "resources", key, resource) is not None for key in ("requests", "limits"))
