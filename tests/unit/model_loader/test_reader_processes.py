"""Over TLS, several processes read a large model. What the loader does is the same."""

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme

from model_loader.download import concurrency, cores
from model_loader.download.file_state import PART_BYTES
from support.loader_faults import FAULTS, damaged_store
from support.loader_harness import Loader, Reply, Request, WebServer, contents, listing, manifest_digest
from support.paths import ROOT

SIZE = 40 << 20
LEAST = 20 << 20
"""Bytes of a model for which the tests' loader starts processes."""


@pytest.fixture
def secured(load: Loader, web: WebServer) -> WebServer:
    """The server with TLS, which the loader trusts."""
    authority = trustme.CA()
    web.secure(authority.issue_cert("127.0.0.1"))
    load.credentials(**{"ca.crt": authority.cert_pem.bytes().decode()})
    return web


@dataclass
class Running:
    """A loader as a process of its own, because it makes copies of itself."""

    load: Loader
    process: "subprocess.Popen[str]"

    def readers(self) -> list[int]:
        """The ids of the processes that read."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def events(self) -> list[dict[str, object]]:
        """Wait for the end, and return what the loader printed."""
        output, _ = self.process.communicate(timeout=60)
        return [json.loads(line) for line in output.splitlines()]

    def code(self) -> object:
        """Wait for the end, and return the code of the termination message."""
        self.events()
        return self.load.message()["code"]

    def files(self) -> dict[str, bytes]:
        """Return the files that the model server would see."""
        return contents(self.load.volume / "model")


def start(load: Loader, *uris: str, cores: float = 2, options: tuple[str, ...] = (), changes: str = "") -> Running:
    """Start a loader on a machine with this number of cores. `changes`: a line of Python before its start."""
    script = f"""
from model_loader import __main__
from model_loader.download import concurrency
from model_loader.http import transport
concurrency.CORES, concurrency.PROCESS_BYTES = {cores}, {LEAST}
{changes}
__main__.run()
"""
    command = [sys.executable, "-c", script, *load.arguments(*uris, options=options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "webhook")}
    return Running(load, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))


class Gate:
    """Sends parts of every response until `sent` bytes of the model are sent, and the rest once it is `opened`."""

    def __init__(self, web: WebServer, sent: int) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self._left = sent
        self._lock = threading.Lock()
        web.fault = lambda request, number: replace(web.answer(request), pieces=self._send)

    def _send(self, body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), 1 << 20):
            piece = body[start : start + (1 << 20)]
            if len(body) > 1 and not self.opened.is_set():
                with self._lock:
                    self._left -= len(piece)
                if self._left < 0:
                    self.reached.set()
                    self.opened.wait(60)
            yield piece


def have_ended(pids: list[int]) -> bool:
    """Wait until processes that are not this one's children have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            found, _, _ = select.select([descriptor], [], [], 30)
            os.close(descriptor)
            if not found:
                return False
    return True


MODELS: Mapping[str, Mapping[str, int]] = {
    "one file": {"/0.bin": SIZE + 1},
    "some files": {f"/{index}.bin": 9 * PART_BYTES // 8 for index in range(5)},
    "large and small files": {"/0.bin": SIZE, **{f"/{index}.bin": 1000 + index for index in range(1, 40)}},
}


@pytest.mark.parametrize("options", [(), ("--no-digest",)], ids=["hashed", "not hashed"])
@pytest.mark.parametrize("model", MODELS)
def test_processes_read_the_same_model(load: Loader, secured: WebServer, model: str, options: tuple[str, ...]) -> None:
    secured.files = {path: os.urandom(size) for path, size in MODELS[model].items()}
    gate = Gate(secured, LEAST // 2)
    several = "=." if len(secured.files) > 1 else ""

    run = start(load, *(f"{secured.url}{path}{several}" for path in secured.files), options=options)
    assert gate.reached.wait(30)
    readers = run.readers()
    gate.opened.set()
    events = run.events()

    assert len(readers) == 2
    assert run.files() == {path[1:]: body for path, body in secured.files.items()}
    message = load.message()
    assert (message["code"], message["bytes"]) == ("Loaded", sum(map(len, secured.files.values())))
    assert not [event for event in events if event["event"] == "retry"]
    progress = [int(str(event["bytes"])) for event in events if event["event"] == "progress"]
    assert progress == sorted(progress)
    assert all(done <= int(str(message["bytes"])) for done in progress)
    if not options:
        one = f"sha256:{hashlib.sha256(secured.files['/0.bin']).hexdigest()}"
        assert message["digest"] == (one if not several else manifest_digest(run.files()))
    assert have_ended(readers)


@pytest.mark.parametrize(
    ("size", "cores", "tls", "count"),
    [(LEAST, 2, True, 2), (LEAST, 1, True, 0), (LEAST, 1.5, True, 0), (LEAST - 1, 2, True, 0), (LEAST, 2, False, 0)],
    ids=["large", "one core", "less than two cores", "small", "without TLS"],
)
def test_processes_start_for_large_models_where_there_are_cores(
    load: Loader, web: WebServer, request: pytest.FixtureRequest, size: int, cores: float, tls: bool, count: int
) -> None:
    if tls:
        request.getfixturevalue("secured")
    web.files["/model.bin"] = bytes(size)
    gate = Gate(web, 1)

    run = start(load, f"{web.url}/model.bin", cores=cores)
    assert gate.reached.wait(30)
    readers = run.readers()
    gate.opened.set()

    assert (run.code(), len(readers)) == ("Loaded", count)


@pytest.mark.parametrize("lasting", [False, True], ids=["passing", "lasting"])
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.slow
def test_a_fault_gives_the_right_model_or_its_cause(load: Loader, secured: WebServer, name: str, lasting: bool) -> None:
    """An object store with checksums and damaged responses: the first one, or all."""
    fault = FAULTS[name]
    weights = os.urandom(SIZE)
    seen = damaged_store(load, secured, weights, name, lasting=lasting)
    stalls = fault.lasting == "Stalled"
    # Long enough for a handshake on a busy machine.
    patience = 30 if not lasting else 5 if stalls else 1
    changes = "transport.READ_SECONDS = 0.3" if stalls else ""
    run = start(load, "s3://models/m", options=(f"--patience={patience}",), changes=changes)

    code = run.code()
    assert seen[name] >= 1
    assert seen["a model too early"] == 0
    if (lasting and fault.lasting != "Loaded") or name == "gone":  # retries do not help
        assert (code, run.files()) == (fault.lasting, {}), load.message()
    else:
        assert run.files() == {"model.bin": weights}, load.message()


def test_credentials_that_expire_during_the_load_are_read_again(load: Loader, secured: WebServer) -> None:
    body = os.urandom(SIZE)
    secured.files["/models/m/model.bin"] = body
    load.credentials(AWS_ACCESS_KEY_ID="first", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=secured.url)

    def expire(request: Request, number: int) -> Reply | None:
        if number > 3 and "Credential=first/" in request.headers["Authorization"]:
            load.credentials(AWS_ACCESS_KEY_ID="second")
            return Reply(400, body=b"<Error><Code>ExpiredToken</Code></Error>")
        return Reply(body=listing("m/model.bin", size=SIZE)) if "list-type" in request.path else None

    secured.fault = expire

    assert start(load, "s3://models/m").code() == "Loaded"
    assert load.message()["bytes"] == SIZE


@pytest.fixture
def half(load: Loader, secured: WebServer) -> Iterator[tuple[Running, threading.Event]]:
    """A loader that has parts of a file, and waits for the second half until the event is set."""
    secured.files["/model.bin"] = os.urandom(SIZE)
    opened = threading.Event()

    def hold(request: Request, number: int) -> Reply | None:
        if int(request.headers["Range"][6:].partition("-")[0]) >= SIZE // 2:
            opened.wait(60)
        return None

    secured.fault = hold
    run = start(load, f"{secured.url}/model.bin")
    try:
        while not journaled(load) and run.process.poll() is None:
            opened.wait(0.01)  # another process writes the journal, so there is no event
        yield run, opened
    finally:
        opened.set()
        run.process.kill()
        run.process.communicate()


def journaled(load: Loader) -> list[str]:
    """Return the journal's lines of written parts."""
    journal = load.volume / "state" / "journal"
    return journal.read_text().splitlines()[1:] if journal.exists() else []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 20)], ids=["killed", "stopped"]
)
def test_processes_end_with_the_loader_and_the_next_start_resumes(
    load: Loader,
    secured: WebServer,
    half: tuple[Running, threading.Event],
    number: int,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, opened = half
    readers = run.readers()

    run.process.send_signal(number)
    run.process.communicate(timeout=30)

    assert run.process.returncode == code
    assert len(readers) == 2
    assert have_ended(readers)
    opened.set()
    expected = SIZE - len(journaled(load)) * PART_BYTES
    monkeypatch.setattr(concurrency, "MAX_WORKERS", 1)  # additional workers drop what is requested and not read
    again = load(f"{secured.url}/model.bin?again")
    assert again.files() == {"model.bin": secured.files["/model.bin"]}
    spans = [
        [int(byte) for byte in request.headers["Range"][6:].split("-")]
        for request in secured.requests
        if request.path.endswith("again")
    ]
    assert sum(last - first + 1 for first, last in spans) - 1 == expected  # one request is for the size


@pytest.mark.parametrize("count", [1, 2])
def test_the_loader_reads_on_when_a_process_is_killed(
    secured: WebServer, half: tuple[Running, threading.Event], count: int
) -> None:
    run, opened = half
    for pid in run.readers()[:count]:
        os.kill(pid, signal.SIGKILL)
    opened.set()

    assert run.code() == "Loaded"
    assert run.files() == {"model.bin": secured.files["/model.bin"]}


def test_a_file_that_changes_between_two_processes_is_noticed(load: Loader, secured: WebServer) -> None:
    """The server has no ETag; only the time of the last change differs."""
    secured.files["/model.bin"] = os.urandom(SIZE)
    dates = Counter[str]()

    def answer(request: Request, number: int) -> Reply | None:
        reply = secured.answer(request)
        dates["all"] += 1
        return replace(reply, headers=reply.headers | {"ETag": "", "Last-Modified": f"now {dates['all']}"})

    secured.fault = answer

    assert start(load, f"{secured.url}/model.bin").code() == "Changed"


GROUPS: Mapping[str, tuple[str, Mapping[str, str], float]] = {
    "version 2": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "version 2, in the node's tree": (
        "0::/pods/one\n",
        {"pods/cpu.max": "400000 100000\n", "pods/one/cpu.max": "50000 100000\n"},
        0.5,
    ),
    "version 2, of the parent": ("0::/pods/one\n", {"pods/cpu.max": "70000 100000", "pods/one/cpu.max": "max 1"}, 0.7),
    "version 1": ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
    "version 1, with the node's path": (
        "4:cpuacct,cpu:/pods/one\n",
        {"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        0.25,
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_limits_of_control_groups_count_as_cores(tmp_path: Path, name: str) -> None:
    membership, files, limit = GROUPS[name]
    (tmp_path / "membership").write_text(membership)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert cores.usable(tmp_path, tmp_path / "membership") == limit


@pytest.mark.parametrize("text", ["", "0::/../other\n", "4:cpu:/\n", "3:cpuset:/one\n"])
def test_without_a_limit_all_cores_count(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "membership").write_text(text)

    found = cores.usable(tmp_path, tmp_path / "membership")

    assert found == cores.usable(tmp_path, tmp_path / "none") == len(os.sched_getaffinity(0))
