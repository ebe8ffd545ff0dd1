"""promote and rollback: the annotations, the wait, and the screen."""

import copy

import pytest

from serve_core.api import annotations
from serve_core.api.annotations import CANARY, PIN
from serve_core.base.constants import CONDITION_READY, SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_kube import errors
from support.fake_cluster import FakeCluster, Happens
from support.recorded_state import with_state
from unit.kubectl_serve.conftest import Run


def iris(
    generation: int = 1,
    status: str = "True",
    reason: str = "Ready",
    /,
    *,
    promoted: str = "",
    previous: str = "",
    **notes: str,
) -> JsonObject:
    made = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "namespace": "default",
            "uid": "1",
            "resourceVersion": str(generation),
            "generation": generation,
            "creationTimestamp": "2026-11-18T11:00:00Z",
            "labels": {SERVED_LABEL: "true"},
            "annotations": {
                annotations.MODEL: "s3://models/iris/model.joblib",
                **notes,
            },
        },
        "spec": {"replicas": 0},
        "status": {"conditions": [{"type": CONDITION_READY, "status": status, "reason": reason, "message": "It is."}]},
    }
    return with_state(made, generation, promoted=promoted, previous=previous)


def written(cluster: FakeCluster) -> list[JsonObject]:
    return [manifest["metadata"]["annotations"] for verb, _, manifest in cluster.wrote if verb == "merge"]


def test_promoting_takes_the_canary_away_and_waits_for_the_traffic(run: Run) -> None:
    moved = iris(2, promoted="iris-00002")
    cluster = FakeCluster([iris(**{CANARY: "10%"})], [Happens(0.5, moved)])
    screen = run("promote", "iris", cluster=cluster)
    assert (screen.code, screen.out) == (0, "deployment.apps/iris promoted\n")
    assert written(cluster) == [{CANARY: None}]
    assert f"Remove {CANARY} from your manifest as well" in screen.err


def test_there_is_nothing_to_promote_without_a_canary_or_a_pin(run: Run) -> None:
    cluster = FakeCluster([iris()])
    screen = run("promote", "iris", cluster=cluster)
    assert (screen.code, screen.out) == (0, "deployment.apps/iris unchanged\n")
    assert written(cluster) == []


def test_rolling_back_pins_the_revision_before(run: Run) -> None:
    cluster = FakeCluster([iris(promoted="iris-00002", previous="iris-00001")])
    screen = run("rollback", "iris", "--wait=false", cluster=cluster)
    assert (screen.code, screen.out) == (0, "deployment.apps/iris rolled back to iris-00001\n")
    assert written(cluster) == [{CANARY: None, PIN: "iris-00001"}]


def test_rolling_back_from_a_canary_pins_the_promoted_revision(run: Run) -> None:
    cluster = FakeCluster([iris(promoted="iris-00002", previous="iris-00001", **{CANARY: "10%"})])
    run("rollback", "iris", "--wait=false", cluster=cluster)
    assert written(cluster) == [{CANARY: None, PIN: "iris-00002"}]


def test_the_first_revision_cannot_be_rolled_back(run: Run) -> None:
    screen = run("rollback", "iris", cluster=FakeCluster([iris(promoted="iris-00001")]))
    assert screen.code == 1
    assert screen.err.startswith("error: iris has no previous revision.\nhint: `kubectl serve describe iris`")


def revision(name: str) -> JsonObject:
    labels = {"serving.knative.dev/service": "iris"}
    metadata: JsonObject = {"name": name, "namespace": "default", "labels": labels}
    return {"apiVersion": "serving.knative.dev/v1", "kind": "Revision", "metadata": metadata}


def test_rolling_back_to_a_revision_that_is_not_there_changes_nothing(run: Run) -> None:
    cluster = FakeCluster([iris(), revision("iris-00002"), revision("iris-00001")])
    screen = run("rollback", "iris", "--to", "iris-0001", cluster=cluster)
    assert screen.code == 1
    assert screen.err == "error: iris has no revision iris-0001.\nhint: It has: iris-00001, iris-00002.\n"
    assert written(cluster) == []


def test_rolling_back_asks_for_no_right_to_see_revisions(run: Run) -> None:
    cluster = FakeCluster([iris()], hidden=frozenset({"revisions"}))
    screen = run("rollback", "iris", "--to", "iris-00001", "--wait=false", cluster=cluster)
    assert screen.code == 0
    assert written(cluster) == [{CANARY: None, PIN: "iris-00001"}]


def test_a_dry_run_of_the_client_writes_nothing(run: Run) -> None:
    cluster = FakeCluster([iris(previous="iris-00001")])
    screen = run("rollback", "iris", "--dry-run", cluster=cluster)
    assert (screen.code, screen.out) == (0, "deployment.apps/iris rolled back to iris-00001 (dry run)\n")
    assert cluster.wrote == []


def test_without_waiting_the_request_is_reported_at_once(run: Run) -> None:
    for flag, said in (("--wait=false", ""), ("--dry-run=server", " (server dry run)")):
        cluster = FakeCluster([iris(1, "Unknown", "Progressing", previous="iris-00001")])
        screen = run("rollback", "iris", flag, cluster=cluster)
        assert (screen.code, screen.out) == (0, f"deployment.apps/iris rolled back to iris-00001{said}\n")


@pytest.mark.parametrize(
    ("form", "begins"),
    [("yaml", "apiVersion: apps/v1\n"), ("json", '{\n    "apiVersion": "apps/v1"'), ("name", "deployment.apps/iris\n")],
    ids=["yaml", "json", "name"],
)
def test_the_deployment_is_printed_as_it_is_asked_for(run: Run, form: str, begins: str) -> None:
    cluster = FakeCluster([iris(previous="iris-00001")])
    screen = run("rollback", "iris", "-o", form, cluster=cluster)
    assert screen.out.startswith(begins)


def test_what_does_not_move_in_time_is_said(run: Run) -> None:
    cluster = FakeCluster([iris(1, "Unknown", "Progressing", previous="iris-00001")])
    screen = run("rollback", "iris", "--timeout=1s", cluster=cluster)
    assert screen.code == 1
    assert "the traffic of iris has not moved: it is not ready after 1 s." in screen.err


def test_a_deployment_that_goes_meanwhile_has_not_moved(run: Run) -> None:
    waits = iris(1, "Unknown", "Progressing", previous="iris-00001")
    screen = run("rollback", "iris", cluster=FakeCluster([waits], [Happens(0.1, waits, "DELETED")]))
    assert screen.code == 1
    assert "Deleted: the Deployment was deleted." in screen.err


def test_a_revision_that_is_gone_is_said_with_its_cause(run: Run) -> None:
    failed = iris(2, "False", "ServiceNotReady", **{PIN: "iris-00009"})
    failed["status"]["conditions"][0]["message"] = "Revision iris-00009 does not exist."
    again = copy.deepcopy(failed)
    cluster = FakeCluster([iris(), revision("iris-00009")], [Happens(0.5, failed), Happens(10, again)])
    screen = run("rollback", "iris", "--to", "iris-00009", cluster=cluster)
    assert screen.code == 1
    assert "the traffic of iris has not moved: ServiceNotReady: Revision iris-00009 does not exist." in screen.err


def test_what_the_webhook_refuses_is_passed_on(run: Run) -> None:
    cluster = FakeCluster([iris(previous="iris-00001")])

    async def refuse(*_: object, **__: object) -> JsonObject:
        raise errors.InvalidError("InvalidAnnotation: it is not allowed.")

    cluster.merge = refuse  # type: ignore[method-assign]
    screen = run("rollback", "iris", cluster=cluster)
    assert screen.code == 1
    assert "InvalidAnnotation" in screen.err
