"""Locks: one command at a time for a cluster, and for the cache."""

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TextIO

from localcluster.progress import Progress


@contextlib.asynccontextmanager
async def held(path: Path, what: str, progress: Progress) -> AsyncIterator[None]:
    """Hold the lock file `path`; wait for another process that holds it. The kernel frees it when this process ends.

    The holder may remove the file: a waiting process then creates another one.
    """
    while True:
        with _opened(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                async with progress.step(f"waiting for another command that works on {what}"):
                    await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
            if _is_still(path, file):
                yield
                return


def _opened(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w")


def _is_still(path: Path, file: TextIO) -> bool:
    try:
        return path.samefile(f"/proc/self/fd/{file.fileno()}")
    except FileNotFoundError:
        return False
