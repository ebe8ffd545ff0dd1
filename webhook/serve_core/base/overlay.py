"""Setting the fields that a user left empty, recording them, and removing them again.

An *overlay* has the shape of the document. It sets only fields that are empty. Lists of named elements are merged by
name, as in Kubernetes' strategic merge; every other list is one value, and so are objects that only make sense as a
whole, such as a probe. A field record has the path and a digest of each value that was set. A value with that digest is
still ours; a different value is the user's. The Deployment has a mark of each record, without the path: a walk through
the Deployment finds the path by its mark.

Only the document itself is written to. What is below it can be shared with other documents, and is copied first where
it changes.

An overlay has the API server's defaults written out: otherwise the stored value would differ from the set one.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_core.base.json import JsonObject, canonical, escape, unescape

# Kubernetes' patchMergeKey of each list (k8s.io/api, core/v1 types). Containers are filled field by field, ...
_CONTAINER_LISTS = {"containers": "name", "initContainers": "name"}
# ... elements of these lists are filled whole or not at all: a volume with two sources would be refused.
_ELEMENT_LISTS = {"volumes": "name", "env": "name", "volumeMounts": "mountPath", "imagePullSecrets": "name"}
_MERGE_KEYS = _CONTAINER_LISTS | _ELEMENT_LISTS
_FIRST = ("initContainers", "env")
# One value each: the user's fields and ours would contradict each other.
_WHOLE = frozenset({"readinessProbe", "livenessProbe", "startupProbe", "securityContext", "resources"})

FieldRecord = dict[str, str]
"""Path of each value that was set, to the value's digest."""

_MARK = 8
"""Characters of a mark: two for the path, the others for path and value."""
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""Of base64 in URLs."""
_MAX_MARKS = 250
"""Marks in one note. vLLM, the largest runtime of the catalogue, needs 43."""


def digest(value: object) -> str:
    """A short digest of a JSON value. It can be short: with a collision, users only lose values of their own object."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


def fill(document: JsonObject, overlay: Mapping[str, Any]) -> FieldRecord:
    """Add the fields of ``overlay`` that ``document`` lacks; return a record of them."""
    record: FieldRecord = {}
    _fill(document, overlay, "", record)
    return record


def _fill(document: JsonObject, overlay: Mapping[str, Any], path: str, record: FieldRecord) -> None:
    for key, value in overlay.items():
        here = f"{path}/{escape(key)}"
        present = document.get(key)
        empty = _is_empty(present)
        if key in _MERGE_KEYS and isinstance(value, list):
            elements = [] if empty else present
            if isinstance(elements, list):
                document[key] = [*elements]
                _fill_list(document[key], value, key, here, record)
        elif isinstance(value, dict) and value and key not in _WHOLE:
            inner = {} if empty else present
            if isinstance(inner, dict):
                document[key] = {**inner}
                _fill(document[key], value, here, record)
        elif empty:
            document[key] = value
            record[here] = digest(value)


def _is_empty(value: Any) -> bool:
    """Whether a value is empty, or stored as empty by the API server."""
    return value in (None, {}, []) or (isinstance(value, dict) and all(inner in (None, []) for inner in value.values()))


def _fill_list(elements: list[Any], overlay: list[Any], key: str, path: str, record: FieldRecord) -> None:
    """Our elements come last, so that the user's keep their indexes; or first, if the order matters.

    In ``env``, ``$(NAME)`` is expanded only after ``NAME`` itself, and a user's init container can need the model.
    """
    merge_key = _MERGE_KEYS[key]
    at = 0 if key in _FIRST else len(elements)
    for value in overlay:
        here = f"{path}/{merge_key}={escape(str(value[merge_key]))}"
        found = next(
            (i for i, e in enumerate(elements) if isinstance(e, dict) and e.get(merge_key) == value[merge_key]), None
        )
        if found is None:
            found = at
            elements.insert(at, {} if key in _CONTAINER_LISTS else value)
            at += 1
            if key in _ELEMENT_LISTS:
                record[here] = digest(value)
        if key in _CONTAINER_LISTS:
            elements[found] = {**elements[found]}
            _fill(elements[found], value, here, record)


def encode(record: FieldRecord) -> str:
    """The note of a record, for an annotation of the object: a mark of 48 bits for each value."""
    return "".join(_path_mark(path) + _value_mark(path, digest) for path, digest in sorted(record.items()))


def decode(text: str, document: JsonObject) -> FieldRecord | None:
    """The record of the values of ``document`` that are still as they were set, by the note ``text``; ``None`` if
    :func:`encode` cannot have written it.

    A forged note can only remove values of its own object.
    """
    if text.startswith("{"):
        return _read_paths(text)
    if len(text) > _MARK * _MAX_MARKS or len(text) % _MARK:
        return None
    marks: dict[str, set[str]] = {}
    for at in range(0, len(text), _MARK):
        marks.setdefault(text[at : at + 2], set()).add(text[at + 2 : at + _MARK])
    record: FieldRecord = {}
    for path, value in _values(document, ""):
        # The first two characters exclude most paths: their values need no digest.
        if (found := marks.get(_path_mark(path))) and _value_mark(path, known := digest(value)) in found:
            record[path] = known
    return record


def _read_paths(text: str) -> FieldRecord | None:
    """A note of version 0.1, which had the paths."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if all(isinstance(value, str) for value in record.values()) else None


def _path_mark(path: str) -> str:
    """12 bits of the path, in base64."""
    mark = zlib.crc32(path.encode(errors="surrogatepass"))
    return _DIGITS[mark >> 6 & 63] + _DIGITS[mark & 63]


def _value_mark(path: str, digest: str) -> str:
    """36 bits of path and value, in base64."""
    hashed = hashlib.sha256(f"{path}\0{digest}".encode(errors="surrogatepass")).digest()
    return base64.urlsafe_b64encode(hashed[:6])[: _MARK - 2].decode()


def _values(document: JsonObject, path: str) -> Iterator[tuple[str, Any]]:
    """Every value that :func:`fill` can have set, with its path."""
    for key, value in document.items():
        here = f"{path}/{escape(key)}"
        if key in _MERGE_KEYS and isinstance(value, list):
            merge_key = _MERGE_KEYS[key]
            first = {str(each.get(merge_key)): each for each in reversed(value) if isinstance(each, dict)}
            for name, element in first.items():
                at = f"{here}/{merge_key}={escape(name)}"
                if key in _ELEMENT_LISTS:
                    yield at, element
                else:
                    yield from _values(element, at)
        elif isinstance(value, dict) and value and key not in _WHOLE:
            yield from _values(value, here)
        else:
            yield here, value


def take_back(document: JsonObject, record: FieldRecord) -> None:
    """Remove every value of ``record`` that is still as it was set, and what then is empty."""
    root = _Place()
    for path, value in record.items():
        place = root
        for step in path.split("/")[1:]:
            place = place.below.setdefault(step, _Place())
        place.digest = value
    _take_back(document, root.below)


@dataclass
class _Place:
    """A place of a record, with the places below it by their steps."""

    digest: str | None = None
    below: "dict[str, _Place]" = field(default_factory=dict)


def _take_back(node: Any, places: Mapping[str, _Place]) -> None:
    """Visits each node once: users can write a long record for a long list."""
    if isinstance(node, list) and places:
        _take_elements(node, places)
    elif isinstance(node, dict):
        for step, place in places.items():
            key = unescape(step)
            if key in node:
                if place.below:
                    node[key] = _own(node[key])
                    _take_back(node[key], place.below)
                if (place.below and node[key] in ({}, [])) or _is_as_filled(node[key], place):
                    del node[key]


def _take_elements(elements: list[Any], places: Mapping[str, _Place]) -> None:
    asked_for = {step.partition("=")[0] for step in places}
    named: dict[str, dict[str, int]] = {merge_key: {} for merge_key in _MERGE_KEYS.values() if merge_key in asked_for}
    for merge_key, found in named.items():
        for index, element in enumerate(elements):
            if isinstance(element, dict):
                found.setdefault(str(element.get(merge_key)), index)
    gone = set()
    for step, place in places.items():
        merge_key, _, name = step.partition("=")
        at = named.get(merge_key, {}).get(unescape(name))
        if at is None:
            continue
        elements[at] = element = _own(elements[at])
        _take_back(element, {step: inner for step, inner in place.below.items() if step != merge_key})
        # A container is removed with the last of our fields in it, its name.
        only_its_name = merge_key in place.below and len(element) == 1
        if only_its_name or _is_as_filled(element, place):
            gone.add(at)
    elements[:] = [element for index, element in enumerate(elements) if index not in gone]


def _own(value: Any) -> Any:
    return {**value} if isinstance(value, dict) else [*value] if isinstance(value, list) else value


def _is_as_filled(value: Any, place: _Place) -> bool:
    return place.digest is not None and digest(value) == place.digest


def path(*steps: str) -> str:
    """The path of a value in a record."""
    return "".join(f"/{escape(step)}" for step in steps)
