"""No field of an InferenceService disappears: another value changes the result, or a note reports the field."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kubectl_serve.install import manifests
from kubectl_serve.kserve.base.accounting import Ledger
from kubectl_serve.kserve.base.converted import Converted
from kubectl_serve.kserve.services.inference_service import convert
from serve_core.admission.decide import judge
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject
from serve_core.knative.features import FLAGS
from support import golden
from support.kserve_documents import inference_services, leaves

CONTEXT = replace(
    manifests.default_context(),
    runtimes=golden.runtimes(golden.runtime_files()),
    features=dict.fromkeys(FLAGS, "enabled"),
)


WRONG = st.sampled_from(
    [0, -1, 10**30, 1.5, True, "", "\x1b[31m", "{{.Bad}}", [], {}, [[]], [{}], {"a": {}}, {"name": 3}]
)


_SAME_PORT_TWICE = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "iris"},
    "spec": {
        "predictor": {
            "containers": [
                {
                    "name": "kserve-container",
                    "image": "registry.example.com/own:1",
                    "ports": [{"containerPort": 5000}, {"containerPort": 5000, "name": "http1", "protocol": "TCP"}],
                }
            ]
        }
    },
}


@settings(max_examples=100)
@example(_SAME_PORT_TWICE)
@given(st.one_of(inference_services(), inference_services(kinds=["image"])))
def test_every_field_is_used_reported_or_refused(document: JsonObject) -> None:
    converted = convert(document, CONTEXT)
    if converted.deployment is None and not converted.others:
        assert converted.notes or converted.problems
        return
    parts = {key: document[key] for key in ("metadata", "spec")}
    lost = [at for at in leaves(parts) if not _is_reported(at, document, converted) and not _matters(at, document)]
    assert not lost


@settings(max_examples=100)
@given(inference_services())
def test_the_webhook_accepts_the_deployment_or_the_messages_say_why(document: JsonObject) -> None:
    converted = convert(document, CONTEXT)
    if converted.deployment is not None:
        problems = judge(converted.deployment, CONTEXT).problems
        assert converted.problems == problems
        assert all(each.path and each.message for each in problems)


@settings(max_examples=150)
@given(inference_services(), st.data())
def test_a_value_of_another_type_anywhere_never_raises(document: JsonObject, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from(list(leaves(document))))
    place = at[: data.draw(st.integers(1, len(at)))]
    _owner(document, place)[place[-1]] = data.draw(WRONG)
    converted = convert(document, CONTEXT)
    assert converted.deployment is not None or converted.others or converted.notes or converted.problems


@settings(max_examples=60)
@given(inference_services(kinds=["image"]))
def test_a_predictor_without_a_model_has_nothing_of_kubectl_serve(document: JsonObject) -> None:
    converted = convert(document, CONTEXT)
    assert converted.deployment is None
    assert all(each["metadata"]["name"] == document["metadata"]["name"] for each in converted.others)
    assert PREFIX not in json.dumps(converted.others)


def test_a_field_that_is_copied_and_removed_again_is_reported() -> None:
    ledger = Ledger({"kept": {"inner": 1}, "removed": 2})
    made: dict[str, Any] = {"here": ledger.root.at("kept"), "there": ledger.root.at("removed")}
    del made["there"]
    assert ledger.settled(made) == {"here": {"inner": 1}}
    ledger.report()
    assert [note.path for note in ledger.notes] == ["removed"]


def test_only_the_fields_of_an_object_that_are_left_are_reported() -> None:
    ledger = Ledger({"spec": {"read": "a", "unread": {"one": [1, {"two": {}}]}, "null": None}})
    assert ledger.root.at("spec", "read").text() == "a"
    ledger.report()
    assert [note.path for note in ledger.notes] == ["spec.unread"]


@pytest.mark.parametrize(
    ("value", "sentence"), [(3, "is not a string; put it into quotes."), ([], "is not a string; put it into quotes.")]
)
def test_a_value_of_another_type_is_a_fault(value: object, sentence: str) -> None:
    ledger = Ledger({"name": value})
    assert ledger.root.at("name").text() is None
    assert [(fault.path, fault.sentence) for fault in ledger.faults] == [("name", sentence)]


def _is_reported(at: tuple[str | int, ...], document: JsonObject, converted: Converted) -> bool:
    """Whether a note says that the field, or one that it is in, has no equivalent; or is about exactly this field."""
    found = Ledger(document).root
    paths = []
    for step in at:
        found = next(each for each in found.children() if each.steps[-1] == step)
        paths.append(found.path)
    return any(note.path == paths[-1] or (note.path in paths and _says_lost(note.sentence)) for note in converted.notes)


def _says_lost(sentence: str) -> bool:
    return sentence.startswith(("has no equivalent", "has no effect", "is not declared"))


def _matters(at: tuple[str | int, ...], document: JsonObject) -> bool:
    """Whether another value, or none, gives another result."""
    result = convert(document, CONTEXT)
    return any(convert(each, CONTEXT) != result for each in (_changed(document, at), _without(document, at)))


def _changed(document: JsonObject, at: tuple[str | int, ...]) -> JsonObject:
    changed = copy.deepcopy(document)
    owner = _owner(changed, at)
    value = owner[at[-1]]
    if isinstance(value, bool):
        owner[at[-1]] = not value
    elif isinstance(value, int):
        owner[at[-1]] = value + 1
    else:
        owner[at[-1]] = f"{value}0" if isinstance(value, str) else {"other": "value"}
    return changed


def _without(document: JsonObject, at: tuple[str | int, ...]) -> JsonObject:
    changed = copy.deepcopy(document)
    del _owner(changed, at)[at[-1]]
    return changed


def _owner(document: Any, at: tuple[str | int, ...]) -> Any:
    for step in at[:-1]:
        document = document[step]
    return document
