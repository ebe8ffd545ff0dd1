"""Archives that are a model: `.tar`, `.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz` and `.zip` are unpacked, once verified.

What is refused: links, devices and anything else that is not a file or folder, unsafe names, and archives that explode.
No member's mode, owner or time is taken over.
"""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from model_loader import paths
from model_loader.model import MOST_FILES
from model_loader.outcomes import Code, LoadError
from model_loader.volume import Folder, storage_failure

_RATIO = 100
"""Most bytes out of one byte in; weights hardly shrink at all."""
_FREE = 16 << 20
"""Bytes that may come out whatever the ratio: a short text shrinks well."""
_BUFFER = 1 << 20
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive's own name, whose ending says what it is, and its bytes."""

    name: str
    stream: IO[bytes]

    @property
    def size(self) -> int:
        """Its bytes."""
        return os.fstat(self.stream.fileno()).st_size


def unpack(archive: Archive, folder: Folder, *, below: str = "", most: int = MOST_FILES) -> list[str]:
    """Unpack `archive` into `folder`, over nothing that is there, and return the paths of its files.

    `below`: only what is in this folder of the archive counts, and there may be nothing. `most`: how many files may
    come out.

    Raises LoadError: Refused for what an archive must not hold, Corrupted when it cannot be read, NoSpace.
    """
    room = max(archive.size * _RATIO, _FREE)
    members = _zip(archive) if archive.name.lower().endswith(".zip") else _tar(archive, room, below)
    size = 0
    names: list[str] = []
    try:
        for name, stream in members:
            names.append(paths.safe_path(name))
            if len(names) > most:
                raise _too_many(archive)
            with _create(folder, name) as out:
                while data := stream.read(_BUFFER):
                    size += len(data)
                    if size > room:
                        raise _bomb(archive)
                    _write(out, data, name)
    except _BROKEN as error:
        raise LoadError(
            Code.CORRUPTED, f"{archive.name} cannot be unpacked: {type(error).__name__}", file=archive.name
        ) from None
    if not names and not below:
        raise LoadError(Code.NOT_FOUND, f"{archive.name} holds no file", file=archive.name)
    return names


class _Limited(io.RawIOBase):
    """What comes out of a compressed archive, up to so many bytes: its headers can be a bomb too."""

    def __init__(self, archive: Archive, stream: gzip.GzipFile | IO[bytes], most: int) -> None:
        self._archive = archive
        self._stream = stream
        self._most = most

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _BUFFER:
            raise _refused(self._archive, "has a header that is too long")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if offset > self._most:
            raise _bomb(self._archive)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _open_tar(archive: Archive) -> gzip.GzipFile | IO[bytes]:
    name, stream = archive.name.lower(), archive.stream
    if name.endswith("gz"):
        return gzip.open(stream)
    if name.endswith("bz2"):
        return bz2.open(stream)
    return lzma.open(stream) if name.endswith("xz") else stream


def _tar(archive: Archive, most: int, below: str) -> Iterator[tuple[str, IO[bytes]]]:
    with _open_tar(archive) as plain, tarfile.open(fileobj=_Limited(archive, plain, most), mode="r:") as tar:
        end = -1
        while (member := tar.next()) is not None:
            # Before 3.11.14 tarfile takes negative sizes, and goes round for ever.
            if member.size < 0 or tar.offset <= end:
                raise tarfile.ReadError("a member has a negative size")
            end = tar.offset
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep each, and headers can be many
            name = member.name.removeprefix("./").rstrip("/")
            if member.isdir() or not name.startswith(below):
                continue
            name = name.removeprefix(below)
            if below and name.rpartition("/")[2].startswith(".wh."):
                raise _refused(archive, f"deletes {name[4:80]!a} of an earlier layer")
            if not member.isreg() or member.issparse():
                raise _refused(archive, f"holds {ascii(name)[:80]}, which is a link, a device or sparse")
            stream = tar.extractfile(member)
            if stream is not None:
                yield name, stream
        # To its very end, where the compression's own checksum is.
        while plain.read(_BUFFER):
            if plain.tell() > most:
                raise _bomb(archive)


def _zip(archive: Archive) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive.stream) as file:
        if len(file.infolist()) > MOST_FILES:
            raise _too_many(archive)
        for member in file.infolist():
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _refused(archive, f"holds {ascii(member.filename)[:80]}, which is a link or a device")
            if member.flag_bits & 1:
                raise _refused(archive, f"holds {ascii(member.filename)[:80]}, which is encrypted")
            with file.open(member) as stream:
                yield member.filename, stream


def _create(folder: Folder, name: str) -> IO[bytes]:
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
    try:
        out.write(data)
    except OSError as error:
        raise storage_failure(error, name) from None


def _too_many(archive: Archive) -> LoadError:
    return _refused(archive, f"makes the model one of more than {MOST_FILES:,} files")


def _bomb(archive: Archive) -> LoadError:
    return _refused(archive, f"unpacks to more than {_RATIO} times its size")


def _refused(archive: Archive, why: str) -> LoadError:
    return LoadError(
        Code.REFUSED,
        f"{archive.name} {why}",
        hint="Make the archive anew, of files and folders only.",
        file=archive.name,
    )
