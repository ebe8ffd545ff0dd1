"""A budget counts the maximum that can run, whatever starts it, and every name of a device."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from serve_core.admission.decide import judge
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.evaluate import judge_policies
from serve_core.policy.parse import read_policy
from serve_core.subjects.build import subject_of
from serve_webhook.admission import review, validation
from support import cpu_time
from support.paths import ROOT
from support.reviews import context_with, request

NOW = datetime(2026, 11, 18, tzinfo=UTC)
GPU = "nvidia.com/gpu"
TOTAL = "rules: [{name: total, resources: {total: {nvidia.com/gpu: 4}}}]"
MOST = "rules: [{name: most, scale: {most: 4}}]"
STARTER = ROOT / "manifests/policies/gpu-budget.yaml"
AUTOSCALING = "autoscaling.knative.dev/"


def container(name: str = "model-server", gpus: Any = 1, **more: Any) -> JsonObject:
    limits = {"memory": "1Gi", "cpu": "1"} | ({GPU: gpus} if gpus is not None else {})
    ports = [{"containerPort": 8080}]
    return {"name": name, "image": "example.com/server:1", "ports": ports, "resources": {"limits": limits}} | more


def deployment(spec: JsonObject | None = None, template: JsonObject | None = None, **notes: Any) -> JsonObject:
    notes = {"model": "s3://models/a.onnx", "runtime": "custom"} | notes
    made: JsonObject = {"apiVersion": "apps/v1", "kind": "Deployment"}
    made["metadata"] = {"name": "iris", "namespace": "ml"}
    made["metadata"]["annotations"] = {f"kubectl-serve.dev/{key}": value for key, value in notes.items()}
    pod = {"spec": {"containers": [container()]}} if template is None else template
    made["spec"] = {"template": pod} | (spec or {})
    completed = judge(made, context_with()).deployment
    assert completed is not None
    return copy.deepcopy(completed)


def running(replicas: int = 1, surge: Any = 0, **notes: Any) -> JsonObject:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 1}}
    return deployment({"replicas": replicas, "strategy": strategy}, mode="deployment", **notes)


def service(traffic: Any = None, pod: JsonObject | None = None, **notes: str) -> JsonObject:
    annotations = {AUTOSCALING + key.replace("_", "-"): value for key, value in notes.items()}
    spec: JsonObject = {
        "template": {"metadata": {"annotations": annotations}, "spec": pod or {"containers": [container()]}}
    }
    if traffic is not None:
        spec["traffic"] = traffic
    return head("serving.knative.dev/v1", "Service") | {"spec": spec}


def head(api_version: str, kind: str) -> JsonObject:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "made", "namespace": "ml"}}


def inference_service(predictor: JsonObject, **notes: str) -> JsonObject:
    made = head("serving.kserve.io/v1beta1", "InferenceService") | {"spec": {"predictor": predictor}}
    return made | {"metadata": made["metadata"] | {"annotations": notes}}


def model(gpus: Any = 1, **more: Any) -> JsonObject:
    return {"model": {"modelFormat": {"name": "onnx"}, "resources": container(gpus=gpus)["resources"]}} | more


def codes(manifest: JsonObject, *policies: str, context: ClusterContext | None = None) -> set[str]:
    known = context or context_with(*policies)
    subject = subject_of(manifest, known)
    assert subject is not None
    return {found.code for found in judge_policies(subject, known.policies, (), NOW).problems}


def asked_to_scale(stored: JsonObject, replicas: int, user: str, *policies: str) -> str:
    scale = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "iris"},
        "spec": {"replicas": replicas},
    }
    body = request(
        scale, scale | {"spec": {"replicas": 1}}, namespace="ml", name="iris", subResource="scale",
        userInfo={"username": user, "groups": []},
    )  # fmt: skip
    context = context_with(*policies)
    answer, _ = review.review(body, lambda asked: validation.validate(asked, context, (), NOW, lambda *_: stored))
    response = yaml.safe_load(answer)["response"]
    return "" if response["allowed"] else response["status"]["message"]


@pytest.mark.attack(30)
@pytest.mark.parametrize("user", ["alice", "system:serviceaccount:kube-system:horizontal-pod-autoscaler"])
@pytest.mark.parametrize("notes", [{}, {"scale": "1..2"}], ids=str)
def test_a_scale_beyond_the_budget_is_refused_for_every_user(notes: dict[str, Any], user: str) -> None:
    stored = running(**notes)
    assert codes(stored, TOTAL, MOST) == set()
    assert asked_to_scale(stored, 4, user, TOTAL, MOST) == ""
    assert "requests 50" in asked_to_scale(stored, 50, user, TOTAL)
    assert '50"' in asked_to_scale(stored, 50, user, MOST)


@pytest.mark.attack(30)
@pytest.mark.parametrize("surge", ["100%", "25%", "1%", 1, 50, None, "1000%", "lots"])
def test_the_surge_of_a_rolling_update_counts(surge: Any) -> None:
    full = running(4, surge)
    if surge is None:  # the API server's default is 25%
        del full["spec"]["strategy"]
    assert codes(full, TOTAL) == {"ResourceExceeded"}
    assert codes(full, MOST) == set(), "as many are asked for as are allowed"
    assert codes(running(2, surge or "25%"), TOTAL) == (
        {"ResourceExceeded"} if surge in (50, "1000%", "lots") else set()
    )


def test_a_budget_can_be_used_completely() -> None:
    assert codes(running(4), TOTAL, MOST) == set()
    recreated = running(4, 0)
    recreated["spec"]["strategy"] = {"type": "Recreate"}
    assert codes(recreated, TOTAL, MOST) == set()
    assert codes(deployment(scale="0..4"), TOTAL, MOST) == set()
    assert codes(service(max_scale="4"), TOTAL, MOST) == set()
    assert codes(service(max_scale="4", min_scale="4", initial_scale="4", activation_scale="2"), TOTAL, MOST) == set()
    latest = [{"latestRevision": True, "percent": 100}]
    assert codes(service(latest, max_scale="4"), TOTAL, MOST) == set()
    assert codes(inference_service(model(maxReplicas=4)), TOTAL, MOST) == set()


STARTED: dict[str, dict[str, str]] = {
    "no bound": {},
    "a bound of nothing": {"max-scale": "0"},
    "what it begins with": {"max-scale": "1", "initial-scale": "50"},
    "what it begins with, in the old spelling": {"max-scale": "1", "initialScale": "50"},
    "what it wakes to": {"max-scale": "1", "activation-scale": "50"},
    "what it keeps": {"max-scale": "1", "min-scale": "50"},
    "what it keeps, in the old spelling": {"max-scale": "1", "minScale": "50"},
    "a bound in two spellings": {"max-scale": "1", "maxScale": "50"},
    "a number that is none": {"max-scale": "1", "initial-scale": "fifty"},
    "a number with a sign": {"max-scale": "1", "initial-scale": "+50"},
    "an autoscaler of another class": {"max-scale": "1", "class": "mine.example.com"},
}


@pytest.mark.attack(30)
@pytest.mark.parametrize("notes", STARTED.values(), ids=STARTED.keys())
@pytest.mark.parametrize("kind", ["Service", "Configuration", "Revision"])
def test_every_replica_that_knative_starts_counts(kind: str, notes: dict[str, str]) -> None:
    annotations = {AUTOSCALING + key: value for key, value in notes.items()}
    made = service() | {"kind": kind}
    made["spec"]["template"]["metadata"]["annotations"] = annotations
    if kind == "Revision":
        made = head("serving.knative.dev/v1", kind) | {"spec": {"containers": [container()]}}
        made["metadata"]["annotations"] = annotations
    assert codes(made, TOTAL) in ({"ResourceExceeded"}, {"ResourceUnbounded"})
    assert codes(made, MOST) == {"ScaleNotAllowed"}


@pytest.mark.attack(30)
@pytest.mark.parametrize(
    "notes", [{"initial-scale": "50"}, {"min-scale": "50"}, {"class": "mine.example.com"}], ids=str
)
def test_every_replica_that_knative_starts_for_an_inference_service_counts(notes: dict[str, str]) -> None:
    annotations = {AUTOSCALING + key: value for key, value in notes.items()}
    for made in (
        inference_service(model(maxReplicas=1), **annotations),
        inference_service(model(maxReplicas=1, annotations=annotations)),
    ):
        assert codes(made, TOTAL) in ({"ResourceExceeded"}, {"ResourceUnbounded"})
        assert codes(made, MOST) == {"ScaleNotAllowed"}


@pytest.mark.attack(30)
def test_knative_annotations_in_a_deployments_template_count() -> None:
    begun = {"metadata": {"annotations": {f"{AUTOSCALING}initial-scale": "50"}}, "spec": {"containers": [container()]}}
    made = deployment(template=begun, scale="0..1")
    assert codes(made, TOTAL) == {"ResourceExceeded"}
    assert codes(made, MOST) == {"ScaleNotAllowed"}


TWO = {
    "a canary": [{"latestRevision": True, "percent": 10}, {"revisionName": "a", "percent": 90}],
    "a tag": [{"latestRevision": True, "percent": 100}, {"revisionName": "a", "percent": 0, "tag": "old"}],
    "two of old": [{"revisionName": "a", "percent": 50}, {"revisionName": "b", "percent": 50}],
}


@pytest.mark.attack(30)
@pytest.mark.parametrize("traffic", TWO.values(), ids=TWO.keys())
def test_every_revision_with_traffic_counts(traffic: list[JsonObject]) -> None:
    assert codes(service(traffic, max_scale="3"), TOTAL) == {"ResourceExceeded"}
    assert codes(service(traffic, max_scale="2"), TOTAL) == set()
    assert codes(service(traffic, max_scale="3"), MOST) == set()


@pytest.mark.attack(30)
def test_a_deployments_canary_and_the_revision_before_count() -> None:
    for notes in ({"canary": "10%", "promoted": "iris-1"}, {"previous": "iris-1"}, {"pin": "iris-1"}):
        stored = deployment(scale="0..4")
        stored["metadata"]["annotations"] |= {f"kubectl-serve.dev/{key}": value for key, value in notes.items()}
        assert codes(stored, TOTAL) == {"ResourceExceeded"}
    assert codes(inference_service(model(maxReplicas=4, canaryTrafficPercent=10)), TOTAL) == {"ResourceExceeded"}


@pytest.mark.attack(30)
def test_pods_that_serve_until_knatives_do_count() -> None:
    stored = deployment(scale="0..2")
    stored["metadata"]["annotations"]["kubectl-serve.dev/handover"] = "to-knative"
    stored["spec"] |= {"replicas": 4, "paused": True}
    assert codes(stored, TOTAL, MOST) == set()
    assert asked_to_scale(stored, 50, "alice", TOTAL)
    assert asked_to_scale(stored, 50, "alice", MOST)


def pods(**parts: Any) -> JsonObject:
    return {"containers": [container(gpus=None)]} | parts


def of(resource: str, amount: int = 8) -> JsonObject:
    return container(gpus=None) | {"resources": {"limits": {resource: amount, "memory": "1Gi"}}}


CLAIM = [{"name": "gpu", "resourceClaimTemplateName": "eight-gpus"}]
UNSEEN: dict[str, JsonObject] = {
    "a claim of a device": pods(resourceClaims=CLAIM),
    "a claim that only a container names": pods(containers=[
        container(gpus=None) | {"resources": {"limits": {"memory": "1Gi"}, "claims": [{"name": "gpu"}]}}]),
    "a claim in an init container": pods(initContainers=[
        container("init", None) | {"resources": {"claims": [{"name": "gpu"}]}}]),
    "a class of devices": pods(containers=[of("deviceclass.resource.kubernetes.io/gpu.nvidia.com")]),
    "a part of a device": pods(containers=[of("nvidia.com/mig-1g.5gb", 7)]),
    "a shared device": pods(containers=[of("nvidia.com/gpu.shared", 40)]),
    "a part of a device for the pod": pods(resources={"limits": {"nvidia.com/mig-1g.5gb": 7}}),
    "no number": pods(containers=[container(gpus="many")]),
    "less than nothing": pods(containers=[container(gpus=8), container("b", gpus="-8")]),
    "not a number": pods(containers=[container(gpus=float("nan"))]),
}  # fmt: skip


@pytest.mark.attack(30)
@pytest.mark.parametrize("pod", UNSEEN.values(), ids=UNSEEN.keys())
@pytest.mark.parametrize("kind", ["Service", "Pod", "InferenceService", "ServingRuntime"])
@pytest.mark.parametrize("bound", ["total", "perReplica"])
def test_what_cannot_be_counted_breaks_the_budget(bound: str, kind: str, pod: JsonObject) -> None:
    rule = f"rules: [{{name: r, resources: {{{bound}: {{nvidia.com/gpu: 4}}}}}}]"
    if kind == "Pod":
        loader = container("model-loader", None) | {"args": ["--", "s3://models/a"]}
        pod = pod | {"initContainers": [loader, *pod.get("initContainers", [])]}
        rule = rule.replace("total", "perReplica")
        made = head("v1", kind) | {"spec": pod}
    elif kind == "InferenceService":
        made = inference_service(pod | {"maxReplicas": 1})
    elif kind == "ServingRuntime":
        made = head("serving.kserve.io/v1alpha1", kind) | {"spec": pod}
    else:
        made = service(pod=pod, max_scale="1")
    assert codes(made, rule) == {"ResourceUnbounded"}


@pytest.mark.attack(30)
def test_device_claims_do_not_affect_memory_limits() -> None:
    memory = "rules: [{name: r, resources: {perReplica: {memory: 4Gi, cpu: 4}, total: {memory: 4Gi}}}]"
    assert codes(service(pod=pods(resourceClaims=CLAIM), max_scale="1"), memory) == set()


PEAKS: dict[str, tuple[int, JsonObject]] = {
    "beside each other": (5, pods(containers=[container(gpus=2), container("b", 3)])),
    "an init container alone": (5, pods(initContainers=[container("i", 5)])),
    "init containers one after the other": (3, pods(initContainers=[container("i", 3), container("j", 2)])),
    "an init container beside a sidecar before it": (
        5, pods(initContainers=[container("s", 2, restartPolicy="Always"), container("i", 3)])),
    "an init container before a sidecar": (
        3, pods(initContainers=[container("i", 3), container("s", 2, restartPolicy="Always")])),
    "a sidecar beside the server": (
        5, pods(initContainers=[container("s", 2, restartPolicy="Always")], containers=[container(gpus=3)])),
    "the pod as a whole": (5, pods(resources={"limits": {GPU: 5}})),
    "what comes on top": (5, pods(containers=[container(gpus=3)], overhead={GPU: 2})),
}  # fmt: skip


@pytest.mark.attack(30)
@pytest.mark.parametrize(("gpus", "pod"), PEAKS.values(), ids=PEAKS.keys())
def test_a_pod_counts_as_kubernetes_counts_it(gpus: int, pod: JsonObject) -> None:
    for most, said in ((gpus, set()), (gpus - 1, {"ResourceExceeded"})):
        rule = f"rules: [{{name: r, resources: {{perReplica: {{nvidia.com/gpu: {most}}}}}}}]"
        assert codes(service(pod=pod), rule) == said


@pytest.mark.attack(30)
def test_a_pattern_bounds_all_its_names_together() -> None:
    rule = "rules: [{name: r, resources: {perReplica: {'nvidia.com/*': 4}}}]"
    mixed = container(gpus=2) | {"resources": {"limits": {GPU: 2, "nvidia.com/mig-1g.5gb": 2}}}
    assert codes(service(pod=pods(containers=[mixed])), rule) == set()
    mixed["resources"]["limits"]["nvidia.com/gpu.shared"] = 1
    assert codes(service(pod=pods(containers=[mixed])), rule) == {"ResourceExceeded"}
    named = "rules: [{name: r, resources: {perReplica: {nvidia.com/gpu: 2, 'nvidia.com/mig-*': 2}}}]"
    assert codes(service(pod=pods(containers=[mixed])), named) == {"ResourceUnbounded"}, "gpu.shared is in none"


@pytest.mark.attack(10, 30)
def test_what_is_too_much_to_count_breaks_the_budget_at_once() -> None:
    bounds = {f"example.com/{i}*": 1 for i in range(32)}
    rule = yaml.safe_dump({"rules": [{"name": "r", "resources": {"perReplica": bounds, "total": bounds}}]})
    names = {f"example.com/x{i}": 1 for i in range(4_500)}
    many = container() | {"resources": {"limits": names}}
    with cpu_time.at_most(0.5):
        assert codes(service(pod=pods(containers=[many]), max_scale="1"), rule) == {"ResourceUnbounded"}


def test_an_amount_of_zero_needs_no_bound() -> None:
    assert codes(service(pod=pods()), TOTAL) == set()
    assert codes(service(pod=pods(containers=[container(gpus=0)])), TOTAL) == set()


def with_workers(gpus: Any = 1, **workers: Any) -> JsonObject:
    return model(gpus, maxReplicas=1, workerSpec={"containers": [container("w", gpus)], **workers})


@pytest.mark.attack(30)
@pytest.mark.parametrize(
    ("predictor", "said"),
    [
        (with_workers(size=4), {"ResourceExceeded"}),
        (with_workers(size=3), set()),
        (with_workers(pipelineParallelSize=4), set()),
        (with_workers(pipelineParallelSize=5), {"ResourceExceeded"}),
        (with_workers(), {"ResourceUnbounded"}),
        (with_workers(None, pipelineParallelSize=2, tensorParallelSize=8), {"ResourceExceeded"}),
        (with_workers(None, pipelineParallelSize=1, tensorParallelSize=4), set()),
        (with_workers(1, pipelineParallelSize=2, tensorParallelSize=2), set()),
        (model(maxReplicas=1, minReplicas=50), {"ResourceExceeded"}),
        (model(), {"ResourceUnbounded"}),
        (model(maxReplicas=0), {"ResourceUnbounded"}),
    ],
    ids=str,
)
def test_every_pod_of_an_inference_service_counts(predictor: JsonObject, said: set[str]) -> None:
    assert codes(inference_service(predictor), TOTAL) == said


@pytest.mark.attack(30)
def test_an_inference_service_without_knative_counts_as_a_deployment() -> None:
    raw = {"serving.kserve.io/deploymentMode": "RawDeployment"}
    assert codes(inference_service(model(maxReplicas=4), **raw), TOTAL) == {"ResourceExceeded"}, "25% surge"
    recreated = model(maxReplicas=4, deploymentStrategy={"type": "Recreate"})
    assert codes(inference_service(recreated, **raw), TOTAL) == set()
    external = {**raw, "serving.kserve.io/autoscalerClass": "external"}
    assert codes(inference_service(recreated, **external), TOTAL) == {"ResourceUnbounded"}


@pytest.mark.attack(30)
def test_a_part_beside_the_model_counts() -> None:
    made = inference_service(model(gpus=2, maxReplicas=2))
    assert codes(made, TOTAL) == set()
    made["spec"]["transformer"] = {"maxReplicas": 1, "containers": [container("t")]}
    assert codes(made, TOTAL) == {"ResourceExceeded"}


STARTER_BREAKERS: dict[str, JsonObject] = {
    **{name: service(pod=pod, max_scale="1") for name, pod in UNSEEN.items()},
    "AMD's": service(pod=pods(containers=[of("amd.com/gpu")])),
    "Intel's": service(pod=pods(containers=[of("gpu.intel.com/i915")])),
    "Gaudi": service(pod=pods(containers=[of("habana.ai/gaudi")])),
    "a TPU": service(pod=pods(containers=[of("google.com/tpu")])),
    "Neuron": service(pod=pods(containers=[of("aws.amazon.com/neuroncore")])),
    "every GPU of a node, unasked": service(pod=pods(containers=[
        container(gpus=None) | {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}])),
    "replicas": running(50),
    "what it begins with": service(max_scale="1", initial_scale="50"),
}  # fmt: skip


@pytest.mark.attack(30)
@pytest.mark.parametrize("manifest", STARTER_BREAKERS.values(), ids=STARTER_BREAKERS.keys())
def test_the_starter_policy_refuses_every_name_of_a_gpu(manifest: JsonObject) -> None:
    base = context_with()
    starter = read_policy(yaml.safe_load(STARTER.read_text()))
    context = ClusterContext(base.loader, base.runtimes, policies=(starter,))
    assert codes(manifest, context=context)
