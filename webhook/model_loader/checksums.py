"""The checksums that stores keep of their files, written `algorithm:hex`."""

import base64
import binascii
import hashlib
import mmap
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

Bytes = bytes | memoryview | mmap.mmap


class Hash(Protocol):
    """What hashlib's objects can do."""

    def update(self, data: Bytes, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return the result so far."""


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _sum(name: str) -> Callable[[int], Hash]:
    return lambda _: hashlib.new(name, usedforsecurity=False)


def _git_blob(size: int) -> Hash:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


_ALGORITHMS: Mapping[str, Callable[[int], Hash]] = {
    "sha256": _sum("sha256"),
    "sha1": _sum("sha1"),
    "md5": _sum("md5"),
    "crc32": lambda _: _Crc32(),
    "git-blob": _git_blob,
}


def new(checksum: str, size: int) -> Hash:
    """Return an empty hash of the algorithm of `checksum`, for a file of `size` bytes."""
    return _ALGORITHMS[checksum.partition(":")[0]](size)


def of_answer(headers: Mapping[str, str]) -> str:
    """Return the checksum of the whole object that S3 tells with it, of an algorithm that we have; else an empty text.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    told = (from_base64(name, headers.get(f"x-amz-checksum-{name}", "")) for name in ("sha256", "crc32", "sha1"))
    return next(filter(None, told), "")


def from_base64(algorithm: str, text: str) -> str:
    """Return the checksum that a store writes in base64, or an empty text where it is not one of the whole file."""
    try:
        return f"{algorithm}:{base64.b64decode(text, validate=True).hex()}" if text else ""
    except (ValueError, binascii.Error):
        return ""  # S3 writes base64-N for a checksum of N parts' checksums
