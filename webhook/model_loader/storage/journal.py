"""The journal of written parts, so that a restarted container resumes the download.

The first line identifies the plan. Every further line is a written part, or only the index of a file, which invalidates
all earlier lines about that file. The last part of a file is written after its verification, so a completely listed
file needs no second verification. The journal is valid only in the same boot of the node: a crash loses the page cache,
and with it parts that the journal lists.
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
"""Bytes of parts between two writes: a write for each small file would cost as much as the file itself."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
Part = tuple[int, int, int]
"""File's index in the plan, first byte, byte after the last (-1: the file's end, at any size)."""


def boot() -> str:
    """Return the kernel's identifier of this boot, or an empty text if there is none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def identity(files: Sequence[File]) -> str:
    """Return a text that changes with any file of the plan. It has no URL: a signed URL is a credential."""
    lines = json.dumps([(file.path, file.size, file.etag, file.version, file.checksum) for file in files])
    return hashlib.sha256(lines.encode()).hexdigest()


class Journal:
    """The written parts of one plan; safe to use from several threads."""

    def __init__(self, folder: SafeDir, name: str, header: str) -> None:
        """Open the journal `name` in `folder`; discards its content if the header differs. Raises OSError."""
        self.parts: set[Part] = set()
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._unwritten = 0
        self._fd = folder.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with open(self._fd, "rb", closefd=False) as stream:
            found = stream.read()
        # The text after the last line end is an incomplete line, written when the loader was killed.
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
        # An unwritten line only costs another read; do not hide the error that ended the load.
        with contextlib.suppress(OSError), self._lock:
            self._write()
        os.close(self._fd)

    def add(self, part: Part) -> None:
        """Record that `part` is on the volume: at once, or with the next 1 MiB of parts."""
        _, start, end = part
        with self._lock:
            self._lines.append(b"%d %d %d\n" % part)
            self._unwritten += end - start if end >= 0 else _AT_ONCE
            if self._unwritten >= _AT_ONCE:
                self._write()

    def drop(self, index: int) -> None:
        """Record at once that all earlier lines about a file are invalid."""
        with self._lock:
            self._lines.append(b"%d\n" % index)
            self._write()

    def _write(self) -> None:
        os.write(self._fd, b"".join(self._lines))
        self._lines.clear()
        self._unwritten = 0
