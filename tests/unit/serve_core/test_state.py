"""The state in a Deployment's condition: it is read as it was written, and anything else counts as missing."""

import json
from typing import Any

import pytest

from serve_core.api import state
from serve_core.api.state import State
from serve_core.base.constants import CONDITION_STATE
from serve_core.base.json import JsonObject
from support.recorded_state import entry, with_state

FULL: dict[str, Any] = {
    "url": "https://iris.example.com",
    "revision": "iris-00002",
    "model_bytes": 140 * 10**9,
    "promoted": "iris-00002",
    "previous": "iris-00001",
    "template": "0123456789ab",
}


def stored(generation: Any = 3, *conditions: Any, **notes: str) -> JsonObject:
    metadata = {"name": "iris", "generation": generation, "annotations": notes}
    return {"metadata": metadata, "status": {"conditions": list(conditions)}}


def test_what_is_recorded_is_read_again() -> None:
    assert state.read(with_state(stored(), 3, **FULL)) == State(3, **FULL)
    assert state.read(with_state(stored(), 3)) == State(3)
    assert state.read(stored()) == state.read(None) == State()


def test_it_describes_the_generation_that_it_names() -> None:
    assert state.is_current(with_state(stored(3), 3))
    assert not state.is_current(with_state(stored(4), 3))
    assert not state.is_current(stored(3))
    assert not state.is_current(with_state(stored(None), None))


@pytest.mark.parametrize(
    "message", [None, "", "[]", "null", "7", "{", json.dumps(dict.fromkeys(("url", "promoted", "previous"), 7)), 7]
)
def test_a_message_of_another_form_is_an_empty_state(message: Any) -> None:
    assert state.read(stored(3, entry(3) | {"message": message})) == State(3)


@pytest.mark.parametrize("reason", [None, "", "Observed", "ObservedGeneration", "ObservedGeneration-1", "x3", 3])
def test_a_reason_without_a_generation_names_none(reason: Any) -> None:
    assert not state.is_current(stored(3, entry(3) | {"reason": reason}))


@pytest.mark.parametrize("conditions", [None, {}, "x", [None, "x", {"type": CONDITION_STATE}]])
def test_a_status_of_another_form_is_an_empty_state(conditions: Any) -> None:
    assert state.read({"metadata": {"name": "iris"}, "status": {"conditions": conditions}}) == State()


def test_annotations_of_earlier_builds_count_until_there_is_the_condition() -> None:
    notes = {"kubectl-serve.dev/promoted": "iris-00002", "kubectl-serve.dev/observed-generation": "3"}
    assert state.read(stored(3, **notes)) == State(3, promoted="iris-00002")
    assert state.read(stored(3, entry(2), **notes)) == State(2)
