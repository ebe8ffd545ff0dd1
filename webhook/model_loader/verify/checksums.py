"""The checksums that stores keep of their files, written `algorithm:hex`."""

import base64
import binascii
import functools
import hashlib
import importlib.util
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


class _Crt:
    """A checksum of AWS's own library, which takes 20 GiB a second where a table in Python takes a few MiB."""

    def __init__(self, name: str, digits: int) -> None:
        from awscrt import checksums  # noqa: PLC0415  # 100 ms of start-up that other models need not pay

        self._add = getattr(checksums, name)
        self._digits = digits
        self._value = 0

    def update(self, data: Bytes, /) -> None:
        self._value = self._add(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


@functools.cache
def _has_crt() -> bool:
    """Whether the library is there: the loader's image has it, another installation may not."""
    return importlib.util.find_spec("awscrt") is not None


def _sum(name: str) -> Callable[[int], Hash]:
    return lambda _: hashlib.new(name, usedforsecurity=False)


def _git_blob(size: int) -> Hash:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


_ALGORITHMS: Mapping[str, Callable[[int], Hash]] = {
    "sha256": _sum("sha256"),
    "sha1": _sum("sha1"),
    "md5": _sum("md5"),
    "crc32": lambda _: _Crc32(),
    "crc32c": lambda _: _Crt("crc32c", 8),
    "crc64nvme": lambda _: _Crt("crc64nvme", 16),
    "git-blob": _git_blob,
}


def new(checksum: str, size: int) -> Hash:
    """Return an empty hash of the algorithm of `checksum`, for a file of `size` bytes."""
    return _ALGORITHMS[checksum.partition(":")[0]](size)


def from_headers(headers: Mapping[str, str]) -> str:
    """Return the checksum of the whole object that S3 tells with it, of an algorithm that we have; else an empty text.

    Where it tells several, the one that costs least: sha256 is computed in any case.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    names = ("sha256", "crc64nvme", "crc32c", "crc32", "sha1")
    return next(filter(None, (from_base64(name, headers.get(f"x-amz-checksum-{name}", "")) for name in names)), "")


def from_base64(algorithm: str, text: str) -> str:
    """Return the checksum that a store writes in base64, or an empty text where it is not one of the whole file.

    Also where the library for it is missing: such a file counts as one without a checksum.
    """
    if algorithm in ("crc32c", "crc64nvme") and not _has_crt():
        return ""
    try:
        return f"{algorithm}:{base64.b64decode(text, validate=True).hex()}" if text else ""
    except (ValueError, binascii.Error):
        return ""  # S3 writes base64-N for a checksum of N parts' checksums
