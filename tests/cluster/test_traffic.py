"""Which pods answer: a Deployment's own or Knative's, of which revision, and always some."""

import json
import os

import pytest

from cluster.support import (
    LOADED,
    PREFIX,
    READY,
    Ingress,
    Json,
    Namespace,
    Trained,
    annotation,
    condition,
    constant_requests,
    deployment,
    eventually,
    file_server,
    is_ready,
    pod_counts,
    pod_template,
)
from serve_core.api import state
from support.recorded_state import entry

IRIS = "s3://models/iris/model.joblib"
ALWAYS_TWO = "s3://models/always-two/model.joblib"
UPDATES = int(os.environ.get("KUBECTL_SERVE_UPDATES", "2"))
KNATIVE_SERVICES = "services.serving.knative.dev"


def test_a_running_deployment_is_handed_over_and_given_back_without_a_failed_request(namespace: Namespace) -> None:
    """Behind a plain Service of its own name: the commonest case."""
    labels = {"app": "files"}
    running: Json = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "files"}}
    running["spec"] = {"replicas": 2} | pod_template(file_server("files", "/"), labels)
    front: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "files"}}
    front["spec"] = {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}
    namespace.apply(running, front)
    namespace.kubectl("rollout", "status", "deployment/files", "--timeout=2m")
    written = namespace.get("deployment", "files")["spec"]
    client = Ingress(namespace.get("service", "files")["spec"]["clusterIP"])
    eventually(lambda: is_reached(client), 30, "the Service leads to its pods")

    with constant_requests(lambda: client.request("http://files", "/")) as requests:
        eventually(lambda: len(requests.answers) > 20, 30, "its own pods answer")
        model, secret = f"{PREFIX}model={IRIS}", f"{PREFIX}credentials=store"
        said = namespace.run("kubectl", "annotate", "deployment", "files", model, secret).stderr
        namespace.watch("deployment", "files", lambda found: bool(state.read(found).url), 180)
        served = namespace.watch("deployment", "files", is_parked, 180)
        handed_over = len(requests.answers)
        eventually(lambda: len(requests.answers) > handed_over + 100, 60, "Knative's pods answer")
        namespace.kubectl("annotate", "deployment", "files", f"{PREFIX}model-", f"{PREFIX}credentials-")
        namespace.kubectl("wait", "--for=delete", f"{KNATIVE_SERVICES}/files-model", "--timeout=3m")
        given_back = len(requests.answers)
        eventually(lambda: len(requests.answers) > given_back + 100, 60, "its own pods answer again")

    print(f"{len(requests.answers)} requests sent, {len(requests.failed)} failed")
    assert requests.failed == []
    assert "NameInTheWay" in said
    assert "PastKnative" in said
    assert (annotation(served, "service"), annotation(served, "scale")) == ("files-model", "2..")
    assert state.read(served).url.startswith(f"http://files-model.{namespace.name}.")
    assert namespace.get("deployment", "files")["spec"] == written


def test_a_deployment_that_leaves_mode_deployment_serves_on_until_knative_does(namespace: Namespace) -> None:
    running = pod_template(file_server("files", "/"), {"app": "files"})
    namespace.apply(deployment("files", IRIS, running, credentials="store", mode="deployment"))
    namespace.watch("deployment", "files", is_ready, 120)
    client = Ingress(namespace.get("service", "files")["spec"]["clusterIP"])
    eventually(lambda: is_reached(client), 30, "the Service leads to its pods")

    with constant_requests(lambda: client.request("http://files", "/")) as requests:
        missing = f"{PREFIX}model=s3://models/missing/model.joblib"
        namespace.kubectl("annotate", "deployment", "files", "--overwrite", missing)
        namespace.watch("deployment", "files", is_not_loaded, 60)  # while the pods of the template before serve on
        namespace.kubectl("annotate", "deployment", "files", "--overwrite", f"{PREFIX}model={IRIS}")
        namespace.watch("deployment", "files", is_ready, 60)

        namespace.kubectl("annotate", "deployment", "files", "--overwrite", f"{PREFIX}mode-", missing)
        namespace.watch("deployment", "files", is_not_loaded, 120)
        failed = len(requests.answers)
        eventually(lambda: len(requests.answers) > failed + 20, 30, "its own pods answer, whatever Knative's do")
    assert requests.failed == []
    assert "selector" in namespace.get("service", "files")["spec"]

    namespace.kubectl("annotate", "deployment", "files", "--overwrite", f"{PREFIX}model={IRIS}")
    namespace.watch("deployment", "files", is_parked, 180)
    assert "serving.knative.dev/route" in namespace.get("service", "files")["metadata"]["labels"]


def is_not_loaded(found: Json) -> bool:
    return condition(found, READY).get("reason") == "ModelNotLoaded"


def is_reached(client: Ingress) -> bool:
    try:
        return client.request("http://files", "/").status == 200
    except OSError:
        return False


def is_parked(found: Json) -> bool:
    return condition(found, READY).get("status") == "True" and not (found.get("status") or {}).get("replicas")


def test_a_service_that_comes_with_its_deployment_is_got_out_of_the_way_of(
    namespace: Namespace, ingress: Ingress, iris: Trained
) -> None:
    """Applied in one go, and the Deployment first: admission cannot know of the Service yet."""
    front: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "iris"}}
    front["spec"] = {"selector": {"app": "iris"}, "ports": [{"port": 80}]}
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    namespace.run("kubectl", "create", "-f", "-", stdin=json.dumps(front), check=False)
    served = namespace.wait_ready("iris", 240)

    assert ingress.predict(served, iris.rows).predicted == iris.answers
    names = {found["metadata"]["name"] for found in namespace.list(KNATIVE_SERVICES)}
    owned = namespace.get("service", "iris")["metadata"].get("labels", {})
    # Whoever was first has the name; the model answers either way.
    assert names == ({"iris"} if "serving.knative.dev/route" in owned else {"iris-model"})
    described = namespace.kubectl("serve", "describe", "iris")
    assert f"Service:    {names.pop()}\n" in described


@pytest.mark.parametrize(("scale", "minimum"), [("1..1", 1), ("2", 2)])
def test_updates_leave_no_replica_of_the_revisions_before(
    namespace: Namespace, ingress: Ingress, iris: Trained, scale: str, minimum: int
) -> None:
    # With the default window, in which requests to the revision before would keep its pods.
    namespace.apply(deployment("iris", IRIS, credentials="store", scale=scale))
    served = namespace.wait_ready("iris")

    def revisions() -> list[str]:
        """Those of all pods, with the ones that are ending."""
        pods = namespace.list("pods", f"{PREFIX}deployment=iris")
        return [pod["metadata"]["labels"]["serving.knative.dev/revision"] for pod in pods]

    def update(number: int) -> None:
        change(namespace, f"model={(ALWAYS_TWO, IRIS)[number % 2]}")
        alone = minimum * [f"iris-{number + 2:05}"]
        eventually(
            lambda: revisions() and is_ready(namespace.get("deployment", "iris")), 180, f"update {number} is ready"
        )
        eventually(lambda: revisions() == alone, 60, f"after update {number}, only the new revision has pods")

    with (
        pod_counts(namespace, f"{PREFIX}deployment=iris") as counts,
        constant_requests(lambda: ingress.predict(served, iris.rows[:1])) as requests,
    ):
        for number in range(UPDATES):
            update(number)
    print(f"{len(requests.answers)} requests, {len(requests.failed)} failed; at most {max(counts)} pods")
    assert requests.failed == []
    assert max(counts) <= 2 * minimum


def test_a_rollback_with_a_minimum_moves_the_traffic_once_its_pods_are_ready(
    namespace: Namespace, ingress: Ingress, iris: Trained, always_two: Trained
) -> None:
    row, old, new = iris.rows[:1], iris.answers[:1], always_two.answers[:1]
    namespace.apply(deployment("iris", IRIS, credentials="store", scale="2", window="15s"))
    namespace.wait_ready("iris")
    change(namespace, f"model={ALWAYS_TWO}")
    served = namespace.wait_ready("iris")
    eventually(lambda: only(ingress, served, row, new), 60, "the new model answers")
    pods = f"{PREFIX}deployment=iris,serving.knative.dev/revision=iris-00001"
    eventually(lambda: not namespace.list("pods", pods), 90, "the revision before has no pods")

    with constant_requests(lambda: ingress.predict(served, row)) as requests:
        namespace.kubectl("serve", "rollback", "iris")
        eventually(lambda: only(ingress, served, row, old), 120, "the revision before answers")
        eventually(lambda: len(namespace.list("pods", pods)) == 2, 60, "it has its minimum")
    assert requests.failed == []


def test_a_canary_its_promotion_the_way_back_and_a_revision_that_never_becomes_ready(
    namespace: Namespace, ingress: Ingress, iris: Trained, always_two: Trained
) -> None:
    row, old, new = iris.rows[:1], iris.answers[:1], always_two.answers[:1]
    assert old != new
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    served = namespace.wait_ready("iris")

    # A canary has its share, and both revisions an address of their own.
    change(namespace, f"model={ALWAYS_TWO}", "canary=20%")
    served = namespace.wait_ready("iris")
    eventually(lambda: ingress.predict(served, row).predicted == new, 60, "the canary answers")
    answers = [ingress.predict(served, row).predicted for _ in range(200)]
    share = answers.count(new) / len(answers)
    print(f"canary of 20 %: {100 * share:.0f} % of {len(answers)} requests")
    assert 0.08 < share < 0.35
    assert (state.read(served).stable, state.read(served).revision) == ("iris-00001", "iris-00002")
    eventually(
        lambda: answers_at_tag(namespace, ingress, served, "previous", row, old), 60, "the tag previous leads there"
    )
    eventually(lambda: answers_at_tag(namespace, ingress, served, "latest", row, new), 60, "the tag latest leads there")

    assert "promoted" in namespace.kubectl("serve", "promote", "iris")
    eventually(lambda: only(ingress, served, row, new), 60, "everything goes to the promoted revision")
    eventually(
        lambda: answers_at_tag(namespace, ingress, served, "previous", row, old), 60, "the tag previous leads there"
    )

    namespace.kubectl("serve", "rollback", "iris")
    eventually(lambda: only(ingress, served, row, old), 60, "everything goes to the revision before")
    assert annotation(namespace.get("deployment", "iris"), "pin") == "iris-00001"

    # The pin goes, and a model that does not exist comes: the last ready revision goes on serving.
    change(namespace, "pin-", "model=s3://models/missing/model.joblib")
    broken = namespace.watch("deployment", "iris", lambda found: condition(found, READY).get("status") == "False", 120)
    assert condition(broken, LOADED)["reason"] == "NotFound"
    assert condition(broken, READY)["reason"] == "ModelNotLoaded"
    assert "Revision iris-00002 keeps serving." in condition(broken, READY)["message"]
    eventually(lambda: only(ingress, served, row, new), 60, "the last ready revision answers")
    service = namespace.get(KNATIVE_SERVICES, "iris")
    assert service["status"]["latestCreatedRevisionName"] == "iris-00003"
    shares = [(each["revisionName"], each.get("percent"), each.get("tag")) for each in service["status"]["traffic"]]
    # It serves, and is the previous one as soon as the new one does.
    assert shares == [("iris-00002", 100, None), ("iris-00002", 0, "previous")]


def change(namespace: Namespace, *annotations: str) -> None:
    namespace.kubectl("annotate", "deployment", "iris", "--overwrite", *(PREFIX + each for each in annotations))


def only(ingress: Ingress, served: Json, row: list[list[float]], wanted: list[int]) -> bool:
    return all(ingress.predict(served, row).predicted == wanted for _ in range(10))


def answers_at_tag(
    namespace: Namespace, ingress: Ingress, served: Json, tag: str, row: list[list[float]], wanted: list[int]
) -> bool:
    """Whether the revision under a tag answers so at its own URL, which the ingress may not know at once."""
    traffic = namespace.get(KNATIVE_SERVICES, "iris")["status"]["traffic"]
    url = next((each["url"] for each in traffic if each.get("tag") == tag), "http://not-yet")
    tagged = {**served, "status": {"conditions": [entry(url=url)]}}
    answer = ingress.predict(tagged, row)
    return answer.status == 200 and answer.predicted == wanted
