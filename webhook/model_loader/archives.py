"""Models that are archives: `.tar`, `.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz` and `.zip`, unpacked after verification.

It refuses links, devices and everything else that is not a file or folder, unsafe names, and decompression bombs. It
ignores the members' modes, owners and times.
"""

import bz2
import errno
import gzip
import io
import lzma
import os
import posixpath
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from model_loader.outcomes import Code, LoadError
from model_loader.plan import paths
from model_loader.plan.model import MAX_FILES
from model_loader.storage.volume import SafeDir, storage_failure

_RATIO = 100
"""Maximum compression ratio. Weights hardly compress."""
_FREE = 16 << 20
"""Bytes that an archive may unpack to at any ratio: short texts compress well."""
_BUFFER = 1 << 20
_DIRECTORY_BYTES = 32 << 20
"""Maximum size of a zip's central directory, which zipfile reads into memory: 300 bytes for each allowed file."""
_DICTIONARY_BYTES = 128 << 20
"""Maximum memory for unpacking an xz archive. `xz -9` needs 65 MiB; a header can request 4 GiB."""
_PAX_GLOBALS = 32
"""Maximum number of global pax headers in a tar: they stay in memory. git writes one."""
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_ZIP_HEADER_BYTES = 30
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    LookupError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive: its name, whose suffix is its format, and its bytes."""

    name: str
    stream: IO[bytes]

    @property
    def size(self) -> int:
        """The size in bytes."""
        return os.fstat(self.stream.fileno()).st_size


def unpack(archive: Archive, folder: SafeDir, *, below: str = "", max_files: int = MAX_FILES) -> list[str]:
    """Unpack `archive` into `folder`, without overwriting anything, and return the paths of its files.

    `below`: unpack only this folder of the archive, which may be empty. `max_files`: the maximum number of files.

    Raises LoadError: Refused for content that the loader does not accept, Corrupted for an unreadable archive, NoSpace.
    """
    max_bytes = max(archive.size * _RATIO, _FREE)
    members = _zip(archive) if archive.name.lower().endswith(".zip") else _tar(archive, max_bytes, below)
    size = 0
    names: list[str] = []
    try:
        for name, stream in members:
            names.append(paths.safe_path(name))
            if len(names) > max_files:
                raise _too_many(archive)
            with _create(folder, name) as out:
                while data := stream.read(_BUFFER):
                    size += len(data)
                    if size > max_bytes:
                        raise _bomb(archive)
                    _write(out, data, name)
    except _BROKEN as error:
        raise _broken(archive, error) from None
    except OSError as error:
        # From the format's code, or a seek to an invalid position. A failing disk has another errno.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise _broken(archive, error) from None
    if not names and not below:
        raise LoadError(Code.NOT_FOUND, f"{archive.name} holds no file", file=archive.name)
    return names


class _Limited(io.RawIOBase):
    """A decompressed stream with a size limit: a tar's headers can be a decompression bomb too."""

    def __init__(self, archive: Archive, stream: IO[bytes], max_bytes: int) -> None:
        self._archive = archive
        self._stream = stream
        self._max_bytes = max_bytes
        self.left = _BUFFER
        """Bytes that may be read before the next reset: tarfile keeps all headers of one member in memory."""
        self.last = b""
        """The bytes of the last read."""

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= min(_BUFFER, self.left):
            raise _refused(self._archive, "has a header that is too long")
        self.last = self._stream.read(size)
        self.left -= len(self.last)
        return self.last

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if offset > self._max_bytes:
            raise _bomb(self._archive)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


class _Xz(io.BufferedIOBase):
    """Like lzma.open, with a memory limit."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._rest = b""
        self._position = 0
        self._begin()

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise io.UnsupportedOperation
        while True:
            if self._decoder.eof:
                # The next xz stream may follow after padding with zeros.
                self._rest = self._decoder.unused_data.lstrip(b"\0")
                while not self._rest:
                    if not (data := self._archive.stream.read(_BUFFER)):
                        return b""
                    self._rest = data.lstrip(b"\0")
                self._begin()
            if self._decoder.needs_input and not self._rest:
                self._rest = self._archive.stream.read(_BUFFER)
                if not self._rest:
                    raise EOFError
            try:
                data = self._decoder.decompress(self._rest, size)
            except lzma.LZMAError as error:
                if "Memory" in str(error):
                    raise _refused(self._archive, f"needs more than {_DICTIONARY_BYTES >> 20} MiB of memory") from None
                raise
            self._rest = b""
            if data:
                self._position += len(data)
                return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if offset < self._position or whence != os.SEEK_SET:
            raise io.UnsupportedOperation
        while self._position < offset and self.read(min(_BUFFER, offset - self._position)):
            pass
        return self._position

    def tell(self) -> int:
        return self._position

    def _begin(self) -> None:
        self._decoder = lzma.LZMADecompressor(memlimit=_DICTIONARY_BYTES)


def _open_tar(archive: Archive) -> IO[bytes]:
    name, stream = archive.name.lower(), archive.stream
    if name.endswith("gz"):
        return gzip.open(stream)  # type: ignore[return-value]
    if name.endswith("bz2"):
        return bz2.open(stream)
    return _Xz(archive) if name.endswith("xz") else stream  # type: ignore[return-value]


def _tar(archive: Archive, max_bytes: int, below: str) -> Iterator[tuple[str, IO[bytes]]]:
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
                    raise _refused(archive, "has too many headers")
                end = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member
                name = _of_image(archive, member, below) if below else member.name.removeprefix("./").rstrip("/")
                if not member.isdir() and name is not None:
                    if not member.isreg() or member.issparse():
                        raise _refused(archive, f"holds {ascii(name)[:80]}, which is a link, a device or sparse")
                    stream = tar.extractfile(member)
                    if stream is not None:
                        yield name, stream
                limited.left = _BUFFER
        # tarfile takes an unreadable header for the end of the archive. A tar that ends with its last member is
        # truncated, unless a registry's digest proves it complete: not every image builder writes the end marker.
        if limited.last.strip(b"\0") or (len(limited.last) < tarfile.BLOCKSIZE and not below):
            raise tarfile.ReadError("the end of the tar is missing")
        # Read to the end, where the compression format has its checksum.
        while plain.read(_BUFFER):
            if plain.tell() > max_bytes:
                raise _bomb(archive)


def _of_image(archive: Archive, member: tarfile.TarInfo, below: str) -> str | None:
    """Return the path of a layer's member relative to `below`, or None if it is outside.

    Raises LoadError(Refused) for whiteouts, which delete files of earlier layers, and for a file or link at `below`.

    Source: https://github.com/opencontainers/image-spec/blob/main/layer.md
    """
    name = posixpath.normpath(f"/{member.name}").lstrip("/")
    last = name.rpartition("/")[2]
    inside = name.startswith(below)
    if last.startswith(".wh.") and (inside or name in (f".wh.{below.rstrip('/')}", ".wh..wh..opq")):
        raise _refused(archive, f"deletes {last[4:80]!a} of an earlier layer")
    if f"{name}/" == below and not member.isdir():
        raise _refused(archive, f"holds {name!a}, which is not a folder")
    return name.removeprefix(below) if inside else None


class _Bounded(io.RawIOBase):
    """A zip's bytes. zipfile reads the central directory at once: this limits its size and number of entries."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.in_directory = True

    def read(self, size: int = -1, /) -> bytes:
        if size > _DIRECTORY_BYTES:
            raise _too_many(self._archive)
        data = self._archive.stream.read(size)
        if self.in_directory and data.count(zipfile.stringCentralDir) > MAX_FILES:  # type: ignore[attr-defined]
            raise _too_many(self._archive)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._archive.stream.seek(offset, whence)

    def tell(self) -> int:
        return self._archive.stream.tell()

    def seekable(self) -> bool:
        return True


def _zip(archive: Archive) -> Iterator[tuple[str, IO[bytes]]]:
    bounded = _Bounded(archive)
    with zipfile.ZipFile(bounded) as file:
        bounded.in_directory = False
        _check_overlaps(archive, file)
        for member in file.infolist():
            name = ascii(member.orig_filename)[:80]
            if "\0" in member.orig_filename:
                raise _refused(archive, f"holds {name}, whose name has a NUL")
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _refused(archive, f"holds {name}, which is a link or a device")
            if member.flag_bits & 1:
                raise _refused(archive, f"holds {name}, which is encrypted")
            if member.compress_type not in _ZIP_METHODS:
                raise _refused(archive, f"holds {name}, whose compression method is neither deflate nor bzip2")
            with file.open(member) as stream:
                yield member.filename, stream
                if stream.tell() != member.file_size:
                    raise zipfile.BadZipFile("a member is shorter than the directory says")


def _check_overlaps(archive: Archive, file: zipfile.ZipFile) -> None:
    """Raise LoadError(Refused) when two members share bytes: that is a decompression bomb, or hides content."""
    end = 0
    for member in sorted(file.infolist(), key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise _refused(archive, "has members that overlap")
        end = member.header_offset + _ZIP_HEADER_BYTES + member.compress_size


def _create(folder: SafeDir, name: str) -> IO[bytes]:
    parent, _, last = name.rpartition("/")
    try:
        with folder.folder(parent or ".", make=True) as place:
            return open(place.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb", buffering=0)
    except FileExistsError:
        raise LoadError(Code.REFUSED, f"{last!a} is in the archive twice", file=last) from None
    except NotADirectoryError:
        raise LoadError(Code.REFUSED, f"{parent!a} is a file and a folder in the archive") from None
    except OSError as error:
        raise storage_failure(error, last) from None


def _write(out: IO[bytes], data: bytes, name: str) -> None:
    left = memoryview(data)
    try:
        # A nearly full volume accepts a part, and the next write fails.
        while left:
            left = left[out.write(left) :]
    except OSError as error:
        raise storage_failure(error, name) from None


def _broken(archive: Archive, error: Exception) -> LoadError:
    return LoadError(
        Code.CORRUPTED,
        f"{archive.name} cannot be unpacked: {type(error).__name__}",
        hint="Create the archive again, and upload it.",
        file=archive.name,
    )


def _too_many(archive: Archive) -> LoadError:
    return _refused(archive, f"gives the model more than {MAX_FILES:,} files")


def _bomb(archive: Archive) -> LoadError:
    return _refused(archive, f"unpacks to more than {_RATIO} times its size")


def _refused(archive: Archive, why: str) -> LoadError:
    return LoadError(
        Code.REFUSED,
        f"{archive.name} {why}",
        hint="Create an archive of files and folders only.",
        file=archive.name,
    )
