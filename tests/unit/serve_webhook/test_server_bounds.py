"""What the server cannot write although RBAC allows it: a stolen token does not give control of the cluster.

All tests of the reconciler and its neighbours check that the server's own writes pass: their API evaluates the same
policies for each write.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from serve_core.api.annotations import EARLIER_STATE, HANDOVER, SERVICE
from serve_core.base.constants import (
    CONDITION_READY,
    DEPLOYMENT_LABEL,
    NEVER_JUDGED,
    PREFETCH_LABEL,
    SERVED_LABEL,
    SERVER_USERNAME,
)
from serve_core.base.json import JsonObject
from serve_core.knative.traffic import MIN_SCALE, SCALING
from serve_webhook.failure_policy import GUARDED
from support.bounds import FILE, POLICIES, Write, about, documents, refusals

pytestmark = pytest.mark.attack(37)

NOTE_OF_MINIMUM = MIN_SCALE.replace("/", "~")
WRITING = {"create", "update", "patch", "delete", "deletecollection", "*"}
NO_ENDPOINT = ("apps", "deployments/finalizers")
"""The API has no such subresource: the right is looked up where an owner reference blocks the owner's deletion."""


def written_by_rbac() -> Iterator[tuple[str, str, str]]:
    """Group, resource and namespace (empty for all) of whatever the server's roles let it write."""
    for file in (FILE.parent / "10-rbac.yaml", FILE.parents[1] / "istio/rbac.yaml"):
        for role in yaml.safe_load_all(file.read_text()):
            for rule in role.get("rules", []):
                if WRITING & set(rule["verbs"]):
                    namespace = role["metadata"].get("namespace", "")
                    yield from ((g, r, namespace) for g in rule["apiGroups"] for r in rule["resources"])


def test_every_kind_that_the_server_may_write_is_bounded() -> None:
    found = {each for each in written_by_rbac() if each[:2] != NO_ENDPOINT}
    assert ("apps", "deployments/status", "") in found
    for group, resource, namespace in found:
        for operation in ("CREATE", "UPDATE", "DELETE"):
            where = namespace or "any"
            assert list(about(group, resource, where, operation)), f"{operation} {group} {resource} in {where}"


def test_a_policy_holds_for_the_server_alone_and_always() -> None:
    bindings = documents("ValidatingAdmissionPolicyBinding")
    assert set(bindings) == set(POLICIES)
    for name, policy in POLICIES.items():
        assert bindings[name]["spec"] == {"policyName": name, "validationActions": ["Deny"]}
        assert policy["spec"]["failurePolicy"] == "Fail"
        # With a paramKind, a missing parameter refuses all requests: it is evaluated before the conditions.
        assert "paramKind" not in policy["spec"]
        (condition,) = policy["spec"]["matchConditions"]
        assert condition["expression"] == f'request.userInfo.username == "{SERVER_USERNAME}"'


def test_what_the_policies_name_is_what_the_code_names() -> None:
    text = FILE.read_text()
    for name in (HANDOVER, SERVICE, *EARLIER_STATE, *GUARDED, *NEVER_JUDGED):
        assert f'"{name}"' in text


DEPLOYMENT: JsonObject = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "iris",
        "namespace": "models",
        "uid": "u1",
        "resourceVersion": "1",
        "generation": 2,
        "labels": {"team": "ml", SERVED_LABEL: "true"},
        "annotations": {"kubectl-serve.dev/model": "s3://models/iris", "note": "x"},
        "ownerReferences": [{"kind": "Application", "name": "a", "uid": "u0"}],
    },
    "spec": {
        "replicas": 1,
        "paused": True,
        "selector": {"matchLabels": {"app": "iris"}},
        "template": {"metadata": {}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}},
    },
    "status": {
        "replicas": 1,
        "conditions": [{"type": "Available", "status": "True"}, {"type": CONDITION_READY, "status": "True"}],
    },
}
PLAIN = copy.deepcopy(DEPLOYMENT)
PLAIN["metadata"] |= {"labels": {"team": "ml"}, "annotations": {"note": "x"}}
PLAIN["status"] = {"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]}

OWNER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "iris", "uid": "u1", "controller": True}
OWNED: JsonObject = {
    "metadata": {
        "name": "iris",
        "namespace": "models",
        "labels": {DEPLOYMENT_LABEL: "iris"},
        "ownerReferences": [OWNER],
    }
}


def owned(api_version: str, kind: str, spec: JsonObject) -> JsonObject:
    return {"apiVersion": api_version, "kind": kind, **copy.deepcopy(OWNED), "spec": spec}


IN_ADVANCE = {
    "template": {
        "metadata": {"labels": {PREFETCH_LABEL: "iris"}},
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [{"name": "model-prefetch", "image": "loader:1"}],
            "volumes": [{"name": "model", "csi": {"driver": "cache.kubectl-serve.dev"}}],
        },
    }
}


def in_advance(kind: str) -> JsonObject:
    """What loads a model on nodes in advance."""
    made = owned("apps/v1", kind, copy.deepcopy(IN_ADVANCE))
    made["metadata"]["name"] = "iris-prefetch-0123456789"
    made["metadata"]["labels"][PREFETCH_LABEL] = "iris"
    return made


SELECTED = {"selector": {"matchLabels": {"serving.knative.dev/service": "iris"}}}
MADE = {
    "services.serving.knative.dev": owned(
        "serving.knative.dev/v1",
        "Service",
        {"template": {"metadata": {"labels": {DEPLOYMENT_LABEL: "iris"}}, "spec": {"containers": [{"image": "a"}]}}},
    ),
    "domainmappings.serving.knative.dev": owned(
        "serving.knative.dev/v1beta1",
        "DomainMapping",
        {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "iris", "namespace": "models"}},
    ),
    "services": owned("v1", "Service", {"selector": {"app": "iris"}, "type": "ClusterIP", "ports": [{"port": 80}]}),
    "horizontalpodautoscalers.autoscaling": owned(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "iris"}, "maxReplicas": 2},
    ),
    "peerauthentications.security.istio.io": owned(
        "security.istio.io/v1", "PeerAuthentication", {**SELECTED, "mtls": {"mode": "STRICT"}}
    ),
    "requestauthentications.security.istio.io": owned("security.istio.io/v1", "RequestAuthentication", SELECTED),
    "authorizationpolicies.security.istio.io": owned(
        "security.istio.io/v1", "AuthorizationPolicy", {**SELECTED, "action": "ALLOW"}
    ),
    "statefulsets.apps": in_advance("StatefulSet"),
    "daemonsets.apps": in_advance("DaemonSet"),
    "telemetries.telemetry.istio.io": owned(
        "telemetry.istio.io/v1", "Telemetry", {"selector": {"matchLabels": {DEPLOYMENT_LABEL: "iris"}}}
    ),
}


def changed(manifest: JsonObject, path: str, value: Any) -> JsonObject:
    """A copy with ``value`` at a path of keys and numbers between slashes; ``None`` takes it off."""
    made = copy.deepcopy(manifest)
    *steps, last = [int(step) if step.isdigit() else step.replace("~", "/") for step in path.split("/")]
    owner: Any = made
    for step in steps:
        owner = owner[step]
    if value is None:
        del owner[last]
    else:
        owner[last] = value
    return made


def update(new: JsonObject, old: JsonObject, resource: str = "deployments", **of: str) -> list[str]:
    metadata = new["metadata"]
    where = {"group": "apps", "namespace": metadata.get("namespace", ""), "name": metadata["name"]} | of
    return refusals(Write("UPDATE", resource=resource, new=new, old=old, **where))


def make(at: str, manifest: JsonObject, operation: str = "CREATE", old: JsonObject | None = None) -> list[str]:
    resource, _, group = at.partition(".")
    metadata = (old if operation == "DELETE" and old else manifest)["metadata"]
    new = None if operation == "DELETE" else manifest
    return refusals(Write(operation, group, resource, metadata["namespace"], metadata["name"], new, old))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata/annotations/kubectl-serve.dev~service", "iris-model"),
        ("metadata/labels/kubectl-serve.dev~served", None),
        ("metadata/resourceVersion", "2"),
        ("spec/replicas", 0),
        ("spec/paused", None),
    ],
)
def test_the_server_notes_parks_and_releases_what_is_served(path: str, value: Any) -> None:
    assert update(changed(DEPLOYMENT, path, value), DEPLOYMENT) == []
    assert update(changed(DEPLOYMENT, path, value), DEPLOYMENT, "deployments/status") == []


BEYOND_A_DEPLOYMENT = [
    ("spec/template/spec/containers/0/image", "evil:1"),
    ("spec/template/spec/serviceAccountName", "admin"),
    ("spec/template/metadata/labels", {"app": "other"}),
    ("spec/template", {}),
    ("spec/selector/matchLabels/app", "other"),
    ("spec/strategy", {"type": "Recreate"}),
    ("spec/replicas", 50),
    ("spec/minReadySeconds", 1),
    ("metadata/annotations/kubectl-serve.dev~model", "s3://evil/model"),
    ("metadata/annotations/kubectl-serve.dev~model", None),
    ("metadata/annotations/kubectl-serve.dev~completed-with", "{}"),
    ("metadata/annotations/kubectl-serve.dev~replicas", "50"),
    ("metadata/annotations/kubectl-serve.dev~handover", "to-knative"),
    ("metadata/annotations/kubectl-serve.dev~promoted", "iris-00001"),
    ("metadata/annotations/note", None),
    ("metadata/annotations/argocd.argoproj.io~sync-options", "x"),
    ("metadata/labels/team", "other"),
    ("metadata/labels/kubectl-serve.dev~adopt", "x"),
    ("metadata/finalizers", ["hold/it"]),
    ("metadata/ownerReferences", []),
    ("status/replicas", 7),
    ("status/conditions/0/status", "False"),
    ("status/conditions/0", None),
]


@pytest.mark.parametrize(("path", "value"), BEYOND_A_DEPLOYMENT)
def test_of_a_served_deployment_the_server_changes_nothing_else(path: str, value: Any) -> None:
    for resource in ("deployments", "deployments/status"):
        assert update(changed(DEPLOYMENT, path, value), DEPLOYMENT, resource), resource


def test_the_server_removes_its_own_annotations() -> None:
    for key in (HANDOVER, SERVICE, *EARLIER_STATE):
        noted = changed(DEPLOYMENT, f"metadata/annotations/{key.replace('/', '~')}", "x")
        assert update(DEPLOYMENT, noted) == []


def test_what_is_paused_by_others_is_not_the_servers_to_pause() -> None:
    running = changed(DEPLOYMENT, "spec/paused", None)
    assert update(DEPLOYMENT, running)
    assert update(changed(running, "spec/paused", False), running) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec/replicas", 0),
        ("metadata/annotations/kubectl-serve.dev~url", "x"),
        ("metadata/annotations/kubectl-serve.dev~model", "s3://a/b"),
        ("metadata/labels/kubectl-serve.dev~served", "true"),
        ("status/conditions/0", {"type": CONDITION_READY, "status": "True"}),
        ("metadata/resourceVersion", "2"),
    ],
)
def test_a_deployment_that_is_not_served_is_left_alone(path: str, value: Any) -> None:
    for resource in ("deployments", "deployments/status"):
        assert update(changed(PLAIN, path, value), PLAIN, resource), resource


def test_a_deployment_that_was_served_is_released() -> None:
    given_back = changed(DEPLOYMENT, "metadata/labels/kubectl-serve.dev~served", None)
    last = changed(given_back, "metadata/annotations", {"note": "x", HANDOVER: "from-knative"})
    assert update(changed(last, "metadata/annotations/kubectl-serve.dev~handover", None), last) == []
    with_conditions = changed(PLAIN, "status", DEPLOYMENT["status"])
    assert update(PLAIN, with_conditions, "deployments/status") == []


@pytest.mark.parametrize("namespace", [*sorted(NEVER_JUDGED), "istio-system"])
def test_the_server_writes_nothing_in_the_namespaces_of_the_platform(namespace: str) -> None:
    there = changed(DEPLOYMENT, "metadata/namespace", namespace)
    assert update(changed(there, "spec/replicas", 0), there)
    for at, manifest in MADE.items():
        elsewhere = changed(manifest, "metadata/namespace", namespace)
        assert make(at, elsewhere), at
        assert make(at, elsewhere, "DELETE", elsewhere), at


def test_the_server_makes_and_deletes_no_deployment() -> None:
    assert make("deployments.apps", DEPLOYMENT)
    assert make("deployments.apps", DEPLOYMENT, "DELETE", DEPLOYMENT)


@pytest.mark.parametrize("at", MADE)
def test_what_a_deployment_becomes_is_made_changed_and_deleted(at: str) -> None:
    made = MADE[at]
    assert make(at, made) == []
    assert make(at, made, "UPDATE", made) == []
    assert make(at, made, "DELETE", made) == []
    orphan = changed(made, "metadata/ownerReferences", None)
    assert make(at, made, "UPDATE", orphan) == [], "an orphan is taken back"
    assert make(at, orphan, "UPDATE", orphan), "and not left one"
    assert make(at, made, "DELETE", orphan) == []
    bare = changed(made, "metadata/labels", {})
    assert make(at, made, "UPDATE", bare) == [], "a label that was taken off comes back"


UNOWNED: list[tuple[str, Callable[[JsonObject], JsonObject]]] = [
    ("no label", lambda made: changed(made, "metadata/labels", {})),
    ("another's label", lambda made: changed(made, "metadata/labels/kubectl-serve.dev~deployment", "other")),
    ("no owner", lambda made: changed(made, "metadata/ownerReferences", None)),
    ("an owner that does not control", lambda made: changed(made, "metadata/ownerReferences/0/controller", False)),
    ("an owner of another kind", lambda made: changed(made, "metadata/ownerReferences/0/kind", "ReplicaSet")),
    ("an owner of another group", lambda made: changed(made, "metadata/ownerReferences/0/apiVersion", "evil/v1")),
]


@pytest.mark.parametrize("at", MADE)
@pytest.mark.parametrize("spoil", [spoil for _, spoil in UNOWNED], ids=[name for name, _ in UNOWNED])
def test_nothing_is_made_that_belongs_to_no_deployment(at: str, spoil: Callable[[JsonObject], JsonObject]) -> None:
    assert make(at, spoil(MADE[at]))


@pytest.mark.parametrize("at", MADE)
def test_objects_of_others_are_neither_changed_nor_deleted(at: str) -> None:
    made = MADE[at]
    without_both = changed(changed(made, "metadata/ownerReferences", None), "metadata/labels", {})
    anothers = changed(
        made, "metadata/ownerReferences/0", {**OWNER, "apiVersion": "serving.knative.dev/v1", "kind": "Route"}
    )
    for theirs in (without_both, anothers):
        assert make(at, made, "UPDATE", theirs)
        assert make(at, made, "DELETE", theirs)


@pytest.mark.parametrize(
    ("at", "path", "value"),
    [
        ("services", "spec/type", "LoadBalancer"),
        ("services", "spec/type", "NodePort"),
        ("services", "spec/type", "ExternalName"),
        ("services", "spec/externalIPs", ["10.0.0.1"]),
        ("services", "spec/externalName", "evil.example"),
        ("services", "spec/selector", None),
        ("services", "spec/selector", {}),
        ("horizontalpodautoscalers.autoscaling", "spec/scaleTargetRef/name", "other"),
        ("horizontalpodautoscalers.autoscaling", "spec/scaleTargetRef/kind", "StatefulSet"),
        ("domainmappings.serving.knative.dev", "spec/ref/kind", "Broker"),
        ("domainmappings.serving.knative.dev", "spec/ref/apiVersion", "v1"),
        ("domainmappings.serving.knative.dev", "spec/ref/namespace", "other"),
        ("services.serving.knative.dev", "spec/template/metadata/labels", {}),
        ("peerauthentications.security.istio.io", "spec/mtls/mode", "DISABLE"),
        ("peerauthentications.security.istio.io", "spec/selector", None),
        ("requestauthentications.security.istio.io", "spec/selector/matchLabels", {"app": "gateway"}),
        ("authorizationpolicies.security.istio.io", "spec/action", "DENY"),
        ("authorizationpolicies.security.istio.io", "spec/action", "CUSTOM"),
        ("authorizationpolicies.security.istio.io", "spec/selector/matchLabels", {}),
        ("telemetries.telemetry.istio.io", "spec/selector/matchLabels/kubectl-serve.dev~deployment", "other"),
        *(
            (f"{kind}.apps", path, value)
            for kind in ("statefulsets", "daemonsets")
            for path, value in (
                ("metadata/name", "iris-5d8f7c9b4d"),
                ("spec/template/metadata/labels/kubectl-serve.dev~prefetch", "other"),
                ("spec/template/spec/automountServiceAccountToken", True),
                ("spec/template/spec/containers", [{"name": "evil", "image": "evil.example/x"}]),
                ("spec/template/spec/containers", [{"name": "model-prefetch"}, {"name": "evil"}]),
                ("spec/template/spec/initContainers", [{"name": "evil"}]),
                ("spec/template/spec/volumes", [{"name": "model", "hostPath": {"path": "/"}}]),
                ("spec/template/spec/volumes", [{"name": "model", "secret": {"secretName": "x"}}]),
            )
        ),
    ],
)
def test_what_is_made_is_what_a_deployment_becomes(at: str, path: str, value: Any) -> None:
    assert make(at, changed(MADE[at], path, value))
    assert make(at, changed(MADE[at], path, value), "UPDATE", MADE[at])


def test_other_sets_that_a_deployment_controls_are_neither_changed_nor_deleted() -> None:
    for kind in ("StatefulSet", "DaemonSet"):
        at = f"{kind.lower()}s.apps"
        theirs = changed(MADE[at], "metadata/name", "iris-5d8f7c9b4d")
        assert make(at, theirs, "DELETE", theirs)
        assert make(at, theirs, "UPDATE", theirs)


REVISION: JsonObject = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Revision",
    "metadata": {
        "name": "iris-00001",
        "namespace": "models",
        "resourceVersion": "1",
        "labels": {DEPLOYMENT_LABEL: "iris"},
        "annotations": {MIN_SCALE: "1", "note": "x"},
        "ownerReferences": [{"apiVersion": "serving.knative.dev/v1", "kind": "Configuration", "name": "iris"}],
    },
    "spec": {"containers": [{"image": "a"}]},
}
REVISIONS = "revisions.serving.knative.dev"


@pytest.mark.parametrize("key", SCALING)
@pytest.mark.parametrize("value", ["0", "6s", None])
def test_the_server_sets_how_a_revision_scales_to_zero(key: str, value: str | None) -> None:
    note, before = key.replace("/", "~"), changed(REVISION, "metadata/annotations", {key: "3", "note": "x"})
    assert make(REVISIONS, changed(before, f"metadata/annotations/{note}", value), "UPDATE", before) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec/containers/0/image", "evil:1"),
        ("spec", None),
        ("metadata/labels", {}),
        ("metadata/labels/serving.knative.dev~routingState", "active"),
        ("metadata/annotations/note", None),
        ("metadata/annotations/autoscaling.knative.dev~max-scale", "99"),
        ("metadata/finalizers", ["hold/it"]),
        ("metadata/ownerReferences", []),
        ("status", {"conditions": []}),
    ],
)
def test_of_a_revision_the_server_changes_nothing_else(path: str, value: Any) -> None:
    assert make(REVISIONS, changed(REVISION, path, value), "UPDATE", REVISION)


def test_revisions_are_neither_made_nor_deleted_nor_are_those_of_others_changed() -> None:
    assert make(REVISIONS, REVISION)
    assert make(REVISIONS, REVISION, "DELETE", REVISION)
    theirs = changed(REVISION, "metadata/labels", {"app": "theirs"})
    assert make(REVISIONS, changed(theirs, f"metadata/annotations/{NOTE_OF_MINIMUM}", "0"), "UPDATE", theirs)
    platform = changed(REVISION, "metadata/namespace", "knative-serving")
    assert make(REVISIONS, changed(platform, f"metadata/annotations/{NOTE_OF_MINIMUM}", "0"), "UPDATE", platform)


REGISTRATION = "admissionregistration.k8s.io"
WEBHOOKS: JsonObject = {
    "metadata": {"name": "kubectl-serve", "labels": {"a": "b"}, "resourceVersion": "1"},
    "webhooks": [
        {
            "name": name,
            "failurePolicy": "Fail",
            "clientConfig": {"service": {"name": "kubectl-serve", "namespace": "kubectl-serve"}, "caBundle": "QQ=="},
            "rules": [{"apiGroups": ["apps"], "resources": ["deployments"]}],
            "matchConditions": [{"name": "a", "expression": "true"}],
            "namespaceSelector": {},
        }
        for name in ("policies.kubectl-serve.dev", "policies-pods.kubectl-serve.dev")
    ],
}


def publish(new: JsonObject, old: JsonObject = WEBHOOKS, **of: str) -> list[str]:
    mutating = update(new, old, "mutatingwebhookconfigurations", group=REGISTRATION, **of)
    validating = update(new, old, "validatingwebhookconfigurations", group=REGISTRATION, **of)
    assert mutating == validating
    return mutating


@pytest.mark.parametrize(
    ("path", "value"),
    [("webhooks/0/clientConfig/caBundle", "Qg=="), ("webhooks/1/failurePolicy", "Ignore"), ("metadata/generation", 2)],
)
def test_the_server_keeps_its_bundle_and_what_is_closed(path: str, value: Any) -> None:
    assert publish(changed(WEBHOOKS, path, value)) == []
    assert publish(changed(WEBHOOKS, "webhooks/0/clientConfig/caBundle", "Qg=="), WEBHOOKS) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("webhooks/0/failurePolicy", "Ignore"),
        ("webhooks/0/clientConfig/url", "https://evil.example"),
        ("webhooks/0/clientConfig/service", None),
        ("webhooks/0/clientConfig/service/namespace", "evil"),
        ("webhooks/0/rules/0/resources", ["secrets"]),
        ("webhooks/0/rules", []),
        ("webhooks/0/matchConditions/0/expression", "false"),
        ("webhooks/0/matchConditions", None),
        ("webhooks/0/namespaceSelector", {"matchLabels": {"a": "b"}}),
        ("webhooks/0/objectSelector", {"matchLabels": {"a": "b"}}),
        ("webhooks/0/timeoutSeconds", 30),
        ("webhooks/0/name", "other.kubectl-serve.dev"),
        ("webhooks/1", None),
        ("webhooks", []),
        ("metadata/labels/a", "c"),
        ("metadata/annotations", {"a": "b"}),
        ("metadata/ownerReferences", [OWNER]),
        ("metadata/finalizers", ["a/b"]),
    ],
)
def test_nothing_else_of_the_webhooks_is_the_servers(path: str, value: Any) -> None:
    assert publish(changed(WEBHOOKS, path, value))


def test_no_webhook_is_added_and_no_other_configuration_is_touched() -> None:
    more = changed(WEBHOOKS, "webhooks", [*WEBHOOKS["webhooks"], {**WEBHOOKS["webhooks"][0], "name": "evil.example"}])
    assert publish(more)
    assert publish(WEBHOOKS, name="cert-manager-webhook")
    for operation in ("CREATE", "DELETE"):
        for resource in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
            assert refusals(Write(operation, REGISTRATION, resource, "", "kubectl-serve", WEBHOOKS, WEBHOOKS))


EVENT: JsonObject = {
    "metadata": {"name": "iris.1", "namespace": "models"},
    "reportingController": "kubectl-serve.dev/server",
    "regarding": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "models", "name": "iris"},
    "note": "The model is ready.",
}


def reported(new: JsonObject | None, old: JsonObject | None, operation: str) -> list[str]:
    return refusals(Write(operation, "events.k8s.io", "events", "models", "iris.1", new, old))


def test_the_servers_events_are_its_own_and_about_deployments_beside_them() -> None:
    assert reported(EVENT, None, "CREATE") == []
    assert reported({**EVENT, "series": {"count": 2}}, EVENT, "UPDATE") == []
    assert reported({**EVENT, "note": "other"}, EVENT, "UPDATE")
    assert reported(None, EVENT, "DELETE")
    for path, value in (
        ("reportingController", "kubelet"),
        ("reportingController", None),
        ("regarding/kind", "Node"),
        ("regarding/namespace", "kube-system"),
        ("regarding", None),
    ):
        assert reported(changed(EVENT, path, value), None, "CREATE"), path
        assert reported(EVENT, changed(EVENT, path, value), "UPDATE"), path


REPORT: JsonObject = {
    "metadata": {
        "name": "kubectl-serve",
        "namespace": "models",
        "labels": {"app.kubernetes.io/managed-by": "kubectl-serve"},
    }
}


def test_the_servers_reports_have_its_name_and_its_label() -> None:
    at = "policyreports.wgpolicyk8s.io"
    bare = changed(REPORT, "metadata/labels", {})
    named = changed(REPORT, "metadata/name", "kyverno")
    assert make(at, REPORT) == make(at, REPORT, "UPDATE", REPORT) == make(at, REPORT, "DELETE", REPORT) == []
    for new, operation, old in (
        (bare, "CREATE", None),
        (named, "CREATE", None),
        (REPORT, "UPDATE", bare),
        (bare, "DELETE", bare),
        (named, "DELETE", named),
    ):
        assert make(at, new, operation, old), operation


SECRET: JsonObject = {
    "metadata": {"name": "kubectl-serve-certificates", "namespace": "kubectl-serve"}, "type": "Opaque"
}  # fmt: skip
LEASE: JsonObject = {"metadata": {"name": "kubectl-serve", "namespace": "kubectl-serve"}}
COMPLETION: JsonObject = {
    "metadata": {"name": "completion-0123456789abcdef", "namespace": "kubectl-serve"}, "immutable": True
}  # fmt: skip


def test_in_its_own_namespace_the_server_writes_three_things() -> None:
    assert make("secrets", SECRET) == make("secrets", SECRET, "UPDATE", SECRET) == []
    assert make("leases.coordination.k8s.io", LEASE) == []
    assert make("leases.coordination.k8s.io", LEASE, "UPDATE", LEASE) == []
    assert make("configmaps", COMPLETION) == make("configmaps", COMPLETION, "DELETE", COMPLETION) == []


@pytest.mark.parametrize(
    ("at", "manifest"),
    [
        ("secrets", changed(SECRET, "type", "kubernetes.io/service-account-token")),
        ("secrets", changed(SECRET, "metadata/name", "other")),
        ("leases.coordination.k8s.io", changed(LEASE, "metadata/name", "other")),
        ("configmaps", changed(COMPLETION, "metadata/name", "kubectl-serve")),
        ("configmaps", changed(COMPLETION, "metadata/name", "kubectl-serve-runtimes")),
        ("configmaps", changed(COMPLETION, "metadata/name", "kube-root-ca.crt")),
        ("configmaps", changed(COMPLETION, "immutable", False)),
        ("configmaps", changed(COMPLETION, "immutable", None)),
    ],
)
def test_and_no_other(at: str, manifest: JsonObject) -> None:
    assert make(at, manifest)
    assert make(at, manifest, "UPDATE", manifest)


def test_what_decides_or_leads_is_not_deleted() -> None:
    assert make("secrets", SECRET, "DELETE", SECRET)
    assert make("leases.coordination.k8s.io", LEASE, "DELETE", LEASE)
    for name in ("kubectl-serve", "kubectl-serve-runtimes"):
        other = changed(COMPLETION, "metadata/name", name)
        assert make("configmaps", other, "DELETE", other)
    assert make("configmaps", COMPLETION, "UPDATE", COMPLETION)


def test_only_the_servers_own_requests_are_judged() -> None:
    for user in ("jane", "system:serviceaccount:kubectl-serve:default", "system:serviceaccount:kubectl:serve"):
        write = Write("UPDATE", "apps", "deployments", "kube-system", "iris", DEPLOYMENT, PLAIN, user)
        assert refusals(write) == []
