"""digest, and create --pin: the loader's digest of a model, computed on the user's machine."""

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from kubectl_serve import errors
from kubectl_serve.cli.streams import Streams
from kubectl_serve.digest import compute, credentials
from serve_core.api.annotations import CREDENTIALS, DIGEST, MODEL
from serve_core.base.json import JsonObject
from support import loader_harness as harness
from support.fake_cluster import FakeCluster
from support.loader_harness import Reply, WebServer
from support.loader_hub import Hub
from unit.kubectl_serve.conftest import Run

BY_COREUTILS = r"find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
"""As docs/loader.md has it."""


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of several files, whose order by bytes is not that of a dictionary."""
    root = tmp_path / "model"
    for name, body in {"b": b"2", "Z/last": b"", "a file": b"1", "é/weights.bin": os.urandom(3 << 20)}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    (root / "empty").mkdir()
    return root


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def test_of_a_file_it_is_what_sha256sum_prints(run: Run, folder: Path) -> None:
    file = folder / "é/weights.bin"
    printed = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
    screen = run("digest", str(file))
    assert (screen.code, screen.out, screen.err) == (0, f"sha256:{printed}\n", "")


def test_of_a_folder_it_is_what_coreutils_print(run: Run, folder: Path) -> None:
    done = subprocess.run(BY_COREUTILS, cwd=folder, shell=True, capture_output=True, text=True, check=True)
    screen = run("digest", str(folder))
    assert (screen.code, screen.out, screen.err) == (0, f"sha256:{done.stdout.split()[0]}\n", "")
    assert run("digest", folder.as_uri()).out == screen.out


def test_of_a_uri_it_is_what_the_loader_says(run: Run, web: WebServer, tmp_path: Path) -> None:
    web.files["/model.joblib"] = b"weights"
    loaded = harness.Loader(tmp_path)(f"{web.url}/model.joblib")
    screen = run("digest", f"{web.url}/model.joblib")
    assert (screen.code, screen.out) == (0, f"{loaded.message['digest']}\n")
    assert screen.out == f"{sha256(b'weights')}\n"
    assert screen.err == "downloading 7 B in 1 file\n"


def test_of_several_models_it_is_that_of_the_whole(run: Run, web: WebServer, tmp_path: Path) -> None:
    web.files |= {"/base.bin": b"1", "/adapter.bin": b"2"}
    uris = f"{web.url}/base.bin", f"{web.url}/adapter.bin=adapters/one"
    loaded = harness.Loader(tmp_path)(*uris)
    screen = run("digest", " ".join(uris))
    assert sorted(loaded.files()) == ["adapters/one/adapter.bin", "base.bin"]
    assert screen.out == f"{loaded.message['digest']}\n"


def test_only_the_selected_files_count(run: Run, folder: Path, web: WebServer, tmp_path: Path) -> None:
    only = tmp_path / "only"
    (only / "Z").mkdir(parents=True)
    (only / "b").write_bytes(b"2")
    (only / "Z/last").write_bytes(b"")
    screen = run("digest", str(folder), "--files", "!*weights* b Z/")
    assert (screen.code, screen.out) == run_of(run, only)

    assert "no file of" in run("digest", str(folder), "--files", "*.gguf").err
    refused = run("digest", str(folder), "--files", "a,b")
    assert refused.code == 1
    assert "patterns are separated by spaces, not commas" in refused.err


HUB_FILES = {"config.json": b"{}"}
HUB_LARGE = {"model.safetensors": b"weights", "pytorch_model.bin": b"copy", "onnx/model.onnx": b"onnx"}


@pytest.fixture
def hub(web: WebServer) -> Iterator[dict[str, str]]:
    """The environment for a hub with copies of the weights."""
    network = WebServer()
    Hub(web, network, dict(HUB_FILES), dict(HUB_LARGE))
    yield {"HF_ENDPOINT": web.url}
    network.close()


def test_what_the_loader_leaves_out_of_a_repository_does_not_count(run: Run, hub: dict[str, str]) -> None:
    screen = run("digest", "hf://team/model", environment=hub)
    kept = HUB_FILES | {"model.safetensors": b"weights"}
    assert (screen.code, screen.out) == (0, f"{harness.manifest_digest(kept)}\n")
    assert "2 files with copies of the weights not counted" in screen.err

    everything = run("digest", "hf://team/model", "--files", "*", environment=hub)
    assert (everything.out, "not counted" in everything.err) == (
        f"{harness.manifest_digest(HUB_FILES | HUB_LARGE)}\n",
        False,
    )


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ((), {"config.json", "model.safetensors"}),
        (("--files", "*.json"), {"config.json"}),
        (("--format", "onnx"), {"config.json", *HUB_LARGE}),
    ],
)
def test_pin_counts_the_files_that_the_loader_loads(
    run: Run, hub: dict[str, str], flags: tuple[str, ...], kept: set[str]
) -> None:
    asked = ("create", "iris", "--model", "hf://team/model", *flags, "--pin", "--dry-run", "-o", "yaml")
    written = yaml.safe_load(run(*asked, environment=hub).out)
    files = {name: body for name, body in (HUB_FILES | HUB_LARGE).items() if name in kept}
    assert written["metadata"]["annotations"][DIGEST] == harness.manifest_digest(files)


def test_a_list_that_can_be_read_in_two_ways_is_refused(run: Run) -> None:
    screen = run("digest", "s3://lake/date=2026-01-01/base s3://lake/lora=lora")
    assert (screen.code, screen.out) == (1, "")
    assert "write s3://lake/date%3D2026-01-01/base or s3://lake/date=./2026-01-01/base" in screen.err


def test_of_a_prefix_it_is_that_of_the_same_folder_here(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with harness.store(tmp_path) as store:
        folder.rename(tmp_path / "models" / "iris")
        environment = {**harness.KEYS, "AWS_ENDPOINT_URL": store.endpoint}
        screen = run("digest", "s3://models/iris", environment=environment)
    assert (screen.code, screen.out) == run_of(run, tmp_path / "models" / "iris"), screen.err


def test_a_uri_is_decoded_once_and_shown_in_its_one_spelling(run: Run, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with harness.store(tmp_path) as store:
        store.put("models", {"credit risk/50%25.bin": b"1"})
        environment = {**harness.KEYS, "AWS_ENDPOINT_URL": store.endpoint}
        uri = "s3://models/credit%20risk/50%2525.%62in"
        screen = run("digest", uri, "-o", "json", environment=environment)
    shown = {"model": "s3://models/credit%20risk/50%2525.bin", "digest": sha256(b"1"), "bytes": 1, "files": 1}
    assert json.loads(screen.out) == shown


def run_of(run: Run, path: Path) -> tuple[int, str]:
    screen = run("digest", str(path))
    return screen.code, screen.out


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_as_a_document_it_says_what_was_read(run: Run, folder: Path, form: str, read: type) -> None:
    screen = run("digest", str(folder / "b"), "-o", form)
    assert read(screen.out) == {"model": str(folder / "b"), "digest": sha256(b"2"), "bytes": 1, "files": 1}


def test_credentials_are_a_secrets_keys_as_files(run: Run, web: WebServer, tmp_path: Path) -> None:
    web.files["/model.joblib"] = b"weights"
    (tmp_path / "authorization").write_text("Bearer let-me-in\n")
    screen = run("digest", f"{web.url}/model.joblib", "--credentials-dir", str(tmp_path))
    assert screen.code == 0
    assert {request.headers["Authorization"] for request in web.requests} == {"Bearer let-me-in"}


def test_what_takes_long_has_a_bar_on_a_terminal(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "PROGRESS_SECONDS", 0.0)
    screen = run("digest", str(folder), terminal=True)
    assert "\r\x1b[2K[######              ] 33 % of 3.0 MiB, " in screen.err
    assert screen.err.endswith("\r\x1b[2K"), "nothing of it stays"
    assert "\r" not in run("digest", str(folder)).err


@pytest.mark.parametrize(
    ("source", "said", "hint"),
    [
        ("nothing", "NotFound", "case-sensitive"),
        ("model", "NotFound", "case-sensitive"),
        ("link", "Refused: file is not a regular file", "Copy the file itself"),
        ("ftp://models/iris", "InvalidSource", "Use s3://"),
        ("pvc://claim/iris", "mounted, not downloaded", "copy of the model on this machine"),
        ("file://elsewhere/model", "InvalidSource", "docs/loader.md"),
        ("{web}/nothing.joblib", "NotFound", "case-sensitive"),
        ("{web}/secret.joblib?token=hidden", "Unauthorized", "--credentials-dir"),
        ("http://169.254.169.254/latest", "Refused", "allowed networks"),
    ],
)
def test_a_source_without_digest_is_reported_with_a_hint(
    run: Run, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("link").mkdir()
    Path("link/file").symlink_to("/etc/hostname")
    web.fault = lambda request, number: Reply(401) if "secret" in request.path else None
    screen = run("digest", source.format(web=web.url))
    assert (screen.code, screen.out) == (1, "")
    error, reported = screen.err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert said in error
    assert reported.startswith("hint: ")
    assert hint in reported
    assert "hidden" not in screen.err


def test_without_room_for_the_model_it_says_where_to_find_some(run: Run, web: WebServer) -> None:
    web.fault = lambda request, number: Reply(206, {"Content-Range": f"bytes 0-0/{1 << 42}"}, b"x")
    screen = run("digest", f"{web.url}/model.joblib")
    assert screen.code == 1
    assert "NoSpace" in screen.err
    assert "TMPDIR" in screen.err


@pytest.mark.parametrize("command", [["digest"], ["create", "iris", "--pin", "--dry-run", "--model"]])
def test_ctrl_c_leaves_nothing_behind(web: WebServer, tmp_path: Path, command: list[str]) -> None:
    reading, go_on = threading.Event(), threading.Event()
    web.files["/model.joblib"] = b"x" * (1 << 20)

    def stall(request: object, number: int) -> None:
        if number > 1:
            reading.set()
            go_on.wait(60)

    web.fault = stall
    # Whoever runs the tests in the background of a shell has them, and what they start, ignore Ctrl-C.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "kubectl_serve", *command, f"{web.url}/model.joblib"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reading.wait(60)
    assert list(tmp_path.iterdir())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    go_on.set()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_pin_writes_the_digest_of_what_is_there_now(run: Run, web: WebServer) -> None:
    web.files["/model.joblib"] = b"weights"
    asked = ("create", "iris", "--model", f"{web.url}/model.joblib", "--pin")
    written = yaml.safe_load(run(*asked, "--dry-run", "-o", "yaml").out)
    assert written["metadata"]["annotations"] == {MODEL: f"{web.url}/model.joblib", DIGEST: sha256(b"weights")}

    cluster = FakeCluster()
    run(*asked, "--no-wait", cluster=cluster)
    ((_, _, sent),) = cluster.wrote
    assert sent["metadata"]["annotations"] == written["metadata"]["annotations"]


def test_what_is_refused_anyway_is_not_read(run: Run, web: WebServer) -> None:
    screen = run("create", "iris", "--model", f"{web.url}/model.joblib", "--scale", "9..1", "--pin")
    assert screen.code == 1
    assert "InvalidAnnotation" in screen.err
    assert web.requests == []


def test_a_digest_is_given_or_computed(run: Run) -> None:
    screen = run("create", "iris", "--model", "s3://models/iris", "--pin", "--digest", f"sha256:{'0' * 64}")
    assert screen.err.startswith("error: --pin and --digest cannot be combined: both set the digest.\nhint: ")


@pytest.mark.parametrize(
    ("source", "variable"),
    [("s3://models/iris/model.joblib", "AWS_ENDPOINT_URL"), ("hf://organisation/model", "HF_ENDPOINT")],
)
def test_an_unresolved_host_is_reported_at_once(
    source: str, variable: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    screen = run("digest", source)
    assert (screen.code, screen.out, len(asked)) == (1, "", 1)
    assert "does not resolve" in screen.err
    assert f"For your own store, set {variable} as in the Secret." in screen.err
    there = run("digest", source, environment={variable: "http://store.example.com"})
    assert f"is named by {variable}" not in there.err


# A Secret of the cluster.

TEMPORARY = "kubectl-serve-"


def secret(keys: dict[str, str], name: str = "store") -> JsonObject:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "models"}, "data": data}


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    return room


@pytest.mark.parametrize("keys", [{"authorization": "Bearer let-me-in"}, {"username": "ada", "password": "let-me-in"}])
def test_a_secret_is_read_where_it_is_asked_for(keys: dict[str, str], run: Run, web: WebServer, room: Path) -> None:
    web.files["/model.joblib"] = b"weights"
    cluster = FakeCluster([secret(keys)], namespace="models")
    screen = run("digest", f"{web.url}/model.joblib", "--credentials", "store", cluster=cluster)
    assert (screen.code, screen.out, screen.err) == (0, f"{sha256(b'weights')}\n", "downloading 7 B in 1 file\n")
    basic = "Basic " + base64.b64encode(b"ada:let-me-in").decode()
    assert {request.headers["Authorization"] for request in web.requests} == {keys.get("authorization", basic)}
    assert cluster.wrote == []
    assert list(room.iterdir()) == []


def registry(web: WebServer) -> str:
    """Serve an artifact with one file to a user with a password, and return its URI."""
    title = {"org.opencontainers.image.title": "model.joblib"}
    layer = {"mediaType": "application/octet-stream", "digest": sha256(b"weights"), "size": 7, "annotations": title}
    config = {"mediaType": "application/vnd.oci.empty.v1+json"}
    web.files["/v2/acme/iris/manifests/1"] = json.dumps({"config": config, "layers": [layer]}).encode()
    web.files[f"/v2/acme/iris/blobs/{sha256(b'weights')}"] = b"weights"
    asked = Reply(401, {"WWW-Authenticate": 'Basic realm="registry"'})
    web.fault = lambda request, number: None if "Authorization" in request.headers else asked
    return f"oci://{web.url.partition('://')[2]}/acme/iris:1"


@pytest.mark.parametrize("key", ["{host}", "https://{host}/v1/", "{host}/acme"])
@pytest.mark.parametrize("file", [".dockerconfigjson", "config.json"])
def test_a_registrys_password_is_found_as_by_the_loader(
    key: str, file: str, run: Run, web: WebServer, tmp_path: Path
) -> None:
    uri = registry(web)
    config = {"auths": {key.format(host=web.url.removeprefix("http://")): {"username": "ada", "password": "let-me-in"}}}
    keys = {file: json.dumps(config), "plain-http": "true"}
    for name, text in keys.items():
        (tmp_path / name).write_text(text)
    digest = harness.manifest_digest({"model.joblib": b"weights"})

    assert run("digest", uri, "--credentials-dir", str(tmp_path)).out == f"{digest}\n"
    cluster = FakeCluster([secret(keys)], namespace="models")
    assert run("digest", uri, "--credentials", "store", cluster=cluster).out == f"{digest}\n"


def test_without_a_registrys_password_the_hint_says_how_to_give_one(
    run: Run, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    web.secure(authority.issue_cert("127.0.0.1"))
    screen = run("digest", registry(web))
    assert screen.code == 1
    assert "Unauthorized" in screen.err
    assert f"`kubectl create secret docker-registry NAME --docker-server={web.url.partition('://')[2]} " in screen.err
    assert "--credentials NAME -n NAMESPACE" in screen.err


def test_pin_reads_the_model_with_the_secret_that_the_loader_will_have(run: Run, web: WebServer, room: Path) -> None:
    web.files["/model.joblib"] = b"weights"
    asked = ("create", "iris", "--model", f"{web.url}/model.joblib", "--pin", "--credentials", "store", "-n", "models")
    cluster = FakeCluster([secret({"authorization": "Bearer let-me-in"})])
    screen = run(*asked, "--dry-run", "-o", "yaml", cluster=cluster)
    assert (screen.code, screen.err) == (0, f"downloading 7 B in 1 file\npinned to {sha256(b'weights')}\n")
    assert yaml.safe_load(screen.out)["metadata"]["annotations"] == {
        MODEL: f"{web.url}/model.joblib",
        CREDENTIALS: "store",
        DIGEST: sha256(b"weights"),
    }
    assert {request.headers["Authorization"] for request in web.requests} == {"Bearer let-me-in"}
    assert list(room.iterdir()) == []


def test_pin_reads_with_this_machines_variables_where_they_name_a_store(run: Run, web: WebServer) -> None:
    """What the Secret names may be an address inside the cluster."""
    asked = ("create", "iris", "--model", "hf://organisation/model", "--pin", "--credentials", "store", "-n", "models")
    cluster = FakeCluster([secret({"HF_ENDPOINT": "http://store.models.svc"})])
    screen = run(*asked, "--dry-run", cluster=cluster, environment={"HF_ENDPOINT": web.url, "HF_TOKEN": "mine"})
    assert screen.code == 1
    assert {request.headers["Authorization"] for request in web.requests} == {"Bearer mine"}


def test_a_folder_comes_before_the_secret(run: Run, web: WebServer, tmp_path: Path) -> None:
    web.files["/model.joblib"] = b"weights"
    asked = ("create", "iris", "--model", f"{web.url}/model.joblib", "--pin", "--credentials", "store", "--dry-run")
    assert run(*asked, "--credentials-dir", str(tmp_path)).code == 0
    both = run("digest", "s3://models/iris", "--credentials", "store", "--credentials-dir", str(tmp_path))
    assert (both.code, both.out) == (1, "")
    assert both.err.startswith(
        "error: --credentials and --credentials-dir cannot be combined.\nhint: Use only one of them."
    )


@pytest.mark.parametrize(
    "asked", [("digest", "s3://models/iris"), ("create", "iris", "--model", "s3://models/iris/model.joblib", "--pin")]
)
def test_a_secret_that_is_missing_or_forbidden_is_said_with_what_to_do(asked: tuple[str, ...], run: Run) -> None:
    flags = ("--credentials", "store", "-n", "models")
    keys = "For S3 its keys are AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; docs/loader.md lists others."
    otherwise = "Or use a directory with its keys as files: --credentials-dir DIR."
    missing = run(*asked, *flags, cluster=FakeCluster())
    assert (missing.code, missing.out) == (1, "")
    assert missing.err == (
        "error: there is no Secret store in namespace models.\nhint: Check -n and the name, or create it: `kubectl "
        f"create secret generic store -n models --from-env-file=FILE`. {keys} {otherwise}\n"
    )
    forbidden = run(*asked, *flags, cluster=FakeCluster([secret({})], hidden=frozenset({"secrets"})))
    assert (forbidden.code, forbidden.out) == (1, "")
    assert forbidden.err == (
        "error: you are not allowed to read Secret store in namespace models: secrets is forbidden.\nhint: Ask the "
        f"cluster administrator for permission to get it. {otherwise} {keys}\n"
    )


def test_who_wrote_the_secret_is_not_sent_this_users_own_keys(run: Run, web: WebServer) -> None:
    cluster = FakeCluster([secret({"HF_ENDPOINT": web.url})], namespace="models")
    environment = {"HF_TOKEN": "mine", "AWS_SECRET_ACCESS_KEY": "mine", "AZURE_STORAGE_KEY": "mine"}
    asked = ("digest", "hf://organisation/model", "--credentials", "store")
    assert run(*asked, cluster=cluster, environment=environment).code == 1
    assert web.requests
    assert "mine" not in str([request.headers for request in web.requests])


def _mounted(found: JsonObject) -> dict[str, tuple[int, str]]:
    """The files of a Secret, with the folder's mode and their text."""
    args: Any = type("Args", (), {"namespace": "models"})
    with credentials.mounted("store", args, Streams.of_process(), lambda *_: FakeCluster([found])) as folder:
        files = {path.name: (folder.stat().st_mode & 0o777, path.read_text()) for path in folder.iterdir()}
    assert not folder.exists()
    return files


def test_a_secret_lies_in_a_folder_of_this_user_alone_for_a_moment(room: Path) -> None:
    assert _mounted(secret({"token": "a"})) == {"token": (0o700, "a")}
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(
    "key", ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AZURE_FEDERATED_TOKEN_FILE"]
)
def test_a_secret_names_no_file_of_this_machine(key: str) -> None:
    assert _mounted(secret({key: "/home/ada/.ssh/id", "AWS_REGION": "eu"})).keys() == {"AWS_REGION"}


@pytest.mark.parametrize("key", ["../evil", "..", ".", "a/b", "/tmp/evil", "", "..data", "a\0b", "x" * 300])
def test_a_key_chooses_no_path_on_this_machine(key: str, room: Path) -> None:
    with pytest.raises(errors.ServeError):
        _mounted(secret({key: "a"}))
    assert list(room.iterdir()) == []
