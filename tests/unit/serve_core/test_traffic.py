"""What is noted about revisions as they become ready."""

from serve_core.api.annotations import CANARY, MODEL, PIN, PREVIOUS, PROMOTED
from serve_core.api.serving_spec import read
from serve_core.knative.traffic import settled, targets


def noted(latest: str, notes: dict[str, str], **asked: str) -> dict[str, str]:
    spec, problems = read({MODEL: "s3://models/iris/model.joblib", **asked})
    assert spec is not None, problems
    return settled(spec, notes, {"latestReadyRevisionName": latest})


def test_the_first_ready_revision_is_promoted() -> None:
    assert noted("iris-00001", {}) == {PROMOTED: "iris-00001"}


def test_the_next_one_makes_the_promoted_one_the_previous() -> None:
    assert noted("iris-00002", {PROMOTED: "iris-00001"}) == {PROMOTED: "iris-00002", PREVIOUS: "iris-00001"}


def test_nothing_is_forgotten_while_nothing_changes() -> None:
    notes = {PROMOTED: "iris-00002", PREVIOUS: "iris-00001"}
    assert noted("iris-00002", notes) == notes


def test_a_canary_is_not_promoted_by_being_ready() -> None:
    notes = {PROMOTED: "iris-00001"}
    assert noted("iris-00002", notes, **{CANARY: "10%"}) == notes


def test_a_model_that_begins_with_a_canary_has_its_first_revision_to_stand_beside() -> None:
    asked = {CANARY: "10%"}
    notes = noted("iris-00001", {}, **asked)
    assert notes == {PROMOTED: "iris-00001"}
    spec, _ = read({MODEL: "s3://models/iris/model.joblib", **asked})
    assert spec is not None
    assert [(each.get("revisionName"), each["percent"]) for each in targets(spec, notes)] == [
        (None, 10),
        ("iris-00001", 90),
    ]


def test_a_pin_keeps_what_was_promoted() -> None:
    notes = {PROMOTED: "iris-00002", PREVIOUS: "iris-00001"}
    assert noted("iris-00003", notes, **{PIN: "iris-00001"}) == notes


def test_before_anything_is_ready_nothing_is_promoted() -> None:
    assert noted("", {}) == {}
