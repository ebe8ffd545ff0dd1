"""The JSON of an admission review, parsed quickly and with limits. Pure."""

import re
from contextlib import suppress
from typing import Any

import orjson

from serve_core.base import bounded_json
from serve_core.base.json import value_at

MAX_OBJECTS = 50_000
"""Objects and lists of one review without its managed fields: more would take too long to parse and to free. What is
made of an object has lower limits, in :mod:`serve_core.base.bounds`."""
MAX_VALUES = 100_000
"""Of one review, counted by commas. Parsed, 8 MiB of small values would take 300 MiB."""

_MANAGED_FIELDS = b'"managedFields":['
_REST_OF_LIST = re.compile(rb'[^"\]]*+(?:"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)[^"\]]*+)*+', re.DOTALL)
"""The rest of a list without lists in it, or of the text. It does not backtrack."""
_MAX_MANAGED_FIELDS = 16
"""In one review. The object and the old object have one each, and templates of claims can have some."""


def parse(body: bytes) -> Any:
    """The review without managed fields. Raises :class:`serve_core.base.bounded_json.JsonError`."""
    body = _without_managed_fields(body)
    _check_size(body)
    document = _parse(body)
    _drop_managed_fields(document)
    bounded_json.check_levels(document)
    return document


def _parse(body: bytes) -> Any:
    """Text that orjson writes back unchanged has lost nothing: no duplicate name, no number out of range."""
    with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
        document = orjson.loads(body)
        if _as_go_writes(document) == body:
            return document
    return bounded_json.parse(body, strict=True)


def _as_go_writes(document: Any) -> bytes:
    text = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    return text.replace(b"&", rb"\u0026").replace(b"<", rb"\u003c").replace(b">", rb"\u003e")


def _check_size(body: bytes) -> None:
    """Raises JsonError where parsing would take too long, or too much memory."""
    if len(body) <= MAX_OBJECTS:  # too short for either
        return
    if body.count(b"{") + body.count(b"[") > MAX_OBJECTS:
        raise bounded_json.JsonError(f"it has more than {MAX_OBJECTS:,} objects in it")
    if body.count(b",") > MAX_VALUES:
        raise bounded_json.JsonError(f"it has more than {MAX_VALUES:,} values in it")


def _without_managed_fields(body: bytes) -> bytes:
    """The review without managed fields, which are half of an object, and not used here.

    The API server stores managed fields of any size and depth, so they are not parsed. It writes them without spaces
    and without lists in the list; a review with other content there is not JSON afterwards, and is refused. In a
    string, these characters would have a backslash before each quote.
    """
    kept, start = [], 0
    for _ in range(_MAX_MANAGED_FIELDS):
        if (found := body.find(_MANAGED_FIELDS, start)) < 0:
            break
        inside = found + len(_MANAGED_FIELDS)
        kept.append(body[start:inside])
        start = inside
        if body[found - 1 : found] in (b"{", b",") and (rest := _REST_OF_LIST.match(body, inside)):
            start = rest.end()
    return b"".join((*kept, body[start:])) if kept else body


def _drop_managed_fields(document: Any) -> None:
    """Remove, in place, managed fields that another client wrote with spaces, and the empty lists of the others."""
    for key in ("object", "oldObject"):
        metadata = value_at(document, "request", key, "metadata")
        if isinstance(metadata, dict):
            metadata.pop("managedFields", None)
