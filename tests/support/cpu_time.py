"""Time limits that also hold on a busy machine."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail when this process takes more seconds of CPU time."""
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds


def starved(thread: int | str) -> float:
    """Seconds that a thread was ready to run without a core; for a process' main thread its id, or `thread-self`.

    Source: https://docs.kernel.org/scheduler/sched-stats.html, "/proc/<pid>/schedstat".
    """
    return int(Path(f"/proc/{thread}/schedstat").read_text().split()[1]) / 1e9
