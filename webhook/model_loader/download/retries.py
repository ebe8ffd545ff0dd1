"""Trying again: what is worth it, how long to wait, and when to give up."""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from model_loader.outcomes import LoadError
from model_loader.report import Report

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 5.0

T = TypeVar("T")


class RetryPolicy(NamedTuple):
    """Repeats what fails for a passing reason, for `seconds` without progress: a sidecar may take 30 s to start.

    `pause` waits for so many seconds, or less when there is no sense in going on.
    """

    seconds: float
    report: Report
    pause: Callable[[float], object]
    clock: Callable[[], float] = time.monotonic

    def run(self, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Return what `action` returns. Raises the last LoadError when it is not transient or patience is at its end.

        `progress` counts what repeated tries have achieved: as long as it grows, patience starts anew.
        """
        started, reached, attempt = self.clock(), progress(), 0
        while True:
            try:
                return action()
            except LoadError as failure:
                if progress() > reached:
                    started, reached, attempt = self.clock(), progress(), 0
                import random  # noqa: PLC0415  # start-up that a load without trouble need not pay

                attempt += 1
                # Half of the wait is random, so that many pods do not come back in step.
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(attempt - 1, 10)) * random.uniform(0.5, 1)  # noqa: S311
                wait = max(wait, failure.wait)
                if not failure.transient or self.clock() + wait - started > self.seconds:
                    raise
                self.report.retry(failure, attempt, wait)
                self.pause(wait)
