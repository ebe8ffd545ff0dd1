"""The objects beside a Deployment that act on its pods: autoscalers and disruption budgets, as far as they matter.

Any object of any shape is read: what makes no sense in it counts as missing. Sources: autoscaling/v1 and v2, policy/v1,
and keda.sh/v1alpha1. KEDA scales through a HorizontalPodAutoscaler that its ScaledObject owns: it counts as that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject, value_at
from serve_core.base.ownership import controller

_AUTOSCALER, _SCALED_OBJECT, _BUDGET = "HorizontalPodAutoscaler", "ScaledObject", "PodDisruptionBudget"
_GROUPS = {_AUTOSCALER: "autoscaling", _SCALED_OBJECT: "keda.sh", _BUDGET: "policy"}
_KEDA_MAXIMUM = 100
_LARGEST = 2**31 - 1
_MOST = 100
"""Metrics, triggers and requirements of one object that are looked at, and labels and values of a budget that is."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A resource of which an autoscaler measures the percentage of its request."""

    resource: str
    container: str = ""
    """Empty: of all containers."""


@dataclass(frozen=True, slots=True)
class AutoscalerSummary:
    """An autoscaler of a Deployment."""

    kind: str
    """Its kind, or ScaledObject where KEDA made it."""
    name: str
    target: str
    """The Deployment's name."""
    minimum: int
    maximum: int
    measures: tuple[Measure, ...] = ()
    owner: str = ""
    """The Deployment whose model it belongs to; empty for all others."""

    @property
    def is_keda(self) -> bool:
        return self.kind == _SCALED_OBJECT


@dataclass(frozen=True, slots=True)
class BudgetSummary:
    """A PodDisruptionBudget that keeps a number of pods, not a percentage."""

    name: str
    minimum: int
    """Pods that evictions leave."""
    labels: Mapping[str, str]
    """Of the pods that it selects."""
    requirements: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    """Key, operator and values of its expressions."""

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether it is about pods with these labels."""
        return self.labels.items() <= labels.items() and all(
            _holds(labels.get(key), operator, values) for key, operator, values in self.requirements
        )


@dataclass(frozen=True)
class Neighbours:
    """Those of one namespace."""

    autoscalers: tuple[AutoscalerSummary, ...] = ()
    budgets: tuple[BudgetSummary, ...] = ()


def read(manifests: Iterable[JsonObject]) -> dict[str, Neighbours]:
    """The autoscalers of Deployments and the disruption budgets among objects, by namespace. Of two objects with the
    same name, the first counts."""
    autoscalers: dict[str, dict[tuple[str, str], AutoscalerSummary]] = {}
    budgets: dict[str, dict[str, BudgetSummary]] = {}
    # A ScaledObject comes before the autoscaler that KEDA made of it: the two are one.
    for manifest in sorted(manifests, key=lambda each: each.get("kind") != _SCALED_OBJECT):
        kind = manifest.get("kind")
        if not isinstance(kind, str) or str(manifest.get("apiVersion")).partition("/")[0] != _GROUPS.get(kind):
            continue
        namespace = str(value_at(manifest, "metadata", "namespace") or "")
        if kind == _BUDGET:
            if (budget := _budget(manifest)) is not None:
                budgets.setdefault(namespace, {}).setdefault(budget.name, budget)
        elif (autoscaler := _autoscaler(manifest)) is not None:
            autoscalers.setdefault(namespace, {}).setdefault((autoscaler.kind, autoscaler.name), autoscaler)
    return {
        namespace: Neighbours(
            tuple(autoscalers.get(namespace, {}).values()), tuple(budgets.get(namespace, {}).values())
        )
        for namespace in (*autoscalers, *(each for each in budgets if each not in autoscalers))
    }


def _autoscaler(manifest: JsonObject) -> AutoscalerSummary | None:
    spec, target = manifest.get("spec"), value_at(manifest, "spec", "scaleTargetRef")
    if not isinstance(spec, dict) or not isinstance(target, dict):
        return None
    if target.get("kind", "Deployment") != "Deployment":
        return None
    name = _text(value_at(manifest, "metadata", "name"))
    kind, owner = str(manifest["kind"]), controller(manifest) or {}
    of_keda = kind == _SCALED_OBJECT
    if owner.get("kind") == _SCALED_OBJECT:
        kind, name = _SCALED_OBJECT, _text(owner.get("name"))
    made_for = value_at(manifest, "metadata", "labels", DEPLOYMENT_LABEL)
    if owner.get("kind") == "Deployment":
        made_for = owner.get("name")
    return AutoscalerSummary(
        kind,
        name,
        _text(target.get("name")),
        _number(spec.get("minReplicaCount"), 0) if of_keda else _number(spec.get("minReplicas"), 1),
        _number(spec.get("maxReplicaCount"), _KEDA_MAXIMUM) if of_keda else _number(spec.get("maxReplicas"), 1),
        tuple(dict.fromkeys(_triggers(spec) if of_keda else _metrics(spec))),
        _text(made_for),
    )


def _metrics(spec: JsonObject) -> Iterable[Measure]:
    """Of a HorizontalPodAutoscaler. Without any metric, it scales by CPU."""
    metrics = _objects(spec.get("metrics"))
    if not metrics:
        yield Measure("cpu")
    for metric in metrics:
        for key in ("resource", "containerResource"):
            source = metric.get(key)
            if value_at(source, "target", "type") == "Utilization":
                yield Measure(_text(value_at(source, "name")), _text(value_at(source, "container")))


def _triggers(spec: JsonObject) -> Iterable[Measure]:
    """Of a ScaledObject."""
    for trigger in _objects(spec.get("triggers")):
        kind = trigger.get("type")
        written = trigger.get("metricType") or value_at(trigger, "metadata", "type") or "Utilization"
        if kind in ("cpu", "memory") and written == "Utilization":
            yield Measure(str(kind), _text(value_at(trigger, "metadata", "containerName")))


def _budget(manifest: JsonObject) -> BudgetSummary | None:
    """``None`` where it keeps a percentage, or selects nothing."""
    minimum, selector = value_at(manifest, "spec", "minAvailable"), value_at(manifest, "spec", "selector")
    if not isinstance(selector, dict) or isinstance(minimum, bool) or not isinstance(minimum, int):
        return None
    labels = selector.get("matchLabels") or {}
    if not isinstance(labels, dict) or len(labels) > _MOST:
        return None
    expressions = _objects(selector.get("matchExpressions"))
    if any(isinstance(values := each.get("values"), list) and len(values) > _MOST for each in expressions):
        return None
    requirements = tuple(
        (_text(each.get("key")), _text(each.get("operator")), tuple(map(str, each.get("values") or ())))
        for each in expressions
        if isinstance(each.get("values") or [], list)
    )
    name = _text(value_at(manifest, "metadata", "name"))
    return BudgetSummary(name, minimum, {str(key): str(value) for key, value in labels.items()}, requirements)


def _holds(value: str | None, operator: str, values: tuple[str, ...]) -> bool:
    """As Kubernetes' label selectors do; an operator that Kubernetes does not know holds for nothing."""
    if operator in ("In", "NotIn"):
        return (value in values) == (operator == "In")
    return {"Exists": value is not None, "DoesNotExist": value is None}.get(operator, False)


def _objects(value: object) -> list[JsonObject]:
    return [each for each in value[:_MOST] if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object, default: int) -> int:
    return min(max(value, 0), _LARGEST) if isinstance(value, int) and not isinstance(value, bool) else default
