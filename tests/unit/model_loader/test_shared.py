"""A model on a claim that pods share: downloaded once, whole or absent, and verified where a digest pins it."""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_loader import loader
from model_loader.storage import shared
from support.loader_harness import Loader, Reply, Request, Run, WebServer, contents, manifest_digest
from support.loader_hub import Hub
from support.loader_signing import Key
from support.paths import ROOT

SHARED = "llm/0123"
MODEL = {"config.json": b"{}", "model.bin": os.urandom(3 << 20)}
SHORT = {"_BEAT": 0.05, "_STALE": 0.5, "_POLL": 0.02, "_REPORT": 0.02}
"""Seconds that decide when a loader counts as killed."""
_PROCESS = """
import sys
from model_loader import __main__, loader
from model_loader.storage import shared
pod, *values = sys.argv[1:6]
del sys.argv[1:6]
loader.this_pod = lambda: pod
shared._BEAT, shared._STALE, shared._POLL, shared._REPORT = map(float, values)
__main__.run()
"""


class Pods:
    """Loaders of several pods that share one folder of a claim, and the files that they request."""

    def __init__(self, load: Loader, web: WebServer, patch: pytest.MonkeyPatch) -> None:
        self.load, self.web, self._patch = load, web, patch
        web.files |= {f"/{name}": body for name, body in MODEL.items()}
        for name, value in SHORT.items():
            patch.setattr(shared, name, value)

    @property
    def folder(self) -> Path:
        return self.load.volume / SHARED

    @property
    def uris(self) -> list[str]:
        return [f"{self.web.url}/{name}=." for name in MODEL]

    def start(self, pod: str, *options: str) -> Run:
        """Run the loader of a pod in this process."""
        self._patch.setattr(loader, "this_pod", lambda: pod)
        return self.load(*self.uris, options=("--shared", SHARED, *options))

    def process(self, pod: str, *options: str) -> "subprocess.Popen[bytes]":
        """Start the loader of a pod."""
        arguments = self.load.arguments(*self.uris, options=("--shared", SHARED, *options))
        arguments[arguments.index("--termination-log") + 1] = str(self.load.log.with_name(f"log-{pod}"))
        command = [sys.executable, "-c", _PROCESS, pod, *map(str, SHORT.values()), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "webhook")}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def served(self) -> dict[str, bytes]:
        """What a server sees that starts now."""
        return contents((self.folder / "model").resolve())

    def versions(self) -> list[Path]:
        return sorted((self.folder / "versions").iterdir())

    def downloads(self) -> int:
        """How often a byte of the large file was requested, apart from its first one, which shows its size."""
        wanted = [request.headers.get("Range", "") for request in self.web.requests if request.path == "/model.bin"]
        return sum(each != "bytes=0-0" for each in wanted)


@pytest.fixture
def pods(load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> Pods:
    return Pods(load, web, monkeypatch)


def events(process: "subprocess.Popen[bytes]") -> list[dict[str, Any]]:
    output, _ = process.communicate(timeout=60)
    return [json.loads(line) for line in output.splitlines()]


def test_a_second_pod_downloads_nothing_but_proves_its_access(pods: Pods) -> None:
    first = pods.start("one")
    assert (first.code, pods.served()) == ("Loaded", MODEL)
    before = pods.downloads()
    second = pods.start("two")
    assert (second.code, second.message["digest"]) == ("Loaded", first.message["digest"])
    assert pods.downloads() == before
    pods.web.fault = lambda request, number: Reply(403)
    assert pods.start("three").code == "Unauthorized"
    assert pods.served() == MODEL


def test_one_of_several_pods_downloads_and_the_others_report_its_progress(pods: Pods) -> None:
    others = threading.Event()

    def hold(request: Request, number: int) -> Reply | None:
        if request.headers.get("Range", "") != "bytes=0-0" and request.path == "/model.bin":
            others.wait(30)
        return None

    pods.web.fault = hold
    running = [pods.process(f"pod-{number}") for number in range(4)]
    # All have listed the files, and one of them is downloading.
    while len([r for r in pods.web.requests if r.headers.get("Range") == "bytes=0-0"]) < 4 * len(MODEL):
        assert all(process.poll() is None for process in running)
        others.wait(0.02)
    time.sleep(2 * SHORT["_STALE"])  # a loader that renews its lock is never taken for a killed one
    others.set()
    found = [events(process) for process in running]
    assert [each[-1]["event"] for each in found] == ["loaded"] * 4
    waited = [lines for lines in found if any(line["event"] == "waiting" for line in lines)]
    assert len(waited) == 3
    assert pods.served() == MODEL
    assert len(pods.versions()) == 1
    assert not list((pods.folder / "work").iterdir())


def test_a_changed_model_is_another_version_and_the_first_one_stays(pods: Pods) -> None:
    pods.start("one")
    with (pods.folder / "model").resolve().joinpath("model.bin").open("rb") as reader:
        pods.web.files["/model.bin"] = os.urandom(1 << 20)
        assert pods.start("two").code == "Loaded"
        assert pods.served()["model.bin"] == pods.web.files["/model.bin"]
        assert len(pods.versions()) == 2
        assert reader.read() == MODEL["model.bin"]


def test_a_pinned_model_that_another_pod_changed_is_downloaded_again(pods: Pods) -> None:
    digest = ("--digest", manifest_digest(MODEL))
    assert pods.start("one", *digest).code == "Loaded"
    forged = (pods.folder / "model").resolve() / "config.json"
    forged.write_bytes(b"[]")
    run = pods.start("two", *digest)
    assert (run.code, pods.served()) == ("Loaded", MODEL)
    assert len(pods.versions()) == 2


@pytest.mark.parametrize("name", ["extra.py", "link"])
def test_what_a_pod_adds_to_a_pinned_model_is_not_served(pods: Pods, name: str) -> None:
    digest = ("--digest", manifest_digest(MODEL))
    pods.start("one", *digest)
    folder = (pods.folder / "model").resolve()
    if name == "link":
        (folder / name).symlink_to("/etc/passwd")
    else:
        (folder / name).write_text("import os")
    assert pods.start("two", *digest).code == "Loaded"
    assert pods.served() == MODEL
    assert len(pods.versions()) == 2


@pytest.mark.parametrize("record", [b"", b"{}", b'{"order": 1, "loaded": {}}', b"[" * 100_000])
def test_a_forged_record_is_not_used(pods: Pods, record: bytes) -> None:
    pods.start("one")
    (version,) = pods.versions()
    (version / "state" / "complete.json").write_bytes(record)
    assert pods.start("two").code == "Loaded"
    assert pods.served() == MODEL


def test_a_forged_attempt_is_not_published_for_a_pinned_model(pods: Pods) -> None:
    digest = ("--digest", manifest_digest(MODEL))
    pods.start("one", *digest)
    (version,) = pods.versions()
    (version / "model" / "config.json").write_bytes(b"[]")
    name = f"{version.name}.1"
    version.rename(pods.folder / "work" / name)
    (pods.folder / "locks" / name).write_text('{"ended": true}')
    assert pods.start("two", *digest).code == "Loaded"
    assert pods.served() == MODEL


def test_a_changed_cache_of_the_hub_is_not_served_for_a_pinned_model(load: Loader, hub: Hub) -> None:
    options = ("--shared", SHARED, "--hub-cache", "--digest", manifest_digest(hub.files | hub.large))
    assert load("hf://team/model", options=options).code == "Loaded"
    folder = (load.volume / SHARED / "hub").resolve()
    before = contents(folder)
    reference = folder / "models--team--model" / "refs" / "main"
    reference.write_text("another commit")
    assert load("hf://team/model", options=options).code == "Loaded"
    assert contents((load.volume / SHARED / "hub").resolve()) == before


def test_a_signed_model_is_verified_by_each_pod(load: Loader, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_bytes(b"{}")
    key = Key(tmp_path / "key")
    key.sign(source)
    options = ("--shared", SHARED, f"--signature-key={key.public}")
    for _ in range(2):
        run = load(source.as_uri(), options=options)
        assert (run.code, run.message["signed"]) == ("Loaded", True)
    versions = load.volume / SHARED / "versions"
    assert len(list(versions.iterdir())) == 1
    ((load.volume / SHARED / "model").resolve() / "config.json").write_bytes(b"[]")
    assert load(source.as_uri(), options=options).code == "Loaded"
    assert contents((load.volume / SHARED / "model").resolve()) == contents(source)
    assert len(list(versions.iterdir())) == 2


def test_a_pinned_archive_is_refused(load: Loader, web: WebServer) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("config.json"))
    web.files["/model.tar.gz"] = packed.getvalue()
    digest = f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}"
    uri = f"{web.url}/model.tar.gz"
    assert load(uri, options=("--shared", SHARED)).code == "Loaded"
    assert load(uri, options=("--shared", SHARED, "--digest", digest)).code == "Refused"


def test_links_on_the_claim_lead_no_loader_elsewhere(pods: Pods, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pods.folder.mkdir(parents=True)
    (pods.folder / "work").symlink_to(elsewhere)
    assert pods.start("one").code == "Refused"
    assert not list(elsewhere.iterdir())


def test_a_folder_of_the_user_is_kept(pods: Pods) -> None:
    (pods.folder / "model").mkdir(parents=True)
    (pods.folder / "model" / "mine").touch()
    assert pods.start("one").code == "Refused"
    assert (pods.folder / "model" / "mine").exists()


def test_a_loader_of_the_same_pod_continues_at_once(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    at = threading.Event()

    def hold(request: Request, number: int) -> Reply | None:
        if request.path == "/model.bin" and request.headers.get("Range", "") != "bytes=0-0":
            at.set()
            threading.Event().wait(0.5)
        return None

    pods.web.fault = hold
    process = pods.process("one")
    assert at.wait(30)
    process.kill()
    process.communicate()
    pods.web.fault = lambda request, number: None
    started = time.monotonic()
    monkeypatch.setattr(shared, "_STALE", 60.0)
    assert pods.start("one").code == "Loaded"
    assert time.monotonic() - started < 30
    assert pods.served() == MODEL


def test_killed_at_any_moment_the_version_is_whole_or_absent(pods: Pods) -> None:
    begun = threading.Event()

    def slow(request: Request, number: int) -> Reply | None:
        if request.path != "/model.bin" or request.headers.get("Range", "") == "bytes=0-0":
            return None
        begun.set()
        return replace(pods.web.answer(request), pieces=_slowly)

    pods.web.fault = slow
    chance = random.Random(7)
    seen: Counter[str] = Counter()
    for number in range(10):
        begun.clear()
        running = [pods.process(f"pod-{number}-{each}") for each in range(2)]
        # Where a kill left everything downloaded but not published, the next loaders download nothing.
        while not begun.wait(0.05) and any(process.poll() is None for process in running):
            pass
        threading.Event().wait(chance.uniform(0, 0.4))
        for process in running:
            process.kill()
            process.communicate()
        for version in pods.versions() if (pods.folder / "versions").exists() else []:
            assert contents(version / "model") == MODEL
        seen["begun"] += (pods.folder / "work").exists() and any((pods.folder / "work").iterdir())
        if (pods.folder / "model").exists():
            assert pods.served() == MODEL
            # Begin again, so that kills during the download are tried again.
            pods.load.volume = pods.load.volume.with_name(f"volume-{number}")
            pods.load.volume.mkdir()
    assert pods.start("last").code == "Loaded"
    assert pods.served() == MODEL
    assert not list((pods.folder / "work").iterdir())
    assert seen["begun"]


def _slowly(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 256 << 10):
        yield body[start : start + (256 << 10)]
        threading.Event().wait(0.01)
