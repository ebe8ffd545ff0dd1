"""Read-only bind mounts, and which of them exist. Source: mount(2), proc(5)."""

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND = 32, 4096
_READ_ONLY = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_ESCAPE = re.compile(r"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """`root`: the mounted folder in its file system. `target`: where it is mounted. `device`: its numbers."""

    root: str
    target: str
    device: str


def bind(source: Path, target: Path) -> None:
    """Mount the folder `source` at `target`, read-only, without devices, programs and set-user-ID bits.

    Raises OSError.
    """
    _mount(source, target, _MS_BIND)
    try:
        # A bind mount takes other flags only in a second step.
        _mount(source, target, _MS_BIND | _MS_REMOUNT | _READ_ONLY)
    except OSError:
        unmount(target)
        raise


def unmount(target: Path) -> None:
    """Remove the mount at `target`. Raises OSError."""
    if _libc.umount2(os.fsencode(target), 0):
        raise _error(target)


def mounts(text: str) -> Iterator[Mount]:
    """Yield the mounts in the text of a mountinfo file."""
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            yield Mount(_plain(fields[3]), _plain(fields[4]), fields[2])


def present() -> list[Mount]:
    """Return the mounts that this process sees. Raises OSError."""
    return list(mounts(MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")))


def is_mounted(target: Path) -> bool:
    """Return whether something is mounted at `target`. Raises OSError."""
    return any(each.target == str(target) for each in present())


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _mount(source: Path, target: Path, flags: int) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None):
        raise _error(target)


def _error(target: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(target))
