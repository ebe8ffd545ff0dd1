"""The hash of one file while it is read: in order, by one thread at a time, or by one of its own."""

import hashlib
import queue
import threading
from collections.abc import Callable

from model_loader.verify import checksums

BUFFER = 256 << 10
"""Bytes that are read and then hashed: small enough for a core's cache, so that hashing costs no second read."""
_BUFFERS = 32
"""Between a worker and the thread that hashes beside it, so that neither waits while the other is off its core."""


class FileHash:
    """A file's sha256 and, where that is another, the hash of the checksum that its store keeps.

    Who adds bytes or begins anew holds `lock`. `position` is how many bytes of the file were added, `needed` whether
    it is hashed at all, `checksum` what the store says, as `algorithm:hex`.
    """

    def __init__(self, size: int, checksum: str, *, needed: bool) -> None:
        """`size`: the file's bytes, or -1. With a `checksum` the hash is needed in any case."""
        self.lock = threading.Lock()
        self.needed = needed or bool(checksum)
        self.checksum = checksum
        self._size = max(size, 0)
        self._hash_thread: _HashThread | None = None
        self.restart()

    def start_thread(self, failed: Callable[[BaseException], None]) -> None:
        """Hash in a thread of its own from now on, until `close`; `failed` is told what that raises."""
        self._hash_thread = _HashThread(self._update, failed)

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._hash_thread is not None:
            self._hash_thread.stop()
            self._hash_thread = None

    def restart(self) -> None:
        """Hash from the file's start."""
        self._settle()
        self._sha256 = hashlib.sha256()
        self._check: checksums.Hash | None = None
        if self.checksum and not self.checksum.startswith("sha256:"):
            self._check = checksums.new(self.checksum, self._size)
        self.position = 0

    def expect(self, checksum: str) -> None:
        """Hash for this checksum too, from the file's start."""
        self.checksum, self.needed = checksum, True
        self.restart()

    def add(self, data: checksums.Bytes) -> None:
        """Hash the next bytes of the file."""
        self._settle()
        self._update(data)
        self.position += len(data)

    def take(self, buffer: memoryview, count: int) -> memoryview:
        """Hash the first `count` bytes of `buffer`, which come next, and return the buffer to read into then."""
        self.position += count
        if self._hash_thread is not None:
            return self._hash_thread.take(buffer, count)
        self._update(buffer[:count])
        return buffer

    def sha256(self) -> str:
        """Return the hex sha256 of what was added."""
        self._settle()
        return self._sha256.hexdigest()

    def is_genuine(self) -> bool:
        """Tell whether the file, hashed to its end, has the store's checksum, where there is one."""
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
    """A thread that hashes what a worker has read while the worker reads on; for one worker at a time."""

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
        """Have the first `count` bytes of `buffer` hashed, which is then not its giver's, and return another for it."""
        self._full.put((buffer, count))
        return self._free.get()

    def settle(self) -> None:
        """Wait until everything is hashed, which is when every buffer is free."""
        for buffer in [self._free.get() for _ in range(_BUFFERS)]:
            self._free.put(buffer)

    def stop(self) -> None:
        """Hash what is there, and end the thread."""
        self._full.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._full.get()) is not None:
            buffer, count = given
            try:
                self._update(buffer[:count])
            except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits for it
                self._failed(error)
            self._free.put(buffer)
