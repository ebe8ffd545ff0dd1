"""The members of a tar, whether compressed or not."""

import bz2
import gzip
import importlib
import io
import lzma
import os
import posixpath
import sys
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Protocol

from model_loader.archives.archive import BUFFER, Archive, bomb, refused

_WINDOW_BYTES = 128 << 20
"""Maximum memory for unpacking an xz or zstd archive. `xz -9` needs 65 MiB, `zstd --ultra -22` 128 MiB; a header can
request 4 GiB."""
_PIECE = 128 << 10
"""Bytes of one read of an xz or zstd archive."""
_EMPTY = 100
"""Maximum number of xz streams or zstd frames without content, one after the other: each costs more than its bytes."""
_PAX_GLOBALS = 32
"""Maximum number of global pax headers in a tar: they stay in memory. git writes one."""


class _Limited(io.RawIOBase):
    """A decompressed stream with a size limit: a tar's headers can be a decompression bomb too."""

    def __init__(self, archive: Archive, stream: IO[bytes], max_bytes: int) -> None:
        self._archive = archive
        self._stream = stream
        self._max_bytes = max_bytes
        self.left = BUFFER
        """Bytes that may be read before the next reset: tarfile keeps all headers of one member in memory."""
        self.last = b""
        """The bytes of the last read."""

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= min(BUFFER, self.left):
            raise refused(self._archive, "has a header that is too long")
        self.last = self._stream.read(size)
        self.left -= len(self.last)
        return self.last

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if offset > self._max_bytes:
            raise bomb(self._archive)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


class _Decoder(Protocol):
    """The decoder of one xz stream or zstd frame."""

    @property
    def eof(self) -> bool:
        """Whether the end was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether more input is needed for output."""

    @property
    def unused_data(self) -> bytes:
        """The input behind the end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return at most `max_length` bytes."""


class _Decompressed(io.BufferedIOBase):
    """The content of an xz or zstd file, with a memory limit, of all its streams or frames."""

    def __init__(self, archive: Archive, new_decoder: Callable[[], _Decoder], error: type[Exception]) -> None:
        """`error`: what the decoder raises."""
        self._archive = archive
        self._new_decoder = new_decoder
        self._decoder = new_decoder()
        self._error = error
        self._rest = b""
        self._position = 0
        self._empty = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise io.UnsupportedOperation
        found = bytearray()
        while len(found) < size and (data := self._read_some(size - len(found))):
            found += data
        return bytes(found)

    def _read_some(self, size: int) -> bytes:
        """Return at least one byte, at most `size`, or nothing at the end."""
        while True:
            if self._decoder.eof:
                # The next one may follow after padding with zeros.
                self._rest = self._decoder.unused_data.lstrip(b"\0")
                while not self._rest:
                    if not (data := self._archive.stream.read(_PIECE)):
                        return b""
                    self._rest = data.lstrip(b"\0")
                self._empty += 1
                if self._empty > _EMPTY:
                    raise refused(self._archive, "has too many parts without content")
                self._decoder = self._new_decoder()
            if self._decoder.needs_input and not self._rest:
                self._rest = self._archive.stream.read(_PIECE)
                if not self._rest:
                    raise EOFError
            try:
                data = self._decoder.decompress(self._rest, size)
            except self._error as error:
                # Neither library has error codes.
                if "memory" in str(error).lower():
                    raise refused(self._archive, f"needs more than {_WINDOW_BYTES >> 20} MiB of memory") from None
                raise tarfile.ReadError(str(error)) from None
            self._rest = b""
            if data:
                self._empty = 0
                self._position += len(data)
                return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if offset < self._position or whence != os.SEEK_SET:
            raise io.UnsupportedOperation
        while self._position < offset and self.read(min(BUFFER, offset - self._position)):
            pass
        return self._position

    def tell(self) -> int:
        return self._position


def _open_xz(archive: Archive) -> _Decompressed:
    return _Decompressed(archive, lambda: lzma.LZMADecompressor(memlimit=_WINDOW_BYTES), lzma.LZMAError)


def _open_zstd(archive: Archive) -> _Decompressed:
    try:
        # In the standard library since Python 3.14.
        zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise refused(archive, "needs the library backports.zstd, which is not installed") from None
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_BYTES.bit_length() - 1}
    return _Decompressed(archive, lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError)


def _open_tar(archive: Archive) -> IO[bytes]:
    name, stream = archive.name.lower(), archive.stream
    if name.endswith("gz"):
        return gzip.open(stream)  # type: ignore[return-value]
    if name.endswith("bz2"):
        return bz2.open(stream)
    if name.endswith("xz"):
        return _open_xz(archive)  # type: ignore[return-value]
    return _open_zstd(archive) if name.endswith("zst") else stream  # type: ignore[return-value]


def members(archive: Archive, max_bytes: int, below: str) -> Iterator[tuple[str, IO[bytes]]]:
    with _open_tar(archive) as plain:
        limited = _Limited(archive, plain, max_bytes)
        with tarfile.open(fileobj=limited, mode="r:") as tar:
            end = -1
            while (member := tar.next()) is not None:
                limited.left = sys.maxsize
                # tarfile before 3.11.14 accepts negative sizes and then loops for ever.
                if member.size < 0 or tar.offset <= end:
                    raise tarfile.ReadError("a member has a negative size")
                if len(tar.pax_headers) > _PAX_GLOBALS:
                    raise refused(archive, "has too many headers")
                end = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member
                name = _of_image(archive, member, below) if below else member.name.removeprefix("./").rstrip("/")
                if not member.isdir() and name is not None:
                    if not member.isreg() or member.issparse():
                        raise refused(archive, f"holds {ascii(name)[:80]}, which is a link, a device or sparse")
                    stream = tar.extractfile(member)
                    if stream is not None:
                        yield name, stream
                limited.left = BUFFER
        # tarfile takes an unreadable header for the end of the archive. A tar that ends with its last member is
        # truncated, unless a registry's digest proves it complete: not every image builder writes the end marker.
        if limited.last.strip(b"\0") or (len(limited.last) < tarfile.BLOCKSIZE and not below):
            raise tarfile.ReadError("the end of the tar is missing")
        # Read to the end, where the compression format has its checksum.
        while plain.read(BUFFER):
            if plain.tell() > max_bytes:
                raise bomb(archive)


def _of_image(archive: Archive, member: tarfile.TarInfo, below: str) -> str | None:
    """Return the path of a layer's member relative to `below`, or None if it is outside.

    Raises LoadError(Refused) for whiteouts, which delete files of earlier layers, and for a file or link at `below`.

    Source: https://github.com/opencontainers/image-spec/blob/main/layer.md
    """
    name = posixpath.normpath(f"/{member.name}").lstrip("/")
    last = name.rpartition("/")[2]
    inside = name.startswith(below)
    if last.startswith(".wh.") and (inside or name in (f".wh.{below.rstrip('/')}", ".wh..wh..opq")):
        raise refused(archive, f"deletes {last[4:80]!a} of an earlier layer")
    if f"{name}/" == below and not member.isdir():
        raise refused(archive, f"holds {name!a}, which is not a folder")
    return name.removeprefix(below) if inside else None
