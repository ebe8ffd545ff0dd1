"""A loader that is stopped goes on where it was, and reads hardly anything twice."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loader import harness
from loader.harness import Loader, Reply, Request, WebServer
from model_loader.engine import PART

SIZE = 48 << 20


class Gate:
    """Lets a server answer until so many bytes are sent, then holds every answer until it is opened."""

    def __init__(self, web: WebServer, after: int) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.sent = 0
        self.holds = True
        """Whether a request beyond the limit is held; otherwise it fails at once."""
        self._lock = threading.Lock()
        self._web = web
        self._after = after
        web.fault = self._answer

    def _answer(self, request: Request, number: int) -> Reply | None:
        reply = self._web.answer(request)
        with self._lock:
            full = self.sent >= self._after and not self.opened.is_set()
            self.sent += 0 if full else len(reply.body)
        if full:
            self.reached.set()
            self.opened.wait(60 if self.holds else 0)
            return Reply(503)
        return reply


def start_and_wait_for_half(load: Loader, url: str, half: Gate) -> subprocess.Popen[bytes]:
    """Start the loader as a process and return when it has what the server sent, and waits for more."""
    command = [sys.executable, "-m", "model_loader", *load.arguments(url)]
    environment = os.environ | {"PYTHONPATH": str(harness.REPOSITORY / "webhook")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert half.reached.wait(30)
    while len(parts(load)) < SIZE // 2 // PART:
        threading.Event().wait(0.01)  # another process' file can only be looked at
    return process


def parts(load: Loader) -> list[str]:
    """Return the journal's lines of parts that are written."""
    return (load.volume / "state" / "journal").read_text().splitlines()[1:]


@pytest.fixture
def half(load: Loader, web: WebServer) -> Gate:
    web.files["/model.bin"] = os.urandom(SIZE)
    return Gate(web, SIZE // 2 + 1)


def test_after_a_kill_at_half_hardly_a_byte_is_read_twice(load: Loader, web: WebServer, half: Gate) -> None:
    process = start_and_wait_for_half(load, f"{web.url}/model.bin", half)
    process.kill()
    process.communicate()
    half.opened.set()
    before = half.sent

    run = load(f"{web.url}/model.bin")

    assert run.files() == {"model.bin": web.files["/model.bin"]}
    assert half.sent - before == SIZE // 2 + 1  # the one byte asks for the size


def test_sigterm_ends_as_interrupted_and_the_next_start_goes_on(load: Loader, web: WebServer, half: Gate) -> None:
    process = start_and_wait_for_half(load, f"{web.url}/model.bin", half)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    half.opened.set()

    message = json.loads(load.log.read_text())
    assert (process.returncode, message["code"], message["retryable"]) == (20, "Interrupted", True)
    assert json.loads(output.splitlines()[-1])["event"] == "failed"
    assert not (load.volume / "model").exists()
    before = half.sent
    assert load(f"{web.url}/model.bin").files() == {"model.bin": web.files["/model.bin"]}
    assert half.sent - before == SIZE // 2 + 1


def test_a_journal_of_another_boot_is_not_trusted(load: Loader, web: WebServer, half: Gate) -> None:
    half.holds = False
    assert load(f"{web.url}/model.bin", options=("--patience=1",)).code == "ServerError"
    half.opened.set()
    journal = load.volume / "state" / "journal"
    header, _, rest = journal.read_text().partition("\n")
    assert rest
    journal.write_text(f"{header.rpartition(' ')[0]} another-boot\n{rest}")
    before = half.sent

    assert load(f"{web.url}/model.bin").code == "Loaded"
    assert half.sent - before >= SIZE


def test_what_an_earlier_start_read_of_another_version_is_not_used(load: Loader, web: WebServer, half: Gate) -> None:
    half.holds = False
    assert load(f"{web.url}/model.bin", options=("--patience=1",)).code == "ServerError"
    half.opened.set()
    web.files["/model.bin"] = os.urandom(SIZE)

    assert load(f"{web.url}/model.bin").files() == {"model.bin": web.files["/model.bin"]}


def test_a_start_that_was_killed_while_publishing_publishes(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    load(f"{web.url}/model.bin")
    (load.volume / "model").rename(load.volume / "state" / "files")
    asked = len(web.requests)

    run = load(f"{web.url}/model.bin")

    assert (run.files(), len(web.requests)) == ({"model.bin": b"weights"}, asked)


def test_another_digest_asked_for_is_another_load(load: Loader, web: WebServer, tmp_path: Path) -> None:
    web.files["/model.bin"] = b"weights"
    load(f"{web.url}/model.bin")

    assert load(f"{web.url}/model.bin", options=(f"--digest=sha256:{'0' * 64}",)).code == "DigestMismatch"
    assert not (load.volume / "model").exists()
