"""Filling in what a user left empty, remembering it, and taking it back.

A document is filled from an *overlay* of the same shape. What the user wrote stays. Lists of named elements are
merged by name, as Kubernetes' strategic merge does; every other list is one value, and so is what only makes sense
as a whole, such as a probe. Each value that was filled is remembered as its path and a digest: what still has that
digest is ours, what differs the user has changed since.

An overlay spells out what the API server would default inside it: else the stored value would differ from the filled.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from serve_core.json import JsonObject, escape, unescape

# Kubernetes' patchMergeKey of each list (k8s.io/api, core/v1 types). Containers are filled field by field, ...
_CONTAINER_LISTS = {"containers": "name", "initContainers": "name"}
# ... elements of these lists are filled whole or not at all: a volume with two sources would be refused.
_ELEMENT_LISTS = {"volumes": "name", "env": "name", "volumeMounts": "mountPath"}
_MERGE_KEYS = _CONTAINER_LISTS | _ELEMENT_LISTS
_FIRST = ("initContainers", "env")
# One value each: half of the user's and half of ours would contradict each other.
_WHOLE = frozenset({"readinessProbe", "livenessProbe", "startupProbe", "securityContext", "resources"})

Record = dict[str, str]
"""Path of each filled value to its digest."""


def digest(value: object) -> str:
    """A short digest of a JSON value. Nobody gains by a collision: it tells whose a value of one's own object is."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fill(document: JsonObject, overlay: Mapping[str, Any]) -> Record:
    """Add to ``document`` what it lacks of ``overlay``; return what was added."""
    return dict(_fill(document, overlay, ""))


def _fill(document: JsonObject, overlay: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for key, value in overlay.items():
        here = f"{path}/{escape(key)}"
        present = document.get(key)
        empty = _is_empty(present)
        if key in _MERGE_KEYS and isinstance(value, list):
            elements = [] if empty else present
            if isinstance(elements, list):
                document[key] = elements
                yield from _fill_list(elements, value, key, here)
        elif isinstance(value, dict) and value and key not in _WHOLE:
            inner = {} if empty else present
            if isinstance(inner, dict):
                document[key] = inner
                yield from _fill(inner, value, here)
        elif empty:
            document[key] = value
            yield here, digest(value)


def _is_empty(value: Any) -> bool:
    """Nothing, or what the API server stores as nothing."""
    return value in (None, {}, []) or (isinstance(value, dict) and all(inner in (None, []) for inner in value.values()))


def _fill_list(elements: list[Any], overlay: list[Any], key: str, path: str) -> Iterator[tuple[str, str]]:
    """Ours come last, so that the user's keep their places; first where the order matters.

    In ``env``, ``$(NAME)`` is expanded only below ``NAME`` itself, and an init container may want to see the model.
    """
    merge_key = _MERGE_KEYS[key]
    at = 0 if key in _FIRST else len(elements)
    for value in overlay:
        here = f"{path}/{merge_key}={escape(str(value[merge_key]))}"
        found = next((e for e in elements if isinstance(e, dict) and e.get(merge_key) == value[merge_key]), None)
        if found is None:
            found = {} if key in _CONTAINER_LISTS else value
            elements.insert(at, found)
            at += 1
            if key in _ELEMENT_LISTS:
                yield here, digest(value)
        if key in _CONTAINER_LISTS:
            yield from _fill(found, value, here)


def take_back(document: JsonObject, record: Record) -> None:
    """Remove from ``document`` every value of ``record`` that is still as it was filled, and what that leaves empty."""
    paths = [(path.split("/")[1:], value) for path, value in record.items()]
    # The deepest first and a container's name after its fields: a container goes with the last thing of ours in it.
    paths.sort(key=lambda item: (-len(item[0]), item[0][-1:] == ["name"]))
    for steps, value in paths:
        _take_back(document, steps, value)


def _take_back(node: Any, steps: list[str], value: str) -> None:
    if isinstance(node, list) and steps:
        merge_key, _, name = steps[0].partition("=")
        for index, element in enumerate(node):
            if isinstance(element, dict) and str(element.get(merge_key)) == unescape(name):
                whole = len(steps) == 1 and digest(element) == value
                only_its_name = steps[1:] == [merge_key] and len(element) == 1
                if whole or only_its_name:
                    del node[index]
                elif steps[1:] != [merge_key]:
                    _take_back(element, steps[1:], value)
                return
    elif isinstance(node, dict) and steps:
        key = unescape(steps[0])
        if key not in node:
            return
        if len(steps) > 1:
            _take_back(node[key], steps[1:], value)
            if node[key] in ({}, []):
                del node[key]
        elif digest(node[key]) == value:
            del node[key]


def path(*steps: str) -> str:
    """The path of a value, as a record has it."""
    return "".join(f"/{escape(step)}" for step in steps)
