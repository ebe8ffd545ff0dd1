"""A restarted loader resumes, and reads hardly anything twice."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from model_loader.download import concurrency
from model_loader.download.file_state import PART_BYTES
from model_loader.storage.journal import boot
from support.loader_harness import Loader, Reply, Request, WebServer
from support.paths import ROOT

SIZE = 48 << 20
HALF = SIZE // 2 // PART_BYTES
"""Number of parts in half of the model."""

AGAIN = "/model.bin?again"
"""The URL of the same file in the second start: the server may see a request of the first start late."""


class Gate:
    """Pauses all responses once half of the model is written, until `opened` is set."""

    def __init__(self, load: Loader, web: WebServer) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.sent: Counter[str] = Counter()
        """Sent bytes, by path."""
        self._lock = threading.Lock()
        self._load = load
        self._web = web
        web.fault = self._answer

    def _answer(self, request: Request, number: int) -> Reply | None:
        return replace(self._web.answer(request), pieces=partial(self._let_through, request.path))

    def _let_through(self, path: str, body: bytes) -> Iterator[bytes]:
        """Count the bytes about to be sent, or pause."""
        for start in range(0, len(body), 1 << 20):
            piece = body[start : start + (1 << 20)]
            while not self.opened.is_set() and self._is_far_ahead():
                self.opened.wait(0.01)  # another process writes the journal, so there is no event
            if not self.opened.is_set() and len(parts(self._load)) >= HALF:
                self.reached.set()
                self.opened.wait(60)
            with self._lock:
                self.sent[path] += len(piece)
            yield piece

    def _is_far_ahead(self) -> bool:
        """Return whether connections may buffer so much that the rest of the model is sent before half of it is
        written.
        """
        with self._lock:
            return sum(self.sent.values()) > (len(parts(self._load)) + 2) * PART_BYTES


@pytest.fixture
def half(load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> Gate:
    # In every start: additional workers drop open responses, whose sent bytes are then not read.
    monkeypatch.setattr(concurrency, "MAX_WORKERS", 1)
    web.files["/model.bin"] = os.urandom(SIZE)
    return Gate(load, web)


@pytest.fixture
def process(load: Loader, web: WebServer, half: Gate) -> Iterator[subprocess.Popen[bytes]]:
    """A loader that has half of the model, and waits for the rest."""
    script = """
from model_loader import __main__
from model_loader.download import concurrency
concurrency.MAX_WORKERS = 1
__main__.run()
"""
    command = [sys.executable, "-c", script, *load.arguments(f"{web.url}/model.bin")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "webhook")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert half.reached.wait(30)
        yield process
    finally:
        kill(process)


@pytest.fixture
def killed(half: Gate, process: subprocess.Popen[bytes]) -> None:
    """A loader was killed at half."""
    kill(process)
    half.opened.set()


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        process.kill()
        process.communicate()


def parts(load: Loader) -> list[str]:
    """Return the journal's lines of written parts."""
    journal = load.volume / "state" / "journal"
    return journal.read_text().splitlines()[1:] if journal.exists() else []


def missing(load: Loader) -> int:
    """Return the bytes of parts that the journal does not list, plus the one byte of the request for the size."""
    assert len(parts(load)) >= HALF
    return SIZE - len(parts(load)) * PART_BYTES + 1


@pytest.mark.usefixtures("killed")
def test_after_a_kill_at_half_no_written_part_is_read_twice(load: Loader, web: WebServer, half: Gate) -> None:
    expected = missing(load)

    run = load(f"{web.url}{AGAIN}")

    assert run.files() == {"model.bin": web.files["/model.bin"]}
    assert half.sent[AGAIN] == expected


def test_sigterm_ends_as_interrupted_and_the_next_start_resumes(
    load: Loader, web: WebServer, half: Gate, process: subprocess.Popen[bytes]
) -> None:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    half.opened.set()

    message = load.message()
    assert (process.returncode, message["code"], message["retryable"]) == (20, "Interrupted", True)
    assert json.loads(output.splitlines()[-1])["event"] == "failed"
    assert not (load.volume / "model").exists()
    expected = missing(load)
    assert load(f"{web.url}{AGAIN}").files() == {"model.bin": web.files["/model.bin"]}
    assert half.sent[AGAIN] == expected


@pytest.mark.usefixtures("killed")
def test_a_journal_of_another_boot_is_not_trusted(load: Loader, web: WebServer, half: Gate) -> None:
    journal = load.volume / "state" / "journal"
    journal.write_text(journal.read_text().replace(boot(), "another-boot", 1))

    assert load(f"{web.url}{AGAIN}").code == "Loaded"
    assert half.sent[AGAIN] == SIZE + 1


@pytest.mark.usefixtures("killed")
def test_parts_of_another_version_are_not_used(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = os.urandom(SIZE)

    assert load(f"{web.url}{AGAIN}").files() == {"model.bin": web.files["/model.bin"]}


def test_a_start_after_a_kill_during_publishing_publishes(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    load(f"{web.url}/model.bin")
    (load.volume / "model").rename(load.volume / "state" / "files")
    asked = len(web.requests)

    run = load(f"{web.url}/model.bin")

    assert (run.files(), len(web.requests)) == ({"model.bin": b"weights"}, asked)


def test_another_digest_is_another_load(load: Loader, web: WebServer, tmp_path: Path) -> None:
    web.files["/model.bin"] = b"weights"
    load(f"{web.url}/model.bin")

    assert load(f"{web.url}/model.bin", options=(f"--digest=sha256:{'0' * 64}",)).code == "DigestMismatch"
    assert not (load.volume / "model").exists()
