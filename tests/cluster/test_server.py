"""The server in the cluster: called only when it matters, and nothing is lost with it."""

from collections.abc import Iterator

import pytest

from cluster.support import SERVER, Ingress, Json, Namespace, Trained, deployment, is_ready

IRIS = "s3://models/iris/model.joblib"

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


def reviews() -> float:
    """Admission reviews of all replicas so far."""
    total = 0.0
    for pod in SERVER.list("pods"):
        if "deletionTimestamp" in pod["metadata"]:
            continue  # of an installation before this one
        proxy = f"/api/v1/namespaces/{SERVER.name}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
        for line in SERVER.kubectl("get", "--raw", proxy).splitlines():
            if line.startswith("kubectl_serve_admission_reviews_total{"):
                total += float(line.rsplit(" ", 1)[1])
    return total


def kill_all() -> None:
    """No grace: the kubelet kills the containers, as a crash would."""
    SERVER.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")


@pytest.fixture
def server_is_down() -> Iterator[None]:
    replicas = SERVER.get("deployment", "kubectl-serve")["spec"]["replicas"]
    SERVER.kubectl("scale", "deployment/kubectl-serve", "--replicas=0")
    SERVER.kubectl("wait", "--for=delete", "pods", "--all", "--timeout=2m")
    yield
    SERVER.kubectl("scale", "deployment/kubectl-serve", f"--replicas={replicas}")
    SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")


def test_an_unannotated_deployment_never_reaches_the_webhook(empty: Namespace) -> None:
    """Its scale does: a Scale carries no annotation that could tell. Those webhooks fail open."""
    before = reviews()
    empty.apply(PLAIN)
    empty.kubectl("set", "image", "deployment/plain", "plain=dev.local/something")
    empty.kubectl("annotate", "deployment/plain", "some.where/else=1")
    empty.kubectl("delete", "deployment/plain")
    assert reviews() == before


def test_an_unannotated_deployment_does_not_need_the_server(empty: Namespace, server_is_down: None) -> None:
    empty.apply(PLAIN)
    empty.kubectl("scale", "deployment/plain", "--replicas=0")
    empty.kubectl("scale", "deployment/plain", "--replicas=1")
    assert "failed calling webhook" in empty.refusal(deployment("iris", IRIS))


def test_a_killed_server_loses_nothing(namespace: Namespace, ingress: Ingress, iris: Trained) -> None:
    namespace.apply(deployment("before", IRIS, credentials="store"))
    kill_all()
    served = namespace.wait_ready("before")
    assert ingress.predict(served, iris.rows).predicted == iris.answers
    SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")


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
    namespace.kubectl("delete", "services.serving.knative.dev", "iris")
    namespace.watch("deployment", "iris", lambda found: not is_ready(found), seconds=30)
    namespace.wait_ready("iris")
