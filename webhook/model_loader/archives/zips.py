"""The members of a zip."""

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from typing import IO

from model_loader.archives.archive import Archive, refused, too_many
from model_loader.plan.model import MAX_FILES

_DIRECTORY_BYTES = 32 << 20
"""Maximum size of a zip's central directory, which zipfile reads into memory: 300 bytes for each allowed file."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_HEADER_BYTES = 30


class _Bounded(io.RawIOBase):
    """A zip's bytes. zipfile reads the central directory at once: this limits its size and number of entries."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.in_directory = True

    def read(self, size: int = -1, /) -> bytes:
        if size > _DIRECTORY_BYTES:
            raise too_many(self._archive)
        data = self._archive.stream.read(size)
        if self.in_directory and data.count(zipfile.stringCentralDir) > MAX_FILES:  # type: ignore[attr-defined]
            raise too_many(self._archive)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._archive.stream.seek(offset, whence)

    def tell(self) -> int:
        return self._archive.stream.tell()

    def seekable(self) -> bool:
        return True


def members(archive: Archive) -> Iterator[tuple[str, IO[bytes]]]:
    bounded = _Bounded(archive)
    with zipfile.ZipFile(bounded) as file:
        bounded.in_directory = False
        _check_overlaps(archive, file)
        for member in file.infolist():
            name = ascii(member.orig_filename)[:80]
            if "\0" in member.orig_filename:
                raise refused(archive, f"holds {name}, whose name has a NUL")
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise refused(archive, f"holds {name}, which is a link or a device")
            if member.flag_bits & 1:
                raise refused(archive, f"holds {name}, which is encrypted")
            if member.compress_type not in _METHODS:
                raise refused(archive, f"holds {name}, whose compression method is neither deflate nor bzip2")
            with file.open(member) as stream:
                yield member.filename, stream
                if stream.tell() != member.file_size:
                    raise zipfile.BadZipFile("a member is shorter than the directory says")


def _check_overlaps(archive: Archive, file: zipfile.ZipFile) -> None:
    """Raise LoadError(Refused) when two members share bytes: that is a decompression bomb, or hides content."""
    end = 0
    for member in sorted(file.infolist(), key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise refused(archive, "has members that overlap")
        end = member.header_offset + _HEADER_BYTES + member.compress_size
