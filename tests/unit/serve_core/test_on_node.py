"""Models that stay on the node: images that are mounted in place of the loader, and why they are not."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from serve_core.admission.decide import judge, render_stored
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.context.nodes import without_image_volumes
from serve_core.policy.field_types import read_stores
from serve_core.policy.parse import read_policy
from support.istio_installation import installation
from support.policy_objects import DIGEST
from support.reviews import document
from unit.policy.test_loader_identity import broken
from unit.policy.test_runtime_identity import FACTS, KINDS, deployment, made, subject

FLAG = "kubernetes.podspec-volumes-image"
CONTEXT = replace(FACTS, features={**FACTS.features, FLAG: "enabled"})
REFERENCE = "registry.example.com/models/iris"
IMAGE = f"oci://{REFERENCE}:1"
ON_NODE = {"format": "sklearn", "cache": "node"}


def image_deployment(model: str = IMAGE, **notes: str) -> JsonObject:
    return deployment(model, **ON_NODE | {key.replace("_", "-"): value for key, value in notes.items()})


def judged_by(*rules: str, context: ClusterContext = CONTEXT) -> ClusterContext:
    text = "rules:\n" + "".join(f"  - {{name: {rule.partition(':')[0]}, {rule}}}\n" for rule in rules)
    return replace(context, policies=(read_policy(document("ServingPolicy", text)),))


def volume_of(pod: JsonObject) -> JsonObject:
    found: list[JsonObject] = [each for each in pod["volumes"] if each["name"] == "model"]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("uri", "reference", "policy"),
    [
        (IMAGE, f"{REFERENCE}:1", "Always"),
        (f"oci://{REFERENCE}", REFERENCE, "Always"),
        (f"oci://{REFERENCE}@{DIGEST}", f"{REFERENCE}@{DIGEST}", "IfNotPresent"),
        (f"{IMAGE}@{DIGEST}", f"{REFERENCE}:1@{DIGEST}", "IfNotPresent"),
        ("oci://acme/iris:1", "docker.io/acme/iris:1", "Always"),
        ("oci://localhost:5000/iris", "localhost:5000/iris", "Always"),
    ],
)
def test_the_image_is_the_models_volume(kind: str, uri: str, reference: str, policy: str) -> None:
    _, pod = made(kind, image_deployment(uri), CONTEXT)
    assert volume_of(pod) == {"name": "model", "image": {"reference": reference, "pullPolicy": policy}}
    assert "initContainers" not in pod
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "model"]
    assert mount == {"name": "model", "mountPath": "/mnt/models", "readOnly": True, "subPath": "models"}


def _with(**fields: Any) -> Callable[[JsonObject], None]:
    def change(manifest: JsonObject) -> None:
        manifest["spec"] = {"template": {"spec": fields}}

    return change


STORE = read_stores([{"place": "oci://registry.example.com", "endpoint": "https://mirror.example.com"}])


@pytest.mark.parametrize(
    ("notes", "context", "why"),
    [
        ({"model": "s3://models/iris/model.joblib"}, CONTEXT, "keeps no models"),
        ({"model": f"{IMAGE}=a {IMAGE}=b"}, CONTEXT, "several models"),
        ({"digest": DIGEST}, CONTEXT, "kubectl-serve.dev/digest"),
        ({"signature_key": "ml-team"}, CONTEXT, "kubectl-serve.dev/signature-key"),
        ({"files": "*.joblib"}, CONTEXT, "kubectl-serve.dev/files"),
        ({}, FACTS, FLAG),
        ({}, replace(FACTS, features={FLAG: "allowed", "kubernetes.podspec-init-containers": "enabled"}), FLAG),
        ({}, replace(CONTEXT, without_image_volumes="node a has kubelet v1.34.0"), "node a has kubelet v1.34.0"),
        ({}, replace(CONTEXT, stores=STORE), "oci://registry.example.com"),
        (
            {},
            judged_by("sources: {stores: [{place: 'oci://registry.example.com/models', endpoint: 'https://m.example'}]}"),
            "oci://registry.example.com/models",
        ),
    ],
)  # fmt: skip
def test_the_loader_runs_and_the_reason_is_explained(notes: dict[str, str], context: ClusterContext, why: str) -> None:
    verdict = judge(image_deployment(**notes), context)
    assert verdict.deployment is not None
    pod = verdict.deployment["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["model-loader"]
    assert volume_of(pod) == {"name": "model", "emptyDir": {}}
    (reason,) = [each.message for each in verdict.explanations if each.code == "ModelNotOnNode"]
    assert why in reason
    # The reconciler finds the same reason for what is stored.
    assert reason in [each.message for each in render_stored(verdict.deployment, context).explanations]


@pytest.mark.parametrize(
    "fields",
    [
        {"volumes": [{"name": "model", "emptyDir": {"sizeLimit": "20Gi"}}]},
        {"initContainers": [{"name": "model-loader", "env": [{"name": "AWS_REGION", "value": "eu-west-1"}]}]},
    ],
)
def test_the_loader_runs_where_the_user_has_written_a_part_of_it(fields: dict[str, Any]) -> None:
    manifest = image_deployment()
    _with(**fields)(manifest)
    verdict = judge(manifest, CONTEXT)
    assert verdict.deployment is not None
    pod = verdict.deployment["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["args"][-1] == IMAGE
    assert "emptyDir" in volume_of(pod)
    for judged in (verdict, render_stored(verdict.deployment, CONTEXT)):
        assert "ModelNotOnNode" in {each.code for each in judged.explanations}


def test_what_cannot_be_an_image_is_in_the_node_cache_where_there_is_one() -> None:
    flags = {**CONTEXT.features, "kubernetes.podspec-volumes-csi": "enabled"}
    cached = replace(CONTEXT, node_cache=True, features=flags)
    assert "image" in volume_of(made("Deployment", image_deployment(), cached)[1])
    for context in (replace(cached, without_image_volumes="a"), replace(cached, features=flags | {FLAG: "disabled"})):
        assert "csi" in volume_of(made("Deployment", image_deployment(), context)[1])
    assert "csi" in volume_of(made("Deployment", image_deployment(files="*.joblib"), cached)[1])
    verdict = judge(image_deployment(signature_key="ml-team"), cached)
    (reason,) = [each.message for each in verdict.explanations if each.code == "ModelNotOnNode"]
    assert "signature" in reason


def test_without_knative_no_flag_is_needed() -> None:
    _, pod = made("Deployment without Knative", image_deployment(), FACTS)
    assert "image" in volume_of(pod)


def test_none_is_the_loader() -> None:
    _, pod = made("Deployment", image_deployment(cache="none"), CONTEXT)
    assert pod == made("Deployment", deployment(IMAGE, format="sklearn"), CONTEXT)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_kubelet_pulls_with_the_annotated_secret(kind: str) -> None:
    manifest = image_deployment(credentials="registry")
    assert made(kind, manifest, CONTEXT)[1]["imagePullSecrets"] == [{"name": "registry"}]
    _with(imagePullSecrets=[{"name": "own"}])(manifest)
    assert made(kind, manifest, CONTEXT)[1]["imagePullSecrets"] == [{"name": "own"}, {"name": "registry"}]
    _with(imagePullSecrets=[{"name": "registry"}])(manifest)
    assert made(kind, manifest, CONTEXT)[1]["imagePullSecrets"] == [{"name": "registry"}]


def test_the_deployment_is_given_back_as_it_was() -> None:
    manifest = image_deployment(credentials="registry")
    container = {"name": "server", "image": "example.com/server:1", "ports": [{"containerPort": 8080}]}
    _with(containers=[container], imagePullSecrets=[{"name": "own"}])(manifest)
    served = judge(manifest, CONTEXT).deployment
    assert served is not None
    plain = copy.deepcopy(served)
    for key in manifest["metadata"]["annotations"]:
        del plain["metadata"]["annotations"][key]
    given = judge(plain, CONTEXT, served).deployment
    assert given is not None
    assert given["spec"]["template"]["spec"] == manifest["spec"]["template"]["spec"]


def test_a_change_of_the_cache_replaces_what_was_filled_in() -> None:
    manifest = image_deployment(credentials="registry")
    for cache in ("none", "node", "none"):
        before, manifest["metadata"]["annotations"]["kubectl-serve.dev/cache"] = manifest, cache
        verdict = judge(copy.deepcopy(manifest), CONTEXT, copy.deepcopy(before))
        assert verdict.deployment is not None
        manifest = verdict.deployment
        pod = manifest["spec"]["template"]["spec"]
        assert pod == made("Deployment", image_deployment(credentials="registry", cache=cache), CONTEXT)[1]


# --- Policies


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_is_recognised(kind: str) -> None:
    manifest, _pod = made(kind, image_deployment(), CONTEXT)
    use = subject(manifest).runtime
    assert use is not None
    assert (use.name, use.why) == ("mlserver-sklearn", "")
    for other in ({"subPath": "etc"}, {"subPath": None}, {"readOnly": False}):
        changed = copy.deepcopy(manifest)
        spec = changed["spec"]["template"]["spec"] if "template" in changed["spec"] else changed["spec"]
        (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "model"]
        mount.update(other)
        use = subject(changed).runtime
        assert use is not None
        assert use.name == "custom"


@pytest.mark.attack(44)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rule", "uri", "broken_rules"),
    [
        ("sources: {allow: ['oci://registry.example.com/models']}", IMAGE, set()),
        ("sources: {allow: ['oci://registry.example.com/other']}", IMAGE, {"sources"}),
        ("sources: {deny: ['oci://registry.example.com']}", IMAGE, {"sources"}),
        ("sources: {allow: ['s3://models']}", IMAGE, {"sources"}),
        ("pinned: {}", IMAGE, {"pinned"}),
        ("pinned: {}", f"{IMAGE}@{DIGEST}", set()),
        ("pinned: {by: [digest]}", f"{IMAGE}@{DIGEST}", {"pinned"}),
        ("signed: {}", f"{IMAGE}@{DIGEST}", {"signed"}),
        ("secrets: {allow: [registry]}", IMAGE, set()),
        ("secrets: {deny: [registry]}", IMAGE, {"secrets"}),
        ("images: {deny: [registry.example.com]}", IMAGE, {"images"}),
    ],
)
def test_policies_judge_the_image_as_what_the_loader_loads(
    kind: str, rule: str, uri: str, broken_rules: set[str]
) -> None:
    judged = judged_by(rule)
    manifest, _ = made(kind, image_deployment(uri, credentials="registry"), judged)
    assert broken(manifest, judged).keys() == broken_rules


def _other_image(pod: JsonObject) -> None:
    volume_of(pod)["image"]["reference"] = "evil.example.com/models/iris:1"


def _second_image(pod: JsonObject) -> None:
    pod["volumes"].append({"name": "more", "image": {"reference": "evil.example.com/models/iris:1"}})
    mount = {"name": "more", "mountPath": "/mnt/models/adapters", "readOnly": True}
    pod["containers"][0]["volumeMounts"].append(mount)


def _behind_the_mount(pod: JsonObject) -> None:
    pod["volumes"].append({"name": "more", "image": {"reference": "evil.example.com/models/iris:1"}})
    pod["containers"][0]["volumeMounts"] = [{"name": "more", "mountPath": "/mnt", "readOnly": True}]


@pytest.mark.attack(44)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [_other_image, _second_image, _behind_the_mount])
def test_an_image_that_a_user_mounts_there_is_judged(kind: str, change: Callable[[JsonObject], None]) -> None:
    judged = judged_by("sources: {allow: ['oci://registry.example.com/models']}")
    manifest, pod = made(kind, image_deployment(), judged)
    change(pod)
    assert broken(manifest, judged).keys() == {"sources"}


@pytest.mark.attack(44)
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_go_past_the_store_of_a_policy(kind: str) -> None:
    allow = "allow: ['oci://registry.example.com/models']"
    store = "{place: 'oci://registry.example.com/models', endpoint: 'https://mirror.example.com'}"
    bound = judged_by(f"sources: {{{allow}, stores: [{store}]}}")
    manifest, pod = made(kind, image_deployment(), bound)
    assert volume_of(pod) == {"name": "model", "emptyDir": {}}
    assert broken(manifest, bound) == {}
    written, _ = made(kind, image_deployment(), judged_by(f"sources: {{{allow}}}"))
    assert broken(written, bound) == {"sources": {"SourceNotFixed"}}


def test_a_secret_without_an_image_volume_is_the_kubelets() -> None:
    """As before there were image volumes: pull secrets give access to images, and not to models."""
    judged = judged_by("secrets: {allow: [store]}")
    manifest = deployment(credentials="store")
    _with(imagePullSecrets=[{"name": "own"}])(manifest)
    assert broken(made("Deployment", manifest, judged)[0], judged) == {}


# --- Nodes


def node(kubelet: str = "v1.35.4", runtime: str = "containerd://2.2.0") -> JsonObject:
    info = {"kubeletVersion": kubelet, "containerRuntimeVersion": runtime}
    return {"metadata": {"name": "a"}, "status": {"nodeInfo": info}}


@pytest.mark.attack(44)
@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node(), node("v1.36.1-gke.100", "cri-o://1.34.0")], ""),
        ([node(), node("v1.34.9")], "node a has kubelet v1.34.9, and image volumes need kubelet 1.35"),
        ([node(runtime="containerd://2.1.5")], "node a has containerd 2.1.5, and image volumes need containerd 2.2"),
        ([node(runtime="cri-o://1.32.1")], "node a has cri-o 1.32.1, and image volumes need cri-o 1.33"),
        ([node(runtime="docker://27.0")], "node a has docker 27.0, and it has no image volumes"),
        ([{"metadata": {"name": "a"}}], "node a has kubelet None, and image volumes need kubelet 1.35"),
        ([], "no node is known"),
    ],
)
def test_what_keeps_nodes_from_mounting_images(nodes: list[JsonObject], why: str) -> None:
    assert without_image_volumes(nodes) == why


# --- Istio


def test_a_mesh_needs_nothing_for_a_loader_that_is_not_there() -> None:
    mesh = installation(cni=False, namespaces={"ml": {"istio-injection": "enabled"}})
    found = {
        cache: {each.code for each in judge(image_deployment(cache=cache), replace(CONTEXT, istio=mesh)).explanations}
        for cache in ("none", "node")
    }
    assert found["none"] - found["node"] == {"ModelByLoader", "LoaderBehindSidecar"}
    assert found["node"] - found["none"] == {"ModelFromImage"}
