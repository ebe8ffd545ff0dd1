"""Models that are registered and not started: Knative's initial scale of 0."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.support import (
    LOADED,
    READY,
    Ingress,
    Json,
    Namespace,
    Trained,
    condition,
    deployment,
    eventually,
    label_of_service,
)

IRIS = "s3://models/iris/model.joblib"
ALWAYS_TWO = "s3://models/always-two/model.joblib"
INITIAL_SCALE = "autoscaling.knative.dev/initial-scale"


@contextmanager
def autoscaler(**settings: str) -> Iterator[None]:
    """Knative's autoscaler has these settings, while the block runs."""
    knative = Namespace("knative-serving")
    changes = {key.replace("_", "-"): value for key, value in settings.items()}
    knative.kubectl("patch", "configmap", "config-autoscaler", "-p", json.dumps({"data": changes}))
    yield
    knative.kubectl("patch", "configmap", "config-autoscaler", "-p", json.dumps({"data": dict.fromkeys(changes)}))


@pytest.fixture
def starts_at_zero(ingress: Ingress) -> Iterator[None]:
    with autoscaler(allow_zero_initial_scale="true", initial_scale="0", stable_window="6s"):
        yield


@pytest.fixture
def allows_zero(ingress: Ingress) -> Iterator[None]:
    with autoscaler(allow_zero_initial_scale="true", stable_window="6s"):
        yield


def is_registered(found: Json) -> bool:
    return condition(found, READY).get("reason") == "Registered"


def zero(name: str, model: str) -> Json:
    """A model that is registered only."""
    template = {"template": {"metadata": {"annotations": {INITIAL_SCALE: "0"}}}}
    return deployment(name, model, template, credentials="store")


def test_a_model_is_ready_once_its_pod_has_answered(
    namespace: Namespace, ingress: Ingress, iris: Trained, starts_at_zero: None
) -> None:
    create = namespace.run("kubectl", "serve", "create", "iris", "--model", IRIS, "--credentials", "store")
    assert create.stdout == "deployment.apps/iris registered, not started\n"
    found = namespace.get("deployment", "iris")
    assert condition(found, READY)["status"] == condition(found, LOADED)["status"] == "Unknown"
    assert is_registered(found)
    assert not namespace.list("pods", label_of_service(found))
    listed = namespace.run("kubectl", "serve", "get")
    assert "1 of 1 not started" in listed.stderr
    assert "Registered" in listed.stdout

    assert ingress.predict(found, iris.rows).predicted == iris.answers
    served = namespace.wait_ready("iris")
    assert condition(served, LOADED)["reason"] == "Loaded"

    namespace.wait_scaled_to_zero("iris")
    namespace.kubectl("annotate", "deployment", "iris", "note=x")
    assert condition(namespace.wait_ready("iris"), READY)["reason"] == "Ready", "the same revision stays ready"

    namespace.kubectl("annotate", "--overwrite", "deployment", "iris", f"kubectl-serve.dev/model={ALWAYS_TWO}")
    namespace.watch("deployment", "iris", is_registered)


def test_a_model_can_be_registered_where_the_cluster_allows_it(
    namespace: Namespace, ingress: Ingress, iris: Trained, allows_zero: None
) -> None:
    # The server and Knative's webhook see the setting a moment later.
    eventually(lambda: namespace.run("kubectl", "apply", "-f", "-", stdin=json.dumps(zero("iris", IRIS)), check=False)
               .returncode == 0, 30, "the cluster allows 0")  # fmt: skip
    registered = namespace.watch("deployment", "iris", is_registered)
    assert not namespace.list("pods", label_of_service(registered))
    # Knative's Route is ready a moment before kube-proxy has the activator's address: no pod has to start meanwhile.
    eventually(lambda: ingress.predict(registered, iris.rows).status != 502, 60, "the route is open")
    assert ingress.predict(registered, iris.rows).predicted == iris.answers
    namespace.wait_ready("iris")


def test_a_registered_model_that_cannot_be_loaded_says_so_after_its_first_request(
    namespace: Namespace, ingress: Ingress, iris: Trained, starts_at_zero: None
) -> None:
    namespace.apply(deployment("gone", "s3://models/none/model.joblib", credentials="store"))
    found = namespace.watch("deployment", "gone", is_registered)
    with pytest.raises(TimeoutError):
        ingress.predict(found, iris.rows, seconds=5)
    failed = namespace.watch("deployment", "gone", lambda each: condition(each, READY).get("status") == "False")
    assert condition(failed, LOADED)["reason"] == "NotFound"


def test_other_clusters_refuse_it_with_the_setting(namespace: Namespace) -> None:
    given = json.dumps(zero("iris", IRIS))

    def refusal() -> str:
        return namespace.run("kubectl", "apply", "--dry-run=server", "-f", "-", stdin=given, check=False).stderr

    # The server sees a moment later that the setting of another test is gone.
    eventually(lambda: "allow-zero-initial-scale" in refusal(), 30, "it is refused")
