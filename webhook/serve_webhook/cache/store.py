"""How watched objects are kept in memory: compressed, within a budget for each namespace."""

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Self

import orjson

from serve_core.base.bounded_reading import UnreadableObjectError
from serve_core.base.json import JsonObject

MAX_OBJECT_BYTES = 2**16
"""Compressed. A completed Deployment takes 2.6 KB."""
MAX_NAMESPACE_BYTES = 16 * 2**20
"""Of all objects of a namespace together: 5,000 completed Deployments."""
_OVERHEAD_BYTES = 512
"""Of each object, for Python's own structures."""


@dataclass(frozen=True, slots=True)
class CompressedObject:
    """A completed Deployment takes 2.6 KB like this, and 27 KB as Python values."""

    version: int
    data: bytes
    """Without the version, so that two versions with the same content are equal here."""
    size: int
    """Bytes before compression: repetitive content takes a hundredth compressed."""

    @classmethod
    def of(cls, manifest: JsonObject) -> Self:
        """Raises :class:`UnreadableObjectError` for an object that is too large."""
        metadata = {key: value for key, value in manifest["metadata"].items() if key != "resourceVersion"}
        text = orjson.dumps({**manifest, "metadata": metadata})
        data = zlib.compress(text, level=1)
        if len(data) > MAX_OBJECT_BYTES:
            raise UnreadableObjectError(f"it takes more than {MAX_OBJECT_BYTES >> 10} KiB")
        return cls(version_of(manifest), data, len(text))

    @property
    def cost(self) -> int:
        """Bytes of its namespace's budget. Objects are decompressed at times, so at least a quarter of the size
        counts."""
        return max(len(self.data), self.size // 4) + _OVERHEAD_BYTES

    def manifest(self) -> JsonObject:
        decompressed: JsonObject = orjson.loads(zlib.decompress(self.data))
        decompressed["metadata"]["resourceVersion"] = str(self.version)
        return decompressed


class NamespaceBudget:
    """Limits the memory of each namespace, so that a full one takes nothing from the others."""

    def __init__(self, maximum: int = MAX_NAMESPACE_BYTES) -> None:
        self._maximum = maximum
        self._used: Counter[str] = Counter()

    def reserve(self, namespace: str, size: int) -> bool:
        """Reserve ``size`` bytes, or release them where it is negative. Returns whether the namespace has as many."""
        used = self._used[namespace] + size
        # Only administrators create cluster-scoped objects: these have no limit.
        if size > 0 and namespace and used > self._maximum:
            return False
        self._used[namespace] = used
        if not used:
            del self._used[namespace]
        return True


def version_of(manifest: JsonObject) -> int:
    """Resource versions of one resource can be compared as integers (Kubernetes API conventions since 1.35)."""
    return int(manifest["metadata"]["resourceVersion"])
