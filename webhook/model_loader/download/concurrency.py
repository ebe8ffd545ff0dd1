"""How many workers download at once: few at first, more while that increases the rate, fewer when a store throttles.

And how many processes read for them.
"""

import time
from collections.abc import Callable, Sequence

from model_loader.download import cores

INITIAL_WORKERS = 2
"""Enough for a store nearby. With many small files, more workers only wait for the interpreter's lock."""
_PER_PROCESS = 2
"""One worker's process reads while the other worker hashes."""
MAX_WORKERS = 64
SAMPLE_SECONDS = 0.1
"""Seconds between two measurements of the rate."""
_GROWTH = 4
"""Factor for the number of workers. Over a long distance, latency limits the rate of each connection."""
_MIN_GAIN = 1.25
"""Factor by which the rate must have grown since the last increase."""
_MAX_CPU = 0.3
"""Share of the cores that the loader may use: above it, more workers do not help."""
CORES = cores.usable()
PROCESS_BYTES = 256 << 20
"""Minimum bytes to read over TLS for processes of their own: they take memory, and a few milliseconds to start."""
MAX_PROCESSES = 8
"""Together they decrypt faster than most networks and disks are."""


def process_count(size: int) -> int:
    """Return the number of processes to read `size` bytes over TLS; 0: the loader's own process reads."""
    count = min(int(CORES), MAX_PROCESSES)
    return count if count > 1 and size >= PROCESS_BYTES else 0


def initial_limit(sizes: Sequence[int], *, hashing: bool, far: bool, processes: int) -> int:
    """Return the number of workers to start with. `sizes`: bytes to read of each file, below 0 where unknown.

    `far`: latency limits each connection to the store, so that many are needed. `processes`: that read for the workers.

    A file is hashed in order, on one core. Where one file is most of the model, one worker reads it and a thread
    beside it hashes: more workers would take CPU time from the two.
    """
    if far:
        return MAX_WORKERS
    if processes:
        return processes * _PER_PROCESS
    if not hashing or min(sizes, default=0) < 0:
        return INITIAL_WORKERS
    return max(1, min(INITIAL_WORKERS, sum(sizes) // max([1, *sizes])))


class WorkerLimit:
    """The number of workers that may run, `value`, and the measurements behind it."""

    def __init__(self, value: int, cpu_seconds: Callable[[], float]) -> None:
        """`cpu_seconds`: returns the CPU time of the download so far."""
        self.value = value
        self._cpu_seconds = cpu_seconds
        self.start()

    def start(self) -> None:
        """Start to measure."""
        self._best = 0.0
        self._sampled, self._cpu, self._bytes = time.monotonic(), self._cpu_seconds(), 0

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
        cpu = self._cpu_seconds()
        rate = (received - self._bytes) / seconds
        busy = (cpu - self._cpu) / seconds / CORES
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
