"""What is already on the volume, so that a restarted container goes on where the last one stopped.

The journal lies beside the files: its first line says what it belongs to, every further line is a part that was
written, or a file alone, of which nothing counts that stands before. The last part of a file is written down when the
file is verified, so one that is listed whole need not be verified again. A line is only trusted in the same boot of the
node: after a crash of the node the page cache is lost, and what the journal says was written may not have reached the
disk.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from model_loader.plan.model import File
from model_loader.storage.volume import SafeDir

_AT_ONCE = 1 << 20
"""Bytes of parts whose lines are written at once: a line for each small file would cost as much as its own writing."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
Part = tuple[int, int, int]
"""File's index in the plan, first byte, byte after the last (-1: the file's end, whatever its size)."""


def boot() -> str:
    """Return what the kernel calls this boot, or an empty text where it does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def identity(files: Sequence[File]) -> str:
    """Return a text that changes when any file of the plan does. It holds no URL: a signed one is a credential."""
    lines = json.dumps([(file.path, file.size, file.etag, file.version, file.checksum) for file in files])
    return hashlib.sha256(lines.encode()).hexdigest()


class Journal:
    """The parts that are written, of one plan; safe to add to from several threads."""

    def __init__(self, folder: SafeDir, name: str, header: str) -> None:
        """Open the journal of that name in `folder`, dropping what is not of `header`. Raises OSError."""
        self.parts: set[Part] = set()
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._unwritten = 0
        self._fd = folder.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with open(self._fd, "rb", closefd=False) as stream:
            found = stream.read()
        # What follows the last line end is a line that was being written when the loader was killed.
        first, *lines = found.split(b"\n")[:-1] or [b""]
        if first != header.encode():
            first, lines = header.encode(), []
        for line in lines:
            index, *span = map(int, line.split())
            if span:
                self.parts.add((index, span[0], span[1]))
            else:
                self.parts = {part for part in self.parts if part[0] != index}
        kept = b"".join(line + b"\n" for line in (first, *lines))
        if kept != found:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What is not written down is read again; why the load ends is not to be hidden by that.
        with contextlib.suppress(OSError), self._lock:
            self._write()
        os.close(self._fd)

    def add(self, part: Part) -> None:
        """Write down that `part` is on the volume, at once or with the next 1 MiB of parts."""
        _, start, end = part
        with self._lock:
            self._lines.append(b"%d %d %d\n" % part)
            self._unwritten += end - start if end >= 0 else _AT_ONCE
            if self._unwritten >= _AT_ONCE:
                self._write()

    def drop(self, index: int) -> None:
        """Write down, at once, that nothing of a file counts which was added before."""
        with self._lock:
            self._lines.append(b"%d\n" % index)
            self._write()

    def _write(self) -> None:
        os.write(self._fd, b"".join(self._lines))
        self._lines.clear()
        self._unwritten = 0
