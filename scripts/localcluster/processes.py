"""Processes that outlive the command that started them: their identity, their state, and ending them."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from localcluster.commands import tail
from localcluster.errors import ClusterError

POLL_EVERY = 0.1
"""Seconds between two checks of something without notification, such as a port."""


@dataclass(frozen=True)
class Process:
    """A process by id and start time: the kernel reuses ids."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return the process with this id.

        Raises:
            ProcessLookupError: there is none.
        """
        return cls(pid, _state_and_start(pid)[1])

    @property
    def alive(self) -> bool:
        """Whether it still runs. A zombie does not."""
        try:
            state, started = _state_and_start(self.pid)
        except ProcessLookupError:
            return False
        return started == self.started and state not in "ZX"

    @property
    def name(self) -> str:
        """The name of the program that it runs."""
        try:
            return Path(f"/proc/{self.pid}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def children(self) -> list["Process"]:
        try:
            pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return []
        found = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                found.append(Process.of(int(pid)))
        return found

    async def kill(self) -> None:
        """Kill it, and wait until it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Open first, then check: from here on the descriptor refers to this process only.
            if self.alive:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                await _readable(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Record:
    """The file that records a started process."""

    path: Path

    def write(self, process: Process) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(json.dumps(asdict(process)))
        unfinished.replace(self.path)

    def read(self) -> Process | None:
        """Return the process, if it still runs."""
        try:
            process = Process(**json.loads(self.path.read_text()))
        except FileNotFoundError:
            return None
        return process if process.alive else None


def start(command: Iterable[str | Path], log: Path) -> Process:
    """Start a process in its own session, and append its output to `log`.

    Its environment has only PATH: the proxies and trust stores of the user's shell are not for the cluster.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(argument) for argument in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ["PATH"]},
        )
    child.returncode = 0  # The process outlives this one: without this, Popen warns when it is collected.
    return Process.of(child.pid)


async def until(
    ready: Callable[[], Awaitable[bool]], what: str, seconds: float, started: tuple[Process, Path] | None = None
) -> None:
    """Wait until `ready` returns True.

    `started`: the process that becomes ready, and its log.

    Raises:
        ClusterError: the process ended, or the time is over; the message has the end of the log.
    """
    deadline = time.monotonic() + seconds
    while not await ready():
        ended = started is not None and not started[0].alive
        if ended or time.monotonic() > deadline:
            reason = "ended at once" if ended else f"is not ready after {seconds:.0f} s"
            raise ClusterError(f"{what} {reason}{_log_of(started)}")
        await asyncio.sleep(POLL_EVERY)


def _state_and_start(pid: int) -> tuple[str, int]:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(pid) from error
    # The name of the program, in parentheses, can contain anything. After it, field 3 is the state, field 22 the start.
    fields = status.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _log_of(started: tuple[Process, Path] | None) -> str:
    if started is None:
        return ""
    log = started[1]
    return f"; the end of {log}:\n{tail(log.read_text(errors='replace'))}"


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
