"""The traffic of revisions, and what is recorded of them."""

from collections.abc import Sequence

from serve_core.api.annotations import CANARY, MODEL, PIN
from serve_core.api.serving_spec import read
from serve_core.api.state import State
from serve_core.base.json import JsonObject
from serve_core.knative.traffic import MIN_SCALE, SCALING, scaling, settled, starting, targets


def noted(latest: str, state: State, **asked: str) -> State:
    spec, problems = read({MODEL: "s3://models/iris/model.joblib", **asked})
    assert spec is not None, problems
    return settled(spec, state, {"latestReadyRevisionName": latest})


def test_the_first_ready_revision_is_promoted() -> None:
    assert noted("iris-00001", State()) == State(promoted="iris-00001")


def test_the_next_one_makes_the_promoted_one_the_previous() -> None:
    assert noted("iris-00002", State(promoted="iris-00001")) == State(promoted="iris-00002", previous="iris-00001")


def test_nothing_is_forgotten_while_nothing_changes() -> None:
    state = State(promoted="iris-00002", previous="iris-00001")
    assert noted("iris-00002", state) == state


def test_a_canary_is_not_promoted_by_being_ready() -> None:
    state = State(promoted="iris-00001")
    assert noted("iris-00002", state, **{CANARY: "10%"}) == state


def test_a_model_that_begins_with_a_canary_has_its_first_revision_to_stand_beside() -> None:
    asked = {CANARY: "10%"}
    state = noted("iris-00001", State(), **asked)
    assert state == State(promoted="iris-00001")
    spec, _ = read({MODEL: "s3://models/iris/model.joblib", **asked})
    assert spec is not None
    assert [(each.get("revisionName"), each["percent"]) for each in targets(spec, state, {})] == [
        (None, 10),
        ("iris-00001", 90),
    ]


def test_a_pin_keeps_what_was_promoted() -> None:
    state = State(promoted="iris-00002", previous="iris-00001")
    assert noted("iris-00003", state, **{PIN: "iris-00001"}) == state


def test_before_anything_is_ready_nothing_is_promoted() -> None:
    assert noted("", State()) == State()


def service(*traffic: tuple[str, int], minimum: str | None = "1") -> JsonObject:
    """A Knative Service whose Route gives each revision this percentage; the first is the latest."""
    annotations = {} if minimum is None else {MIN_SCALE: minimum}
    return {
        "spec": {"template": {"metadata": {"annotations": annotations}}},
        "status": {
            "latestReadyRevisionName": traffic[0][0],
            "traffic": [{"revisionName": name, "percent": percent} for name, percent in traffic],
        },
    }


def asked(
    state: State, annotations: dict[str, str] | None = None, template: dict[str, str] | None = None
) -> list[JsonObject]:
    spec, problems = read({MODEL: "s3://models/iris/model.joblib", **(annotations or {})})
    assert spec is not None, problems
    return targets(spec, state, template or {})


UPDATED = State(promoted="iris-00002", previous="iris-00001")


def minimums(service: JsonObject, traffic: Sequence[JsonObject], *, is_ready: bool) -> dict[str, str | None]:
    """The minimum of each revision."""
    found = scaling(service, traffic, is_ready=is_ready)
    return {name: annotations[MIN_SCALE] for name, annotations in found.items()}


def test_a_revision_without_traffic_leaves_soon_whatever_the_users_window_is() -> None:
    moved = service(("iris-00002", 100), ("iris-00001", 0))
    template = moved["spec"]["template"]["metadata"]["annotations"]
    template |= {"autoscaling.knative.dev/window": "10m", "autoscaling.knative.dev/max-scale": "3"}
    found = scaling(moved, asked(UPDATED), is_ready=True)
    retention = "autoscaling.knative.dev/scale-to-zero-pod-retention-period"
    assert found["iris-00002"] == {MIN_SCALE: "1", "autoscaling.knative.dev/window": "10m", retention: None}
    assert found["iris-00001"] == SCALING == {MIN_SCALE: "0", "autoscaling.knative.dev/window": "6s", retention: "0s"}


def test_the_revision_before_an_update_has_no_minimum() -> None:
    moved = service(("iris-00002", 100))
    assert minimums(moved, asked(UPDATED), is_ready=True) == {"iris-00002": "1", "iris-00001": "0"}
    assert minimums(moved, asked(State(promoted="iris-00002")), is_ready=True) == {}, "only one revision has a target"


def test_no_revision_loses_its_minimum_before_its_traffic() -> None:
    before = service(("iris-00002", 100), ("iris-00001", 0))
    rollback = asked(UPDATED, {PIN: "iris-00001"})
    assert minimums(before, rollback, is_ready=False) == {"iris-00001": "1", "iris-00002": "1"}
    after = service(("iris-00002", 0), ("iris-00001", 100))
    assert minimums(after, rollback, is_ready=True) == {"iris-00001": "1", "iris-00002": "0"}


def test_while_a_newer_revision_starts_the_one_that_serves_keeps_its_own_minimum() -> None:
    rolling = service(("iris-00001", 100), ("iris-00001", 0), minimum="3")
    rolling["status"]["latestCreatedRevisionName"] = "iris-00002"
    assert minimums(rolling, asked(State(previous="iris-00001")), is_ready=False) == {}


def test_a_revision_that_serves_already_does_not_start_for_a_pin() -> None:
    rolling = service(("iris-00001", 100), ("iris-00001", 0))
    pinned = {"spec": service(("", 0))["spec"] | {"traffic": asked(State(), {PIN: "iris-00001"})}}
    assert starting(rolling, pinned) == []
    assert starting(service(("iris-00002", 100), ("iris-00001", 0)), pinned) == ["iris-00001"]


def test_a_canary_on_an_update_that_is_under_way_leaves_the_rest_to_the_revision_before() -> None:
    state = State(previous="iris-00001")
    canary = asked(state, {CANARY: "10%"})
    assert [(each.get("revisionName"), each["percent"]) for each in canary] == [(None, 10), ("iris-00001", 90)]
    assert noted("iris-00002", state, **{CANARY: "10%"}) == state


def test_both_have_their_minimum_while_both_have_traffic() -> None:
    canary = asked(State(promoted="iris-00001"), {CANARY: "10%"})
    shared = service(("iris-00002", 10), ("iris-00001", 90), minimum="3")
    assert minimums(shared, canary, is_ready=True) == {"iris-00002": "3", "iris-00001": "3"}


def test_a_cluster_can_have_a_default_minimum() -> None:
    updated = service(("iris-00002", 100), minimum=None)
    assert minimums(updated, asked(UPDATED), is_ready=True) == {"iris-00002": None, "iris-00001": "0"}


def test_before_a_revision_is_ready_there_is_nothing_to_set() -> None:
    assert minimums({"spec": {"template": {}}}, asked(State(), {PIN: "iris-00001"}), is_ready=False) == {
        "iris-00001": None
    }


def test_an_autoscaler_that_keeps_a_replica_gets_no_tag_without_traffic() -> None:
    hpa = {"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"}
    assert [each["percent"] for each in asked(UPDATED, {}, hpa)] == [100]
    assert [each["percent"] for each in asked(UPDATED, {PIN: "iris-00001"}, hpa)] == [100]
    assert [each["percent"] for each in asked(UPDATED, {CANARY: "10%"}, hpa)] == [10, 90]
    kpa = {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"}
    assert asked(UPDATED, {}, kpa) == asked(UPDATED)
