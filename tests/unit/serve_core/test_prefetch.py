"""What loads a model on nodes in advance: its pods have the model's volume and place, and power over nothing."""

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from serve_core.admission.decide import judge, render_stored
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.policy.evaluate import User, judge_policies
from serve_core.policy.field_types import read_stores
from serve_core.policy.parse import read_policy
from serve_core.subjects.build import subject_of
from serve_core.workload import prefetch
from support.policy_objects import DIGEST
from support.recorded_state import with_state
from support.reviews import document

FLAGS = ("kubernetes.podspec-volumes-csi", "kubernetes.podspec-volumes-image", "kubernetes.podspec-init-containers")
LOADER = LoaderConfig("registry.example.com/model-loader:1")
FACTS = ClusterContext(LOADER, features=dict.fromkeys(FLAGS, "enabled"), node_cache=True)
URI = "s3://models/iris/model.joblib"


def completed(
    pod: JsonObject | None = None, context: ClusterContext = FACTS, uri: str = URI, **notes: Any
) -> JsonObject:
    asked = {"model": uri, "cache": "node", "prefetch": "2", **notes}
    container = {"name": "app", "image": "registry.example.com/app:1", "ports": [{"containerPort": 8080}]}
    written = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "namespace": "ml",
            "annotations": {f"kubectl-serve.dev/{key}": value for key, value in asked.items()},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "iris"}},
            "template": {"metadata": {"labels": {"app": "iris"}}, "spec": {"containers": [container], **(pod or {})}},
        },
    }
    verdict = judge(written, context)
    assert verdict.deployment, verdict.problems
    return verdict.deployment


def made(deployment: JsonObject, context: ClusterContext = FACTS) -> JsonObject:
    """What loads the model in advance."""
    (found,) = filter(prefetch.is_prefetch, render_stored(deployment, context).objects)
    return found


def pod_of(manifest: JsonObject) -> JsonObject:
    """A pod as Kubernetes' controllers create it."""
    template = copy.deepcopy(manifest["spec"]["template"])
    metadata = {**template["metadata"], "namespace": "ml", "generateName": f"{manifest['metadata']['name']}-"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def test_a_number_of_nodes_is_a_replica_set_with_one_pod_on_each() -> None:
    found = made(completed())
    assert (found["kind"], found["spec"]["replicas"]) == ("StatefulSet", 2)
    affinity = found["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_all_nodes_are_a_daemon_set() -> None:
    found = made(completed(prefetch="all"))
    assert found["kind"] == "DaemonSet"
    assert "replicas" not in found["spec"]
    assert "affinity" not in found["spec"]["template"]["spec"]


def test_the_pods_have_the_models_volume_and_secret_and_run_where_its_pods_do() -> None:
    node: JsonObject = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}
    placed = {
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
        "affinity": {"nodeAffinity": node, "podAffinity": {}},
    }
    flags = dict.fromkeys(("nodeselector", "tolerations", "runtimeclassname", "affinity"), "enabled")
    features = {**FACTS.features, **{f"kubernetes.podspec-{key}": value for key, value in flags.items()}}
    deployment = completed(placed, replace(FACTS, features=features), credentials="store")
    spec = made(deployment, replace(FACTS, features=features))["spec"]["template"]["spec"]
    (volume,) = spec["volumes"]
    assert volume in deployment["spec"]["template"]["spec"]["volumes"]
    assert volume["csi"]["nodePublishSecretRef"] == {"name": "store"}
    for key in ("nodeSelector", "tolerations", "runtimeClassName"):
        assert spec[key] == placed[key]
    assert spec["affinity"].keys() == {"nodeAffinity", "podAntiAffinity"}
    assert spec["affinity"]["nodeAffinity"] == node


def test_the_pods_pass_the_restricted_standard_and_have_no_token() -> None:
    spec = made(completed())["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["runAsNonRoot"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    (mount,) = container["volumeMounts"]
    assert mount["readOnly"]


def test_no_service_of_the_model_leads_to_them() -> None:
    labels = made(completed())["spec"]["template"]["metadata"]["labels"]
    assert "app" not in labels
    assert "kubectl-serve.dev/deployment" not in labels


def test_they_are_in_the_mesh_if_the_models_pods_are() -> None:
    deployment = completed()
    template = deployment["spec"]["template"]["metadata"]
    template["labels"]["sidecar.istio.io/inject"] = "true"
    template["annotations"] = {"proxy.istio.io/config": "x", "note": "y"}
    found = made(deployment)["spec"]["template"]["metadata"]
    assert found["labels"]["sidecar.istio.io/inject"] == "true"
    assert found["annotations"] == {"proxy.istio.io/config": "x"}


def test_once_loaded_nothing_is_left_until_the_model_or_the_number_changes() -> None:
    deployment = completed()
    digest = made(deployment)["metadata"]["name"].rpartition("-")[2]
    loaded = with_state(deployment, prefetched=digest)
    assert not list(filter(prefetch.is_prefetch, render_stored(loaded, FACTS).objects))
    several: tuple[dict[str, Any], ...] = ({"prefetch": "3"}, {"prefetch": "all"}, {"credentials": "other"})
    for notes in several:
        assert made(with_state(completed(**notes), prefetched=digest))
    assert made(with_state(completed(uri="s3://models/iris-2/model.joblib"), prefetched=digest))
    another = with_state(completed(), prefetched=digest)
    another["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example.com/app:2"
    assert not list(filter(prefetch.is_prefetch, render_stored(another, FACTS).objects))


def test_a_model_that_the_loader_loads_is_not_loaded_in_advance() -> None:
    context = replace(FACTS, node_cache=False)
    deployment = completed(context=context)
    assert not list(filter(prefetch.is_prefetch, render_stored(deployment, context).objects))


@pytest.mark.parametrize(
    ("notes", "code"),
    [
        ({"prefetch": "0"}, "InvalidAnnotation"),
        ({"prefetch": "1001"}, "InvalidAnnotation"),
        ({"prefetch": "ALL"}, "InvalidAnnotation"),
        ({"prefetch": "2.5"}, "InvalidAnnotation"),
        ({"cache": "none"}, "MissingAnnotation"),
        ({"cache": "pvc://claim"}, "MissingAnnotation"),
    ],
)
def test_a_value_without_effect_is_refused(notes: dict[str, Any], code: str) -> None:
    with pytest.raises(AssertionError) as error:
        completed(**notes)
    assert code in str(error.value)


# --- Policies

RULES = (
    "sources: {allow: ['s3://models', 'oci://registry.example.com']}",
    "images: {allow: [registry.example.com/app]}",
    "secrets: {allow: [store]}",
)


def ruled(*rules: str) -> ClusterContext:
    rows = "rules:\n" + "".join(f"  - {{name: r{i}, {rule}}}\n" for i, rule in enumerate(rules or RULES))
    return replace(FACTS, policies=(read_policy(document("ServingPolicy", rows)),))


def pod_for(context: ClusterContext | None = None, **notes: Any) -> JsonObject:
    """A pod that loads a model in advance where policies apply."""
    context = context or ruled()
    return pod_of(made(completed(context=context, **notes), context))


def judged(pod: JsonObject, context: ClusterContext | None = None) -> list[str]:
    """The codes of what policies find in a pod."""
    context = context or ruled()
    subject = subject_of(pod, context, namespace="ml", namespace_labels={})
    assert subject is not None, "policies do not see it"
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return [each.code for each in judge_policies(subject, context.policies, [], now, User("u", ())).problems]


def test_policies_accept_the_pods_of_an_accepted_model() -> None:
    several: tuple[dict[str, Any], ...] = ({"credentials": "store"}, {"prefetch": "all"})
    for notes in several:
        assert judged(pod_for(**notes)) == []


@pytest.mark.attack(45)
@pytest.mark.parametrize(
    ("notes", "code"),
    [({"uri": "s3://elsewhere/a.joblib"}, "SourceNotAllowed"), ({"credentials": "other"}, "SecretNotAllowed")],
)
def test_policies_accept_nothing_more_through_them(notes: dict[str, Any], code: str) -> None:
    assert code in judged(pod_for(**notes))


def _spoilt(**fields: Any) -> Callable[[JsonObject], None]:
    return lambda pod: pod["spec"]["containers"][0].update(fields)


@pytest.mark.attack(45)
@pytest.mark.parametrize(
    "spoil",
    [
        _spoilt(command=["/opt/model-loader/bin/python", "-c", "import os"]),
        _spoilt(args=["x"]),
        _spoilt(env=[{"name": "LD_PRELOAD", "value": "/mnt/models/evil.so"}]),
        _spoilt(envFrom=[{"secretRef": {"name": "x"}}]),
        _spoilt(workingDir="/mnt/models"),
        _spoilt(lifecycle={"postStart": {"exec": {"command": ["id"]}}}),
        _spoilt(livenessProbe={"exec": {"command": ["id"]}}),
        _spoilt(volumeMounts=[{"name": "model", "mountPath": "/opt/model-loader", "readOnly": True}]),
        _spoilt(image="evil.example/model-loader:1"),
        _spoilt(name="other"),
        _spoilt(securityContext={"privileged": True}),
        _spoilt(stdin=True),
    ],
)
def test_a_container_that_differs_is_judged_as_any_other(spoil: Callable[[JsonObject], None]) -> None:
    pod = pod_for()
    spoil(pod)
    assert {"SourceUnknown", "SourceNotAllowed", "ImageNotAllowed"} & set(judged(pod))


def test_resources_and_what_the_platform_adds_change_nothing() -> None:
    pod = pod_for()
    container = pod["spec"]["containers"][0]
    container |= {"resources": {"limits": {"cpu": "1"}}, "imagePullPolicy": "Always"}
    container["env"] = [{"name": "AWS_REGION", "value": "eu-west-1"}]
    assert judged(pod) == []


def test_the_store_of_a_policy_and_a_digest_are_in_the_volume() -> None:
    stores = read_stores([{"place": "s3://models", "endpoint": "https://s3.example.com"}])
    context = replace(FACTS, stores=stores)
    (volume,) = made(completed(context=context, digest=DIGEST), context)["spec"]["template"]["spec"]["volumes"]
    assert volume is not None
    assert "https://s3.example.com" in str(volume)
    assert DIGEST in str(volume)
