"""What is already on the volume, so that a restarted container goes on where the last one stopped.

The journal lies beside the files: its first line says what it belongs to, every further line is a part that was
written. A line is only trusted in the same boot of the node: after a crash of the node the page cache is lost, and
what the journal says was written may not have reached the disk.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from model_loader.model import File

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

    def __init__(self, path: Path, header: str) -> None:
        """Open the journal at `path`, dropping what is not of `header`. Raises OSError."""
        self.parts: set[Part] = set()
        if not self._read(path, header):
            path.write_text(f"{header}\n")
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)

    def add(self, part: Part) -> None:
        """Write down that `part` is on the volume."""
        os.write(self._fd, b"%d %d %d\n" % part)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _read(self, path: Path, header: str) -> bool:
        try:
            first, *lines = path.read_text().split("\n")
        except (OSError, UnicodeDecodeError):
            return False
        if first != header:
            return False
        # What follows the last line end is a line that was being written when the loader was killed.
        for line in lines[:-1]:
            index, start, end = map(int, line.split())
            self.parts.add((index, start, end))
        if lines and lines[-1]:
            path.write_text("\n".join([first, *lines[:-1], ""]))
        return True
