"""The events of a watch."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from serve_core.base import bounded_reading
from serve_core.base.bounded_reading import UnreadableObjectError
from serve_core.base.json import JsonObject
from serve_kube.errors import of_status
from serve_kube.paging import Unread

LINE_BYTES = bounded_reading.MAX_BYTES + 1024
"""Bytes of a line that are kept: an object, and what stands around it."""


_Object_co = TypeVar("_Object_co", bound=JsonObject | Unread, covariant=True)


@dataclass(frozen=True)
class WatchEvent(Generic[_Object_co]):
    """``type`` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: _Object_co


def read_event(line: bytes) -> WatchEvent[JsonObject | Unread]:
    """One line of a watch. Raises an ApiError for an ERROR event, ValueError if the line is not an event."""
    kind, found = bounded_reading.read_event(line)
    if kind == "ERROR":
        status = {} if isinstance(found, UnreadableObjectError) else found
        code = status.get("code")
        raise of_status(code if isinstance(code, int) else 500, status)
    return WatchEvent(kind, Unread(found.metadata, found.why) if isinstance(found, UnreadableObjectError) else found)


async def lines(pieces: AsyncIterator[bytes], *, rest: bool = False) -> AsyncIterator[bytes]:
    """Lines without their ends. ``rest``: also what follows the last line end.

    A longer line than LINE_BYTES is cut. aiohttp's own ``readline`` refuses long lines.
    """
    line = bytearray()
    async for piece in pieces:
        first, *following = piece.split(b"\n")
        line += first[: LINE_BYTES - len(line)]
        for part in following:
            yield bytes(line)
            line = bytearray(part[:LINE_BYTES])
    if rest and line:
        yield bytes(line)
