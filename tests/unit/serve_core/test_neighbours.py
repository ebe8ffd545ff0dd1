"""Autoscalers and disruption budgets beside a Deployment: how they are read, and what is said about them."""

import copy
import time
from dataclasses import replace
from typing import Any

import pytest

from serve_core.admission import neighbours as admission_neighbours
from serve_core.admission.decide import judge, render_stored
from serve_core.api import serving_spec
from serve_core.base.json import JsonObject
from serve_core.base.reasons import MAX_PROBLEMS
from serve_core.base.workload import Workload
from serve_core.context import neighbours, services
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.context.neighbours import AutoscalerSummary, BudgetSummary, Measure

TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}


def deployment(resources: JsonObject | None = None, **notes: str) -> JsonObject:
    container: JsonObject = {
        "name": "srv",
        "image": "registry.example/srv:1",
        "args": ["/mnt/models"],
        "ports": [{"containerPort": 9500}],
        "resources": {"requests": {"cpu": "1"}} if resources is None else resources,
    }
    annotations = {"kubectl-serve.dev/model": "hf://acme/tiny"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "chat",
            "namespace": "models",
            "annotations": annotations | {f"kubectl-serve.dev/{key}": value for key, value in notes.items()},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "chat"}},
            "template": {"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": [container]}},
        },
    }


def thing(api: str, kind: str, name: str, spec: Any, **metadata: Any) -> JsonObject:
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "namespace": "models", **metadata},
        "spec": spec,
    }


def hpa(
    name: str = "scaler", minimum: int | None = 2, maximum: int = 6, *, target: Any = TARGET, **more: Any
) -> JsonObject:
    metadata = more.pop("metadata", {})
    spec = {"scaleTargetRef": target, "minReplicas": minimum, "maxReplicas": maximum, **more}
    return thing("autoscaling/v2", "HorizontalPodAutoscaler", name, spec, **metadata)


def scaled_object(name: str = "queue", **spec: Any) -> JsonObject:
    return thing("keda.sh/v1alpha1", "ScaledObject", name, {"scaleTargetRef": {"name": "chat"}, **spec})


def pdb(name: str = "keep", minimum: Any = 1, **selector: Any) -> JsonObject:
    spec = {"minAvailable": minimum, "selector": selector or {"matchLabels": {"app": "chat"}}}
    return thing("policy/v1", "PodDisruptionBudget", name, spec)


def context(*around: JsonObject) -> ClusterContext:
    return ClusterContext(LoaderConfig("example.com/model-loader:1"), neighbours=neighbours.read(around))


def codes(written: JsonObject, *around: JsonObject) -> list[str]:
    verdict = judge(written, context(*around))
    assert not verdict.refused
    return [warning.code for warning in verdict.warnings]


def said(written: JsonObject, *around: JsonObject) -> list[str]:
    return [str(warning) for warning in judge(written, context(*around)).warnings]


def test_the_bounds_of_an_autoscaler_are_lost_under_knative_and_the_line_to_write_is_said() -> None:
    (text,) = said(deployment(), hpa())
    assert text == (
        "BoundsLost: metadata.annotations[kubectl-serve.dev/scale]: HorizontalPodAutoscaler scaler has no effect on a "
        "model that Knative scales: its bounds are lost. Write kubectl-serve.dev/scale: 2..6, and delete "
        "HorizontalPodAutoscaler scaler."
    )


def test_a_scale_of_the_users_own_is_the_bounds() -> None:
    assert codes(deployment(scale="2..6"), hpa()) == []
    by_knative = deployment()
    by_knative["spec"]["template"]["metadata"]["annotations"] = {"autoscaling.knative.dev/max-scale": "3"}
    assert codes(by_knative, hpa()) == []


def test_a_scale_that_admission_wrote_for_a_service_is_not_the_users() -> None:
    written = deployment()
    front = thing("v1", "Service", "front", {"selector": {"app": "chat"}, "ports": [{"port": 80, "targetPort": 9500}]})
    around = replace(context(hpa()), services={"models": {"front": services.read(front)}})
    verdict = judge(written, around)
    assert {"BoundsLost", "PastKnative"} == {warning.code for warning in verdict.warnings}
    assert verdict.deployment is not None
    stored = render_stored(verdict.deployment, around)
    assert {"BoundsLost", "PastKnative"} == {warning.code for warning in stored.warnings}


def test_keda_goes_on_scaling_whatever_the_scale_is() -> None:
    assert codes(deployment(), scaled_object()) == ["BoundsLost"]
    assert "kubectl-serve.dev/scale: 0..100, " in said(deployment(), scaled_object())[0]
    assert codes(deployment(scale="1..4"), scaled_object()) == ["ScaledByKeda"]


def test_in_mode_deployment_two_autoscalers_are_one_too_many() -> None:
    written = deployment(mode="deployment", scale="1..4")
    assert codes(written, hpa(), scaled_object()) == ["AutoscalerTwice", "AutoscalerTwice"]
    assert codes(deployment(mode="deployment"), hpa()) == [], "one autoscaler is what mode deployment is for"


@pytest.mark.parametrize(
    ("resources", "missing"),
    [
        ({"limits": {"nvidia.com/gpu": 1}}, True),
        ({"requests": {"memory": "1Gi"}}, True),
        ({"limits": {"cpu": "1"}}, False),
        ({"requests": {"cpu": "1"}}, False),
    ],
)
def test_an_autoscaler_by_cpu_needs_cpu_requests(resources: JsonObject, missing: bool) -> None:
    expected = ["RequestMissing"] if missing else []
    assert codes(deployment(resources, mode="deployment", scale="1..4")) == expected
    assert codes(deployment(resources, mode="deployment"), hpa()) == expected
    assert codes(deployment(resources, scale="1..4")) == [], "Knative scales by requests"
    assert codes(deployment(resources, mode="deployment", scale="3")) == [], "nothing is scaled"


def test_an_autoscaler_by_another_metric_needs_no_cpu_request() -> None:
    pods = [{"type": "Pods", "pods": {"metric": {"name": "queue"}, "target": {"type": "AverageValue"}}}]
    assert codes(deployment({}, mode="deployment"), hpa(metrics=pods)) == []
    memory = [{"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization"}}}]
    assert (
        "requests no memory, so HorizontalPodAutoscaler scaler cannot "
        in (said(deployment({}, mode="deployment"), hpa(metrics=memory))[0])
    )
    of_sidecar = [{"containerResource": {"name": "cpu", "container": "other", "target": {"type": "Utilization"}}}]
    assert codes(deployment({}, mode="deployment"), hpa(metrics=of_sidecar)) == []


def test_a_budget_that_keeps_every_pod_blocks_evictions() -> None:
    (text,) = said(deployment(), pdb(minimum=2))
    assert text == (
        "EvictionBlocked: spec.template.metadata.labels: PodDisruptionBudget keep requires 2 available pods, and the "
        "model can run with 1. Nodes with its pods then cannot be drained. Set maxUnavailable: 1 instead of "
        "minAvailable, or set kubectl-serve.dev/scale to at least 3."
    )
    assert codes(deployment(scale="3..5"), pdb(minimum=2)) == []
    assert codes(deployment(mode="deployment", scale="1..4"), pdb()) == ["EvictionBlocked"]
    assert codes(deployment(mode="deployment"), pdb()) == [], "as it was without kubectl-serve"


@pytest.mark.parametrize(
    "budget",
    [
        pdb(minimum="50%"),
        pdb(minimum=True),
        pdb(matchLabels={"app": "shop"}),
        pdb(matchExpressions=[{"key": "app", "operator": "NotIn", "values": ["chat"]}]),
        pdb(matchExpressions=[{"key": "app", "operator": "Unknown"}]),
        thing("policy/v1", "PodDisruptionBudget", "x", {"maxUnavailable": 0, "selector": {}}),
        thing("policy/v1", "PodDisruptionBudget", "x", {"minAvailable": 1, "selector": None}),
    ],
)
def test_other_budgets_block_nothing(budget: JsonObject) -> None:
    assert codes(deployment(), budget) == []


@pytest.mark.parametrize(
    "selector",
    [
        {"matchExpressions": [{"key": "app", "operator": "In", "values": ["chat", "shop"]}]},
        {"matchExpressions": [{"key": "app", "operator": "Exists"}, {"key": "no", "operator": "DoesNotExist"}]},
        {"matchLabels": {}},
    ],
)
def test_selectors_are_read_as_kubernetes_reads_them(selector: JsonObject) -> None:
    assert codes(deployment(), pdb(**selector)) == ["EvictionBlocked"]


def test_an_autoscaler_of_keda_is_its_scaled_object() -> None:
    owner = {"kind": "ScaledObject", "name": "queue", "uid": "u", "controller": True}
    made = hpa("keda-hpa-queue", 1, 8, metadata={"ownerReferences": [owner]})
    (around,) = neighbours.read([scaled_object(maxReplicaCount=8), made]).values()
    assert [(each.kind, each.name, each.minimum) for each in around.autoscalers] == [("ScaledObject", "queue", 0)]
    assert codes(deployment(), made) == ["BoundsLost"]


def test_the_models_own_autoscaler_is_no_other() -> None:
    written = deployment(mode="deployment", scale="1..4")
    (own,) = [each for each in judge(written, context()).extras if each["kind"] == "HorizontalPodAutoscaler"]
    assert codes(written, own) == []
    copied = copy.deepcopy(own)
    copied["metadata"] = {"name": "chat", "namespace": "models"} | {
        "ownerReferences": [{"kind": "Deployment", "name": "chat", "uid": "u", "controller": True}]
    }
    assert codes(written, copied) == []


@pytest.mark.parametrize(
    "other",
    [
        hpa(target=TARGET | {"name": "shop"}),
        hpa(target=TARGET | {"kind": "StatefulSet"}),
        hpa() | {"apiVersion": "example.com/v1"},
        hpa() | {"metadata": {"name": "scaler", "namespace": "other"}},
        thing("autoscaling/v2", "HorizontalPodAutoscaler", "x", None),
        thing("autoscaling/v2", "HorizontalPodAutoscaler", "x", {"scaleTargetRef": []}),
        {"kind": ["x"]},
        {"kind": "HorizontalPodAutoscaler", "apiVersion": None, "metadata": 5},
    ],
)
def test_what_is_about_something_else_or_has_no_shape_is_passed_over(other: JsonObject) -> None:
    assert codes(deployment(), other) == []


def test_versions_and_defaults_are_read() -> None:
    old = thing("autoscaling/v1", "HorizontalPodAutoscaler", "old", {"scaleTargetRef": TARGET, "maxReplicas": 3})
    triggers = [
        {"type": "cpu", "metricType": "Utilization"},
        {"type": "kafka"},
        {"type": "memory", "metricType": "AverageValue"},
    ]
    keda = scaled_object(minReplicaCount=1, triggers=triggers)
    assert neighbours.read([old, keda, pdb()])["models"] == neighbours.Neighbours(
        (
            AutoscalerSummary("ScaledObject", "queue", "chat", 1, 100, (Measure("cpu"),)),
            AutoscalerSummary("HorizontalPodAutoscaler", "old", "chat", 1, 3, (Measure("cpu"),)),
        ),
        (BudgetSummary("keep", 1, {"app": "chat"}),),
    )


def utilization(resource: str, container: str = "") -> JsonObject:
    source = {"name": resource, "target": {"type": "Utilization"}}
    return {"containerResource": source | {"container": container}} if container else {"resource": source}


@pytest.mark.attack(22)
@pytest.mark.timed
@pytest.mark.parametrize("mode", ["knative", "deployment"])
@pytest.mark.parametrize("container", ["", "c999"])
def test_many_autoscalers_and_budgets_take_little_time(mode: str, container: str) -> None:
    """Containers with every request that is measured take the longest: each is looked at."""
    requests = {f"example.com/r{index}": "1" for index in range(10)}
    containers = [{"name": f"c{index}", "image": "a", "resources": {"requests": requests}} for index in range(1000)]
    written = deployment()
    written["spec"]["template"]["spec"]["containers"] = containers
    metrics = [utilization(f"example.com/r{index % 10}", container) for index in range(100)]
    around = [hpa(f"h{index}", metrics=[*metrics[index % 10 :], utilization(f"m{index}")]) for index in range(500)]
    expressions = [{"key": "app", "operator": "NotIn", "values": [f"v{i}" for i in range(100)]}] * 100
    around += [pdb(f"b{index}", 2**30, matchExpressions=expressions) for index in range(500)]
    found = neighbours.read(around)["models"]
    workload, (spec, _) = Workload(written), serving_spec.read({"kubectl-serve.dev/model": "hf://acme/tiny"})
    assert spec is not None
    started = time.process_time()
    if mode == "knative":
        warnings = admission_neighbours.by_knative(workload, spec, found, has_bounds=False)
    else:
        warnings = admission_neighbours.by_deployment(workload, spec, found)
    assert time.process_time() - started < 0.25
    assert 0 < len(warnings) <= MAX_PROBLEMS + 1


@pytest.mark.parametrize(
    "selector",
    [
        {"matchLabels": {f"l{index}": "v" for index in range(101)}},
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [str(index) for index in range(101)]}]},
    ],
)
@pytest.mark.attack(25)
def test_a_budget_with_a_large_selector_is_passed_over(selector: JsonObject) -> None:
    assert neighbours.read([pdb(**selector)]) == {}
