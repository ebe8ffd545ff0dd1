"""The order in which admission reviews are read and judged: bounded memory, and a fair share for each peer."""

import asyncio
import itertools
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from heapq import heappop, heappush
from time import perf_counter

from serve_webhook.admission import review

INLINE_BYTES = 32 * 2**10
"""Maximum size of a review that is judged on the event loop: it takes less than 25 ms, whatever its content. Larger
reviews are judged one at a time in a thread, so that other reviews and the kubelet are answered meanwhile."""
LOOP_SECONDS = 0.01
"""After this time in reviews on the event loop, the next one first lets all other tasks run."""
WAIT_SECONDS = 2.0
"""Maximum wait for a turn. The API server's time limit for the whole call is 5 s."""


class ByteLimiter:
    """Limits the bytes in flight, in order of arrival; one peer gets at most half of them."""

    def __init__(self, capacity: int) -> None:
        self._free = capacity
        self._max_of_peer = capacity // 2
        self._in_use: Counter[str] = Counter()
        self._queue: list[tuple[int, str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def admit(self, size: int, peer: str = "") -> AsyncIterator[None]:
        await self._acquire(size, peer)
        try:
            yield
        finally:
            self._release(size, peer)

    async def _acquire(self, size: int, peer: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, peer, turn))
        self._admit_waiting()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(size, peer)
            else:
                # _admit_waiting may have dropped the cancelled turn already.
                with suppress(ValueError):
                    self._queue.remove((size, peer, turn))
                self._admit_waiting()
            raise

    def _release(self, size: int, peer: str) -> None:
        self._free += size
        self._in_use[peer] -= size
        if not self._in_use[peer]:
            del self._in_use[peer]
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        """Admit what fits, in order of arrival. A peer that already has its share waits without blocking the others."""
        waiting = []
        full = False
        for size, peer, turn in self._queue:
            if turn.cancelled():
                continue
            has_share = bool(self._in_use[peer]) and self._in_use[peer] + size > self._max_of_peer
            full = full or (size > self._free and not has_share)
            if full or has_share:
                waiting.append((size, peer, turn))
            else:
                self._free -= size
                self._in_use[peer] += size
                turn.set_result(None)
        self._queue = waiting


class FairLock:
    """A lock for which peers take turns; of one peer's requests the smallest comes first.

    Slow reviews, or many of them, delay only the peer that sends them.
    """

    def __init__(self) -> None:
        self._locked = False
        self._waiting: OrderedDict[str, list[tuple[int, int, asyncio.Future[None]]]] = OrderedDict()
        """By peer, in the order of their turns."""
        self._numbers = itertools.count()

    @asynccontextmanager
    async def hold(self, size: int, peer: str) -> AsyncIterator[None]:
        """Raises TimeoutError after :data:`WAIT_SECONDS`."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self._acquire(size, peer)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, size: int, peer: str) -> None:
        if not self._locked:
            self._locked = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting.setdefault(peer, []), (size, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            peer, requests = self._waiting.popitem(last=False)
            _, _, turn = heappop(requests)
            if requests:
                self._waiting[peer] = requests
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._locked = False


class ReviewExecutor:
    """Judges reviews so that no peer delays the others for long."""

    def __init__(self) -> None:
        self._small, self._large = FairLock(), FairLock()
        self._thread = ThreadPoolExecutor(1, "judge")
        self._spent = 0.0

    async def judge(self, body: bytes, reviewer: review.Reviewer, peer: str = "") -> tuple[bytes, str]:
        """Returns and raises what :func:`review.review` does; TimeoutError where too many of ``peer`` come before."""
        if len(body) > INLINE_BYTES:
            async with self._large.hold(len(body), peer):
                return await asyncio.get_running_loop().run_in_executor(self._thread, review.review, body, reviewer)
        async with self._small.hold(len(body), peer):
            if self._spent > LOOP_SECONDS:
                await asyncio.sleep(0)
            return self._judge_inline(body, reviewer)

    def _judge_inline(self, body: bytes, reviewer: review.Reviewer) -> tuple[bytes, str]:
        """Also counts the time since all other tasks could run."""
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._reset_spent)
        start = perf_counter()
        try:
            return review.review(body, reviewer)
        finally:
            self._spent += perf_counter() - start

    def _reset_spent(self) -> None:
        self._spent = 0.0

    async def close(self, _: object = None) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)
