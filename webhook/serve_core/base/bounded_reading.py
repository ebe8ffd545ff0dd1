"""Objects of the cluster as bytes, read with bounds, for anybody can store what fills or ends a process.

What the API server stores may be nested thousands deep (its decoder allows 10,000 levels) or hold megabytes of tiny
values, and a list may have hundreds of megabytes. So values are counted before anything is parsed, managed fields go,
which nobody here reads, and of a list one object is read at a time.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from serve_core.base.json import JsonObject

MOST_LEVELS = 100
"""Of nesting; a Deployment with everything in it has about 20."""
MOST_VALUES = 30_000
"""Counted by the commas and brackets around them. Parsed they take some 10 MiB, and as many milliseconds."""
MOST_BYTES = 8 * 2**20
"""Of one object. etcd takes 1.5 MiB; as JSON that can be a few times as much."""
_MOST_HEAD = 2**16
"""Bytes of a list beside its objects, and of the beginning that is kept of an object that is too large."""
_MOST_LABELS = 100
_TOO_DEEP = f"it is nested more than {MOST_LEVELS} levels deep"

_FLAT = rb'[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"'
"""What is between brackets. Possessive, like what is made of it: no text is gone through again and again."""
_BRACKET = re.compile(rb"(?:%b)*+([{}\[\]])" % _FLAT, re.DOTALL)
"""Up to and with the next bracket."""
_BETWEEN = re.compile(rb"(?:%b)*+" % _FLAT, re.DOTALL)


def _nested(levels: int) -> bytes:
    return _FLAT if levels == 0 else rb"%b|[{\[](?:%b)*+[}\]]" % (_FLAT, _nested(levels - 1))


_OUTER_BRACKET = re.compile(rb"(?:%b)*+([{}\[\]])" % _nested(3), re.DOTALL)
"""The same, past what is whole and of three levels at most: much faster where it does not matter what that is."""
_OUTER_BETWEEN = re.compile(rb"(?:%b)*+" % _nested(3), re.DOTALL)
_OPENING, _CLOSING = b"{[", ord("}")
_MANAGED_FIELDS = re.compile(rb'(?<!\\)"managedFields"\s*:\s*\Z')
_METADATA = re.compile(rb'(?<!\\)"metadata"\s*:\s*\Z')
_ITEMS = re.compile(rb'(?<!\\)"items"\s*:\s*\Z')
_BEGINNING = re.compile(
    rb'"metadata"\s*:\s*(\{\s*"name"\s*:\s*"[^"\\]{1,253}"(?:\s*,\s*"\w+"\s*:\s*(?:"[^"\\]{0,253}"|\d{1,20}))*)'
)
_EVENT = re.compile(rb'\s*\{\s*"type"\s*:\s*"([A-Z]{1,20})"\s*,\s*"object"\s*:\s*')


class UnreadableError(ValueError):
    """Why an object cannot be read, as a part of a sentence. ``metadata``: the part of its metadata that can be."""

    def __init__(self, why: str, metadata: JsonObject | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.metadata: JsonObject = metadata or {}


def read(text: bytes) -> JsonObject:
    """A JSON object without its managed fields. Raises :class:`UnreadableError`."""
    if len(text) > MOST_BYTES:
        raise UnreadableError(f"it has more than {MOST_BYTES >> 20} MiB", _beginning(text))
    if _values(text) <= MOST_VALUES:
        with suppress(UnreadableError):
            return _parsed(text)
    found = _look(text)
    if _values(found.text) > MOST_VALUES:
        raise UnreadableError(f"it has more than {MOST_VALUES:,} values in it", found.metadata())
    try:
        return _parsed(found.text)
    except UnreadableError as error:
        raise UnreadableError(error.why, found.metadata()) from None


def _values(text: bytes) -> int:
    return text.count(b",") + text.count(b"{") + text.count(b"[")


def read_object(text: bytes) -> JsonObject:
    """The same of an object that is stored, which has a name, a version and labels. Raises :class:`UnreadableError`."""
    return checked(read(text))


def checked(manifest: JsonObject) -> JsonObject:
    """``manifest``, whose metadata are what metadata are. Raises :class:`UnreadableError`."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict):
        raise UnreadableError("it has no metadata")
    for key, what in _METADATA_TYPES.items():
        if not what(metadata.get(key)):
            raise UnreadableError(f"its metadata.{key} is of the wrong type", essential(metadata))
    return manifest


def read_event(line: bytes) -> tuple[str, JsonObject | UnreadableError]:
    """The type and the object of a line of a watch, or why the object cannot be read.

    Raises ValueError for what is no such line.
    """
    if not (head := _EVENT.match(line)):
        raise ValueError("no event of a watch")
    kind = head[1].decode()
    text = line[head.end() : max(line.rfind(b"}"), head.end())]
    try:
        return kind, read(text) if kind in ("ERROR", "BOOKMARK") else read_object(text)
    except UnreadableError as error:
        return kind, error


def essential(metadata: JsonObject) -> JsonObject:
    """What tells an object apart, of metadata of any shape: always small."""
    kept: JsonObject = {}
    for key in ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp"):
        if isinstance(value := metadata.get(key), str) and len(value) <= 253:
            kept[key] = value
    labels = metadata.get("labels")
    if _is_texts(labels) and labels and len(labels) <= _MOST_LABELS:
        kept["labels"] = labels
    return kept


class ListReader:
    """A list of objects that comes in pieces. It holds one object at a time, and never more than ``MOST_BYTES``."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        """Up to where the buffer was looked at."""
        self._depth = 0
        self._in_items = False
        self._start = 0
        """Of the present object, or of what is not kept of the list yet."""
        self._beginning: bytes | None = None
        """Of an object that is too large."""
        self._head = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes | UnreadableError]:
        """The objects that end in this piece; an error for one that is too large."""
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
        self._at = between.end() if between else self._at  # what is whole is not looked at again
        self._make_room()

    def end(self) -> JsonObject:
        """The list's own metadata. Raises ValueError where the list is not complete, or is none."""
        if self._depth or self._in_items:
            raise ValueError("the list broke off")
        self._head += self._buffer[self._start :]
        metadata = read(bytes(self._head)).get("metadata")
        if not isinstance(metadata, dict):
            raise ValueError("no list")
        return metadata

    def _opened(self, at: int) -> None:
        self._depth += 1
        if self._in_items and self._depth == 3:
            self._start = at
        elif not self._in_items and self._depth == 2 and _ITEMS.search(self._buffer, max(at - 100, 0), at):
            self._head += self._buffer[self._start : at + 1]
            self._in_items = True
            self._start = at + 1

    def _ended(self) -> bytes | UnreadableError:
        text = bytes(self._buffer[self._start : self._at])
        del self._buffer[: self._at]
        self._at = self._start = 0
        if self._beginning is not None or len(text) > MOST_BYTES:
            beginning, self._beginning = self._beginning or text[:_MOST_HEAD], None
            return UnreadableError(f"it has more than {MOST_BYTES >> 20} MiB", _beginning(beginning))
        return text

    def _make_room(self) -> None:
        if self._in_items and self._depth <= 2:
            del self._buffer[: self._at]  # between two objects
            self._at = self._start = 0
        elif len(self._buffer) - self._start <= MOST_BYTES:
            return
        elif not self._in_items:
            raise ValueError("a list has too much beside its objects")
        else:
            if self._beginning is None:
                self._beginning = bytes(self._buffer[self._start : self._start + _MOST_HEAD])
            self._forget()

    def _forget(self) -> None:
        """Keep nothing of what has come of an object; of a string that goes on, that it does."""
        string = self._buffer[self._at :]
        escaping = (len(string) - len(string.rstrip(b"\\"))) % 2
        self._buffer = bytearray((b'"' if string else b"") + b"\\" * escaping)
        self._at = self._start = 0


@dataclass(frozen=True)
class _Look:
    """An object's text without its managed fields, and that of its metadata, as far as that is of a size to read."""

    text: bytes
    metadata_text: bytes = b""

    def metadata(self) -> JsonObject:
        if not self.metadata_text or _values(self.metadata_text) > MOST_VALUES:
            return {}
        try:
            return essential(_parsed(self.metadata_text))
        except UnreadableError:
            return {}


def _look(text: bytes) -> _Look:
    """Take out the managed fields, whatever they hold, without parsing anything."""
    depth = at = begin = 0
    kept: list[bytes] = []
    metadata: list[int] = []  # where they begin and end, in what is kept
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
    """Where what is opened at ``start`` is closed, or the text ends."""
    depth, at = 0, start
    while bracket := (_OUTER_BRACKET if depth else _BRACKET).match(text, at):
        here, at = bracket.span(1)
        depth += 1 if text[here] in _OPENING else -1
        if depth == 0:
            return at
    return len(text)


def _parsed(text: bytes) -> JsonObject:
    try:
        document = json.loads(text.decode(), parse_constant=_no_constant, parse_float=_finite)
        if b"\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()
    except UnreadableError:
        raise
    except UnicodeEncodeError:
        raise UnreadableError("a string in it has half of a surrogate pair") from None
    except RecursionError:
        raise UnreadableError(_TOO_DEEP) from None
    except ValueError:  # syntax, encoding, or an integer of thousands of digits
        raise UnreadableError("it is no JSON that can be read") from None
    if not isinstance(document, dict):
        raise UnreadableError("it is no JSON object")
    if isinstance(metadata := document.get("metadata"), dict):
        metadata.pop("managedFields", None)
    if _is_too_deep(document):
        raise UnreadableError(_TOO_DEEP)
    return document


def _is_too_deep(document: JsonObject) -> bool:
    """Without recursion."""
    level: list[Any] = [document]
    for _ in range(MOST_LEVELS):
        inner: list[Any] = []
        for value in level:
            inner += value.values() if isinstance(value, dict) else value
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return False
    return True


def _beginning(text: bytes) -> JsonObject:
    """What the first bytes of an object tell of its metadata, as Go writes those of its own types."""
    found = _BEGINNING.search(text, 0, _MOST_HEAD)
    try:
        return essential(json.loads(found[1] + b"}")) if found else {}
    except ValueError:
        return {}


def _no_constant(_: str) -> NoReturn:
    raise UnreadableError("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise UnreadableError("a number in it is too large")
    return number


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
