"""How many connections the loader opens, and what each of them requests."""

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from model_loader.download import concurrency, file_state, scheduler
from model_loader.download.scheduler import Scheduler
from model_loader.download.worker import Worker
from model_loader.http import transport
from support.loader_harness import Loader, Reply, Request, WebServer, manifest_digest
from support.loader_hub import Hub

PART = 64 << 10
SIZE = 200 * PART + 1


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files into more parts than workers request at once, and than they may be ahead of the hash."""
    monkeypatch.setattr(file_state, "PART_BYTES", PART)
    monkeypatch.setattr(scheduler, "READ_AHEAD_BYTES", 32 * PART)


class Way:
    """A distant store: each connection is slow, until `wanted` connections are open at once."""

    def __init__(self, web: WebServer, wanted: int, *, pause: float = 0.02) -> None:
        """`pause`: seconds between two parts until then."""
        self.most = 0
        self._pause = pause
        self._wanted = wanted
        self._open = 0
        self._short = threading.Event()
        self._lock = threading.Lock()
        web.fault = lambda request, number: replace(web.answer(request), pieces=self._send)

    def _send(self, body: bytes) -> Iterator[bytes]:
        if len(body) < PART:  # such as the request for the size
            yield body
            return
        with self._lock:
            self._open += 1
            self.most = max(self.most, self._open)
        if self.most >= self._wanted:
            self._short.set()
        try:
            for start in range(0, len(body), PART):
                self._short.wait(self._pause)
                yield body[start : start + PART]
        finally:
            with self._lock:
                self._open -= 1


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("options", [(), ("--no-digest",)], ids=["hashed", "not hashed"])
def test_a_distant_store_gets_more_connections(
    load: Loader, web: WebServer, files: int, options: tuple[str, ...]
) -> None:
    web.files = {f"/{index}.bin": os.urandom(SIZE) for index in range(files)}
    way = Way(web, wanted=16)

    run = load(*uris(web), options=options)

    assert run.code == "Loaded", run.output
    assert run.files() == {path[1:]: body for path, body in web.files.items()}
    assert way.most >= 16
    assert not run.of("retry")
    assert run.message.get("digest") == (None if options else manifest(web.files))


@pytest.mark.parametrize("options", [(), ("--no-digest",)], ids=["hashed", "not hashed"])
def test_a_far_store_gets_its_connections_at_once(
    load: Loader, web: WebServer, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until they are open nothing arrives, so that there is no rate to measure."""
    monkeypatch.setattr(transport, "FAR_SECONDS", 1e-6)  # less than loopback takes
    web.files = {"/0.bin": os.urandom(SIZE)}
    way = Way(web, wanted=16, pause=30)

    run = load(*uris(web), options=options)

    assert run.files() == {"0.bin": web.files["/0.bin"]}
    assert way.most >= 16
    assert not run.of("retry")


def test_a_near_store_gets_two_connections_first(load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "SAMPLE_SECONDS", 1000.0)
    web.files = {f"/{index}.bin": os.urandom(SIZE) for index in range(3)}
    way = Way(web, wanted=1)

    assert load(*uris(web)).code == "Loaded"
    assert way.most == concurrency.INITIAL_WORKERS


def uris(web: WebServer) -> list[str]:
    """Return the arguments that name all files, in one folder."""
    return [f"{web.url}{path}{'=.' if len(web.files) > 1 else ''}" for path in web.files]


def manifest(files: dict[str, bytes]) -> str:
    if len(files) == 1:
        return f"sha256:{hashlib.sha256(files['/0.bin']).hexdigest()}"
    return manifest_digest({path[1:]: body for path, body in files.items()})


def ranges(requests: list[Request]) -> list[str]:
    """Return the requested ranges, except the first request, which is for the file's size."""
    return [request.headers.get("Range", "all") for request in requests[1:]]


def test_a_single_hashed_file_needs_one_request(load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_WORKERS", 1)
    web.files["/model.bin"] = os.urandom(SIZE)

    assert load(f"{web.url}/model.bin").code == "Loaded"
    assert ranges(web.requests) == ["all"]


def test_a_single_unhashed_file_is_split_between_workers(
    load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency, "MAX_WORKERS", concurrency.INITIAL_WORKERS)
    web.files["/model.bin"] = os.urandom(SIZE)

    assert load(f"{web.url}/model.bin", options=("--no-digest",)).code == "Loaded"
    assert f"bytes=0-{scheduler.READ_AHEAD_BYTES // concurrency.INITIAL_WORKERS - 1}" in ranges(web.requests)
    assert len(ranges(web.requests)) >= concurrency.INITIAL_WORKERS


def test_a_worker_continues_where_its_response_ends(
    load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stays with its file requests a number of parts at once, and then as many after them."""
    monkeypatch.setattr(concurrency, "MAX_WORKERS", concurrency.INITIAL_WORKERS)
    web.files = {f"/{index}.bin": os.urandom(SIZE) for index in range(concurrency.INITIAL_WORKERS)}

    run = load(*uris(web))

    assert run.files() == {path[1:]: body for path, body in web.files.items()}
    assert not run.of("retry")
    at_once = scheduler.READ_AHEAD_BYTES // concurrency.INITIAL_WORKERS
    for path in web.files:
        asked = [request.headers["Range"] for request in web.requests if request.path == path]
        assert {f"bytes={at_once * n}-{at_once * (n + 1) - 1}" for n in range(3)} < set(asked)


@pytest.mark.parametrize("files", [1, 2])
def test_workers_wait_for_a_hash_that_is_far_behind(
    load: Loader, web: WebServer, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several workers on one file, and with one that another thread hashes for."""
    monkeypatch.setattr(scheduler, "READ_AHEAD_BYTES", PART)
    web.files = {f"/{index}.bin": os.urandom(SIZE) for index in range(files)}

    run = load(*uris(web))

    assert run.files() == {path[1:]: body for path, body in web.files.items()}
    assert run.message["digest"] == manifest(web.files)


def test_parts_to_read_again_are_read_after_all_workers_have_ended(
    load: Loader, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker is done; the other must stop because the server throttles, and has read corrupted bytes."""
    first_done = threading.Event()
    work = Scheduler._work

    def watched(self: Scheduler, worker: Worker) -> None:
        work(self, worker)
        if worker.slot == 0:
            first_done.set()

    monkeypatch.setattr(Scheduler, "_work", watched)
    hub.files, hub.large = {}, {"0.bin": b"weights", "1.bin": b"Weights"}
    seen: list[str] = []

    def answer(request: Request, number: int) -> Reply | None:
        if "/1.bin" not in request.path:
            return None
        seen.append(request.path)
        if len(seen) == 1:
            return Reply(503)
        if len(seen) == 2:
            first_done.wait(30)
            return Reply(body=b"wrong..")
        return None

    hub.network.fault = answer

    run = load("hf://team/model")

    assert run.files() == hub.large
    assert [line["code"] for line in run.of("retry")] == ["ServerError", "Corrupted"]
