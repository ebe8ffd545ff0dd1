"""Checksums that stores keep for their files, as `algorithm:hex`."""

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
    """The methods of hashlib's objects."""

    def update(self, data: Bytes, /) -> None:
        """Add bytes."""

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
    """A checksum of AWS's own library: 20 GiB per second, where a table in Python reaches a few MiB."""

    def __init__(self, name: str, digits: int) -> None:
        from awscrt import checksums  # noqa: PLC0415  # start-up time (100 ms) that other models save

        self._add = getattr(checksums, name)
        self._digits = digits
        self._value = 0

    def update(self, data: Bytes, /) -> None:
        self._value = self._add(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


@functools.cache
def _has_crt() -> bool:
    """Return whether the library is installed: it is in the loader's image, but not in every installation."""
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
    """Return an empty hash for the algorithm of `checksum` and a file of `size` bytes."""
    return _ALGORITHMS[checksum.partition(":")[0]](size)


def from_headers(headers: Mapping[str, str]) -> str:
    """Return S3's checksum of the whole object from a response, or an empty text if no algorithm is supported.

    Of several, the cheapest one: the loader computes sha256 in any case.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    names = ("sha256", "crc64nvme", "crc32c", "crc32", "sha1")
    return next(filter(None, (from_base64(name, headers.get(f"x-amz-checksum-{name}", "")) for name in names)), "")


def from_base64(algorithm: str, text: str) -> str:
    """Return the checksum that a store writes in base64, or an empty text if it does not cover the whole file.

    Also an empty text if the library for the algorithm is missing: the file then counts as one without a checksum.
    """
    if algorithm in ("crc32c", "crc64nvme") and not _has_crt():
        return ""
    try:
        return f"{algorithm}:{base64.b64decode(text, validate=True).hex()}" if text else ""
    except (ValueError, binascii.Error):
        return ""  # S3 writes base64-N for a checksum of N parts' checksums
