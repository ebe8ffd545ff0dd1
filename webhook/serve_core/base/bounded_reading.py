"""Objects of the cluster, read from bytes with limits: any user can store objects that exhaust or end a process.

The API server stores objects that are nested thousands of levels deep (its decoder allows 10,000) or have megabytes of
small values, and lists of hundreds of megabytes. So values are counted before anything is parsed, managed fields, which
are not used, are removed first, and a list is read one object at a time.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from serve_core.base import bounded_json
from serve_core.base.bounded_json import JsonError
from serve_core.base.json import JsonObject

MAX_VALUES = 30_000
"""Of one object, counted by commas and brackets. Parsed, they take about 10 MiB and 10 ms."""
MAX_BYTES = 8 * 2**20
"""Of one object. etcd stores at most 1.5 MiB; as JSON, that can be a few times as much."""
_MAX_HEAD = 2**16
"""Bytes of a list outside its objects, and of the beginning of an object that is too large."""
_MAX_LABELS = 100

_FLAT = rb'[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"'
"""Text without brackets. All quantifiers are possessive, so that matching takes linear time."""
_BRACKET = re.compile(rb"(?:%b)*+([{}\[\]])" % _FLAT, re.DOTALL)
"""Text up to the next bracket, and the bracket."""
_BETWEEN = re.compile(rb"(?:%b)*+" % _FLAT, re.DOTALL)


def _nested(levels: int) -> bytes:
    return _FLAT if levels == 0 else rb"%b|[{\[](?:%b)*+[}\]]" % (_FLAT, _nested(levels - 1))


_OUTER_BRACKET = re.compile(rb"(?:%b)*+([{}\[\]])" % _nested(3), re.DOTALL)
"""The same, skipping complete values of at most three levels: much faster where their content does not matter."""
_OUTER_BETWEEN = re.compile(rb"(?:%b)*+" % _nested(3), re.DOTALL)
_OPENING, _CLOSING = b"{[", ord("}")
_MANAGED_FIELDS = re.compile(rb'(?<!\\)"managedFields"\s*:\s*\Z')
_METADATA = re.compile(rb'(?<!\\)"metadata"\s*:\s*\Z')
_ITEMS = re.compile(rb'(?<!\\)"items"\s*:\s*\Z')
_BEGINNING = re.compile(
    rb'"metadata"\s*:\s*(\{\s*"name"\s*:\s*"[^"\\]{1,253}"(?:\s*,\s*"\w+"\s*:\s*(?:"[^"\\]{0,253}"|\d{1,20}))*)'
)
_EVENT = re.compile(rb'\s*\{\s*"type"\s*:\s*"([A-Z]{1,20})"\s*,\s*"object"\s*:\s*')


class UnreadableObjectError(ValueError):
    """Why an object cannot be read, as a clause. ``metadata``: the readable part of its metadata."""

    def __init__(self, why: str, metadata: JsonObject | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.metadata: JsonObject = metadata or {}


def read(text: bytes) -> JsonObject:
    """A JSON object without its managed fields. Raises :class:`UnreadableObjectError`."""
    if len(text) > MAX_BYTES:
        raise UnreadableObjectError(f"it has more than {MAX_BYTES >> 20} MiB", _beginning(text))
    if _values(text) <= MAX_VALUES:
        with suppress(UnreadableObjectError):
            return _parsed(text)
    found = _look(text)
    if _values(found.text) > MAX_VALUES:
        raise UnreadableObjectError(f"it has more than {MAX_VALUES:,} values in it", found.metadata())
    try:
        return _parsed(found.text)
    except UnreadableObjectError as error:
        raise UnreadableObjectError(error.why, found.metadata()) from None


def _values(text: bytes) -> int:
    return text.count(b",") + text.count(b"{") + text.count(b"[")


def read_object(text: bytes) -> JsonObject:
    """Like :func:`read`, for a stored object: its metadata is checked. Raises :class:`UnreadableObjectError`."""
    return checked(read(text))


def checked(manifest: JsonObject) -> JsonObject:
    """``manifest``, if its metadata has the types of Kubernetes' API. Raises :class:`UnreadableObjectError`."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict):
        raise UnreadableObjectError("it has no metadata")
    for key, what in _METADATA_TYPES.items():
        if not what(metadata.get(key)):
            raise UnreadableObjectError(f"its metadata.{key} is of the wrong type", essential(metadata))
    return manifest


def read_event(line: bytes) -> tuple[str, JsonObject | UnreadableObjectError]:
    """The type and the object of a watch event, or why the object cannot be read.

    Raises ValueError where the line is not a watch event.
    """
    if not (head := _EVENT.match(line)):
        raise ValueError("not an event of a watch")
    kind = head[1].decode()
    text = line[head.end() : max(line.rfind(b"}"), head.end())]
    try:
        return kind, read(text) if kind in ("ERROR", "BOOKMARK") else read_object(text)
    except UnreadableObjectError as error:
        return kind, error


def essential(metadata: JsonObject) -> JsonObject:
    """The identifying part of metadata of any shape: always small."""
    kept: JsonObject = {}
    for key in ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp"):
        if isinstance(value := metadata.get(key), str) and len(value) <= 253:
            kept[key] = value
    labels = metadata.get("labels")
    if _is_texts(labels) and labels and len(labels) <= _MAX_LABELS:
        kept["labels"] = labels
    return kept


class ListReader:
    """Splits a list that arrives in pieces into objects. It holds one at a time, and at most ``MAX_BYTES``."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        """End of the scanned part of the buffer."""
        self._depth = 0
        self._in_items = False
        self._start = 0
        """Of the present object, or of the list's own text that is not in ``_head`` yet."""
        self._beginning: bytes | None = None
        """Of an object that is too large; its rest is dropped."""
        self._head = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes | UnreadableObjectError]:
        """The objects that end in this piece; an error for each that is too large."""
        self._buffer += piece
        while bracket := (_OUTER_BRACKET if self._depth > 2 else _BRACKET).match(self._buffer, self._at):
            at, self._at = bracket.span(1)
            sign = self._buffer[at]
            if sign in _OPENING:
                self._opened(at)
            else:
                self._depth -= 1
                if self._in_items and self._depth == 2 and sign == _CLOSING:
                    yield self._ended()
                elif self._in_items and self._depth == 1:
                    self._in_items, self._start = False, at
        between = (_OUTER_BETWEEN if self._depth > 2 else _BETWEEN).match(self._buffer, self._at)
        self._at = between.end() if between else self._at  # complete values are not scanned again
        self._make_room()

    def end(self) -> JsonObject:
        """The list's own metadata. Raises ValueError where the list is incomplete, or not a list."""
        if self._depth or self._in_items:
            raise ValueError("the list is incomplete")
        self._head += self._buffer[self._start :]
        metadata = read(bytes(self._head)).get("metadata")
        if not isinstance(metadata, dict):
            raise ValueError("not a list")
        return metadata

    def _opened(self, at: int) -> None:
        self._depth += 1
        if self._in_items and self._depth == 3:
            self._start = at
        elif not self._in_items and self._depth == 2 and _ITEMS.search(self._buffer, max(at - 100, 0), at):
            self._head += self._buffer[self._start : at + 1]
            self._in_items = True
            self._start = at + 1

    def _ended(self) -> bytes | UnreadableObjectError:
        text = bytes(self._buffer[self._start : self._at])
        del self._buffer[: self._at]
        self._at = self._start = 0
        if self._beginning is not None or len(text) > MAX_BYTES:
            beginning, self._beginning = self._beginning or text[:_MAX_HEAD], None
            return UnreadableObjectError(f"it has more than {MAX_BYTES >> 20} MiB", _beginning(beginning))
        return text

    def _make_room(self) -> None:
        if self._in_items and self._depth <= 2:
            del self._buffer[: self._at]  # between two objects
            self._at = self._start = 0
        elif len(self._buffer) - self._start <= MAX_BYTES:
            return
        elif not self._in_items:
            raise ValueError("the list is too large outside its objects")
        else:
            if self._beginning is None:
                self._beginning = bytes(self._buffer[self._start : self._start + _MAX_HEAD])
            self._forget()

    def _forget(self) -> None:
        """Drop the received part of an object, except whether a string is open."""
        string = self._buffer[self._at :]
        escaping = (len(string) - len(string.rstrip(b"\\"))) % 2
        self._buffer = bytearray((b'"' if string else b"") + b"\\" * escaping)
        self._at = self._start = 0


@dataclass(frozen=True)
class _Look:
    """An object's text without its managed fields, and the text of its metadata."""

    text: bytes
    metadata_text: bytes = b""

    def metadata(self) -> JsonObject:
        if not self.metadata_text or _values(self.metadata_text) > MAX_VALUES:
            return {}
        try:
            return essential(_parsed(self.metadata_text))
        except UnreadableObjectError:
            return {}


def _look(text: bytes) -> _Look:
    """Remove the managed fields, whatever their content, without parsing."""
    depth = at = begin = 0
    kept: list[bytes] = []
    metadata: list[int] = []  # begin and end, in ``kept``
    while bracket := (_OUTER_BRACKET if depth > 2 else _BRACKET).match(text, at):
        here, at = bracket.span(1)
        if text[here] in _OPENING:
            depth += 1
            if depth == 3 and _MANAGED_FIELDS.search(text, max(here - 40, 0), here):
                kept += [text[begin:here], b"null"]
                at = begin = _end(text, here)
                depth -= 1
            elif depth == 2 and not metadata and _METADATA.search(text, max(here - 40, 0), here):
                metadata.append(sum(map(len, kept)) + here - begin)
        else:
            depth -= 1
            if depth == 1 and len(metadata) == 1:
                metadata.append(sum(map(len, kept)) + at - begin)
    without = b"".join([*kept, text[begin:]])
    return _Look(without, without[slice(*metadata)] if len(metadata) == 2 else b"")


def _end(text: bytes, start: int) -> int:
    """The end of the value that opens at ``start``, or of the text."""
    depth, at = 0, start
    while bracket := (_OUTER_BRACKET if depth else _BRACKET).match(text, at):
        here, at = bracket.span(1)
        depth += 1 if text[here] in _OPENING else -1
        if depth == 0:
            return at
    return len(text)


def _parsed(text: bytes) -> JsonObject:
    try:
        document = bounded_json.parse(text)
        if not isinstance(document, dict):
            raise UnreadableObjectError("it is not a JSON object")
        if isinstance(metadata := document.get("metadata"), dict):
            metadata.pop("managedFields", None)
        bounded_json.check_levels(document)
    except JsonError as error:
        raise UnreadableObjectError(str(error)) from None
    return document


def _beginning(text: bytes) -> JsonObject:
    """The metadata in the first bytes of an object, in the order in which Go writes its own types."""
    found = _BEGINNING.search(text, 0, _MAX_HEAD)
    try:
        return essential(json.loads(found[1] + b"}")) if found else {}
    except ValueError:
        return {}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and all(isinstance(each, str) for pair in value.items() for each in pair)
    )


def _is_objects(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(each, dict) for each in value))


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20


_METADATA_TYPES: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "namespace": lambda value: value is None or isinstance(value, str),
    "uid": lambda value: value is None or isinstance(value, str),
    "resourceVersion": _is_number,
    "generation": lambda value: value is None or (isinstance(value, int) and not isinstance(value, bool)),
    "creationTimestamp": lambda value: value is None or isinstance(value, str),
    "deletionTimestamp": lambda value: value is None or isinstance(value, str),
    "labels": _is_texts,
    "annotations": _is_texts,
    "ownerReferences": _is_objects,
    "finalizers": lambda value: value is None or (isinstance(value, list) and all(map(_is_text, value))),
}
