"""Lists of objects, page by page. An object that cannot be read does not hide the others."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field

from serve_core.base import bounded_reading
from serve_core.base.bounded_reading import ListReader, UnreadableObjectError
from serve_core.base.json import JsonObject

FIRST_PAGE = 50
"""Objects of the first request. The next ones ask for as many as PAGE_BYTES hold of such objects."""
LARGEST_PAGE = 500
PAGE_BYTES = 4 * 2**20
PART_BYTES = 2**18
"""Bytes that become one :class:`Page`: parsed they take ten to twenty times as much."""


@dataclass(frozen=True)
class Unread:
    """An object that cannot be read. ``metadata``: as much of its metadata as can be read, of the right types."""

    metadata: JsonObject
    why: str
    """The reason, as a part of a sentence."""


@dataclass(frozen=True)
class Page:
    """Some objects of a list. ``version``: the resource version to watch from; the last page has it. ``size``: bytes of
    the answer since the page before."""

    items: Sequence[JsonObject]
    version: str = ""
    unread: Sequence[Unread] = ()
    size: int = field(default=0, compare=False)


class PageReader:
    """Reads one answer to a list request."""

    def __init__(self) -> None:
        self.following = ""
        """The token of the next page; empty after the last one."""
        self._count = 0
        self._bytes = 0
        self._part_bytes = 0
        self._paged_bytes = 0
        self._items: list[JsonObject] = []
        self._unread: list[Unread] = []

    async def pages(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[Page, None]:
        """The objects of ``pieces``, PART_BYTES at a time. Raises ValueError and KeyError if that is not a list."""
        reader = ListReader()
        async for piece in pieces:
            self._bytes += len(piece)
            for text in reader.feed(piece):
                self._add(text)
                if self._part_bytes >= PART_BYTES:
                    yield self._page()
        metadata = reader.end()
        yield self._page(metadata["resourceVersion"])
        self.following = metadata.get("continue") or ""

    def limit(self) -> int:
        """How many objects to ask for next."""
        return max(1, min(LARGEST_PAGE, PAGE_BYTES * self._count // max(self._bytes, 1)))

    def _add(self, text: bytes | UnreadableObjectError) -> None:
        self._count += 1
        try:
            if isinstance(text, UnreadableObjectError):
                raise text
            self._part_bytes += len(text)
            self._items.append(bounded_reading.read_object(text))
        except UnreadableObjectError as error:
            self._unread.append(Unread(error.metadata, error.why))

    def _page(self, version: str = "") -> Page:
        page = Page(self._items, version, self._unread, self._bytes - self._paged_bytes)
        self._items, self._unread, self._part_bytes, self._paged_bytes = [], [], 0, self._bytes
        return page
