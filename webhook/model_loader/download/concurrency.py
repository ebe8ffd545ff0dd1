"""How many workers download at once: few at first, more while that increases the rate, fewer when a store throttles."""

import os
import time
from collections.abc import Sequence

INITIAL_WORKERS = 2
"""Enough for a store nearby. With many small files, more workers only wait for the interpreter's lock."""
MAX_WORKERS = 64
SAMPLE_SECONDS = 0.1
"""Seconds between two measurements of the rate."""
_GROWTH = 4
"""Factor for the number of workers. Over a long distance, latency limits the rate of each connection."""
_MIN_GAIN = 1.25
"""Factor by which the rate must have grown since the last increase."""
_MAX_CPU = 0.3
"""Share of the machine's cores that this process may use: above it, more workers do not help."""
_CORES = len(os.sched_getaffinity(0))


def initial_limit(sizes: Sequence[int], *, hashing: bool) -> int:
    """Return the number of workers to start with. `sizes`: bytes to read of each file, below 0 where unknown.

    A file is hashed in order, on one core. Where one file is most of the model, one worker reads it and a thread
    beside it hashes: more workers would take CPU time from the two.
    """
    if not hashing or min(sizes, default=0) < 0:
        return INITIAL_WORKERS
    return max(1, min(INITIAL_WORKERS, sum(sizes) // max([1, *sizes])))


class WorkerLimit:
    """The number of workers that may run, `value`, and the measurements behind it."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.start()

    def start(self) -> None:
        """Start to measure."""
        self._best = 0.0
        self._sampled, self._cpu, self._bytes = time.monotonic(), time.process_time(), 0

    @property
    def next_sample(self) -> float:
        """When to call `has_gained` next, by time.monotonic."""
        return self._sampled + SAMPLE_SECONDS

    def has_gained(self, received: int, workers: int) -> bool:
        """Return whether more workers may increase the rate. `received`: bytes so far. `workers`: how many started."""
        now = time.monotonic()
        seconds = now - self._sampled
        if seconds < SAMPLE_SECONDS:
            return False
        cpu = time.process_time()
        rate = (received - self._bytes) / seconds
        busy = (cpu - self._cpu) / seconds / _CORES
        self._sampled, self._cpu, self._bytes = now, cpu, received
        if rate <= self._best * _MIN_GAIN or busy >= _MAX_CPU or not workers == self.value < MAX_WORKERS:
            return False
        self._best = rate
        return True

    def grow(self) -> None:
        """Allow four times as many workers."""
        self.value = min(MAX_WORKERS, self.value * _GROWTH)

    def shrink(self) -> None:
        """Allow half as many workers: the store throttles."""
        self.value = max(1, self.value // 2)
