"""The hash of one file during its download: in order, by one worker at a time or by a separate thread."""

import hashlib
import queue
import threading
from collections.abc import Callable

from model_loader.verify import checksums

BUFFER = 256 << 10
"""Bytes of one read. They fit into a core's cache, so that hashing does not load them from memory again."""
_BUFFERS = 32
"""Buffers between a worker and its hash thread, so that neither waits while the other has no core."""


class FileHash:
    """A file's sha256 and, if the store's checksum has another algorithm, that hash too.

    Callers hold `lock` to add bytes or restart. `position`: bytes hashed so far. `needed`: whether to hash the file at
    all. `checksum`: the store's, as `algorithm:hex`.
    """

    def __init__(self, size: int, checksum: str, *, needed: bool) -> None:
        """`size`: the file's bytes, or -1. With a `checksum` the file is always hashed."""
        self.lock = threading.Lock()
        self.needed = needed or bool(checksum)
        self.checksum = checksum
        self._size = max(size, 0)
        self._hash_thread: _HashThread | None = None
        self.restart()

    def start_thread(self, failed: Callable[[BaseException], None]) -> None:
        """Hash in a separate thread until `close`. It passes exceptions to `failed`."""
        self._hash_thread = _HashThread(self._update, failed)

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._hash_thread is not None:
            self._hash_thread.stop()
            self._hash_thread = None

    def restart(self) -> None:
        """Hash from the start of the file."""
        self._settle()
        self._sha256 = hashlib.sha256()
        self._check: checksums.Hash | None = None
        if self.checksum and not self.checksum.startswith("sha256:"):
            self._check = checksums.new(self.checksum, self._size)
        self.position = 0

    def expect(self, checksum: str) -> None:
        """Hash for this checksum too, from the start of the file."""
        self.checksum, self.needed = checksum, True
        self.restart()

    def add(self, data: checksums.Bytes) -> None:
        """Hash the next bytes of the file."""
        self._settle()
        self._update(data)
        self.position += len(data)

    def take(self, buffer: memoryview, count: int) -> memoryview:
        """Hash the first `count` bytes of `buffer`, which come next, and return the buffer for the next read."""
        self.position += count
        if self._hash_thread is not None:
            return self._hash_thread.take(buffer, count)
        self._update(buffer[:count])
        return buffer

    def sha256(self) -> str:
        """Return the hex sha256 of the bytes so far."""
        self._settle()
        return self._sha256.hexdigest()

    def is_genuine(self) -> bool:
        """Return whether the completely hashed file has the store's checksum, or the store has none."""
        self._settle()
        checksum = self.checksum.partition(":")[2]
        return not checksum or (self._check or self._sha256).hexdigest() == checksum

    def _update(self, data: checksums.Bytes) -> None:
        self._sha256.update(data)
        if self._check is not None:
            self._check.update(data)

    def _settle(self) -> None:
        if self._hash_thread is not None:
            self._hash_thread.settle()


class _HashThread:
    """A thread that hashes the buffers of one worker while the worker reads the next ones."""

    def __init__(self, update: Callable[[memoryview], None], failed: Callable[[BaseException], None]) -> None:
        self._update = update
        self._failed = failed
        self._full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(memoryview(bytearray(BUFFER)))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, buffer: memoryview, count: int) -> memoryview:
        """Queue the first `count` bytes of `buffer`, which now belongs to the thread, and return a free buffer."""
        self._full.put((buffer, count))
        return self._free.get()

    def settle(self) -> None:
        """Wait until everything is hashed: then all buffers are free."""
        for buffer in [self._free.get() for _ in range(_BUFFERS)]:
            self._free.put(buffer)

    def stop(self) -> None:
        """Hash what is queued, and end the thread."""
        self._full.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._full.get()) is not None:
            buffer, count = given
            try:
                self._update(buffer[:count])
            except BaseException as error:  # noqa: BLE001  # the main thread raises it again
                self._failed(error)
            self._free.put(buffer)
