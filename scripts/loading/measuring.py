"""Runs one arm once, and measures it."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loading import ways
from loading.arms import Arm

_TICKS = os.sysconf("SC_CLK_TCK")
_FIRST_BYTES = 256 << 10
"""More bytes than a short list of objects has."""


class ArmError(Exception):
    """An arm ended with an error, or was killed."""


@dataclass(frozen=True)
class Sample:
    """One run: seconds of wall clock, seconds until the target is on disk, CPU seconds of client and server."""

    seconds: float
    synced: float
    cpu: float
    server_cpu: float


@dataclass(frozen=True)
class Extras:
    """Further measurements of an arm.

    `first`: seconds until the first bytes. `again`: share of the model that was received twice after `kill -9` at half
    (1: all of it). `restart`: seconds of a start that finds the complete model.
    """

    first: float
    again: float
    restart: float


@contextlib.contextmanager
def control_group(name: str, *, cpu: float = 0.0, memory: int = 0) -> Iterator[list[Path]]:
    """Make a control group with most CPU shares, and optional limits; yield the files to join it. Root only."""
    base = Path("/sys/fs/cgroup")
    if os.geteuid() or not base.is_dir():
        yield []
        return
    if (base / "cgroup.controllers").exists():
        folders = [base / name]
        values = {"cpu.weight": "10000", "cpu.max": f"{int(cpu * 100_000)} 100000" if cpu else "max 100000"}
        values |= {"memory.max": str(memory)} if memory else {}
    else:
        folders = [base / "cpu" / name, base / "memory" / name]
        values = {"cpu.shares": "262144", "cpu.cfs_quota_us": str(int(cpu * 100_000)) if cpu else "-1"}
        values |= {"memory.limit_in_bytes": str(memory)} if memory else {}
    try:
        for folder in folders:
            folder.mkdir(exist_ok=True)
            for file, value in values.items():
                if (folder / file).exists():
                    (folder / file).write_text(value)
        yield [folder / "cgroup.procs" for folder in folders]
    finally:
        for folder in folders:
            for process in (folder / "cgroup.procs").read_text().split():
                (folder.parent / "cgroup.procs").write_text(process)
            folder.rmdir()


class Bench:
    """Runs arms into `target`, in the control groups `groups`, against the servers with the process ids `servers`."""

    def __init__(self, target: Path, groups: Sequence[Path], servers: Sequence[int]) -> None:
        self.target = target
        self._groups = groups
        self._servers = [pid for pid in servers if pid]

    def run(self, arm: Arm) -> Sample:
        """Run an arm into an empty target. Raises ArmError."""
        self._empty()
        before = self._server_cpu()
        started = time.perf_counter()
        with self._started(arm) as process:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        subprocess.run(["sync", "--file-system", self.target], check=True)
        synced = time.perf_counter() - started
        return Sample(seconds, synced, usage.ru_utime + usage.ru_stime, self._server_cpu() - before)

    def memory(self, arm: Arm) -> float:
        """Run an arm and return the peak memory of its processes in MiB: PSS, which counts shared memory once.

        The model's own pages count where they are mapped. Sampling takes time: such a run has no timing. Raises
        ArmError.
        """
        self._empty()
        most = 0
        with self._started(arm) as process:
            while process.poll() is None:
                most = max(most, sum(map(_pss, _family(process.pid))))
                time.sleep(0.01)
        return most / 1024

    def extras(self, arm: Arm, size: int) -> Extras:
        """Take the further measurements, with a model of `size` bytes. Raises ArmError."""
        self._empty()
        began = ways.received()
        first = self._until(arm, began + _FIRST_BYTES, lambda process: process.wait())
        clean = ways.received() - began
        started = time.perf_counter()
        with self._started(arm) as process:
            process.wait()
        restart = time.perf_counter() - started

        self._empty()
        began = ways.received()
        self._until(arm, began + size // 2, _kill)
        with self._started(arm) as process:
            process.wait()
        return Extras(first, max(0, ways.received() - began - clean) / size, restart)

    def _until(self, arm: Arm, received: int, then: Callable[["subprocess.Popen[bytes]"], object]) -> float:
        """Start an arm, wait for a number of received bytes, call `then`, and return the seconds until then."""
        started = time.perf_counter()
        with self._started(arm, may_fail=True) as process:
            while process.poll() is None and ways.received() < received:
                time.sleep(0.001)
            seconds = time.perf_counter() - started
            then(process)
        return seconds

    def _empty(self) -> None:
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()

    @contextlib.contextmanager
    def _started(self, arm: Arm, *, may_fail: bool = False) -> "Iterator[subprocess.Popen[bytes]]":
        """Run an arm's command during the block, which must wait for it. Raises ArmError."""
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(
                arm.command,
                env={"PATH": os.environ["PATH"], **arm.environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=self._join,  # noqa: PLW1509  # no threads here
            )
            try:
                yield process
            finally:
                if process.returncode is None:
                    _kill(process)
            if process.returncode and not may_fail:
                out.seek(0)
                raise ArmError(f"exit code {process.returncode}", out.read()[-2000:].decode(errors="replace"))

    def _join(self) -> None:
        for group in self._groups:
            group.write_text(str(os.getpid()))

    def _server_cpu(self) -> float:
        """Return the CPU seconds of the servers so far."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._servers]
        return sum(int(each[11]) + int(each[12]) for each in fields) / _TICKS


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield from _family(int(child))


def _pss(pid: int) -> int:
    """Return the KiB of a process, or 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
