"""Who reaches a model with ``auth: mtls``: only the callers that it names, by their identity in the mesh."""

from collections.abc import Iterator

import pytest

from cluster.mesh.support import INJECTED, IRIS, Caller, Issuer, caller, guard, pods_of
from cluster.support import Ingress, Json, Namespace, created, deployment, eventually

MODEL = "/v2/models/iris"
SHOP, RESEARCH = Namespace("mesh-shop"), Namespace("mesh-research")


@pytest.fixture(scope="module")
def guarded(shared: Namespace) -> Json:
    """A ready model that a namespace and one service account may call."""
    callers = f"{SHOP.name},{RESEARCH.name}/notebook"
    model = deployment("iris", IRIS, credentials="store", scale="1..1", auth="mtls", **{"auth-callers": callers})
    shared.apply(model)
    return shared.wait_ready("iris", 240)


@pytest.fixture(scope="module")
def callers(mesh: None) -> Iterator[dict[str, Caller]]:
    with created(SHOP, "privileged", INJECTED), created(RESEARCH, "privileged", INJECTED):
        yield {
            "of the namespace": caller(SHOP),
            "with the service account": caller(RESEARCH, "notebook", account="notebook"),
            "with another service account": caller(RESEARCH),
            "without a sidecar": caller(SHOP, "plain", sidecar=False),
        }


@pytest.mark.parametrize(
    ("who", "wanted"),
    [
        ("of the namespace", 200),
        ("with the service account", 200),
        ("with another service account", 403),
        ("without a sidecar", "ConnectionResetError"),
    ],
)
@pytest.mark.parametrize("service", ["iris-00001", "iris-00001-private"])
def test_only_named_callers_reach_the_model(
    shared: Namespace, guarded: Json, callers: dict[str, Caller], service: str, who: str, wanted: int | str
) -> None:
    """Behind the first Service, Knative puts its activator, which would be the caller, or the pods."""
    url = f"http://{service}.{shared.name}.svc{MODEL}"
    eventually(lambda: callers[who].status(url) == wanted, 30, f"a caller {who} gets {wanted}")


def test_with_tokens_a_caller_must_be_named_and_have_one(
    team: Namespace, issuer: Issuer, callers: dict[str, Caller]
) -> None:
    model = deployment("iris", IRIS, credentials="store", scale="1..1", **guard(issuer), **{"auth-callers": SHOP.name})
    team.apply(model)
    team.wait_ready("iris", 240)
    url = f"http://iris-00001.{team.name}.svc{MODEL}"
    named, other = callers["of the namespace"], callers["with the service account"]
    eventually(lambda: named.status(url, issuer.token()) == 200, 30, "it is named, and has a token")
    assert named.status(url) == 403
    assert other.status(url, issuer.token()) == 403


def test_outside_the_mesh_only_metrics_are_reached(shared: Namespace, guarded: Json, ingress: Ingress) -> None:
    [pod] = pods_of(shared)
    client = Ingress(pod["status"]["podIP"], 8012)
    with pytest.raises(ConnectionError):
        client.request("http://iris", MODEL)
    assert ingress.predict(guarded, [[1.0]]).status in {502, 503}
    metrics = Ingress(pod["status"]["podIP"], 9091).request("http://iris", "/metrics")
    assert metrics.status in {200, 503}, "Prometheus is outside the mesh"
