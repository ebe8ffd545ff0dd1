"""The state of one file during its download: which parts are missing, which are written, and its hash."""

import mmap
import os
from collections import deque
from collections.abc import Set

from model_loader.download.hashing import FileHash
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import File
from model_loader.storage.journal import Part
from model_loader.storage.volume import Opener, SafeDir, storage_failure

PART_BYTES = 8 << 20
"""Bytes of one part, which is one line of the journal. A killed loader rereads at most this much for each worker."""
UNKNOWN = -1
"""The end of a part that reaches to the end of a file of unknown size."""


class FileState:
    """What is known about a file. The scheduler's lock guards it; the hash has its own lock."""

    def __init__(self, index: int, file: File, hashing: bool, journaled: Set[Part]) -> None:
        """`index`: the file's index in the plan. `journaled`: the parts that an earlier start wrote."""
        self.index = index
        self.file = file
        self.hash = FileHash(file.size, file.checksum, needed=hashing)
        self.checksum_known = not file.checksum_on_request
        """Whether the store's checksum was requested, or need not be."""
        self.over_tls = file.url.startswith("https:") and file.ranged and file.size >= 0
        """Whether processes can read the file: see `processes`."""
        self.retried = False
        self.redirect = ""
        """The URL that the last request was redirected to, if that is another server."""
        self.reset(journaled)

    def reset(self, journaled: Set[Part]) -> None:
        """Plan the download of every part that is not in `journaled`."""
        size = self.file.size
        self.size = max(size, 0)
        self.modified = ""
        self.unclaimed: deque[tuple[int, int]] = deque()
        """Parts that no worker has claimed, by first byte and the byte after the last."""
        self.written: dict[int, int] = {}
        """The end of each written part, by its start."""
        # A server without range support leaves one part: the whole file.
        whole = (self.index, 0, size) in journaled
        for start, end in _cut(size):
            if whole or (self.index, start, end) in journaled:
                self.written[start] = end
            else:
                self.unclaimed.append((start, end))
        self.starts_over = bool(self.unclaimed) and not self.file.ranged
        """Whether the whole file must be read, because the server cannot send only the rest."""
        if self.starts_over:
            self.unclaimed, self.written = deque([(0, size)]), {}
        self.unfinished = len(self.unclaimed)
        """Number of parts that are not written."""
        self.single = self.unfinished == 1 and not self.written and size >= 0 and not self.retried
        """Whether one part of known size is the whole file, and the journal lists nothing of it."""

    def expect(self, checksum: str) -> None:
        """Record the checksum that the store keeps, or an empty text. The caller must hold the hash's lock."""
        self.checksum_known = True
        if checksum:
            self.hash.expect(checksum)

    def hash_written(self, fd: int, *, wait: bool = False) -> None:
        """Hash the written bytes up to the first gap, from the page cache. One worker at a time does this.

        `wait`: wait for a worker that already does; otherwise leave it to that worker.
        """
        while self.hash.needed and self.hash.position < self.size and self.hash.position in self.written:
            if not self.hash.lock.acquire(blocking=wait):
                return
            try:
                end = self.written.get(self.hash.position, 0)
                if end > self.hash.position:
                    # mmap avoids a copy. Each part starts on a page boundary.
                    length, flags = end - self.hash.position, mmap.MAP_SHARED | mmap.MAP_POPULATE
                    with mmap.mmap(fd, length, flags, mmap.PROT_READ, offset=self.hash.position) as data:
                        self.hash.add(data)
            finally:
                self.hash.lock.release()


def _cut(size: int) -> list[tuple[int, int]]:
    if size < 0:
        return [(0, UNKNOWN)]
    return [(start, min(start + PART_BYTES, size)) for start in range(0, max(size, 1), PART_BYTES)]


def write(fd: int, data: memoryview, position: int, file: File) -> None:
    """Write `data` at `position` of a file of the model. Raises LoadError."""
    try:
        while data:
            count = os.pwrite(fd, data, position)
            data, position = data[count:], position + count
    except OSError as error:
        raise storage_failure(error, file.path) from None


def shorter(file: File) -> LoadError:
    """Return the failure for a response that ends before the file."""
    return LoadError(Code.CHANGED, f"{file.path} is shorter than the store says")


class OpenedFile:
    """A context manager that opens a file of the model for reading and writing, never through a symbolic link."""

    def __init__(self, folder: SafeDir | Opener, file: File, flags: int = 0) -> None:
        self._folder = folder
        self._file = file
        self._flags = os.O_RDWR | os.O_CREAT | flags

    def __enter__(self) -> int:
        try:
            self._fd = self._folder.open(self._file.path, self._flags)
        except OSError as error:
            raise storage_failure(error, self._file.path) from None
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
