"""One node's cache with real stores: what is downloaded, who gets it, and what a crash or a tenant can do."""

import contextlib
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_cache import metrics
from model_cache import store as store_module
from model_cache.models import Models
from model_cache.request import Request, read
from model_loader.outcomes import Code, LoadError
from support import loader_harness as harness

from .conftest import cache, eventually


def asked(*arguments: str, secret: Mapping[str, str] | None = None, namespace: str = "") -> Request:
    return Request(("--", *arguments) if "--" not in arguments else arguments, secret or {}, namespace)


def files(models: Models, request: Request) -> dict[str, bytes]:
    with models.model(request, lambda _: None) as folder:
        return harness.contents(folder / "model")


def test_a_model_reaches_the_node_once(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights" * 1000
    request = asked(f"{web.url}/model.bin")

    assert files(models, request) == {"model.bin": b"weights" * 1000}
    web.requests.clear()
    assert files(models, request) == {"model.bin": b"weights" * 1000}

    assert models.counts.downloads == 1
    assert models.counts.hits == 1
    assert {each.method for each in web.requests if "Range" not in each.headers} <= {"HEAD", "GET"}


def test_pods_that_start_at_once_share_one_download(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights" * 100_000
    request = asked(f"{web.url}/model.bin")
    with ThreadPoolExecutor(20) as pods:
        found = list(pods.map(lambda _: files(models, request), range(20)))
    assert all(each == {"model.bin": b"weights" * 100_000} for each in found)
    assert models.counts.downloads == 1


def test_only_changed_files_are_downloaded_again(models: Models, s3: harness.Store) -> None:
    secret = {**harness.KEYS, "AWS_ENDPOINT_URL": s3.endpoint}
    request = asked("s3://models/changing", secret=secret)
    s3.put("models", {f"changing/{number}": bytes([number]) * 10_000 for number in range(10)})
    files(models, request)
    received = models.counts.received
    s3.put("models", {"changing/3": b"new" * 5_000})

    assert files(models, request)["3"] == b"new" * 5_000
    assert models.counts.received - received == 15_000


@pytest.mark.attack(41)
def test_a_tenant_with_another_secret_gets_nothing_that_the_node_has(models: Models, s3: harness.Store) -> None:
    secret = {**harness.KEYS, "AWS_ENDPOINT_URL": s3.endpoint}
    s3.put("models", {"private/model.bin": b"secret weights"})
    files(models, asked("s3://models/private", secret=secret))

    with pytest.raises(LoadError) as refused:
        files(models, asked("s3://models/private", secret={**secret, "AWS_SECRET_ACCESS_KEY": "wrong"}))
    assert refused.value.code is Code.UNAUTHORIZED


@pytest.mark.attack(41)
def test_a_store_that_lists_and_does_not_let_read_gives_nothing(models: Models, web: harness.WebServer) -> None:
    """Hubs list the files of gated repositories to everyone."""
    web.files["/model.bin"] = b"gated"
    request = asked(f"{web.url}/model.bin")
    files(models, request)
    web.requests.clear()
    files(models, request)
    proof = len(web.requests)
    assert web.requests[-1].method == "HEAD"
    web.requests.clear()
    web.fault = lambda _, number: harness.Reply(403) if number == proof else None
    with pytest.raises(LoadError) as refused:
        files(models, request)
    assert refused.value.code is Code.UNAUTHORIZED


@pytest.mark.attack(41)
def test_the_same_etag_at_another_store_is_another_model(models: Models, web: harness.WebServer) -> None:
    other = harness.WebServer()
    try:
        for server, body in ((web, b"private!"), (other, b"poisoned")):
            server.files["/model.bin"] = body
            server.etag = lambda body: '"the same"'  # type: ignore[method-assign]
        assert files(models, asked(f"{other.url}/model.bin")) == {"model.bin": b"poisoned"}
        assert files(models, asked(f"{web.url}/model.bin")) == {"model.bin": b"private!"}
        assert files(models, asked(f"{other.url}/model.bin")) == {"model.bin": b"poisoned"}
    finally:
        other.close()


@pytest.mark.attack(42)
def test_a_tenants_endpoint_for_a_bucket_is_another_store(models: Models, tmp_path: Path) -> None:
    """Each tenant's Secret can name the endpoint: the bucket's name says nothing."""
    bodies = {}
    for name, body in (("honest", b"private!"), ("hostile", b"poisoned")):
        folder = tmp_path / name
        (folder / "models").mkdir(parents=True)
        with harness.store(folder, metadata=True) as running:
            running.put("models", {"m/model.bin": body})
            secret = {**harness.KEYS, "AWS_ENDPOINT_URL": running.endpoint}
            bodies[name] = files(models, asked("s3://models/m", secret=secret))["model.bin"]
    assert bodies == {"honest": b"private!", "hostile": b"poisoned"}


@pytest.mark.attack(41)
def test_another_authority_is_another_trust(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    files(models, asked(f"{web.url}/model.bin"))
    # A party with the key of that authority, and a place in the network, can answer in the store's name.
    files(models, asked(f"{web.url}/model.bin", secret={"ca.crt": "-----BEGIN CERTIFICATE-----"}))
    assert (models.counts.downloads, models.counts.hits) == (2, 0)


def test_a_file_without_any_version_is_not_shared(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"first"
    web.etag = lambda body: ""  # type: ignore[method-assign]
    assert files(models, asked(f"{web.url}/model.bin")) == {"model.bin": b"first"}
    web.files["/model.bin"] = b"other"
    assert files(models, asked(f"{web.url}/model.bin")) == {"model.bin": b"other"}


def test_a_digest_is_verified_for_what_the_node_has(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    files(models, asked(f"{web.url}/model.bin"))
    with pytest.raises(LoadError) as refused:
        files(models, asked("--digest", f"sha256:{'0' * 64}", "--", f"{web.url}/model.bin"))
    assert refused.value.code is Code.DIGEST_MISMATCH


@pytest.mark.parametrize(("boot", "crashed"), [("2", False), ("1", True)], ids=["node", "driver"])
def test_changed_content_is_found_after_a_restart_of_the_node_or_a_crash_of_the_driver(
    tmp_path: Path, web: harness.WebServer, boot: str, crashed: bool
) -> None:
    web.files["/model.bin"] = b"weights"
    models = cache(tmp_path)
    files(models, asked(f"{web.url}/model.bin"))
    (content,) = (path for path in (tmp_path / "cache" / "files").iterdir() if path.suffix != ".sha256")
    content.chmod(0o644)
    content.write_bytes(b"WEIGHTS")

    assert files(cache(tmp_path), asked(f"{web.url}/model.bin")) == {"model.bin": b"WEIGHTS"}  # the driver's restart
    again = cache(tmp_path, boot=boot, crashed=crashed)
    assert files(again, asked(f"{web.url}/model.bin")) == {"model.bin": b"weights"}
    assert again.counts.downloads == 1
    after = cache(tmp_path, boot=boot)
    assert all(after.store.is_verified(tree.name) for tree in after.store.trees())


def test_a_file_that_is_used_again_is_verified_after_a_restart_of_the_node(tmp_path: Path, s3: harness.Store) -> None:
    secret = {**harness.KEYS, "AWS_ENDPOINT_URL": s3.endpoint}
    request = asked("s3://models/again", secret=secret)
    s3.put("models", {"again/same": b"same", "again/other": b"first"})
    models = cache(tmp_path)
    files(models, request)
    (tree,) = models.store.trees()
    content = tmp_path / "cache" / "files" / tree.paths["same"]
    content.chmod(0o644)
    content.write_bytes(b"SAME")
    s3.put("models", {"again/other": b"second"})
    assert files(cache(tmp_path, boot="2"), request) == {"same": b"same", "other": b"second"}


def test_a_changed_file_is_changed_in_each_model_that_has_it(tmp_path: Path, s3: harness.Store) -> None:
    secret = {**harness.KEYS, "AWS_ENDPOINT_URL": s3.endpoint}
    models = cache(tmp_path)
    s3.put("models", {"common/same": b"same"})
    for number in (1, 2):
        s3.put("models", {"common/other": b"1" * number})
        files(models, asked("s3://models/common", secret=secret))
    first, second = models.store.trees()
    content = tmp_path / "cache" / "files" / first.paths["same"]
    content.chmod(0o644)
    content.write_bytes(b"SAME")
    assert not models.store.verify(first.name, again=True)
    assert not models.store.is_verified(second.name)
    assert files(models, asked("s3://models/common", secret=secret)) == {"same": b"same", "other": b"11"}


def test_the_least_recently_used_model_makes_room(tmp_path: Path, web: harness.WebServer) -> None:
    models = cache(tmp_path, limit=250_000)
    for name in ("a", "b"):
        web.files[f"/{name}"] = name.encode() * 100_000
        files(models, asked(f"{web.url}/{name}"))
    files(models, asked(f"{web.url}/a"))
    web.files["/c"] = b"c" * 100_000
    files(models, asked(f"{web.url}/c"))
    assert models.store.used() <= 250_000
    downloads = models.counts.downloads
    files(models, asked(f"{web.url}/a"))
    assert models.counts.downloads == downloads


def test_a_model_in_use_is_not_evicted(tmp_path: Path, web: harness.WebServer) -> None:
    models = cache(tmp_path, limit=150_000)
    for name in ("a", "b"):
        web.files[f"/{name}"] = name.encode() * 100_000
    with models.model(asked(f"{web.url}/a"), lambda _: None) as folder:
        with pytest.raises(LoadError) as full:
            files(models, asked(f"{web.url}/b"))
        assert harness.contents(folder / "model") == {"a": b"a" * 100_000}
    assert full.value.code is Code.NO_SPACE


def test_a_model_that_the_disk_has_no_room_for_is_not_downloaded(tmp_path: Path, web: harness.WebServer) -> None:
    disk = os.statvfs(tmp_path)
    models = cache(tmp_path, keep_free=disk.f_blocks * disk.f_frsize)
    web.files["/model.bin"] = b"weights"
    with pytest.raises(LoadError, match="which the node's disk does not have") as full:
        files(models, asked(f"{web.url}/model.bin"))
    assert full.value.code is Code.NO_SPACE
    assert not any(is_for_content(each) for each in web.requests)


def test_disk_pressure_evicts_unused_models(tmp_path: Path, web: harness.WebServer) -> None:
    models = cache(tmp_path)
    for name in ("a", "b"):
        web.files[f"/{name}"] = b"weights"
        files(models, asked(f"{web.url}/{name}"))
    models.store.tend()
    assert len(models.store.trees()) == 2
    disk = os.statvfs(tmp_path)
    with models.model(asked(f"{web.url}/a"), lambda _: None) as folder:
        models.store.keep_free = disk.f_blocks * disk.f_frsize  # another process filled the disk
        models.store.tend()
        assert harness.contents(folder / "model") == {"a": b"weights"}
        assert len(models.store.trees()) == 1


@pytest.mark.attack(47)
def test_a_download_that_takes_more_than_its_list_said_is_ended(tmp_path: Path) -> None:
    store = cache(tmp_path, limit=4 << 20).store
    reasons: list[Exception] = []
    with store.room() as honest, store.room() as greedy:
        for room, need in ((honest, 1 << 20), (greedy, 1000)):
            store.volume(room, "", None)
            room.stop = reasons.append
            store.reserve(room, need)
        (greedy.volume / "bomb").write_bytes(bytes(5 << 20))
        for _ in range(2):
            store.tend()
    (reason,) = reasons
    assert isinstance(reason, LoadError)
    assert reason.code is Code.NO_SPACE
    assert greedy.stopped


@pytest.mark.attack(47)
def test_a_download_that_drips_gives_its_room_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = cache(tmp_path, limit=4 << 20).store
    with store.room() as other:
        with store.room() as slow:
            store.reserve(slow, 4 << 20)
            with pytest.raises(LoadError):
                store.reserve(other, 1 << 20)
        monkeypatch.setattr(store_module, "_SLOW_SECONDS", 0.0)
        ending = threading.Event()

        def drip() -> None:
            with store.room() as room:
                room.stop = lambda _: ending.set()
                store.reserve(room, 4 << 20)
                ready.set()
                ending.wait(60)

        ready = threading.Event()
        thread = threading.Thread(target=drip)
        thread.start()
        ready.wait(60)
        store.reserve(other, 1 << 20)
        assert ending.is_set()
        thread.join()


def is_for_content(request: harness.Request) -> bool:
    """Whether a request is one of a download, not of a list."""
    return "If-Match" in request.headers


def kill_downloads() -> int:
    """Kill the processes of this test's driver."""
    killed = 0
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                is_child = f"\nPPid:\t{os.getpid()}\n" in (process / "status").read_text()
                if is_child and b"model_cache.fetch" in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
                    killed += 1
    return killed


def interrupted(models: Models, web: harness.WebServer, request: Request, end: Callable[[], object]) -> None:
    """Download 40 MiB until three parts are written, then `end` the download."""
    gate = threading.Event()

    def fault(request: harness.Request, _: int) -> harness.Reply | None:
        if not is_for_content(request):
            return None
        reply = web.answer(request)
        start = int(request.headers.get("Range", "bytes=0-")[6:].partition("-")[0])

        def pieces(body: bytes) -> Iterator[bytes]:
            ready = max(0, (24 << 20) - start)
            yield body[:ready]
            gate.wait(60)

        reply.pieces = pieces
        return reply

    web.fault = fault
    with ThreadPoolExecutor(1) as pods:
        pod = pods.submit(files, models, request)
        journal = "work/*/download/state/journal"
        eventually(lambda: any(len(path.read_bytes().splitlines()) == 4 for path in models.store.root.glob(journal)))
        end()
        gate.set()
        assert isinstance(pod.exception(), LoadError)
    web.fault = lambda *_: None
    web.requests.clear()


@pytest.mark.parametrize("restart", [False, True], ids=["download", "driver"])
def test_a_killed_download_goes_on_where_it_ended(tmp_path: Path, web: harness.WebServer, restart: bool) -> None:
    models = cache(tmp_path)
    web.files["/model.bin"] = body = os.urandom(40 << 20)
    request = asked(f"{web.url}/model.bin")
    interrupted(models, web, request, kill_downloads)
    assert list((tmp_path / "cache" / "trees").iterdir()) == []
    if restart:
        models = cache(tmp_path, crashed=True)
    assert models.store.used() > 24 << 20

    assert files(models, request) == {"model.bin": body}
    assert models.counts.received == 16 << 20
    assert list((tmp_path / "cache" / "parts").iterdir()) == []


def test_what_a_killed_download_left_is_used_only_for_the_same_content(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = os.urandom(40 << 20)
    request = asked(f"{web.url}/model.bin")
    interrupted(models, web, request, kill_downloads)
    web.files["/model.bin"] = body = os.urandom(40 << 20)
    assert files(models, request) == {"model.bin": body}
    assert models.counts.received == 40 << 20


@pytest.mark.attack(42)
def test_links_in_what_a_download_left_are_not_followed(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = body = os.urandom(40 << 20)
    request = asked(f"{web.url}/model.bin")
    interrupted(models, web, request, kill_downloads)
    (left,) = (models.store.root / "parts").iterdir()
    os.link(left / "state" / "files" / "model.bin", models.store.root / "elsewhere")
    assert files(models, request) == {"model.bin": body}
    assert models.counts.received == 40 << 20


def test_what_interrupted_downloads_left_makes_room_first(tmp_path: Path, web: harness.WebServer) -> None:
    models = cache(tmp_path, limit=45 << 20)
    web.files |= {"/a": bytes(1 << 20), "/b": os.urandom(40 << 20), "/c": os.urandom(30 << 20)}
    files(models, asked(f"{web.url}/a"))
    interrupted(models, web, asked(f"{web.url}/b"), kill_downloads)
    files(models, asked(f"{web.url}/c"))
    assert len(models.store.trees()) == 2
    assert list((tmp_path / "cache" / "parts").iterdir()) == []


@pytest.mark.attack(47)
@pytest.mark.parametrize("content", [False, True], ids=["lists", "downloads"])
def test_stores_that_drip_delay_no_other_namespace(models: Models, web: harness.WebServer, content: bool) -> None:
    hostile = harness.WebServer()
    gate = threading.Event()

    def drip(request: harness.Request, _: int) -> None:
        if is_for_content(request) is content:
            gate.wait(60)

    hostile.fault = drip
    names = [str(number) for number in range(20)]
    hostile.files = {f"/{name}": name.encode() for name in names}
    web.files["/model.bin"] = b"weights"
    try:
        with ThreadPoolExecutor(20) as pods:
            runs = [pods.submit(files, models, asked(f"{hostile.url}/{name}", namespace="hostile")) for name in names]
            eventually(lambda: sum(is_for_content(each) is content for each in hostile.requests) >= 8)
            assert files(models, asked(f"{web.url}/model.bin", namespace="normal")) == {"model.bin": b"weights"}
            assert not any(run.done() for run in runs)
            gate.set()
            assert [run.result() for run in runs] == [{name: name.encode()} for name in names]
    finally:
        gate.set()
        hostile.close()


def test_a_failed_download_leaves_nothing_and_the_next_pod_tries(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    web.fault = lambda request, _: harness.Reply(403) if request.method == "GET" else None
    with pytest.raises(LoadError):
        files(models, asked(f"{web.url}/model.bin"))
    assert list((models.store.root / "work").iterdir()) == []
    web.fault = lambda request, _: None
    assert files(models, asked(f"{web.url}/model.bin")) == {"model.bin": b"weights"}


def test_a_driver_that_ends_leaves_whole_models_only(tmp_path: Path, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    files(cache(tmp_path), asked(f"{web.url}/model.bin"))
    root = tmp_path / "cache"
    (root / "work" / "left").mkdir()
    (root / "files" / ("0" * 64)).write_bytes(b"half")
    (root / "trees" / ("1" * 64)).mkdir()
    models = cache(tmp_path)
    assert len(list((root / "files").iterdir())) == 2
    assert len(list((root / "trees").iterdir())) == 2
    assert list((root / "work").iterdir()) == []
    assert files(models, asked(f"{web.url}/model.bin")) == {"model.bin": b"weights"}
    assert models.counts.downloads == 0


@pytest.mark.attack(42)
def test_models_are_read_only_for_every_user(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    with models.model(asked(f"{web.url}/model.bin"), lambda _: None) as folder:
        assert folder.stat().st_mode & 0o777 == 0o755
        assert (folder / "model" / "model.bin").stat().st_mode & 0o777 == 0o444


def test_credentials_do_not_stay(models: Models, web: harness.WebServer, tmp_path: Path) -> None:
    web.files["/model.bin"] = b"weights"
    files(models, asked(f"{web.url}/model.bin", secret={"token": "secret"}))
    assert list((tmp_path / "secrets").iterdir()) == []


@pytest.mark.attack(43)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--volume", "/etc", "--", "https://h/m"],
        ["--vol=/etc", "--", "https://h/m"],
        ["--credentials", "/etc", "--", "https://h/m"],
        ["--shared", "x", "--", "https://h/m"],
        ["--signature-key", "/etc/passwd", "--", "https://h/m"],
        ["--allow-network", "169.254.169.254/32", "--", "https://h/m"],
        ["--patience", "1e9", "--", "https://h/m"],
        ["--", "file:///etc"],
        ["--", "pvc://claim/model"],
        ["--", "https://user:password@h/m"],
        ["--digest", "md5:0", "--", "https://h/m"],
        [],
        ["--help"],
    ],
)
def test_a_volume_cannot_set_what_the_driver_decides(arguments: list[str]) -> None:
    import json

    with pytest.raises(LoadError):
        read({"arguments": json.dumps(arguments)}, {})


@pytest.mark.parametrize("text", ["", "{}", "[1]", "x", "[" * 10_000, "null"])
def test_attributes_that_are_no_arguments_are_refused(text: str) -> None:
    with pytest.raises(LoadError):
        read({"arguments": text}, {})


def test_waiting_pods_take_over_from_one_whose_download_fails(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights" * 1000
    first = threading.Event()

    def fault(request: harness.Request, _: int) -> harness.Reply | None:
        if request.method == "GET" and not first.is_set():
            first.set()
            return harness.Reply(403)
        return None

    web.fault = fault
    with ThreadPoolExecutor(4) as pods:
        runs = [pods.submit(files, models, asked(f"{web.url}/model.bin")) for _ in range(4)]
    failed = [run for run in runs if run.exception() is not None]
    assert len(failed) <= 1
    assert models.counts.downloads == 1


def test_the_metrics_have_what_the_node_did(models: Models, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    for _ in range(2):
        files(models, asked(f"{web.url}/model.bin"))
    server = metrics.serve(models, 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/metrics") as answer:
            lines = answer.read().decode().splitlines()
    finally:
        server.shutdown()
        server.server_close()
    assert {"kubectl_serve_cache_hits_total 1", "kubectl_serve_cache_received_bytes_total 7"} <= set(lines)
    assert not any("model.bin" in line for line in lines)
