"""The server's own process over real TLS, with its real limits, and hostile clients.

Every request gets a valid review or HTTP 4xx, in time and in bounded memory, and a valid review afterwards is answered
as before. ``tests/unit/policy/test_admission.py`` checks the same without the network.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from serve_webhook.admission import listener
from serve_webhook.certs.authority import SERVER_NAMES
from support.cpu_time import starved
from support.hostile import FRAMES, PATHS, bodies, bomb, heavy, posted, reviews, spoilt
from support.hostile_sizes import LARGEST
from support.hostile_sizes import bodies as sized
from support.paths import ROOT
from support.reviews import deployment, request

IN_TIME = 5.0
"""Seconds: the webhooks' ``timeoutSeconds``. What a busy machine lets the server wait for a core is not counted."""
SMALL, LARGE = 32 * 2**10, 150 * 2**10
"""KiB of memory beyond what an idle server has, at its peak, with small bodies and with floods. It is given 256 MiB
and needs about 100 with the Kubernetes client, which is not here: 75 for 256 connections, 16 for what is in flight, and
up to 50 for the one body that is parsed."""
GOOD = request(deployment())


@dataclass
class Answered:
    """What came back, by what it was."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def check(self, status: int, text: bytes, seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)
        assert seconds < IN_TIME, (status, seconds)
        if status == 200:
            review = json.loads(text)
            assert (review["apiVersion"], review["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
            response = review["response"]
            assert isinstance(response["uid"], str)
            assert response["uid"]
            if not response["allowed"]:
                assert response["status"]["code"] in (403, 422), response
                assert response["status"]["message"]
            self.counts["allowed" if response["allowed"] else "denied"] += 1
            return
        assert 400 <= status < 500, (status, text)
        assert text.strip()
        self.counts[f"HTTP {status}"] += 1


class Caller:
    """Says bytes, and reads what is answered to them; opens another connection where the server has closed the last."""

    def __init__(self, attacked: "Attacked") -> None:
        self._attacked = attacked
        self._socket: ssl.SSLSocket | None = None
        self._rest = b""

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, b""

    def ask(self, said: bytes, *, whole: bool = True) -> tuple[int, bytes, float]:
        """Status, body and seconds. ``whole``: it is one request to its end, and another may follow."""
        started = self._attacked.clock()
        for attempt in (1, 2):
            try:
                status, head, body = self._ask(said)
            except (ConnectionError, ssl.SSLError, EOFError):
                # The server closed it after the answer before, which is its right.
                self.close()
                if attempt == 2:
                    raise
            else:
                break
        seconds = self._attacked.clock() - started
        if b"connection: close" in head.lower() or not whole:
            self.close()
        return status, body, seconds

    def _ask(self, said: bytes) -> tuple[int, bytes, bytes]:
        if self._socket is None:
            self._socket = self._attacked.connect()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self._socket.sendall(said)  # who refuses early need not read to the end
        while b"\r\n\r\n" not in self._rest:
            self._read()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields[b"content-length"])
        while len(self._rest) < length:
            self._read()
        body, self._rest = self._rest[:length], self._rest[length:]
        return int(head.split(b" ", 2)[1]), head, body

    def _read(self) -> None:
        assert self._socket is not None
        if not (more := self._socket.recv(65536)):
            raise EOFError
        self._rest += more


@dataclass
class Attacked:
    process: subprocess.Popen[str]
    port: int
    health: int
    context: ssl.SSLContext
    log: Path

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(plain, server_hostname=SERVER_NAMES[0])

    def clock(self) -> float:
        """Seconds, without those that the server, or this thread, waited for a core."""
        return time.perf_counter() - starved(self.process.pid) - starved("thread-self")

    def memory(self, which: str = "VmRSS") -> int:
        """KiB; VmHWM is the peak."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))

    def answers_as_before(self) -> None:
        with Caller(self) as caller:
            status, text, _ = caller.ask(posted(GOOD))
            assert (status, json.loads(text)["response"]) == (200, {"uid": "u", "allowed": True})
            bad = request(deployment("s3://elsewhere/a.joblib"))
            assert b"SourceNotAllowed" in caller.ask(posted(bad))[1]

    def failures(self) -> list[str]:
        """Defects in the log."""
        entries = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [entry["message"] for entry in entries if entry["level"] == "error"]


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[Attacked]:
    (config_map,) = yaml.safe_load_all((ROOT / "manifests/base/20-settings.yaml").read_text())
    file, log = tmp_path / "settings.yaml", tmp_path / "log.json"
    file.write_text(config_map["data"]["settings.yaml"])
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "tests"),
        # As in the server's image.
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }
    command = [sys.executable, str(ROOT / "tests/support/lone_replica.py"), str(file), str(ROOT / "manifests/runtimes")]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True) as process,
    ):
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        context = ssl.create_default_context(cadata=started["bundle"])
        try:
            yield Attacked(process, started["port"], started["health"], context, log)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0


@pytest.mark.attack(9, 10, 18)
@pytest.mark.parametrize(
    ("spoilt_bodies", "frames", "drawn"), [(400, 60, 30), pytest.param(8500, 1000, 1000, marks=pytest.mark.slow)]
)
def test_whatever_is_sent_is_answered_in_time_and_in_bounded_memory(
    attacked: Attacked, spoilt_bodies: int, frames: int, drawn: int
) -> None:
    attacked.answers_as_before()
    before = attacked.memory()
    rng, good, answered = random.Random(11), reviews(), Answered()
    with Caller(attacked) as caller:
        for _ in range(spoilt_bodies):
            answered.check(*caller.ask(posted(spoilt(rng, good), rng.choice(PATHS))))
        for _ in range(frames):
            answered.check(*caller.ask(rng.choice(FRAMES)(rng.choice(good), rng), whole=False))

        @settings(max_examples=drawn, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(bodies())
        def draw(body: bytes) -> None:
            answered.check(*caller.ask(posted(body)))

        draw()
    attacked.answers_as_before()
    grown = attacked.memory("VmHWM") - before
    total = sum(answered.counts.values())
    print(f"\n{total} requests: {dict(answered.counts.most_common())}; the slowest took {answered.slowest:.2f} s;"
          f" memory {before // 1024} MiB, at its peak {grown // 1024} MiB more")  # fmt: skip
    assert total >= spoilt_bodies + frames + drawn
    assert grown < SMALL
    assert attacked.failures() == []


@pytest.mark.attack(10, 18)
@pytest.mark.slow
def test_floods_are_answered_in_time_and_in_bounded_memory(attacked: Attacked) -> None:
    """The largest bodies of the worst kinds at once, bombs, senders that stall, and idle connections by the hundred."""
    attacked.answers_as_before()
    before, answered = attacked.memory(), Answered()
    stalling = [
        posted(b"{", path, Content_Length=length) for path in PATHS for length in (b"9", b"1000000", b"8388608")
    ]
    stalling += [posted(b"1\r\n{", Content_Length=b"", Transfer_Encoding=b"chunked")]
    bodies = [posted(body) for body in heavy().values()]
    bodies += [posted(bomb(), Content_Encoding=coding) for coding in (b"gzip", b"deflate")]

    def ask(said: bytes) -> tuple[int, bytes, float]:
        with Caller(attacked) as caller:
            return caller.ask(said)

    with ThreadPoolExecutor(16) as callers:
        for _ in range(3):
            with contextlib.ExitStack() as held:
                for _ in range(listener.MAX_CONNECTIONS + 40):
                    held.enter_context(attacked.connect())
                for said in (bodies, [*stalling, *bodies]):
                    for found in callers.map(ask, said):
                        answered.check(*found)
                attacked.answers_as_before()
    grown = attacked.memory("VmHWM") - before
    print(f"\n{dict(answered.counts.most_common())}; the slowest took {answered.slowest:.2f} s;"
          f" memory {before // 1024} MiB, at its peak {grown // 1024} MiB more")  # fmt: skip
    assert grown < LARGE
    assert attacked.failures() == []


@pytest.mark.attack(10, 18, 22)
def test_health_and_others_are_answered_while_the_worst_reviews_are_judged(attacked: Attacked) -> None:
    """One caller after the other sends the slowest reviews; in between, the kubelet and another caller send
    requests."""
    names = ("containers", "parts of volumes of one name", "undefined variables", "managed fields", "objects")
    worst = [posted(dict(sized(name, size, "Deployment changed"))["Deployment changed"], path)
             for name in names for size in (240_000, LARGEST) for path in PATHS[:2]]  # fmt: skip
    done, asked, waited = threading.Event(), 0, []

    def attack() -> None:
        nonlocal asked
        with Caller(attacked) as caller:
            for said in itertools.cycle(worst):
                if done.is_set():
                    return
                status, _, _ = caller.ask(said)
                assert status == 200
                asked += 1

    with ThreadPoolExecutor(1) as attacker, Caller(attacked) as caller:
        attacking = attacker.submit(attack)
        while asked < len(worst) and not attacking.done():
            started = attacked.clock()
            with urllib.request.urlopen(f"http://127.0.0.1:{attacked.health}/healthz", timeout=30) as answer:
                assert answer.status == 200
            waited.append(attacked.clock() - started)
            waited.append(caller.ask(posted(GOOD))[2])
        done.set()
        attacking.result()
    waited.sort()
    print(f"\n{len(waited)} answers meanwhile, half of them within {waited[len(waited) // 2] * 1000:.0f} ms,"
          f" the slowest in {waited[-1] * 1000:.0f} ms")  # fmt: skip
    assert waited[len(waited) * 9 // 10] < 0.1
    assert attacked.failures() == []
