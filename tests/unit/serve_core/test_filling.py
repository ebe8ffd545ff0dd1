"""Filling never changes what the user wrote, and taking back restores it exactly."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_core.base.json import JsonObject
from serve_core.base.overlay import decode, encode, fill, take_back

NAMES = st.sampled_from(["a", "b/c", "d~e", "model"])
SCALARS = st.one_of(st.text(max_size=3), st.integers(0, 3), st.booleans())
ENV = st.lists(st.fixed_dictionaries({"name": NAMES, "value": SCALARS}), max_size=3, unique_by=lambda e: e["name"])
PROBE = st.fixed_dictionaries({"httpGet": st.fixed_dictionaries({"port": SCALARS})})


def containers(least: int = 0) -> st.SearchStrategy[list[JsonObject]]:
    optional = {
        "image": SCALARS,
        "env": ENV.filter(bool),
        "readinessProbe": PROBE,
        "args": st.lists(SCALARS, min_size=1),
    }
    container = st.fixed_dictionaries({"name": NAMES}, optional=optional)
    return st.lists(container, min_size=least, max_size=3, unique_by=lambda c: c["name"])


PODS = st.fixed_dictionaries(
    {},
    optional={
        "containers": containers(least=1),
        "labels": st.dictionaries(NAMES, SCALARS, min_size=1),
        "text": SCALARS.filter(lambda value: value is not None),
    },
)


@given(user=PODS, ours=PODS)
def test_taking_back_restores_what_the_user_wrote(user: JsonObject, ours: JsonObject) -> None:
    document = copy.deepcopy(user)
    record = fill(document, copy.deepcopy(ours))
    take_back(document, record)
    assert document == user


@given(user=PODS, ours=PODS)
def test_filling_anew_after_taking_back_changes_nothing(user: JsonObject, ours: JsonObject) -> None:
    document = copy.deepcopy(user)
    record = fill(document, copy.deepcopy(ours))
    once = json.dumps(document, sort_keys=True)
    take_back(document, record)
    assert fill(document, copy.deepcopy(ours)) == record
    assert json.dumps(document, sort_keys=True) == once


@given(user=PODS, ours=PODS)
def test_what_is_in_the_document_may_be_shared_with_another(user: JsonObject, ours: JsonObject) -> None:
    before = copy.deepcopy((user, ours))
    document = {**user}
    record = fill(document, ours)
    filled, as_filled = {**document}, copy.deepcopy(document)
    take_back(document, record)
    assert (user, ours) == before
    assert filled == as_filled


@given(user=PODS, ours=PODS)
def test_what_is_noted_says_as_much_as_the_record(user: JsonObject, ours: JsonObject) -> None:
    document = copy.deepcopy(user)
    record = fill(document, copy.deepcopy(ours))
    assert decode(encode(record), document) == record
    take_back(document, decode(encode(record), document) or {})
    assert document == user


@given(user=PODS, ours=PODS, other=PODS)
def test_a_note_about_another_object_takes_nothing_of_the_users_but_what_is_the_same(
    user: JsonObject, ours: JsonObject, other: JsonObject
) -> None:
    document = copy.deepcopy(user)
    record = fill(document, copy.deepcopy(ours))
    assert (decode(encode(record), other) or {}).items() <= record.items()


@pytest.mark.parametrize("note", ["a", "a" * 9, "[]", "{", "{" * 5000, '{"a": 1}', "null", "a" * 2008, "ä" * 7])
def test_what_is_no_note_is_told_from_one(note: str) -> None:
    assert decode(note, {"spec": {}}) is None


def test_a_note_of_the_first_version_is_read() -> None:
    document: JsonObject = {}
    record = fill(document, {"containers": [{"name": "server", "image": "ours"}]})
    assert decode(json.dumps(record), document) == record


def leaves(value: object, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every scalar with the way to it; elements are known by their name, for ours may come before the user's."""
    if isinstance(value, dict):
        return {leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))}
    if isinstance(value, list):
        names = [e["name"] if isinstance(e, dict) else f"[{i}]" for i, e in enumerate(value)]
        return {leaf for name, inner in zip(names, value, strict=True) for leaf in leaves(inner, (*path, name))}
    return {(*path, repr(value))}


@given(user=PODS, ours=PODS)
def test_filling_keeps_every_value_of_the_user(user: JsonObject, ours: JsonObject) -> None:
    document = copy.deepcopy(user)
    fill(document, copy.deepcopy(ours))
    assert leaves(user) <= leaves(document)


def test_what_the_user_has_changed_since_is_theirs() -> None:
    document: JsonObject = {}
    record = fill(document, {"containers": [{"name": "server", "image": "ours", "args": ["--fast"]}]})
    document["containers"][0]["image"] = "theirs"
    take_back(document, record)
    assert document == {"containers": [{"name": "server", "image": "theirs"}]}


def test_what_the_user_has_added_to_our_container_keeps_it() -> None:
    document: JsonObject = {}
    record = fill(document, {"containers": [{"name": "server", "image": "ours"}]})
    document["containers"][0]["tty"] = True
    take_back(document, record)
    assert document == {"containers": [{"name": "server", "tty": True}]}


@pytest.mark.parametrize(
    "key", ["readinessProbe", "livenessProbe", "startupProbe", "securityContext", "resources", "args", "ports"]
)
def test_what_makes_sense_as_a_whole_only_is_the_users_or_ours(key: str) -> None:
    theirs: object = ["theirs"] if key in ("args", "ports") else {"theirs": 1}
    ours: object = ["ours"] if key in ("args", "ports") else {"ours": 1}
    document: JsonObject = {"containers": [{"name": "server", key: theirs}]}
    assert not fill(document, {"containers": [{"name": "server", key: ours}]})


@pytest.mark.parametrize("nothing", [None, {}, [], {"limits": None, "claims": []}])
def test_what_the_api_server_stores_as_nothing_is_filled(nothing: object) -> None:
    document: JsonObject = {"containers": [{"name": "server", "resources": nothing}]}
    fill(document, {"containers": [{"name": "server", "resources": {"limits": {"cpu": "1"}}}]})
    assert document == {"containers": [{"name": "server", "resources": {"limits": {"cpu": "1"}}}]}


def test_a_volume_of_the_user_under_our_name_is_used_as_it_is() -> None:
    document: JsonObject = {"volumes": [{"name": "model", "ephemeral": {}}]}
    assert not fill(document, {"volumes": [{"name": "model", "emptyDir": {}}]})


def test_a_record_of_paths_that_do_not_exist_is_harmless() -> None:
    document: JsonObject = {"spec": {"replicas": 1}, "list": ["a"]}
    take_back(document, {"/spec/replicas/x": "1", "/list/name=a/b": "2", "nonsense": "3", "/spec": "4", "": "5"})
    assert document == {"spec": {"replicas": 1}, "list": ["a"]}
