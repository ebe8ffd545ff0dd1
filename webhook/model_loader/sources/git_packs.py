"""The objects of a git pack: commits and trees in memory, blobs in files, each verified by its hash.

Source: git's documentation, gitformat-pack
"""

import contextlib
import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from model_loader.outcomes import Code
from model_loader.storage.volume import SafeDir

_KINDS = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
_BLOB, _OFFSET_DELTA, _REFERENCE_DELTA = 3, 6, 7
_MAX_OBJECTS = 300_000
_MEMORY = 64 << 20
"""Maximum bytes of all commits, trees and deltas in memory."""
_DELTA_RESULT = 32 << 20
"""Maximum bytes of an object that a delta makes."""
_PIECE = 64 << 10


class PackError(Exception):
    """A pack that the loader does not read. The message completes the sentence "the server sent"."""

    def __init__(self, message: str, code: Code = Code.CORRUPTED) -> None:
        super().__init__(message)
        self.code = code


class _Delta(NamedTuple):
    at: int
    base: int | str
    """The offset, or the hash, of the object that the delta changes."""
    data: bytes


class _Source:
    """The bytes of a pack, which end with their own hash."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._hash = hashlib.sha1(usedforsecurity=False)
        self.position = 0

    def read(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            found += self.some(count - len(found))
        return bytes(found)

    def some(self, most: int = _PIECE) -> bytes:
        """Return at least one byte."""
        while not self._piece:
            self._piece = next(self._pieces, b"")
            if not self._piece:
                raise PackError("an incomplete pack")
        found, self._piece = self._piece[:most], self._piece[most:]
        self._hash.update(found)
        self.position += len(found)
        return found

    def inflate(self, size: int) -> Iterator[bytes]:
        """Yield the pieces of a compressed object of `size` bytes."""
        stream, left = zlib.decompressobj(), size
        try:
            while not stream.eof:
                data = self._peek()
                piece = stream.decompress(data, _PIECE)
                self._skip(len(data) - len(stream.unconsumed_tail) - len(stream.unused_data))
                left -= len(piece)
                if left < 0:
                    break
                yield piece
        except zlib.error:
            raise PackError("an object that cannot be decompressed") from None
        if left or not stream.eof:
            raise PackError("an object of another size than it says")

    def _peek(self) -> bytes:
        if not self._piece:
            self._piece = next(self._pieces, b"")
            if not self._piece:
                raise PackError("an incomplete pack")
        return self._piece[:_PIECE]

    def _skip(self, count: int) -> None:
        self._hash.update(self._piece[:count])
        self._piece = self._piece[count:]
        self.position += count

    def end(self) -> None:
        expected = self._hash.digest()
        if self.read(len(expected)) != expected:
            raise PackError("a pack that does not have its checksum")
        if self._piece or any(self._pieces):
            raise PackError("data after the end of the pack")


class Pack:
    """The objects of one or more packs. Blobs are files of a folder, named by their hash."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = SafeDir(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        self._objects: dict[str, tuple[str, bytes]] = {}
        self._sizes: dict[str, int] = {}
        self._held = 0
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.close()

    def add(self, pieces: Iterator[bytes]) -> None:
        """Read a pack. Raises PackError, LoadError and OSError."""
        source = _Source(pieces)
        head = source.read(12)
        if head[:4] != b"PACK" or int.from_bytes(head[4:8], "big") not in (2, 3):
            raise PackError("no pack")
        count = int.from_bytes(head[8:], "big")
        self._count += count
        if self._count > _MAX_OBJECTS:
            raise PackError(f"more than {_MAX_OBJECTS:,} objects", Code.REFUSED)
        by_offset: dict[int, str] = {}
        deltas: list[_Delta] = []
        for _ in range(count):
            at = source.position
            kind, size = _head(source)
            if kind == _BLOB:
                by_offset[at] = self._write(size, source.inflate(size))
                continue
            base: int | str = 0
            if kind == _OFFSET_DELTA:
                base = at - _distance(source)
            elif kind == _REFERENCE_DELTA:
                base = source.read(20).hex()
            elif kind not in _KINDS:
                raise PackError("an object of an unknown kind")
            self._hold(size)
            data = b"".join(source.inflate(size))
            if kind in _KINDS:
                by_offset[at] = self._keep(_KINDS[kind], data)
            else:
                deltas.append(_Delta(at, base, data))
        source.end()
        self._resolve(deltas, by_offset)

    def _resolve(self, deltas: list[_Delta], by_offset: dict[int, str]) -> None:
        waiting: dict[int | str, list[_Delta]] = {}
        for delta in deltas:
            waiting.setdefault(delta.base, []).append(delta)
        ready: list[tuple[int | str, str]] = [*by_offset.items()]
        ready += [(oid, oid) for oid in (*self._objects, *self._sizes)]
        while ready:
            key, oid = ready.pop()
            for delta in waiting.pop(key, ()):
                kind, base = self._object(oid)
                data = _apply(delta.data, base)
                self._held -= len(delta.data)
                if kind == "blob":
                    made = self._write(len(data), iter((data,)))
                else:
                    self._hold(len(data))
                    made = self._keep(kind, data)
                ready += [(delta.at, made), (made, made)]
        if waiting:
            raise PackError("a change of an object that it did not send")

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > _MEMORY:
            raise PackError(f"more than {_MEMORY >> 20} MiB of trees and deltas", Code.REFUSED)

    def _keep(self, kind: str, data: bytes) -> str:
        oid = hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()
        self._objects[oid] = kind, data
        return oid

    def _write(self, size: int, pieces: Iterator[bytes]) -> str:
        """Write a blob, and return its hash."""
        if size > os.fstatvfs(self._folder.fd).f_bavail * os.fstatvfs(self._folder.fd).f_frsize:
            raise PackError("a file that is larger than the free space of the volume", Code.NO_SPACE)
        draft = "draft"
        found = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self._folder.remove(draft)
        with open(self._folder.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb", buffering=0) as stream:
            for piece in pieces:
                found.update(piece)
                stream.write(piece)
        oid = found.hexdigest()
        self._folder.rename(draft, self._folder, oid)
        self._sizes[oid] = size
        return oid

    def _object(self, oid: str) -> tuple[str, bytes]:
        if oid in self._objects:
            return self._objects[oid]
        if self._sizes[oid] > _DELTA_RESULT:
            raise PackError(f"a change of a file of more than {_DELTA_RESULT >> 20} MiB", Code.REFUSED)
        return "blob", self.blob(oid)

    def has_blob(self, oid: str) -> bool:
        """Return whether the blob was sent."""
        return oid in self._sizes

    def blob_size(self, oid: str) -> int:
        """Return the bytes of a blob. Raises PackError if it was not sent."""
        if oid not in self._sizes:
            raise PackError(f"no object {oid}")
        return self._sizes[oid]

    def blob(self, oid: str) -> bytes:
        """Return a small blob."""
        return self._folder.read(oid)

    def tree_of(self, commit: str) -> str:
        """Return the tree of a commit, or of the commit that a tag names. Raises PackError."""
        kind, data = self._objects.get(commit, ("", b""))
        first = data.partition(b"\n")[0].decode("ascii", "replace")
        if kind == "commit" and first.startswith("tree ") and len(first) == 45:
            return first[5:]
        raise PackError(f"no commit {commit}")

    def tree(self, oid: str) -> Iterator[tuple[int, str, str]]:
        """Yield mode, name and hash of each entry of a tree. Raises PackError."""
        kind, data = self._objects.get(oid, ("", b""))
        if kind != "tree":
            raise PackError(f"no tree {oid}")
        at = 0
        while at < len(data):
            end = data.find(b"\0", at)
            mode, space, name = data[at:end].partition(b" ")
            if end < 0 or not space or not name or b"/" in name or len(data) < end + 21:
                raise PackError("a malformed tree")
            with contextlib.suppress(ValueError):
                yield int(mode, 8), name.decode("utf-8", "surrogateescape"), data[end + 1 : end + 21].hex()
                at = end + 21
                continue
            raise PackError("a malformed tree")


def _head(source: _Source) -> tuple[int, int]:
    """Return the kind and the size of the next object."""
    byte = source.read(1)[0]
    kind, size, shift = byte >> 4 & 7, byte & 15, 4
    while byte & 0x80:
        byte = source.read(1)[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if shift > 60:
            raise PackError("an object of an impossible size")
    return kind, size


def _distance(source: _Source) -> int:
    byte = source.read(1)[0]
    distance = byte & 0x7F
    while byte & 0x80:
        byte = source.read(1)[0]
        distance = (distance + 1 << 7) | byte & 0x7F
        if distance > 1 << 60:
            raise PackError("a malformed delta")
    return distance


def _apply(delta: bytes, base: bytes) -> bytes:
    """Return the object that a delta makes of its base. Raises PackError."""
    try:
        expected, at = _number(delta, 0)
        size, at = _number(delta, at)
        if expected != len(base) or size > _DELTA_RESULT:
            raise PackError("a delta that does not fit its base")
        made = bytearray()
        while at < len(delta) and len(made) <= size:
            code = delta[at]
            at += 1
            if code & 0x80:
                start, length, at = _span(delta, at, code)
                made += base[start : start + length]
            else:
                made += delta[at : at + code]
                at += code
            if not code:
                break
    except IndexError:
        raise PackError("a malformed delta") from None
    if len(made) != size or at != len(delta):
        raise PackError("a malformed delta")
    return bytes(made)


def _span(delta: bytes, at: int, code: int) -> tuple[int, int, int]:
    """Return start and length of a part of the base, and the position behind the instruction."""
    numbers = [0, 0]
    for bit in range(7):
        if code & 1 << bit:
            numbers[bit // 4] |= delta[at] << 8 * (bit % 4)
            at += 1
    return numbers[0], numbers[1] or 0x10000, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of a delta, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 60:
            raise PackError("a malformed delta")
