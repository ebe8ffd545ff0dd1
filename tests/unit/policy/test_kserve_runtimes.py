"""KServe's ServingRuntimes and TrainedModels: what an InferenceService runs without naming it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from serve_core.audit.stored_objects import Auditor
from serve_core.base.json import JsonObject
from serve_core.policy.evaluate import judge_policies
from serve_core.subjects.build import subject_of
from serve_webhook.admission import review, validation
from support.istio_installation import installation
from support.reviews import context_with, request

NOW = datetime(2026, 11, 18, tzinfo=UTC)
RULES: dict[str, str] = {
    "images": "images: {allow: [example.com]}",
    "pinned images": "images: {digest: true}",
    "secrets": "secrets: {deny: [stolen]}",
    "containers": "containers: {arguments: [--trust-remote-code], variables: [HF_*]}",
    "accounts": "serviceAccounts: {deny: [admin]}",
    "runtimes": "runtimes: {allow: [kserve-*]}",
    "memory": "resources: {perReplica: {memory: 2Gi}}",
    "devices": "resources: {total: {nvidia.com/gpu: 4}}",
    "sources": "sources: {allow: ['s3://models'], stores: [{place: 's3://models', endpoint: '*'}]}",
}
BOUNDED = {"limits": {"memory": "1Gi"}}


def server(**more: Any) -> JsonObject:
    image = "example.com/server@sha256:" + "0" * 64
    return {"name": "kserve-container", "image": image, "resources": BOUNDED} | more


def runtime(name: str = "mine", **spec: Any) -> JsonObject:
    made = {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime"}
    formats = [{"name": "onnx", "autoSelect": True}]
    head = {"metadata": {"name": name, "namespace": "ml"}}
    return made | head | {"spec": {"supportedModelFormats": formats, "containers": [server()]} | spec}


def trained_model(uri: str) -> JsonObject:
    model = {"framework": "sklearn", "storageUri": uri, "memory": "1Gi"}
    made = {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "TrainedModel"}
    head = {"metadata": {"name": "added", "namespace": "ml"}}
    return made | head | {"spec": {"inferenceService": "iris", "model": model}}


BREAKERS: dict[str, tuple[str, JsonObject]] = {
    "an image": ("images", runtime(containers=[server(image="evil.example/server:1")])),
    "an image that may change": ("pinned images", runtime(containers=[server(image="example.com/server:1")])),
    "an image of workers": ("images", runtime(workerSpec={"containers": [server(image="evil.example/worker:1")]})),
    "an image of what runs before": ("images", runtime(initContainers=[server(image="evil.example/init:1")])),
    "an image beside": ("images", runtime(containers=[server(), server(name="b", image="evil.example/b:1")])),
    "an image that is mounted": (
        "images", runtime(volumes=[{"name": "v", "image": {"reference": "evil.example/v:1"}}])),
    "a Secret": ("secrets", runtime(volumes=[{"name": "v", "secret": {"secretName": "stolen"}}])),
    "a Secret's variables": ("secrets", runtime(containers=[server(envFrom=[{"secretRef": {"name": "stolen"}}])])),
    "an argument": ("containers", runtime(containers=[server(args=["--trust_remote_code"])])),
    "a variable": ("containers", runtime(containers=[server(env=[{"name": "HF_ENDPOINT", "value": "x"}])])),
    "an account": ("accounts", runtime(serviceAccountName="admin")),
    "the name of a runtime that is allowed": ("runtimes", runtime("kserve-onnx")),
    "memory": ("memory", runtime(containers=[server(resources={"limits": {"memory": "64Gi"}})])),
    "memory without a bound": ("memory", runtime(containers=[server(resources={})])),
    "devices for however many replicas": (
        "devices", runtime(containers=[server(resources={"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}})])),
    "a source": ("sources", runtime(containers=[server(env=[{"name": "STORAGE_URI", "value": "s3://other/a"}])])),
    "a model that is added": ("sources", trained_model("s3://other/a.joblib")),
}  # fmt: skip


def denied(manifest: JsonObject, rule: str) -> bool:
    context = context_with(f"rules: [{{name: r, {rule}}}]")
    subject = subject_of(manifest, context)
    assert subject is not None
    return judge_policies(subject, context.policies, (), NOW).denied


@pytest.mark.attack(32)
@pytest.mark.parametrize(("rule", "manifest"), BREAKERS.values(), ids=BREAKERS.keys())
def test_a_new_runtime_is_judged(rule: str, manifest: JsonObject) -> None:
    assert denied(manifest, RULES[rule])
    context = context_with(f"rules: [{{name: r, {RULES[rule]}}}]")
    answer, _ = review.review(
        request(manifest), lambda asked: validation.validate(asked, context, (), NOW, lambda *_: None)
    )
    assert b'"allowed":true' not in answer.replace(b" ", b"")
    judged = Auditor(context, (), NOW).judge(manifest)
    assert judged is not None
    assert judged.verdict.denied, "the audit finds those that were there before"


@pytest.mark.parametrize("rule", [rule for name, rule in RULES.items() if name != "runtimes"])
def test_an_honest_runtime_breaks_no_rule(rule: str) -> None:
    assert not denied(runtime(), rule)
    assert not denied(trained_model("s3://models/a.joblib"), rule)


@pytest.mark.parametrize("rule", ["label: {key: team}", "expression: {cel: 'false', message: it is not}"])
def test_rules_on_labels_judge_parts_only_if_the_policy_names_their_kind(rule: str) -> None:
    assert not denied(runtime(), rule)
    context = context_with(f"{{match: {{kinds: [ServingRuntime]}}, rules: [{{name: r, {rule}}}]}}")
    subject = subject_of(runtime(), context)
    assert subject is not None
    assert judge_policies(subject, context.policies, (), NOW).denied


@pytest.mark.attack(29, 32)
@pytest.mark.parametrize(
    "spec",
    [
        {"annotations": {"traffic.sidecar.istio.io/excludeInboundPorts": "8080"}},
        {"annotations": {"sidecar.istio.io/inject": "false"}},
        {"labels": {"sidecar.istio.io/inject": "no"}},
        {"hostNetwork": True},
        {"containers": [server(name="istio-proxy")]},
        {"workerSpec": {"containers": [server(securityContext={"privileged": True})]}},
    ],
    ids=str,
)
def test_a_runtime_that_bypasses_the_sidecar_breaks_a_rule_on_the_mesh(spec: JsonObject) -> None:
    context = context_with("rules: [{name: r, mesh: {allow: [istio]}}]")
    context = replace(context, istio=installation(namespaces={"ml": {"istio-injection": "enabled"}}))
    for manifest, found in ((runtime(**spec), True), (runtime(), False)):
        subject = subject_of(manifest, context)
        assert subject is not None
        assert judge_policies(subject, context.policies, (), NOW).denied is found


def test_a_trained_model_has_the_workload_of_its_inference_service() -> None:
    subject = subject_of(trained_model("s3://models/a"), context_with())
    assert subject is not None
    assert (subject.workload, [use.name for use in subject.formats]) == ("iris", ["sklearn"])


@pytest.mark.parametrize("kind", ["ServingRuntime", "TrainedModel"])
def test_a_malformed_object_is_no_error(kind: str) -> None:
    specs: tuple[Any, ...] = (None, [], {"containers": {}, "workerSpec": []}, {"model": "x", "inferenceService": {}})
    for spec in specs:
        made = {"apiVersion": "serving.kserve.io/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
        assert subject_of(made, context_with()) is not None
