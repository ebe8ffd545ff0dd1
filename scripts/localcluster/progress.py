"""Progress of a long command."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from typing import Self, TextIO

PLAIN_LINE_EVERY = 10.0
"""Seconds between two lines if the output is not a terminal."""


def duration(seconds: float) -> str:
    """Return a duration for people: `4.2s`, `3m05s`."""
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


class Progress:
    """The running steps and their durations: one line, redrawn on a terminal, repeated every 10 s elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._running: dict[str, float] = {}
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        self._clear()

    def say(self, line: str) -> None:
        """Print a permanent line."""
        self._clear()
        print(line, file=self._stream, flush=True)

    @contextlib.asynccontextmanager
    async def step(self, title: str) -> AsyncIterator[None]:
        """Show `title` as running during the block, and as done, with its duration, after success."""
        started = time.monotonic()
        self._running[title] = started
        try:
            yield
        finally:
            del self._running[title]
        self.say(f"  {duration(time.monotonic() - started):>6}  {title}")

    def _clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0 if self._terminal else PLAIN_LINE_EVERY)
            if not self._running:
                continue
            now = time.monotonic()
            line = "  ... " + ", ".join(f"{title} {duration(now - since)}" for title, since in self._running.items())
            if self._terminal:
                line = line[: shutil.get_terminal_size().columns - 1]
                print(f"\r\x1b[K{line}", end="", file=self._stream, flush=True)
            else:
                print(line, file=self._stream, flush=True)
