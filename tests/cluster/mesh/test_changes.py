"""Access with tokens while a model changes: a canary, a rollback, other claims, and no ``auth`` any more."""

from cluster.mesh.support import IRIS, Issuer, bearer, guard, status
from cluster.support import PREFIX, Ingress, Json, Namespace, Trained, constant_requests, deployment, eventually
from support.recorded_state import with_state

ALWAYS_TWO = "s3://models/always-two/model.joblib"
KNATIVE_SERVICES = "services.serving.knative.dev"


def test_a_canary_and_a_rollback_answer_every_valid_token_and_no_other_request(
    team: Namespace, issuer: Issuer, ingress: Ingress, iris: Trained, always_two: Trained
) -> None:
    row, old, new = iris.rows[:1], iris.answers[:1], always_two.answers[:1]
    token = bearer(issuer.token())
    team.apply(deployment("iris", IRIS, credentials="store", scale="1..1", **guard(issuer)))
    served = team.wait_ready("iris", 240)
    with (
        constant_requests(lambda: ingress.predict(served, row, headers=token)) as allowed,
        constant_requests(lambda: ingress.predict(served, row), clients=1) as denied,
    ):
        change(team, f"model={ALWAYS_TWO}", "canary=50%")
        team.wait_ready("iris", 240)
        eventually(lambda: new in allowed.predictions[-20:], 60, "the canary answers")
        previous, latest = at_tag(team, served, "previous"), at_tag(team, served, "latest")
        eventually(lambda: ingress.predict(previous, row).status == 403, 60, "previous wants a token")
        eventually(lambda: ingress.predict(latest, row).status == 403, 60, "latest wants a token")
        assert ingress.predict(previous, row, headers=token).predicted == old
        assert ingress.predict(latest, row, headers=token).predicted == new
        team.kubectl("serve", "promote", "iris")
        eventually(lambda: all(each == new for each in allowed.predictions[-20:]), 60, "the promoted model answers")
        team.kubectl("serve", "rollback", "iris")
        eventually(lambda: all(each == old for each in allowed.predictions[-20:]), 120, "the model before answers")
    assert allowed.failed == []
    assert {status(answer) for answer in denied.answers} == {403}


def change(namespace: Namespace, *annotations: str) -> None:
    namespace.kubectl("annotate", "deployment", "iris", "--overwrite", *(PREFIX + each for each in annotations))


def at_tag(namespace: Namespace, served: Json, tag: str) -> Json:
    """A served Deployment with the URL of the revision under a tag."""

    def url() -> str | None:
        traffic = namespace.get(KNATIVE_SERVICES, "iris")["status"]["traffic"]
        return next((str(each["url"]) for each in traffic if each.get("tag") == tag), None)

    found = eventually(url, 60, f"the tag {tag} has a URL")
    return with_state(served, url=found)


def test_claims_decide_and_without_auth_every_request_is_answered(
    team: Namespace, issuer: Issuer, ingress: Ingress, iris: Trained
) -> None:
    claims = {"auth-claims": "group=research,group=ops,scope=predict"}
    team.apply(deployment("iris", IRIS, credentials="store", scale="1..1", **guard(issuer), **claims))
    served = team.wait_ready("iris", 240)

    def answered(**given: object) -> int:
        return ingress.predict(served, iris.rows, headers=bearer(issuer.token(claims=given))).status

    assert answered(group="ops", scope="predict") == 200
    assert answered(group=["other", "research"], scope="read predict") == 200
    assert answered(group="ops") == 403
    assert answered(group="sales", scope="predict") == 403
    change(team, *(f"{key}-" for key in (*guard(issuer), *claims)))
    eventually(lambda: ingress.predict(served, iris.rows).status == 200, 60, "no token is needed any more")
