"""One node's cache with real stores: what is downloaded, who gets it, and what a crash or a tenant can do."""

import threading
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_cache import metrics
from model_cache.models import Models
from model_cache.request import Request, read
from model_loader.outcomes import Code, LoadError
from support import loader_harness as harness

from .conftest import cache


def asked(*arguments: str, secret: Mapping[str, str] | None = None) -> Request:
    return Request(("--", *arguments) if "--" not in arguments else arguments, secret or {})


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


def test_changed_content_is_found_after_a_restart_of_the_node(tmp_path: Path, web: harness.WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    models = cache(tmp_path)
    files(models, asked(f"{web.url}/model.bin"))
    (content,) = (path for path in (tmp_path / "cache" / "files").iterdir() if path.suffix != ".sha256")
    content.chmod(0o644)
    content.write_bytes(b"WEIGHTS")

    assert files(cache(tmp_path), asked(f"{web.url}/model.bin")) == {"model.bin": b"WEIGHTS"}  # the driver's restart
    again = cache(tmp_path, boot="2")
    assert files(again, asked(f"{web.url}/model.bin")) == {"model.bin": b"weights"}
    assert again.counts.downloads == 1


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
