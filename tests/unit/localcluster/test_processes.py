"""Processes that outlive the command that started them."""

import os
from pathlib import Path

import pytest

from localcluster import processes
from localcluster.errors import ClusterError
from localcluster.processes import Process, Record


async def never() -> bool:
    return False


async def test_a_recorded_process_is_found_until_it_is_killed(tmp_path: Path) -> None:
    record = Record(tmp_path / "run" / "sleep.json")
    process = processes.start(["sleep", "600"], tmp_path / "sleep.log")
    record.write(process)

    assert record.read() == process
    await process.kill()
    assert record.read() is None
    await process.kill()  # killing it again does nothing


def test_a_reused_process_id_is_not_the_recorded_process(tmp_path: Path) -> None:
    ours = Process.of(os.getpid())
    record = Record(tmp_path / "other.json")
    record.write(Process(ours.pid, ours.started - 1))
    assert record.read() is None


def test_a_process_without_a_record_does_not_run(tmp_path: Path) -> None:
    assert Record(tmp_path / "nothing.json").read() is None


async def test_a_process_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "brief.log"
    process = processes.start(["sh", "-c", "echo no such flag >&2; exit 3"], log)
    with pytest.raises(ClusterError, match=r"brief ended at once; the end of .*brief.log:\n    no such flag"):
        await processes.until(never, "brief", 60, (process, log))


async def test_waiting_has_a_timeout() -> None:
    with pytest.raises(ClusterError, match="the thing is not ready after 0 s"):
        await processes.until(never, "the thing", 0)
