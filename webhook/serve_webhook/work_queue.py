"""Level-triggered work: a queue of names, each handled by one worker at a time, and a loop for one desired state."""

import asyncio
import logging
import random
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Generic, NoReturn, TypeVar

from serve_kube.errors import ApiError

Key = TypeVar("Key", bound=Hashable)


def backoff(
    attempt: int, *, first: float = 0.2, most: float = 30.0, chance: Callable[[], float] = random.random
) -> float:
    """Seconds to wait before attempt ``attempt`` (from 0): doubling, at most ``most``, with jitter against herds."""
    return float(min(most, first * 2 ** min(attempt, 30)) * (0.5 + chance() / 2))


async def run_forever(
    what: str,
    reconcile: Callable[[], Awaitable[None]],
    changed: asyncio.Event,
    logger: logging.Logger,
    seconds: float | None = None,
) -> NoReturn:
    """Call ``reconcile`` now, when ``changed`` is set, and every ``seconds``; after an ApiError, retry with a
    back-off."""
    attempt = 0
    while True:
        changed.clear()
        try:
            await reconcile()
        except ApiError as error:
            logger.warning("%s cannot be updated: %s", what, error)
            await asyncio.sleep(backoff(attempt))
            attempt += 1
            continue
        attempt = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()


class WorkQueue(Generic[Key]):
    """Level-triggered work, as in client-go's workqueue, with fair turns.

    A name that is added while it is being handled is returned again after :meth:`done`, not before. Owners take turns,
    so that one with thousands of names delays only its own. After each turn a name rests, so that changes that come
    together make one turn.
    """

    def __init__(
        self,
        delay: Callable[[int], float] = backoff,
        owner: Callable[[Key], Hashable] = lambda _: None,
        most: int = sys.maxsize,
        rest: float = 0.0,
    ) -> None:
        """``owner`` returns the owner of a name. ``most``: maximum names of one owner that are handled at the same
        time, so that slow ones leave a worker to the other owners. ``rest``: seconds between two turns of a name."""
        self._delay = delay
        self._owner = owner
        self._most = most
        self._rest = rest
        self._ready: OrderedDict[Hashable, deque[Key]] = OrderedDict()
        """By owner, in the order of their turns."""
        self._busy: Counter[Hashable] = Counter()
        self._changed = asyncio.Event()
        self._waiting: set[Key] = set()
        self._active: set[Key] = set()
        self._attempts: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._resting: dict[Key, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Key) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._active and key not in self._resting:
            self._put(key)

    def _put(self, key: Key) -> None:
        self._ready.setdefault(self._owner(key), deque()).append(key)
        self._changed.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Add ``key`` in ``seconds``, unless it will be added earlier."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if key in self._waiting or (timer and timer.when() <= loop.time() + seconds):
            return
        if timer:
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def retry(self, key: Key) -> float:
        """Add ``key`` after its back-off, which doubles with each retry until :meth:`forget`; returns the seconds."""
        attempt = self._attempts.get(key, 0)
        self._attempts[key] = attempt + 1
        seconds = self._delay(attempt)
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: Key) -> None:
        self._attempts.pop(key, None)

    async def get(self) -> Key:
        while (key := self._next()) is None:
            self._changed.clear()
            await self._changed.wait()
        self._waiting.discard(key)
        self._active.add(key)
        self._busy[self._owner(key)] += 1
        return key

    def _next(self) -> Key | None:
        for owner, names in self._ready.items():
            if self._busy[owner] < self._most:
                key = names.popleft()
                if names:
                    self._ready.move_to_end(owner)
                else:
                    del self._ready[owner]
                return key
        return None

    def done(self, key: Key) -> None:
        owner = self._owner(key)
        self._active.discard(key)
        self._busy[owner] -= 1
        if not self._busy[owner]:
            del self._busy[owner]
        if self._rest:
            self._resting[key] = asyncio.get_running_loop().call_later(self._rest, self._rested, key)
        elif key in self._waiting:
            self._put(key)
        self._changed.set()

    def _rested(self, key: Key) -> None:
        del self._resting[key]
        if key in self._waiting:
            self._put(key)

    def close(self) -> None:
        """Cancel all delayed additions."""
        for timers in (self._timers, self._resting):
            while timers:
                timers.popitem()[1].cancel()
