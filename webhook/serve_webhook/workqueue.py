"""Level-triggered work: a queue of names, each handled by one worker at a time, and one thing that is kept right."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Generic, NoReturn, TypeVar

from serve_webhook.api import ApiError

Key = TypeVar("Key", bound=Hashable)


def backoff(
    attempt: int, *, first: float = 0.2, most: float = 30.0, chance: Callable[[], float] = random.random
) -> float:
    """Seconds to wait before attempt ``attempt`` (from 0): doubling, at most ``most``, with jitter against herds."""
    return float(min(most, first * 2 ** min(attempt, 30)) * (0.5 + chance() / 2))


async def keep(
    what: str,
    right: Callable[[], Awaitable[None]],
    changed: asyncio.Event,
    logger: logging.Logger,
    seconds: float | None = None,
) -> NoReturn:
    """Call ``right`` now, whenever ``changed`` is set, and after ``seconds``; again after a back-off where it fails."""
    attempt = 0
    while True:
        changed.clear()
        try:
            await right()
        except ApiError as error:
            logger.warning("%s cannot be kept: %s", what, error)
            await asyncio.sleep(backoff(attempt))
            attempt += 1
            continue
        attempt = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()


class WorkQueue(Generic[Key]):
    """Level-triggered work, as in client-go's workqueue.

    A name that is added while it is being handled is handed out again when :meth:`done` is called, not before.
    """

    def __init__(self, delay: Callable[[int], float] = backoff) -> None:
        self._delay = delay
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._active: set[Key] = set()
        self._attempts: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Key) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._active:
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Add ``key`` in ``seconds``, unless it is to be added sooner anyway."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if key in self._waiting or (timer and timer.when() <= loop.time() + seconds):
            return
        if timer:
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def retry(self, key: Key) -> float:
        """Add ``key`` after its back-off, which grows with every retry until :meth:`forget`; returns the seconds."""
        attempt = self._attempts.get(key, 0)
        self._attempts[key] = attempt + 1
        seconds = self._delay(attempt)
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: Key) -> None:
        self._attempts.pop(key, None)

    async def get(self) -> Key:
        key = await self._ready.get()
        self._waiting.discard(key)
        self._active.add(key)
        return key

    def done(self, key: Key) -> None:
        self._active.discard(key)
        if key in self._waiting:
            self._ready.put_nowait(key)

    def close(self) -> None:
        """Forget what is to be added later."""
        while self._timers:
            self._timers.popitem()[1].cancel()
