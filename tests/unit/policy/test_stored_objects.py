"""Which stored objects are judged, and which are left out because their owner was judged."""

import copy
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge
from serve_core.audit.stored_objects import Auditor
from serve_core.base.constants import DEPLOYMENT_LABEL, NEVER_JUDGED
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.parse import read_exception, stored_policy

NOW = datetime(2026, 11, 18, tzinfo=UTC)
BASE = default_context()
STORES = "{name: places, sources: {allow: ['s3://models']}}"
PRIVATE = "{name: private, visibility: {allow: [cluster-local]}}"
OWNED = "{name: owner, label: {key: owner}}"
BROKEN = "{name: about-nothing}"


def context(*rules: str) -> ClusterContext:
    spec = yaml.safe_load(f"rules: [{', '.join(rules)}]")
    head = {"apiVersion": "kubectl-serve.dev/v1alpha1", "kind": "ServingPolicy", "metadata": {"name": "p"}}
    return ClusterContext(BASE.loader, BASE.runtimes, policies=(stored_policy(head | {"spec": spec}),))


def said(documents: Iterable[JsonObject], *rules: str, exceptions: Any = ()) -> dict[str, list[str]]:
    """Every object that is judged, with the findings of it by their codes."""
    existing = Auditor(context(*rules), tuple(map(read_exception, exceptions)), NOW)
    found = [judged for judged in map(existing.judge, documents) if judged is not None]
    return {
        f"{one.kind}/{one.name}": [problem.code for result in one.verdict.results for problem in result.findings]
        for one in found
    }


def made(uri: str = "s3://models/a.joblib", **notes: str) -> tuple[JsonObject, ...]:
    """A Deployment and everything that it becomes: Service, Configuration, Revision and pod."""
    annotations = {f"kubectl-serve.dev/{key}": value for key, value in {"model": uri, **notes}.items()}
    metadata = {"name": "iris", "namespace": "ml", "annotations": annotations}
    verdict = judge({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}, context(STORES))
    deployment, service = verdict.deployment, copy.deepcopy(verdict.service)
    assert deployment is not None
    assert service is not None
    deployment["metadata"]["uid"] = "deployment"
    template = service["spec"]["template"]
    configuration = copy.deepcopy(service) | {"kind": "Configuration"}
    configuration["metadata"]["uid"] = "configuration"
    labels = {DEPLOYMENT_LABEL: "iris", "serving.knative.dev/routingState": "active"}
    owner = {"kind": "Configuration", "name": "iris", "uid": "configuration", "controller": True}
    own: JsonObject = {"name": "iris-00001", "namespace": "ml", "labels": labels, "ownerReferences": [owner]}
    revision = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Revision",
        "metadata": copy.deepcopy(template.get("metadata") or {}) | own,
        "spec": copy.deepcopy(template["spec"]),
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "iris-00001-x", "namespace": "ml", "labels": dict(labels)},
        "spec": copy.deepcopy(template["spec"]),
        "status": {"phase": "Running"},
    }
    return deployment, service, configuration, revision, pod


def leading(host: str = "iris.example.com", to: str = "iris", **labels: str) -> JsonObject:
    """A DomainMapping."""
    return {
        "apiVersion": "serving.knative.dev/v1beta1",
        "kind": "DomainMapping",
        "metadata": {"name": host, "namespace": "ml", "labels": labels},
        "spec": {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": to}},
    }


def route(name: str = "iris", **labels: str) -> JsonObject:
    spec = {"traffic": [{"configurationName": "iris", "percent": 100}]}
    metadata = {"name": name, "namespace": "ml", "labels": labels}
    return {"apiVersion": "serving.knative.dev/v1", "kind": "Route", "metadata": metadata, "spec": spec}


def loading(document: JsonObject, uri: str) -> JsonObject:
    """The object with a loader that loads something else."""
    changed = copy.deepcopy(document)
    spec = changed["spec"]
    (loader,) = (spec.get("template", {}).get("spec") or spec)["initContainers"]
    loader["args"] = [*loader["args"][:-1], uri]
    return changed


def test_what_a_deployment_becomes_is_reported_with_the_deployment() -> None:
    assert said(made(visibility="cluster-local"), STORES, PRIVATE, OWNED) == {
        "Deployment/iris": ["LabelNotAllowed"], "Revision/iris-00001": [], "Pod/iris-00001-x": [],
    }  # fmt: skip
    assert said(made("s3://elsewhere/a.joblib"), STORES) == {"Deployment/iris": ["SourceNotAllowed"]}


@pytest.mark.attack(5)
@pytest.mark.parametrize("index", [1, 2], ids=["Service", "Configuration"])
def test_an_object_that_does_more_than_its_owner_is_judged_by_itself(index: int) -> None:
    objects = list(made())
    objects[index] = loading(objects[index], "s3://elsewhere/a.joblib")
    kind = objects[index]["kind"]
    assert said(objects, STORES)[f"{kind}/iris"] == ["SourceNotAllowed"]
    objects = list(made())
    notes = objects[index]["spec"]["template"]["metadata"].setdefault("annotations", {})
    notes["autoscaling.knative.dev/max-scale"] = "50"
    assert said(objects, "{name: most, scale: {most: 3}}")[f"{kind}/iris"] == ["ScaleNotAllowed"]
    objects = list(made())
    volume = {"name": "v", "image": {"reference": "evil.example/a:1"}}
    objects[index]["spec"]["template"]["spec"]["volumes"].append(volume)
    assert said(objects, "{name: images, images: {deny: [evil.example]}}")[f"{kind}/iris"] == ["ImageNotAllowed"]


MORE: dict[str, tuple[JsonObject, str, str]] = {
    "a Secret": (
        {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
        "{name: r, secrets: {deny: [s]}}", "SecretNotAllowed"),
    "a service account": (
        {"serviceAccountName": "builder"}, "{name: r, serviceAccounts: {deny: [builder]}}", "ServiceAccountNotAllowed"),
    "another container": (
        {"containers": [{"name": "c", "image": "dev.local/c:1", "args": ["--trust-remote-code"]}]},
        "{name: r, containers: {arguments: [--trust-remote-code]}}", "ArgumentNotAllowed"),
    "a model in a claim": (
        {"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/mnt/models"}]}],
         "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}, STORES, "SourceNotAllowed"),
    "another format": (
        {"initContainers": [{"name": "model-loader", "args": ["s3://models/a.onnx"]}]},
        "{name: r, formats: {deny: [onnx]}}", "FormatNotAllowed FormatUnsure"),
}  # fmt: skip


@pytest.mark.attack(5)
@pytest.mark.parametrize(("more", "rule", "code"), MORE.values(), ids=MORE.keys())
def test_whatever_an_object_has_more_than_its_owner_is_judged(more: JsonObject, rule: str, code: str) -> None:
    deployment, service, *_ = made()
    spec = service["spec"]["template"]["spec"]
    for key, value in more.items():
        spec[key] = [*spec[key], *value] if isinstance(value, list) else value
    assert said([deployment, service], rule) == {"Deployment/iris": [], "Service/iris": code.split()}


LOCAL = {"networking.knative.dev/visibility": "cluster-local"}


@pytest.mark.attack(2, 5)
def test_routes_to_a_private_model_are_reported() -> None:
    private = made(visibility="cluster-local")
    ways_in = (route("iris", **LOCAL), route("other"), leading())
    assert said([*private, *ways_in], PRIVATE) == {
        "Deployment/iris": [], "Revision/iris-00001": [], "Pod/iris-00001-x": [],
        "Route/other": ["ValueNotAllowed"], "DomainMapping/iris.example.com": ["ValueNotAllowed"],
    }  # fmt: skip
    assert said([*private, route()], PRIVATE)["Route/iris"] == ["ValueNotAllowed"], "its label was taken off"


@pytest.mark.attack(5)
def test_a_host_name_is_reported_once_with_its_model() -> None:
    deployment, service, *_ = made(domain="iris.example.com")
    public = [deployment, service, route(), leading()]
    assert said(public, PRIVATE) == {"Deployment/iris": ["ValueNotAllowed"]}
    elsewhere = leading("shop.example.com", "shop", **{DEPLOYMENT_LABEL: "iris"})
    assert set(said([*public, elsewhere], PRIVATE)) == {"Deployment/iris", "DomainMapping/shop.example.com"}


@pytest.mark.attack(5)
def test_another_key_in_the_same_place_is_more_than_what_it_was_made_of() -> None:
    objects = made(**{"signature-key": "ml-team"})
    signed = "{name: signed, signed: {keys: [ml-team]}}"
    assert said(objects, signed)["Deployment/iris"] == []
    (volume,) = (each for each in objects[1]["spec"]["template"]["spec"]["volumes"] if "configMap" in each)
    volume["configMap"]["name"] = "mine"
    assert said(objects, signed)["Service/iris"] == ["ModelNotSigned"]


def test_an_older_revision_with_traffic_is_judged_by_what_it_carries() -> None:
    """Its visibility and labels were judged with the Deployment: the Revision does not have them."""
    *whole, revision, _ = made(visibility="cluster-local")
    older = loading(revision, "s3://elsewhere/old.joblib")
    assert said([*whole, older], STORES, PRIVATE, OWNED)["Revision/iris-00001"] == ["SourceNotAllowed"]


def test_a_deployment_that_cannot_be_rendered_has_no_upper_bound() -> None:
    deployment, *_ = made(scale="0..3")
    most = "{name: r, scale: {most: 5}}"
    assert said([deployment], most) == {"Deployment/iris": []}
    deployment["metadata"]["annotations"]["kubectl-serve.dev/window"] = "soon"
    assert said([deployment], most) == {"Deployment/iris": ["ScaleNotAllowed"]}


def test_a_revision_in_reserve_has_no_pods_and_is_left_out() -> None:
    *whole, revision, _ = made()
    older = loading(revision, "s3://elsewhere/old.joblib")
    older["metadata"]["labels"]["serving.knative.dev/routingState"] = "reserve"
    assert "Revision/iris-00001" not in said([*whole, older], STORES)


@pytest.mark.attack(5)
@pytest.mark.parametrize(
    "forged",
    [{"uid": "another"}, {"controller": False}, {"controller": "true"}, {"uid": None}],
    ids=["of nothing that exists", "no controller", "a word for true", "without a uid"],
)
def test_a_revision_whose_owner_is_forged_is_judged_in_full(forged: JsonObject) -> None:
    *whole, revision, _ = made()
    revision["metadata"]["labels"]["serving.knative.dev/routingState"] = "reserve"
    revision["metadata"]["ownerReferences"][0] |= forged
    found = said([*whole, loading(revision, "s3://elsewhere/a.joblib")], STORES, PRIVATE, OWNED)
    assert found["Revision/iris-00001"] == ["SourceNotAllowed", "ValueNotAllowed", "LabelNotAllowed"]
    assert said([revision], PRIVATE)["Revision/iris-00001"] == ["ValueNotAllowed"], "without its Configuration as well"


@pytest.mark.attack(5)
def test_a_pod_that_claims_a_workload_is_reported_by_what_the_workload_does_not_do() -> None:
    whole = made("s3://elsewhere/a.joblib")
    forged = loading(whole[-1], "s3://elsewhere/other.joblib")
    forged["metadata"]["name"] = "forged"
    assert said([*whole, forged], STORES) == {
        "Deployment/iris": ["SourceNotAllowed"], "Pod/forged": ["SourceNotAllowed"],
    }  # fmt: skip


def test_many_pods_of_one_workload_are_reported_once() -> None:
    *_, pod = made("s3://elsewhere/a.joblib")
    pods = [pod | {"metadata": pod["metadata"] | {"name": f"iris-{number}"}} for number in range(5)]
    assert said(pods, STORES) == {"Pod/iris-0": ["SourceNotAllowed"]}
    others = [pod | {"metadata": {"name": f"other-{number}", "namespace": "ml"}} for number in range(2)]
    assert len(said([*pods, *others], STORES)) == 3, "of those without a workload each is its own"


def test_an_exception_for_a_deployment_does_not_hide_other_objects() -> None:
    exception = {
        "apiVersion": "kubectl-serve.dev/v1alpha1", "kind": "PolicyException",
        "metadata": {"name": "e", "namespace": "kubectl-serve"},
        "spec": {"policy": "p", "rules": ["places"], "match": {"namespace": "ml", "name": "iris"},
                 "expires": (NOW + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"), "reason": "r", "ticket": "T"},
    }  # fmt: skip
    deployment, *_, pod = made("s3://elsewhere/a.joblib")
    by_hand = pod | {"metadata": {"name": "by-hand", "namespace": "ml"}}
    assert set(said([deployment, pod, by_hand], STORES, exceptions=[exception])) == {"Deployment/iris", "Pod/by-hand"}


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_not_judged(phase: str) -> None:
    *_, pod = made("s3://elsewhere/a.joblib")
    assert said([pod | {"status": {"phase": phase}}], STORES) == {}


@pytest.mark.parametrize("namespace", sorted(NEVER_JUDGED))
def test_the_audit_reports_nothing_where_admission_is_never_called(namespace: str) -> None:
    *_, pod = made("s3://elsewhere/a.joblib")
    moved = pod | {"metadata": {"name": "a", "namespace": namespace}}
    assert said([moved], STORES) == {"Pod/a": []}
    assert said([moved], BROKEN) == {"Pod/a": []}
    assert said([pod], BROKEN) == {"Pod/iris-00001-x": ["PolicyUnreadable"]}
