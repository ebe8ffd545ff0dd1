"""A patch makes exactly the document it was computed for, by the rules of RFC 6902."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_core.base.json import JsonObject
from serve_core.base.patch import json_patch

KEYS = st.sampled_from(["a", "b/c", "d~e", "f~1g", "h~0i", "name", "containerPort"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.sampled_from(["", "x"])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)


def apply(document: Any, operations: list[JsonObject]) -> Any:
    """RFC 6902, for the three operations that are used."""
    document = copy.deepcopy(document)
    for operation in operations:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        node = document
        for step in steps[:-1]:
            node = node[int(step)] if isinstance(node, list) else node[step]
        key: Any = int(steps[-1]) if isinstance(node, list) else steps[-1]
        if operation["op"] == "remove":
            del node[key]
        elif operation["op"] == "add" and isinstance(node, list):
            assert key <= len(node)
            node.insert(key, operation["value"])
        else:
            assert operation["op"] == "add" or isinstance(node, list) or key in node
            node[key] = operation["value"]
    return document


@given(before=DOCUMENTS, after=DOCUMENTS)
@pytest.mark.attack(11)
def test_the_patch_makes_the_other_document(before: JsonObject, after: JsonObject) -> None:
    made = apply(before, json_patch(before, after))
    assert repr(sorted_deep(made)) == repr(sorted_deep(after))


def sorted_deep(value: Any) -> Any:
    """With keys in order, so that ``repr`` also tells ``True`` from ``1``."""
    if isinstance(value, dict):
        return {key: sorted_deep(value[key]) for key in sorted(value)}
    return [sorted_deep(item) for item in value] if isinstance(value, list) else value


@given(document=DOCUMENTS)
def test_equal_documents_need_no_patch(document: JsonObject) -> None:
    assert json_patch(document, copy.deepcopy(document)) == []


@pytest.mark.parametrize("extra", [[], [{"name": "theirs", "image": "t"}]], ids=["alone", "beside another's"])
def test_an_element_is_added_beside_the_others(extra: list[JsonObject]) -> None:
    before = {"containers": [*extra]}
    after = {"containers": [*extra, {"name": "ours"}]}
    assert json_patch(before, after) == [{"op": "add", "path": f"/containers/{len(extra)}", "value": {"name": "ours"}}]
