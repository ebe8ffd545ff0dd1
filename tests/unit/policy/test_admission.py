"""The validating webhook: what it judges, exemptions, and attacks."""

import base64
import copy
import json
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge
from serve_core.audit import dry_run
from serve_core.audit.stored_objects import Auditor
from serve_core.base.constants import SERVER_USERNAME
from serve_core.base.json import JsonObject
from serve_core.base.reasons import CATALOGUE, MAX_PROBLEMS
from serve_core.context.cluster import ClusterContext
from serve_core.policy.evaluate import judge_policies
from serve_core.policy.parse import PolicyError, read_exception, stored_policy
from serve_core.policy.rules import REASONS
from serve_core.policy.v1alpha1 import PolicyException
from serve_core.subjects.build import subject_of
from serve_webhook.admission import review, validation
from serve_webhook.admission.validation import KNATIVE_USERNAME
from support.hostile import OBJECTS, objects, places, reviews, spoilt
from support.hostile_sizes import bodies
from support.reviews import FACTS, MEMORY, STORES, context_with, deployment, document, knative, leading, pod, request

NOW = datetime(2026, 11, 18, tzinfo=UTC)


def ask(
    body: bytes,
    context: ClusterContext = FACTS,
    exceptions: tuple[PolicyException, ...] = (),
    known: JsonObject | None = None,
    now: datetime = NOW,
) -> JsonObject:
    answer, _ = review.review(
        body, lambda asked: validation.validate(asked, context, exceptions, now, lambda *_: known)
    )
    response: JsonObject = json.loads(answer)["response"]
    return response


def refused(response: JsonObject) -> str:
    assert not response["allowed"]
    message: str = response["status"]["message"]
    return message


def refused_not(response: JsonObject) -> str:
    assert response["allowed"]
    return "\n".join(response["warnings"])


def test_an_object_that_keeps_the_policies_is_admitted() -> None:
    assert ask(request(deployment()))["allowed"]


def test_a_refusal_names_the_policy_the_rule_the_field_and_the_solution() -> None:
    asked = ask(request(deployment("s3://elsewhere/model.joblib")))
    assert (asked["status"]["code"], asked["status"]["reason"]) == (403, "Forbidden")
    assert refused(asked) == (
        "SourceNotAllowed: metadata.annotations[kubectl-serve.dev/model]: p0/places does not allow models from "
        "s3://elsewhere/model.joblib. Allowed: s3://models."
    )


@pytest.mark.parametrize("kind", ["Service", "Configuration", "Revision"])
@pytest.mark.attack(2)
def test_knatives_objects_do_not_bypass_the_policies(kind: str) -> None:
    assert "SourceNotAllowed" in refused(ask(request(knative(kind))))


PRIVATE = context_with(STORES + "  - {name: private, visibility: {allow: [cluster-local]}}")
LOCAL = {"networking.knative.dev/visibility": "cluster-local"}


@pytest.mark.parametrize("kind", ["Route", "DomainMapping"])
@pytest.mark.attack(2)
def test_routes_and_domain_mappings_do_not_bypass_the_policies(kind: str) -> None:
    assert refused(ask(request(leading(kind)), PRIVATE)).count("\n") == 0, "for nothing that it does not have"
    assert "visibility" in refused(ask(request(leading(kind)), PRIVATE))
    assert ask(request(leading(kind)))["allowed"]


@pytest.mark.attack(2, 3)
def test_a_label_makes_a_route_private_and_no_label_a_domain_mapping() -> None:
    assert ask(request(leading("Route", **LOCAL)), PRIVATE)["allowed"]
    assert not ask(request(leading("Route"), leading("Route", **LOCAL)), PRIVATE)["allowed"]
    assert not ask(request(leading("DomainMapping", **LOCAL)), PRIVATE)["allowed"]


@pytest.mark.attack(2)
def test_a_host_name_of_its_own_makes_a_model_public_whatever_its_labels_say() -> None:
    labelled = deployment(domain="iris.example.com")
    labelled["metadata"]["labels"] |= LOCAL
    assert "kubectl-serve.dev/domain" in refused(ask(request(labelled), PRIVATE))
    del labelled["metadata"]["annotations"]["kubectl-serve.dev/domain"]
    assert ask(request(labelled), PRIVATE)["allowed"]


@pytest.mark.attack(2)
def test_pods_and_their_owners_do_not_bypass_the_policies() -> None:
    by_controller = {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": []}
    assert "SourceNotAllowed" in refused(ask(request(pod("s3://elsewhere/a"), userInfo=by_controller)))


@pytest.mark.attack(1)
def test_an_object_with_a_generated_name_is_judged() -> None:
    for made in (pod("s3://elsewhere/a"), knative()):
        made["metadata"]["generateName"] = made["metadata"].pop("name") + "-"
        assert "SourceNotAllowed" in refused(ask(request(made)))


@pytest.mark.attack(2)
def test_kserves_objects_do_not_bypass_the_policies() -> None:
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "k", "namespace": "ml"},
        "spec": {"predictor": {"maxReplicas": 1, "model": {"storageUri": "s3://elsewhere/a"}}},
    }
    assert "SourceNotAllowed" in refused(ask(request(manifest)))


KSERVE_LOCAL = {"networking.kserve.io/visibility": "cluster-local"}


def inference_service(labels: JsonObject, storage: JsonObject, mode: str = "Serverless") -> JsonObject:
    model = {"modelFormat": {"name": "onnx"}, "resources": MEMORY["resources"], **storage}
    annotations = {"serving.kserve.io/deploymentMode": mode}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "k", "namespace": "ml", "labels": labels, "annotations": annotations},
        "spec": {"predictor": {"maxReplicas": 1, "model": model}},
    }


@pytest.mark.attack(2)
def test_a_label_that_knative_and_kserve_ignore_makes_nothing_private() -> None:
    allowed = {"storageUri": "s3://models/a.onnx"}
    for made, right, wrong in (
        (knative("Service", "s3://models/a"), LOCAL, KSERVE_LOCAL),
        (inference_service({}, allowed), LOCAL, KSERVE_LOCAL),
        (inference_service({}, allowed, "RawDeployment"), KSERVE_LOCAL, LOCAL),
    ):
        for labels, public in ((right, False), (wrong, True)):
            said = json.dumps(ask(request(made | {"metadata": made["metadata"] | {"labels": labels}}), PRIVATE))
            assert ("ValueNotAllowed" in said) is public


def loaded_by(container: JsonObject) -> JsonObject:
    """A Knative Service in which this container loads the model."""
    made = knative("Service", "s3://models/a")
    made["spec"]["template"]["spec"]["initContainers"] = [container | MEMORY]
    return made


OTHER_LOADERS = {
    "our loader under another name": {"name": "x", "image": "example.com/mirror/model-loader@sha256:" + "0" * 64},
    "our loader that verifies": {"name": "x", "image": "example.com/mirror/verifying-loader:1"},
    "KServe's loader": {"name": "storage-initializer", "image": "example.com/storage-initializer:1"},
    "what KServe's webhook makes of a variable": {
        "name": "x", "image": "example.com/s:1", "env": [{"name": "STORAGE_URI", "value": "s3://elsewhere/a"}],
    },
}  # fmt: skip


@pytest.mark.attack(2)
@pytest.mark.parametrize("container", OTHER_LOADERS.values(), ids=OTHER_LOADERS.keys())
def test_another_loader_does_not_bypass_the_policies(container: JsonObject) -> None:
    loading = loaded_by({"args": ["s3://elsewhere/a"]} | container)
    context = replace(FACTS, loader=replace(FACTS.loader, signing_image="example.com/verifying-loader:1"))
    assert "SourceNotAllowed" in refused(ask(request(loading), context))


@pytest.mark.attack(2)
def test_a_store_that_only_a_secret_names_does_not_bypass_the_policies() -> None:
    stored = inference_service({}, {"storage": {"key": "store", "path": "a.onnx"}})
    assert "SourceUnreadable" in refused(ask(request(stored)))


@pytest.mark.attack(1)
def test_an_added_ephemeral_container_is_judged() -> None:
    added = pod("s3://models/a", ephemeralContainers=[{"name": "debug", "image": "docker.io/busybox", **MEMORY}])
    asked = request(added, pod("s3://models/a"), subResource="ephemeralcontainers")
    assert "spec.ephemeralContainers[0].image" in refused(ask(asked))


@pytest.mark.attack(1)
def test_a_pod_with_a_mounted_model_is_judged() -> None:
    """It has no loader. Its label is that of a served Deployment's pods."""
    mounted = pod("s3://models/a")
    del mounted["spec"]["initContainers"]
    mounted["metadata"]["labels"] = {"kubectl-serve.dev/deployment": "iris"}
    added = copy.deepcopy(mounted)
    added["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "docker.io/busybox", **MEMORY}]
    assert ask(request(mounted))["allowed"]
    refusal = refused(ask(request(added, mounted, subResource="ephemeralcontainers")))
    assert "spec.ephemeralContainers[0].image" in refusal


@pytest.mark.attack(1)
def test_a_resized_pod_is_judged() -> None:
    larger = pod("s3://models/a")
    larger["spec"]["containers"][0] = larger["spec"]["containers"][0] | {"resources": {"limits": {"memory": "3Gi"}}}
    assert "ResourceExceeded" in refused(ask(request(larger, pod("s3://models/a"), subResource="resize")))


@pytest.mark.attack(1)
def test_a_scale_request_is_judged_as_the_scaled_deployment() -> None:
    scaled = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "iris"}, "spec": {"replicas": 6}}
    running = {"metadata": {"name": "iris", "namespace": "ml"}, "apiVersion": "apps/v1", "kind": "Deployment"}
    running["metadata"]["annotations"] = {  # type: ignore[index]
        "kubectl-serve.dev/model": "s3://models/a.joblib",
        "kubectl-serve.dev/mode": "deployment",
    }
    completed = judge(running, FACTS).deployment
    asked = request(scaled, scaled | {"spec": {"replicas": 1}}, namespace="ml", name="iris", subResource="scale")
    assert "ScaleNotAllowed" in refused(ask(asked, known=completed))
    assert ask(asked, known=None)["allowed"]


@pytest.mark.attack(5)
def test_only_the_requesting_user_shows_who_made_an_object() -> None:
    forged = knative()
    forged["metadata"] |= {
        "labels": {"kubectl-serve.dev/deployment": "iris", "app.kubernetes.io/managed-by": "kubectl-serve"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "iris", "controller": True}],
    }
    mapping = leading("DomainMapping", **forged["metadata"]["labels"])
    for each in (forged, mapping):
        assert not ask(request(each), PRIVATE)["allowed"]
        assert ask(request(each, userInfo={"username": SERVER_USERNAME}), PRIVATE)["allowed"]
    assert not ask(request(leading("Route"), userInfo={"username": SERVER_USERNAME}), PRIVATE)["allowed"]


@pytest.mark.attack(5)
def test_knatives_controller_makes_revisions_and_routes_but_nothing_else() -> None:
    controller = {"username": KNATIVE_USERNAME}
    assert ask(request(knative("Revision"), userInfo=controller))["allowed"]
    assert ask(request(leading("Route"), userInfo=controller), PRIVATE)["allowed"]
    assert not ask(request(leading("DomainMapping"), userInfo=controller), PRIVATE)["allowed"]
    assert not ask(request(knative("Service"), userInfo=controller))["allowed"]
    assert not ask(request(pod("s3://elsewhere/a"), userInfo=controller))["allowed"]


@pytest.mark.attack(3)
def test_a_label_that_the_request_removes_still_counts() -> None:
    context = context_with("match: {objectSelector: {matchLabels: {risk: high}}}\n" + STORES)
    before = deployment()
    before["metadata"]["labels"]["risk"] = "high"
    assert not ask(request(deployment("s3://elsewhere/a.joblib"), before), context)["allowed"]


@pytest.mark.attack(6)
def test_a_finalizer_can_be_removed_whatever_the_policies_say() -> None:
    before = deployment("s3://elsewhere/a.joblib")
    before["metadata"] |= {"finalizers": ["example.com/x"], "deletionTimestamp": "2026-11-18T00:00:00Z"}
    after = json.loads(json.dumps(before))
    del after["metadata"]["finalizers"]
    assert ask(request(after, before))["allowed"]


@pytest.mark.parametrize(
    "kept", ["managedFields", "resourceVersion", "generation", "finalizers", "ownerReferences", "uid"]
)
def test_notes_of_the_api_server_and_controllers_are_no_change(kept: str) -> None:
    before = deployment("s3://elsewhere/a.joblib")
    assert not ask(request(before))["allowed"]
    assert ask(request(before | {"metadata": before["metadata"] | {kept: "another"}}, before))["allowed"]


@pytest.mark.attack(6)
def test_an_object_that_is_being_deleted_is_judged() -> None:
    before = deployment()
    before["metadata"] |= {"finalizers": ["example.com/x"], "deletionTimestamp": "2026-11-18T00:00:00Z"}
    after = deployment("s3://elsewhere/a.joblib")
    after["metadata"] |= before["metadata"] | {"annotations": after["metadata"]["annotations"]}
    assert not ask(request(after, before))["allowed"]
    for wide, narrow in (
        (leading("Route"), leading("Route", **LOCAL)),
        (pod("s3://elsewhere/a"), pod("s3://models/a")),
    ):
        for each in (wide, narrow):
            each["metadata"] |= {"finalizers": ["example.com/x"], "deletionTimestamp": "2026-11-18T00:00:00Z"}
        assert not ask(request(wide, narrow), PRIVATE)["allowed"], "be it the labels or the spec alone"


MOUNTED = [{"name": "v", "mountPath": "/mnt/x/..//models"}]
SERVING = {"containers": [{"name": "c", "image": "example.com/c:1", **MEMORY, "volumeMounts": MOUNTED}]}
SECRET = {"name": "stolen"}
HIDING_PLACES: dict[str, JsonObject] = {
    "an init container": {"initContainers": [{"name": "i", "image": "evil.example/i:1", **MEMORY}]},
    "a native sidecar": {"initContainers": [{"name": "i", "image": "evil.example/i:1", "restartPolicy": "Always"}]},
    "an image volume": {"volumes": [{"name": "v", "image": {"reference": "evil.example/m:1"}}]},
    "envFrom": {"containers": [{"name": "c", "image": "example.com/c:1", "envFrom": [{"secretRef": SECRET}]}]},
    "an environment variable": {"containers": [
        {"name": "c", "image": "example.com/c:1", "env": [{"name": "A", "valueFrom": {"secretKeyRef": SECRET}}]}]},
    "a secret volume": {"volumes": [{"name": "v", "secret": {"secretName": "stolen"}}]},
    "a projected volume": {"volumes": [{"name": "v", "projected": {"sources": [{"secret": SECRET}]}}]},
    "a CSI volume": {"volumes": [{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": SECRET}}]},
    "an Azure file": {"volumes": [{"name": "v", "azureFile": {"secretName": "stolen"}}]},
    "a flex volume": {"volumes": [{"name": "v", "flexVolume": {"driver": "d", "secretRef": SECRET}}]},
    "a claim where the model is": SERVING | {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
    "an image where the model is": SERVING | {"volumes": [{"name": "v", "image": {"reference": "example.com/m:1"}}]},
    "a folder of the node where the model is": SERVING | {"volumes": [{"name": "v", "hostPath": {"path": "/m"}}]},
    "a share where the model is": SERVING | {"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]},
}  # fmt: skip


@pytest.mark.attack(7)
@pytest.mark.parametrize("more", HIDING_PLACES.values(), ids=HIDING_PLACES.keys())
@pytest.mark.parametrize("kind", ["Pod", "Service"])
def test_forbidden_content_is_found_everywhere_in_a_pod(kind: str, more: JsonObject) -> None:
    context = context_with(STORES + "  - {name: secrets, secrets: {deny: [stolen]}}")
    made = pod("s3://models/a") if kind == "Pod" else knative("Service", "s3://models/a")
    assert ask(request(made), context)["allowed"]
    spec = made["spec"] if kind == "Pod" else made["spec"]["template"]["spec"]
    loading = spec["initContainers"]
    spec |= more
    spec["initContainers"] = [*loading, *more.get("initContainers", [])]
    found = {line.split(":")[0] for line in refused(ask(request(made), context)).splitlines()}
    assert found & {"ImageNotAllowed", "SecretNotAllowed", "SourceNotAllowed", "SourceUnreadable"}


@pytest.mark.attack(7)
@pytest.mark.parametrize(("secret", "allowed"), [("hub", True), ("stolen", False)])
def test_the_secret_of_the_loaders_token_is_judged(secret: str, allowed: bool) -> None:
    context = context_with(STORES + "  - {name: secrets, secrets: {deny: [stolen]}}")
    made = pod("s3://models/a")
    reference = {"name": secret, "key": "any"}
    made["spec"]["initContainers"][0]["env"] = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}}]

    response = ask(request(made), context)

    assert response["allowed"] is allowed
    if not allowed:
        assert "SecretNotAllowed: spec.initContainers[0].env[0].valueFrom.secretKeyRef" in refused(response)


@pytest.mark.attack(8)
def test_last_applied_and_look_alike_keys_do_not_count() -> None:
    disguised = deployment("s3://elsewhere/a.joblib")
    disguised["metadata"]["annotations"] |= {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(deployment()),
        "kubectl-serve.dev/mоdel": "s3://models/a.joblib",
        "KUBECTL-SERVE.dev/model": "s3://models/a.joblib",
    }
    assert "metadata.annotations[kubectl-serve.dev/model]" in refused(ask(request(disguised)))


@pytest.mark.attack(19)
def test_an_exception_applies_until_it_ends_with_a_warning() -> None:
    exception = read_exception(
        document(
            "PolicyException",
            "{policy: p0, rules: [places], match: {namespace: ml, name: iris}, expires: '2026-11-18T00:00:01Z',"
            " reason: we move, ticket: OPS-1}",
            namespace="kubectl-serve",
        )
    )
    asked = request(deployment("s3://elsewhere/a.joblib"))
    during = ask(asked, exceptions=(exception,))
    assert during["allowed"]
    assert "suspends p0/places until 2026-11-18T00:00:01Z" in during["warnings"][0]
    after = datetime(2026, 11, 18, 0, 0, 1, tzinfo=UTC)
    assert not ask(asked, exceptions=(exception,), now=after)["allowed"]


@pytest.mark.attack(19)
@pytest.mark.parametrize("left_out", ["expires", "reason", "ticket"])
def test_an_exception_without_an_end_a_reason_or_a_ticket_is_never_stored(left_out: str) -> None:
    spec = {
        "policy": "p0", "rules": ["places"], "match": {"namespace": "ml"}, "expires": "2030-01-01T00:00:00Z",
        "reason": "r", "ticket": "t",
    }  # fmt: skip
    made = document("PolicyException", json.dumps(spec), namespace="kubectl-serve")
    assert ask(request(made))["allowed"]
    del made["spec"][left_out]
    assert f"spec.{left_out}: it is missing" in refused(ask(request(made)))
    with pytest.raises(PolicyError):
        read_exception(made)  # nor does one count that was stored past us
    made["spec"][left_out] = "2030-01-01T00:00:00" if left_out == "expires" else ""
    assert f"spec.{left_out}" in refused(ask(request(made))), "nor with one that says nothing, or not when"


@pytest.mark.parametrize(
    ("policy", "rules", "said"),
    [
        ("p0", ["places"], ""),
        (
            "p0",
            ["places", "placse"],
            "spec.rules[1]: the exception names rule placse of policy p0, which does not exist.",
        ),
        ("p00", ["places"], "spec.policy: the exception names ServingPolicy p00, which does not exist."),
    ],
)
def test_an_exception_for_unknown_rules_is_stored_with_a_warning(policy: str, rules: list[str], said: str) -> None:
    spec = {
        "policy": policy, "rules": rules, "match": {"namespace": "ml"}, "expires": "2030-01-01T00:00:00Z",
        "reason": "r", "ticket": "t",
    }  # fmt: skip
    answer = ask(request(document("PolicyException", json.dumps(spec), namespace="kubectl-serve")))
    assert answer["allowed"]
    assert said in "\n".join(answer.get("warnings", []))
    assert bool(answer.get("warnings")) is bool(said)


@pytest.mark.attack(19)
def test_the_narrowest_exception_applies() -> None:
    def exception(name: str, match: str) -> PolicyException:
        spec = (
            f"{{policy: p0, rules: [places], match: {{namespace: ml, name: '{match}'}}, ticket: T,"
            " expires: '2030-01-01T00:00:00Z', reason: r}"
        )
        return read_exception(document("PolicyException", spec, name, namespace="kubectl-serve"))

    asked = request(deployment("s3://elsewhere/a.joblib"))
    found = (exception("a-wide", "*"), exception("b-less-wide", "ir*"), exception("c-narrow", "iris"))
    for order in (found, found[::-1]):
        assert "exception c-narrow suspends" in refused_not(ask(asked, exceptions=order))
    assert "exception b-less-wide suspends" in refused_not(ask(asked, exceptions=found[:2]))
    elsewhere = exception("other", "other")
    assert not ask(asked, exceptions=(elsewhere,))["allowed"]


@pytest.mark.attack(19)
@pytest.mark.parametrize(
    "other",
    [
        {"policy": "p1"},
        {"rules": ["images"]},
        {"match": {"namespace": "mlops"}},
        {"match": {"namespace": "ml", "name": "iri"}},
        {"match": {"namespace": "ml", "name": "*-iris"}},
    ],
    ids=str,
)
def test_an_exception_applies_only_to_what_it_names(other: JsonObject) -> None:
    spec = {
        "policy": "p0", "rules": ["places"], "match": {"namespace": "ml", "name": "iris"},
        "expires": "2030-01-01T00:00:00Z", "reason": "r", "ticket": "t",
    }  # fmt: skip

    def answered(about: JsonObject) -> bool:
        made = document("PolicyException", json.dumps(spec | about), namespace="kubectl-serve")
        asked = request(deployment("s3://elsewhere/a.joblib"))
        return bool(ask(asked, exceptions=(read_exception(made),))["allowed"])

    assert answered({})
    assert not answered(other)


@pytest.mark.parametrize("namespace", ["ml", "default", ""])
@pytest.mark.attack(19)
def test_a_users_own_exception_is_refused(namespace: str) -> None:
    spec = (
        "{policy: p0, rules: [places], match: {namespace: ml}, expires: '2030-01-01T00:00:00Z', reason: r, ticket: t}"
    )
    own = document("PolicyException", spec, namespace=namespace)
    assert "ExceptionElsewhere" in refused(ask(request(own)))


def test_a_policy_that_cannot_be_read_is_never_stored() -> None:
    broken = document("ServingPolicy", "rules: [{name: a, expression: {cel: 'object.', message: x}}]")
    assert refused(ask(request(broken))).startswith("InvalidPolicy: spec.rules[0].expression.cel: ")


@pytest.mark.attack(20)
def test_a_stored_policy_that_cannot_be_read_refuses_each_object() -> None:
    broken = stored_policy(document("ServingPolicy", "rules: [{name: a}]", "old"))
    base = default_context()
    context = ClusterContext(base.loader, base.runtimes, policies=(broken,))
    assert "PolicyUnreadable" in refused(ask(request(deployment()), context))


@pytest.mark.attack(15)
def test_a_secret_in_a_uri_is_never_repeated() -> None:
    context = context_with(STORES + "  - {name: pinned, pinned: {}}\n  - {name: signed, signed: {}}")
    for text in ("https://user:hunter2@elsewhere.example/a", "https://elsewhere.example/a?X-Amz-Signature=hunter2"):
        read = pod("s3://models/a")
        read["spec"]["containers"][0]["env"] = [{"name": "STORAGE_URI", "value": text}]
        for made, codes in (
            (pod(text), {"SourceUnreadable", "SourceUnknown"}),
            (read, {"SourceUnreadable", "ModelNotPinned", "ModelNotSigned"}),
        ):
            lines = refused(ask(request(made), context)).splitlines()
            assert {line.split(":")[0] for line in lines} == codes
            assert not any("hunter2" in line for line in lines)


@pytest.mark.attack(5)
def test_the_platforms_sidecars_are_known_by_their_images_not_their_names() -> None:
    manifest = pod("s3://models/a")
    manifest["spec"]["containers"].append({"name": "queue-proxy", "image": "example.org/queue@sha256:1"})
    assert ask(request(manifest))["allowed"]
    manifest["spec"]["containers"][-1]["image"] = "evil.example/queue:1"
    assert not ask(request(manifest))["allowed"]


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT"])
def test_deletion_is_always_admitted(operation: str) -> None:
    assert ask(request(None, deployment("s3://elsewhere/a.joblib"), operation=operation))["allowed"]


@pytest.mark.attack(22)
def test_an_object_of_three_megabytes_is_refused_for_its_size() -> None:
    big = pod("s3://models/a")
    big["spec"]["containers"][0]["env"] = [{"name": f"N{i}", "value": "v" * 90} for i in range(20_000)]
    assert "TooLarge: metadata: it is too large: it has more than 5,000 values" in refused(ask(request(big)))
    stored = big | {"metadata": {**big["metadata"], "finalizers": ["a"]}}
    assert ask(request(big, stored))["allowed"], "finalizers may go"
    assert ask(request(pod("s3://models/a"), big))["allowed"], "the way out"


@pytest.mark.parametrize("kind", ["Deployment", "Service", "Pod", "InferenceService"])
@pytest.mark.attack(22)
def test_an_object_too_large_to_judge_breaks_every_rule(kind: str) -> None:
    """At admission, in the audit, and offline."""
    made = dict(bodies("containers", 60_000, f"{kind} made"))[f"{kind} made"]
    large = json.loads(made)["request"]["object"]
    assert refused(ask(made)).startswith("TooLarge: metadata: it is too large: it has more than 1,000 ")
    audited = Auditor(FACTS, (), NOW).judge(large)
    assert audited is not None
    assert {finding.code for result in audited.verdict.results for finding in result.findings} == {"TooLarge"}
    (tried,) = dry_run.run([document("ServingPolicy", STORES), large], FACTS, NOW).tried
    assert tried.outcome in ("Deny", "Refused")


@pytest.mark.attack(22)
def test_all_rules_together_find_no_more_than_a_message_lists() -> None:
    """Each rule still has one finding, for the audit."""
    many = pod("s3://models/a")
    many["spec"]["containers"] = [{"name": f"c{i}", "image": f"evil.com/c{i}", **MEMORY} for i in range(300)]
    subject = subject_of(many, context_with(*[STORES] * 30))
    assert subject is not None
    verdict = judge_policies(subject, context_with(*[STORES] * 30).policies, (), NOW)
    found = [len(result.findings) for result in verdict.results if result.rule == "images"]
    assert (found[0], *found[1:]) == (MAX_PROBLEMS + 1, *[1] * 29)


@pytest.mark.parametrize("count", [1000, pytest.param(15_000, marks=pytest.mark.slow)])
@pytest.mark.attack(9)
def test_hostile_reviews_get_a_denial_or_http_400(count: int) -> None:
    """The answer is well-formed, or MalformedError, which is HTTP 400. Never an internal error."""
    rng, good = random.Random(7), reviews()
    answered = malformed = 0
    for _ in range(count):
        body = spoilt(rng, good)
        try:
            response = ask(body)
        except review.MalformedError:
            malformed += 1
            continue
        answered += 1
        assert set(response) <= {"uid", "allowed", "status", "warnings"}
        assert response.get("status", {}).get("code") != 500
    assert answered > count // 40
    assert malformed > count // 4


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(objects())
@pytest.mark.attack(9)
def test_any_value_in_any_place_is_answered(manifest: JsonObject) -> None:
    try:
        response = ask(request(manifest))
    except review.MalformedError:
        return
    assert response.get("status", {}).get("code") != 500


NOT_A_LINE = "x\nCompliant: a line of its own\u202e\x1b[31m"


@pytest.mark.attack(8, 12)
@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda each: each["kind"])
def test_no_text_of_an_object_looks_like_a_line_of_the_answer(manifest: JsonObject) -> None:
    strict = context_with(
        "rules: [{name: a, sources: {allow: ['s3://x']}}, {name: b, images: {allow: [x.example]}},"
        "{name: c, resources: {perReplica: {memory: 1, cpu: 1}}}, {name: d, label: {key: a}},"
        "{name: e, secrets: {allow: [x]}}, {name: f, serviceAccounts: {allow: [x]}},"
        "{name: g, containers: {variables: ['*']}}, {name: h, formats: {allow: [x]}}, {name: i, pinned: {}},"
        "{name: j, visibility: {allow: [x]}}]"
    )
    refusals = 0
    codes = {*CATALOGUE, *(reason.code for reason in REASONS)}
    for *steps, last in places(manifest):
        for forged in ("value", "name"):
            changed = json.loads(json.dumps(manifest))
            node = changed
            for step in steps:
                node = node[step]
            if forged == "value":
                node[last] = NOT_A_LINE
            elif isinstance(node, dict):
                node[NOT_A_LINE] = node.pop(last)
            response = ask(request(changed, namespace="ml"), strict)
            said = [*response.get("status", {}).get("message", "").splitlines(), *response.get("warnings", [])]
            assert all(line.split(":")[0] in codes and line.isprintable() for line in said), said
            assert not any(line.startswith("Compliant") for line in said)
            refusals += not response["allowed"]
    assert refusals > 10


def test_the_patch_of_the_mutator_passes_the_validator() -> None:
    context = context_with("defaults: {scale: 0..2, visibility: cluster-local}\n" + STORES)
    raw = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "namespace": "ml",
            "annotations": {"kubectl-serve.dev/model": "s3://models/a.joblib"},
        },
    }
    answer, _ = review.review(request(raw), lambda asked: review.mutate(asked, context))
    patch = json.loads(base64.b64decode(json.loads(answer)["response"]["patch"]))
    assert {"op": "add", "path": "/metadata/annotations/kubectl-serve.dev~1scale", "value": "0..2"} in patch
    assert ask(request(judge(raw, context).deployment), context)["allowed"]
