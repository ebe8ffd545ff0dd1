"""Who reaches a model with ``auth: jwt``: by Knative's ingress and activator, and directly at the pod's ports."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from cluster.mesh.support import IRIS, Issuer, bearer, guard, pods_of
from cluster.support import (
    Ingress,
    Json,
    Namespace,
    Trained,
    deployment,
    eventually,
)

MODEL = "/v2/models/iris/infer"


@pytest.fixture(scope="module")
def guarded(shared: Namespace, issuer: Issuer) -> Json:
    """A ready model with ``auth: jwt`` and one replica, in the namespace ``shared``."""
    shared.apply(deployment("iris", IRIS, credentials="store", scale="1..1", **guard(issuer)))
    return shared.wait_ready("iris", 240)


@pytest.fixture(scope="module")
def pod(shared: Namespace, guarded: Json) -> str:
    """The address of the model's pod."""
    [found] = pods_of(shared)
    return str(found["status"]["podIP"])


def tokens(issuer: Issuer) -> dict[str, tuple[str, int]]:
    """Each kind of token, with the status of a request that has it."""
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {
        "valid": (issuer.token(), 200),
        "none": ("", 403),
        "expired": (issuer.token(-3600), 401),
        "of another issuer": (issuer.token(claims={"iss": "https://other.example.com"}), 401),
        "signed by another key": (issuer.token(key=stranger), 401),
        "for another audience": (issuer.token(claims={"aud": "shop"}), 403),
        "not a token": ("abc", 401),
    }


KINDS = (
    "valid",
    "none",
    "expired",
    "of another issuer",
    "signed by another key",
    "for another audience",
    "not a token",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["ingress", "pod"])
def test_only_a_valid_token_gets_a_prediction(
    guarded: Json, pod: str, ingress: Ingress, iris: Trained, issuer: Issuer, kind: str, way: str
) -> None:
    token, wanted = tokens(issuer)[kind]
    client = ingress if way == "ingress" else Ingress(pod, 8012)
    answer = client.predict(guarded, iris.rows, headers=bearer(token) if token else None)
    assert answer.status == wanted, answer.body
    if wanted == 200:
        assert answer.predicted == iris.answers


# The headers of Knative's own probes, which any client can send.
ACTIVATOR = {"User-Agent": "Knative-Activator-Probe"}
INGRESS = {"User-Agent": "Knative-Ingress-Probe"}
PROBE = {"K-Network-Probe": "probe", "K-Network-Hash": "any"}


@pytest.mark.parametrize("path", [MODEL, "/v2/models/iris", "/metrics", "/v2/health/ready", "/healthz/../metrics"])
@pytest.mark.parametrize(
    "headers", [{}, ACTIVATOR, INGRESS, INGRESS | PROBE], ids=["none", "activator", "ingress", "probe"]
)
@pytest.mark.parametrize("port", [8012, 8013, 8080])
def test_nothing_of_the_model_is_reached_without_a_token(
    pod: str, port: int, headers: dict[str, str], path: str
) -> None:
    answer = Ingress(pod, port).request("http://iris", path, headers=headers)
    assert answer.status == 403, answer.body
    assert answer.body == "RBAC: access denied"


@pytest.mark.parametrize(
    ("headers", "wanted"), [({}, 403), (INGRESS, 403), (INGRESS | PROBE, 200), (ACTIVATOR, 400)], ids=str
)
def test_queue_proxy_answers_knatives_probes_and_the_model_never_does(
    pod: str, headers: dict[str, str], wanted: int
) -> None:
    answer = Ingress(pod, 8012).request("http://iris", "/healthz", headers=headers)
    assert answer.status == wanted, answer.body


def test_a_valid_token_is_for_the_models_port_only(pod: str, issuer: Issuer) -> None:
    """Past queue-proxy, requests would not be counted, and the model would be scaled to zero."""
    assert Ingress(pod, 8080).request("http://iris", MODEL, headers=bearer(issuer.token())).status == 403
    assert Ingress(pod, 9090).request("http://iris", "/metrics", headers=bearer(issuer.token())).status == 403


def test_an_issuer_that_is_trusted_elsewhere_gives_no_access(
    shared: Namespace, guarded: Json, pod: str, issuer: Issuer
) -> None:
    """Istio accepts the tokens of all RequestAuthentications that select a pod."""
    other = "https://other.example.com"
    head = {"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": {"name": "other"}}
    shared.apply(head | {"spec": {"jwtRules": [{"issuer": other, "jwksUri": issuer.jwks}]}})
    token = bearer(issuer.token(claims={"iss": other}))

    def answered() -> int:
        return Ingress(pod, 8012).request("http://iris", "/v2/models/iris", headers=token).status

    try:
        eventually(lambda: answered() == 403, 60, "the token is valid, and refused; before, it was invalid")
    finally:
        shared.kubectl("delete", "requestauthentication", "other")


def test_metrics_of_queue_proxy_are_for_the_autoscaler_and_for_prometheus(pod: str) -> None:
    """The model's own are on 8012, behind the token."""
    assert Ingress(pod, 9090).request("http://iris", "/metrics").status == 403
    # 503: Knative collects no metrics of requests here, and nothing listens behind the sidecar.
    assert Ingress(pod, 9091).request("http://iris", "/metrics").status in {200, 503}
    assert Ingress(pod, 9091).request("http://iris", "/").status == 403


def test_in_mode_deployment_the_models_own_port_wants_a_token(team: Namespace, issuer: Issuer, iris: Trained) -> None:
    team.apply(deployment("iris", IRIS, credentials="store", scale="1..1", mode="deployment", **guard(issuer)))
    served = team.wait_ready("iris", 240)
    client = Ingress(pods_of(team)[0]["status"]["podIP"], 8080)
    assert client.predict(served, iris.rows, headers=bearer(issuer.token())).predicted == iris.answers
    for path in (MODEL, "/v2/health/ready", "/metrics", "/healthz"):
        assert client.request("http://iris", path, headers=ACTIVATOR).status == 403


def test_goes_to_zero_and_only_a_valid_token_gets_an_answer_from_zero(
    team: Namespace, issuer: Issuer, ingress: Ingress, iris: Trained
) -> None:
    team.apply(deployment("iris", IRIS, credentials="store", window="10s", **guard(issuer)))
    served = team.wait_ready("iris", 240)
    team.wait_scaled_to_zero("iris")
    assert ingress.predict(served, iris.rows).status == 403, "any request starts the model, and its sidecar judges it"
    team.wait_scaled_to_zero("iris")
    assert ingress.predict(served, iris.rows, headers=bearer(issuer.token())).predicted == iris.answers
