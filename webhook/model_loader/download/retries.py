"""Retries: for which failures, after which delay, and for how long."""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from model_loader.outcomes import LoadError
from model_loader.report import Report

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 5.0

T = TypeVar("T")


class RetryPolicy(NamedTuple):
    """Retries transient failures for `seconds` without progress: a sidecar can take 30 s to start.

    `pause` waits for a number of seconds, or less when the load ends.
    """

    seconds: float
    report: Report
    pause: Callable[[float], object]
    clock: Callable[[], float] = time.monotonic

    def run(self, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Return the result of `action`. Raises the last LoadError if it is not transient or the time is over.

        `progress` returns a number that grows with the work done: when it has grown, the time starts again.
        """
        started, reached, attempt = self.clock(), progress(), 0
        while True:
            try:
                return action()
            except LoadError as failure:
                if progress() > reached:
                    started, reached, attempt = self.clock(), progress(), 0
                import random  # noqa: PLC0415  # start-up time that a load without retries saves

                attempt += 1
                # Half of the delay is random, so that many pods do not retry in step.
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(attempt - 1, 10)) * random.uniform(0.5, 1)  # noqa: S311
                wait = max(wait, failure.wait)
                if not failure.transient or self.clock() + wait - started > self.seconds:
                    raise
                self.report.retry(failure, attempt, wait)
                self.pause(wait)
