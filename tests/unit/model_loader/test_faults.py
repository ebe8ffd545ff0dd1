"""With any fault of a store, the load gives the right model, or none and the cause."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from model_loader import loader
from model_loader.http import transport
from support.loader_faults import FAULTS, damaged_store
from support.loader_harness import Loader, Reply, Request, WebServer, contents, listing
from support.loader_signing import Key
from support.paths import ROOT

pytestmark = pytest.mark.slow

SIZE = 20 << 20


WAYS = {"one answer": (), "parts": ("--no-digest",)}
"""How the loader requests one large file: if it hashes the file, one worker reads all of it."""


@pytest.mark.parametrize("lasting", [False, True], ids=["passing", "lasting"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_gives_the_right_model_or_its_cause(
    load: Loader, web: WebServer, name: str, way: str, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store with checksums and damaged responses: the first one, or all."""
    fault = FAULTS[name]
    if fault.lasting == "Stalled":
        monkeypatch.setattr(transport, "READ_SECONDS", 0.2)
    weights = os.urandom(SIZE)
    seen = damaged_store(load, web, weights, name, lasting=lasting)
    run = load("s3://models/m", options=(f"--patience={1 if lasting else 30}", *WAYS[way]))

    assert seen[name] >= 1
    assert seen["a model too early"] == 0
    assert run.code == "Loaded" or run.message["hint"]
    if (lasting and fault.lasting != "Loaded") or name == "gone":  # retries do not help
        assert (run.code, run.files()) == (fault.lasting, {}), run.output
    else:
        assert run.files() == {"model.bin": weights}, run.output


def test_a_server_that_stops_sending_is_stalled(load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "READ_SECONDS", 0.1)
    over = threading.Event()
    web.files["/model.bin"] = b"weights"
    web.fault = lambda request, number: None if over.wait(30) else Reply(500)

    run = load(f"{web.url}/model.bin", options=("--patience=0.5",))
    over.set()

    assert (run.code, run.exit_code, run.message["retryable"]) == ("Stalled", 18, True)
    assert run.events[0]["code"] == "Stalled"


@pytest.mark.parametrize("seconds", [1.0, 20.0])
def test_the_loader_waits_for_a_store_that_starts_late(load: Loader, seconds: float) -> None:
    """As with a sidecar that starts after the loader: the first connections are refused."""
    late = WebServer(listening=False)
    late.files["/model.bin"] = b"weights"
    timer = threading.Timer(seconds, late.listen)
    timer.start()

    run = load(f"{late.url}/model.bin", options=("--patience=60",))

    timer.join()
    late.close()
    assert run.files() == {"model.bin": b"weights"}
    assert {line["code"] for line in run.of("retry")} == {"Unreachable"}
    assert max(float(str(line["wait"])) for line in run.of("retry")) <= 5


def test_credentials_that_expire_during_the_load_are_read_again(load: Loader, web: WebServer) -> None:
    body = os.urandom(SIZE)
    web.files["/models/m/model.bin"] = body
    load.credentials(AWS_ACCESS_KEY_ID="first", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=web.url)

    def expire(request: Request, number: int) -> Reply | None:
        if number > 2 and "Credential=first/" in request.headers["Authorization"]:
            load.credentials(AWS_ACCESS_KEY_ID="second")
            return Reply(400, body=b"<Error><Code>ExpiredToken</Code></Error>")
        return Reply(body=listing("m/model.bin", size=SIZE)) if "list-type" in request.path else None

    web.fault = expire

    assert load("s3://models/m").files() == {"model.bin": body}


def test_credentials_that_stay_expired_are_unauthorized(load: Loader, web: WebServer) -> None:
    web.fault = lambda request, number: Reply(400, body=b"<Error><Code>ExpiredToken</Code></Error>")
    load.credentials(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=web.url)

    run = load("s3://models/m")

    assert (run.code, run.of("retry")) == ("Unauthorized", [])
    assert "ExpiredToken" in str(run.message["message"])


def test_the_loader_uses_the_region_in_s3s_response(load: Loader, web: WebServer) -> None:
    web.files["/models/m/model.bin"] = b"weights"
    load.credentials(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=web.url)

    def elsewhere(request: Request, number: int) -> Reply | None:
        if "/eu-west-3/s3/" not in request.headers["Authorization"]:
            return Reply(400, {"x-amz-bucket-region": "eu-west-3"})
        return Reply(body=listing("m/model.bin", size=7)) if "list-type" in request.path else None

    web.fault = elsewhere

    assert load("s3://models/m").files() == {"model.bin": b"weights"}


def small_volume(load: Loader, size: int, script: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Start `script`, with the volume and `command` as arguments; the volume is a disk of `size` bytes."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = f'set -e; mount -t tmpfs -o size={size} tmpfs "$1"; {script}'
    call = ["unshare", *user, "--mount", "sh", "-c", script, "sh", str(load.volume), *command]
    return subprocess.Popen(call, env=os.environ | {"PYTHONPATH": str(ROOT / "webhook")})


def run_on_small_volume(load: Loader, url: str, size: int) -> int:
    """Run the loader in a process, with a volume of `size` bytes, and return the exit code."""
    command = [sys.executable, "-m", "model_loader", *load.arguments(url)]
    return small_volume(load, size, 'shift; exec "$@"', command).wait()


def test_a_model_that_does_not_fit_is_refused_before_the_download(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = bytes(SIZE)

    assert run_on_small_volume(load, f"{web.url}/model.bin", 4 << 20) == 15
    assert load.message()["code"] == "NoSpace"
    assert "20 MiB" in str(load.message()["message"])
    assert len(web.requests) == 1


def test_a_volume_that_fills_up_is_reported(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = bytes(SIZE)
    chunks = b"".join(b"100000\r\n" + bytes(1 << 20) + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    web.fault = lambda request, number: Reply(200, {"Transfer-Encoding": "chunked", "Content-Length": ""}, chunks)

    assert run_on_small_volume(load, f"{web.url}/model.bin", 4 << 20) == 15
    assert (load.message()["code"], load.message()["file"]) == ("NoSpace", "model.bin")


@pytest.mark.parametrize("way", ["hashed", "not hashed", "signed"])
def test_after_another_program_filled_the_volume_the_next_start_resumes(
    load: Loader, web: WebServer, tmp_path: Path, way: str
) -> None:
    model = {"model.bin": os.urandom(SIZE)}
    key = Key(tmp_path / "key")
    if way == "signed":
        (tmp_path / "model.bin").write_bytes(model["model.bin"])
        key.sign(tmp_path / "model.bin", tmp_path / "model.sig")
        model["model.sig"] = (tmp_path / "model.sig").read_bytes()
    web.files = {f"/{name}": body for name, body in model.items()}
    options = {"hashed": (), "not hashed": ("--no-digest",), "signed": (f"--signature-key={key.public}",)}[way]
    command = [sys.executable, "-m", "model_loader", *load.arguments(f"{web.url}/model.bin", options=options)]
    first, seen = tmp_path / "first", tmp_path / "seen"
    twice = f"""
        volume=$1; shift
        "$@" || cp {load.log} {first}
        ls "$volume" > {seen}
        rm "$volume/other"
        "$@"
        cp -r "$volume/model" {tmp_path}
    """
    started = threading.Event()

    def fill(body: bytes) -> Iterator[bytes]:
        yield body[: len(body) // 2]
        if len(body) > 1 << 20 and not first.exists():
            started.wait(30)
            with contextlib.suppress(OSError), open(f"/proc/{process.pid}/root{load.volume}/other", "wb") as other:
                while True:
                    other.write(bytes(1 << 20))
                    other.flush()
        yield body[len(body) // 2 :]

    web.fault = lambda request, number: replace(web.answer(request), pieces=fill)
    process = small_volume(load, 2 * SIZE, twice, command)
    started.set()

    assert process.wait() == 0
    message = json.loads(first.read_text())
    assert (message["code"], message["file"] in model) == ("NoSpace", True)
    assert seen.read_text().split() == ["other", "state"]
    assert contents(tmp_path / "model") == model


def test_a_chunked_response_of_unknown_length_is_read_to_its_end(load: Loader, web: WebServer) -> None:
    chunks = b"5\r\nweigh\r\n2;x=y\r\nts\r\n0\r\nTrailer: x\r\n\r\n"
    web.fault = lambda request, number: Reply(200, {"Transfer-Encoding": "chunked", "Content-Length": ""}, chunks)

    assert load(f"{web.url}/model.bin").files() == {"model.bin": b"weights"}


def test_a_truncated_chunked_response_is_not_the_model(load: Loader, web: WebServer) -> None:
    chunks = b"5\r\nweigh\r\n2\r\nts\r\n"
    headers = {"Transfer-Encoding": "chunked", "Content-Length": ""}
    web.fault = lambda request, number: Reply(200, headers, chunks, cut=len(chunks))

    run = load(f"{web.url}/model.bin", options=("--patience=0.3",))

    assert (run.code, run.files()) == ("Unreachable", {})


def test_a_size_beyond_any_volume_is_not_cut_into_parts(
    load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a list of the parts alone would fill the memory")

    monkeypatch.setattr(loader, "Scheduler", cut)
    web.fault = lambda request, number: Reply(206, {"Content-Range": f"bytes 0-0/{1 << 60}"}, b"x")

    run = load(f"{web.url}/model.bin")

    assert (run.code, run.exit_code) == ("NoSpace", 15)
