"""What a stolen token of the server can write: the real API server refuses all else by admission policies."""

import json
from collections.abc import Iterator

import pytest

from cluster.support import PREFIX, RESTRICTED, SERVER, Json, Namespace, deployment
from serve_core.base.constants import FIELD_MANAGER, SERVER_USERNAME

pytestmark = pytest.mark.attack(37)

THIEF = ("--as", SERVER_USERNAME)
REFUSED = "ValidatingAdmissionPolicy 'kubectl-serve-"
UNKNOWN = 'failed calling webhook "own.kubectl-serve.dev"'
IMAGE = "dev.local/kubectl-serve/versitygw:1.8.0"
MERGE = ("--type=merge", "-p")
POD: Json = {"containers": [{"name": "evil", "image": IMAGE, "securityContext": RESTRICTED}]}
PLAIN: Json = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "plain", "labels": {"app": "plain"}},
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": "plain"}},
        "template": {"metadata": {"labels": {"app": "plain"}}, "spec": {"containers": [{"name": "a", "image": IMAGE}]}},
    },
}
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment"}
DEPLOYMENT, KNATIVE = "deployment", "services.serving.knative.dev"
WEBHOOKS = "validatingwebhookconfiguration"


@pytest.fixture
def iris(empty: Namespace) -> Json:
    """A served Deployment beside one that is not."""
    empty.apply(PLAIN, deployment("iris", "https://example.com/model.joblib", format="sklearn"))
    return empty.get(DEPLOYMENT, "iris")


def steal(namespace: Namespace, *arguments: str, stdin: Json | None = None) -> str:
    """kubectl's error with the server's token; empty if the dry run succeeded."""
    text = None if stdin is None else json.dumps(stdin)
    done = namespace.run("kubectl", *arguments, *THIEF, "--dry-run=server", stdin=text, check=False)
    return done.stderr if done.returncode else ""


def steal_status(namespace: Namespace, name: str, status: Json) -> str:
    """The same of a Deployment's status, by server-side apply: the server may not read that subresource."""
    manifest: Json = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "status": status}
    flags = ("--force-conflicts", "--subresource=status", "--validate=false", f"--field-manager={FIELD_MANAGER}")
    return steal(namespace, "apply", "--server-side", *flags, "-f", "-", stdin=manifest)


def patches() -> Iterator[tuple[str, ...]]:
    """Of a Deployment, whatever it is."""
    templates: list[Json] = [
        {"spec": {"template": {"spec": {"containers": [{"name": "evil", "image": IMAGE}]}}}},
        {"spec": {"template": {"spec": {"serviceAccountName": "admin"}}}},
        {"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}},
        {"spec": {"replicas": 5}},
        {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}},
        {"metadata": {"annotations": {f"{PREFIX}model": "https://evil.example/model"}}},
        {"metadata": {"annotations": {f"{PREFIX}pin": "iris-00001"}}},
        {"metadata": {"annotations": {"someone.else/note": "x"}}},
        {"metadata": {"labels": {"team": "other"}}},
        {"metadata": {"finalizers": ["hold.it/for-ever"]}},
    ]
    for patch in templates:
        yield ("patch", DEPLOYMENT, *MERGE, json.dumps(patch))


def test_of_a_served_deployment_only_notes_are_written(empty: Namespace, iris: Json) -> None:
    for verb, kind, *rest in patches():
        said = steal(empty, verb, kind, "iris", *rest)
        assert REFUSED in said, rest
    assert REFUSED in steal_status(empty, "iris", {"replicas": 7})
    assert REFUSED in steal_status(empty, "iris", {"conditions": [{"type": "Available", "status": "False"}]})
    assert steal_status(empty, "iris", {"conditions": [{"type": f"{PREFIX}Ready", "status": "False"}]}) == ""
    note = {"metadata": {"annotations": {f"{PREFIX}service": "iris-model"}}, "spec": {"replicas": 0}}
    assert steal(empty, "patch", DEPLOYMENT, "iris", *MERGE, json.dumps(note)) == ""


def test_of_any_other_deployment_nothing_is(empty: Namespace, iris: Json) -> None:
    for verb, kind, *rest in patches():
        assert REFUSED in steal(empty, verb, kind, "plain", *rest), rest
    for patch in (
        {"metadata": {"annotations": {f"{PREFIX}service": "x"}}},
        {"metadata": {"labels": {f"{PREFIX}served": "true"}}},
        {"spec": {"replicas": 0, "paused": True}},
    ):
        assert REFUSED in steal(empty, "patch", DEPLOYMENT, "plain", *MERGE, json.dumps(patch)), patch
    assert REFUSED in steal_status(empty, "plain", {"conditions": [{"type": f"{PREFIX}Ready", "status": "True"}]})
    said = steal(SERVER, "patch", DEPLOYMENT, "kubectl-serve", *MERGE, json.dumps({"spec": {"replicas": 0}}))
    assert REFUSED in said, "its own Deployment is not served"


def owned(owner: Json, api_version: str, kind: str, spec: Json, **metadata: object) -> Json:
    reference = {key: owner["metadata"][key] for key in ("name", "uid")}
    head = {
        "name": "made",
        "labels": {f"{PREFIX}deployment": owner["metadata"]["name"]},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "controller": True, **reference}],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": head | metadata, "spec": spec}


def made(owner: Json) -> dict[str, Json]:
    labels = {f"{PREFIX}deployment": owner["metadata"]["name"]}
    target = {**TARGET, "name": owner["metadata"]["name"]}
    return {
        "knative": owned(
            owner, "serving.knative.dev/v1", "Service", {"template": {"metadata": {"labels": labels}, "spec": POD}}
        ),
        "service": owned(owner, "v1", "Service", {"selector": {"app": "iris"}, "ports": [{"port": 80}]}),
        "autoscaler": owned(
            owner, "autoscaling/v2", "HorizontalPodAutoscaler", {"scaleTargetRef": target, "maxReplicas": 2}
        ),
        "mapping": owned(
            owner,
            "serving.knative.dev/v1beta1",
            "DomainMapping",
            {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "iris"}},
            name="models.example.com",
        ),
    }


def test_what_belongs_to_no_deployment_or_is_not_what_it_becomes_is_not_made(empty: Namespace, iris: Json) -> None:
    for name, manifest in made(iris).items():
        assert UNKNOWN in steal(empty, "create", "-f", "-", stdin=manifest), name
        spoilers: list[Json] = [{"ownerReferences": []}, {"labels": {}}, {"labels": {f"{PREFIX}deployment": "other"}}]
        for spoilt in spoilers:
            changed = manifest | {"metadata": manifest["metadata"] | spoilt}
            assert REFUSED in steal(empty, "create", "-f", "-", stdin=changed), (name, spoilt)
        for place in ("kube-system", "knative-serving", "kubectl-serve"):
            assert REFUSED in steal(Namespace(place), "create", "-f", "-", stdin=manifest), (name, place)


def test_of_a_knative_service_that_is_the_servers_the_pods_are_not_changed(empty: Namespace, iris: Json) -> None:
    empty.watch(KNATIVE, "iris", lambda _: True)
    for patch in ({"serviceAccountName": "default"}, POD | {"initContainers": None, "volumes": None}):
        spec = json.dumps({"spec": {"template": {"spec": patch}}})
        assert UNKNOWN in steal(empty, "patch", KNATIVE, "iris", *MERGE, spec)


def test_what_is_made_leads_no_further(empty: Namespace, iris: Json) -> None:
    objects = made(iris)
    ports = [{"port": 80}]
    for name, spec in (
        ("service", {"type": "LoadBalancer", "selector": {"app": "iris"}, "ports": ports}),
        ("service", {"type": "NodePort", "selector": {"app": "iris"}, "ports": ports}),
        ("service", {"type": "ExternalName", "externalName": "evil.example"}),
        ("service", {"selector": {"app": "iris"}, "externalIPs": ["10.0.0.1"], "ports": ports}),
        ("service", {"ports": ports}),
        ("autoscaler", {**objects["autoscaler"]["spec"], "scaleTargetRef": {**TARGET, "name": "plain"}}),
        ("mapping", {"ref": {"apiVersion": "v1", "kind": "Service", "name": "iris"}}),
    ):
        said = steal(empty, "create", "-f", "-", stdin=objects[name] | {"spec": spec})
        assert REFUSED in said, (spec, said)


def test_objects_of_others_are_neither_changed_nor_deleted(empty: Namespace, iris: Json) -> None:
    service: Json = {"spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}}
    empty.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "theirs"}, **service})
    assert REFUSED in steal(empty, "delete", "service", "theirs")
    assert REFUSED in steal(empty, "patch", "service", "theirs", *MERGE, '{"spec": {"selector": {"app": "evil"}}}')
    takeover = {"metadata": made(iris)["service"]["metadata"] | {"name": "theirs"}}
    assert REFUSED in steal(empty, "patch", "service", "theirs", *MERGE, json.dumps(takeover))
    assert REFUSED in steal(Namespace("knative-serving"), "delete", "service", "webhook")


def test_of_its_webhooks_a_bundle_is_written(iris: Json) -> None:
    for path, value in (
        ("/webhooks/0/matchConditions", []),
        ("/webhooks/0/rules/0/resources", ["secrets"]),
        ("/webhooks/0/namespaceSelector", {}),
        ("/webhooks/0/clientConfig/service/namespace", "evil"),
        ("/webhooks/1/failurePolicy", "Ignore"),
        ("/webhooks", []),
        ("/metadata/labels", {}),
    ):
        patch = json.dumps([{"op": "replace", "path": path, "value": value}])
        assert REFUSED in steal(SERVER, "patch", WEBHOOKS, "kubectl-serve", "--type=json", "-p", patch), path
    bundle = json.dumps([{"op": "replace", "path": "/webhooks/1/clientConfig/caBundle", "value": ""}])
    assert steal(SERVER, "patch", WEBHOOKS, "kubectl-serve", "--type=json", "-p", bundle) == ""


def test_in_its_own_namespace_no_token_is_made_and_no_setting_changed(iris: Json) -> None:
    token: Json = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "kubectl-serve-certificates",
            "annotations": {"kubernetes.io/service-account.name": "default"},
        },
        "type": "kubernetes.io/service-account-token",
    }
    SERVER.kubectl("get", "secret", "kubectl-serve-certificates")
    said = steal(SERVER, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=token)
    assert said, "the type of a Secret cannot be changed either"
    lease: Json = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "other"}}
    assert REFUSED in steal(SERVER, "create", "-f", "-", stdin=lease)


def test_events_are_about_deployments(empty: Namespace, iris: Json) -> None:
    regarding = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "iris", "namespace": empty.name}
    event: Json = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "iris.1"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "type": "Normal",
        "reason": "Ready",
        "action": "Serve",
        "regarding": regarding,
        "reportingController": f"{PREFIX}server",
        "reportingInstance": "x",
    }
    assert steal(empty, "create", "-f", "-", stdin=event) == ""
    assert REFUSED in steal(empty, "create", "-f", "-", stdin=event | {"reportingController": "kubelet"})
    assert REFUSED in steal(empty, "create", "-f", "-", stdin=event | {"regarding": regarding | {"kind": "Pod"}})


def test_others_are_not_judged(empty: Namespace, iris: Json) -> None:
    labels = json.dumps({"metadata": {"labels": {"team": "other"}}})
    empty.kubectl("patch", DEPLOYMENT, "plain", *MERGE, labels)
    empty.kubectl("delete", DEPLOYMENT, "plain")
