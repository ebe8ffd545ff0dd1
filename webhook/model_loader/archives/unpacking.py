"""Unpacking an archive into a folder, with limits for files and bytes."""

import contextlib
import errno
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import IO

from model_loader.archives import tars, zips
from model_loader.archives.archive import BUFFER, MAX_RATIO, Archive, bomb, broken, too_many
from model_loader.outcomes import Code, LoadError
from model_loader.plan import paths
from model_loader.plan.model import MAX_FILES
from model_loader.storage.volume import SafeDir, storage_failure

_MIN_BYTES = 16 << 20
"""Bytes that an archive may unpack to at any ratio: short texts compress well."""
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


def unpack(
    archive: Archive,
    folder: SafeDir,
    *,
    below: str = "",
    max_files: int = MAX_FILES,
    select: Callable[[str], bool] = lambda name: True,
) -> list[str]:
    """Unpack `archive` into `folder`, without overwriting anything, and return the paths of its files.

    `below`: unpack only this folder of the archive, which may be empty. `max_files`: the maximum number of files.
    `select`: whether to unpack the file of this name.

    Raises LoadError: Refused for content that the loader does not accept, Corrupted for an unreadable archive, NoSpace.
    """
    max_bytes = max(archive.size * MAX_RATIO, _MIN_BYTES)
    is_zip = archive.name.lower().endswith(".zip")
    members = zips.members(archive) if is_zip else tars.members(archive, max_bytes, below)
    size = found = 0
    names: list[str] = []
    try:
        for name, stream in members:
            found += 1
            if found > max_files:
                raise too_many(archive)
            selected = select(paths.safe_path(name))
            names += [name] if selected else []
            # The other members are read too: the limits and checksums are about the whole archive.
            with _create(folder, name) if selected else contextlib.nullcontext() as out:
                while data := stream.read(BUFFER):
                    size += len(data)
                    if size > max_bytes:
                        raise bomb(archive)
                    if out is not None:
                        _write(out, data, name)
    except _BROKEN as error:
        raise broken(archive, error) from None
    except OSError as error:
        # From the format's code, or a seek to an invalid position. A failing disk has another errno.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise broken(archive, error) from None
    if not found and not below:
        raise LoadError(Code.NOT_FOUND, f"{archive.name} holds no file", file=archive.name)
    return names


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
