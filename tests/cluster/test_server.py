"""The server in the cluster: it is called only where needed, and no request depends on it otherwise."""

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import yaml

from cluster.support import (
    PREFIX,
    SERVER,
    Ingress,
    Json,
    Namespace,
    Trained,
    deployment,
    eventually,
    is_ready,
    measured,
)
from serve_core.api import state

IRIS = "s3://models/iris/model.joblib"
KNATIVE_SERVICES = "services.serving.knative.dev"

PLAIN: Json = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "plain"},
    "spec": {
        "selector": {"matchLabels": {"app": "plain"}},
        "template": {
            "metadata": {"labels": {"app": "plain"}},
            # It need not run anywhere.
            "spec": {
                "nodeSelector": {"nowhere": "true"},
                "containers": [{"name": "plain", "image": "dev.local/nothing"}],
            },
        },
    },
}


def kill_all() -> None:
    """No grace: the kubelet kills the containers, as a crash would."""
    SERVER.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")


@contextmanager
def without_server() -> Iterator[None]:
    """No replica runs during the block."""
    replicas = SERVER.get("deployment", "kubectl-serve")["spec"]["replicas"]
    SERVER.kubectl("scale", "deployment/kubectl-serve", "--replicas=0")
    SERVER.kubectl("wait", "--for=delete", "pods", "--all", "--timeout=2m")
    try:
        yield
    finally:
        SERVER.kubectl("scale", "deployment/kubectl-serve", f"--replicas={replicas}")
        SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")


@pytest.fixture
def server_is_down() -> Iterator[None]:
    with without_server():
        yield


def test_an_unannotated_deployment_never_reaches_the_webhook(empty: Namespace) -> None:
    """Its scale does: a Scale has no annotation to match. Those webhooks fail open."""
    before = measured("kubectl_serve_admission_reviews_total")
    empty.apply(PLAIN)
    empty.kubectl("set", "image", "deployment/plain", "plain=dev.local/something")
    empty.kubectl("annotate", "deployment/plain", "some.where/else=1")
    empty.kubectl("delete", "deployment/plain")
    assert measured("kubectl_serve_admission_reviews_total") == before


def test_an_unannotated_deployment_does_not_need_the_server(empty: Namespace, server_is_down: None) -> None:
    empty.apply(PLAIN)
    empty.kubectl("scale", "deployment/plain", "--replicas=0")
    empty.kubectl("scale", "deployment/plain", "--replicas=1")
    assert "failed calling webhook" in empty.refusal(deployment("iris", IRIS))


def test_serving_goes_on_without_the_server(namespace: Namespace, ingress: Ingress, iris: Trained) -> None:
    """Also to zero and back: models need Knative alone."""
    namespace.apply(deployment("iris", IRIS, credentials="store", window="6s"))
    served = namespace.wait_ready("iris")
    with without_server():
        assert ingress.predict(served, iris.rows).predicted == iris.answers
        namespace.wait_scaled_to_zero("iris")
        assert ingress.predict(served, iris.rows).predicted == iris.answers
        assert "failed calling webhook" in namespace.refusal(deployment("iris", IRIS, credentials="store", scale="1"))
        namespace.kubectl("delete", "deployment", "iris")
        namespace.kubectl("wait", "--for=delete", f"{KNATIVE_SERVICES}/iris", "--timeout=60s")


def apply_settings(text: str) -> None:
    patch = json.dumps({"data": {"settings.yaml": text}})
    SERVER.kubectl("patch", "configmap", "kubectl-serve", "--type=merge", "-p", patch)
    SERVER.kubectl("rollout", "restart", "deployment/kubectl-serve")
    SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")


@pytest.fixture
def callers_are_named() -> Iterator[None]:
    """The local cluster's API server shows webhooks the certificate by which it calls extensions of itself."""
    before = SERVER.get("configmap", "kubectl-serve")["data"]["settings.yaml"]
    known = Namespace("kube-system").get("configmap", "extension-apiserver-authentication")["data"]
    callers = {"certificateAuthority": known["requestheader-client-ca-file"], "names": ["front-proxy-client"]}
    apply_settings(yaml.safe_dump(yaml.safe_load(before) | {"callers": callers}))
    yield
    apply_settings(before)


def is_answered_without_a_certificate() -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = SERVER.get("service", "kubectl-serve")["spec"]["clusterIP"]
    try:
        with (
            socket.create_connection((address, 443), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="kubectl-serve.kubectl-serve.svc") as connection,
        ):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: kubectl-serve\r\n\r\n")
            return connection.recv(1) != b""
    except ssl.SSLError:
        return False


@pytest.mark.attack(17)
def test_with_named_callers_only_the_api_server_is_answered(empty: Namespace, callers_are_named: None) -> None:
    eventually(lambda: not is_answered_without_a_certificate(), 30, "the replicas from before are gone")
    completed = json.loads(empty.apply(deployment("iris", IRIS), flags=("--dry-run=server", "-o", "json")))
    assert completed["spec"]["replicas"] == 0
    assert "UnknownScheme" in empty.refusal(deployment("iris", "ftp://models/iris"))


def test_a_killed_server_loses_nothing(namespace: Namespace, ingress: Ingress, iris: Trained) -> None:
    namespace.apply(deployment("before", IRIS, credentials="store"))
    kill_all()
    served = namespace.wait_ready("before")
    assert ingress.predict(served, iris.rows).predicted == iris.answers
    SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")


def test_the_next_leader_makes_no_revision(namespace: Namespace) -> None:
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    namespace.wait_ready("iris")
    before = namespace.get(KNATIVE_SERVICES, "iris")["spec"]
    kill_all()
    SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")
    # What it does with one it does with all: by the time that this is ready it has been through them.
    namespace.apply(deployment("next", IRIS, credentials="store"))
    namespace.wait_ready("next")
    assert namespace.get(KNATIVE_SERVICES, "iris")["spec"] == before


def test_what_was_deleted_while_the_server_was_down_is_gone(namespace: Namespace) -> None:
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    namespace.wait_ready("iris")
    kill_all()
    namespace.kubectl("delete", "deployment", "iris")
    namespace.kubectl("wait", "--for=delete", "services.serving.knative.dev/iris", "--timeout=60s")
    SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")


def test_what_a_person_undoes_is_put_right_again(namespace: Namespace) -> None:
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    namespace.wait_ready("iris")
    namespace.kubectl("annotate", "deployment", "iris", f"{PREFIX}timeout=60s")
    assert state.read(namespace.wait_ready("iris")).previous == "iris-00001"
    namespace.kubectl("delete", KNATIVE_SERVICES, "iris")
    namespace.watch("deployment", "iris", lambda found: not is_ready(found), seconds=30)
    recreated = namespace.wait_ready("iris")
    assert (state.read(recreated).promoted, state.read(recreated).previous) == ("iris-00001", ""), "the others are gone"


def has_spec(spec: Json, found: Json) -> bool:
    return bool(found["spec"] == spec)


def test_manual_additions_to_owned_objects_are_removed(namespace: Namespace) -> None:
    """Also what a server-side apply would leave alone, or could not be applied beside: two ports of one name."""
    namespace.apply(deployment("iris", IRIS, credentials="store"), deployment("plain", IRIS, mode="deployment"))
    services = (KNATIVE_SERVICES, "iris"), ("service", "plain")
    before = [namespace.watch(kind, name, lambda _: True)["spec"] for kind, name in services]
    template = {"metadata": {"annotations": {"autoscaling.knative.dev/max-scale": "7"}}, "spec": {"timeoutSeconds": 77}}
    traffic = [{"latestRevision": True, "percent": 100, "tag": "theirs"}]
    ports = [{"name": "http", "port": 81, "targetPort": 8081}]
    changes: tuple[Json, ...] = ({"template": template, "traffic": traffic}, {"ports": ports})
    for (kind, name), spec in zip(services, changes, strict=True):
        namespace.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))
    for (kind, name), spec in zip(services, before, strict=True):
        namespace.watch(kind, name, partial(has_spec, spec))


def test_an_orphan_is_taken_back_by_the_deployment_of_its_name(namespace: Namespace) -> None:
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    namespace.wait_ready("iris")
    before = namespace.get(KNATIVE_SERVICES, "iris")["metadata"]["uid"]
    namespace.kubectl("delete", "deployment", "iris", "--cascade=orphan")
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    served = namespace.wait_ready("iris")
    metadata = namespace.get(KNATIVE_SERVICES, "iris")["metadata"]
    assert metadata["uid"] == before
    assert [owner["uid"] for owner in metadata["ownerReferences"]] == [served["metadata"]["uid"]]
