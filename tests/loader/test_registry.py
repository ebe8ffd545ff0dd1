"""Models in an OCI registry: go-containerregistry's, on loopback."""

import hashlib
from pathlib import Path

from loader.harness import Loader, Registry, Reply, Request, WebServer, layer
from model_loader.digest import of_manifest


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_an_artifacts_files_have_their_titles(load: Loader, registry: Registry) -> None:
    files = {"model.safetensors": bytes(9 << 20), "config/config.json": b"{}"}
    digest = registry.push_artifact("team/model", "v1", files)
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/model@{digest}")

    assert run.files() == files
    assert run.message["digest"] == of_manifest({name: sha256(body) for name, body in files.items()})


def test_a_folder_that_oras_packed_is_unpacked_in_its_place(load: Loader, registry: Registry, tmp_path: Path) -> None:
    """Such a layer has the folder as its title, and the folder's name in its members."""
    packed = layer(tmp_path / "weights.tar.gz", {"weights/1.bin": b"1", "weights/2.bin": b"2"})
    registry.push_artifact("team/packed", "v1", {"config.json": b"{}"}, {"weights": packed})
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/packed:v1")

    assert run.files() == {"config.json": b"{}", "weights/1.bin": b"1", "weights/2.bin": b"2"}


def test_of_an_image_only_what_is_below_models_counts(load: Loader, registry: Registry, tmp_path: Path) -> None:
    base = layer(tmp_path / "base.tar.gz", {"bin/tool": b"x"}, link="etc/link")
    model = layer(tmp_path / "model.tar.gz", {"models/1/model.bin": b"weights"})
    registry.push_image("team/image:v1", base, model)
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/image:v1")

    assert run.files() == {"1/model.bin": b"weights"}
    assert run.message["digest"] == of_manifest({"1/model.bin": sha256(b"weights")})


def test_a_link_below_models_is_refused(load: Loader, registry: Registry, tmp_path: Path) -> None:
    registry.push_image("team/linked:v1", layer(tmp_path / "layer.tar.gz", {}, link="models/passwd"))
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/linked:v1").code == "Refused"


def test_an_image_without_models_and_an_absent_tag_are_not_found(
    load: Loader, registry: Registry, tmp_path: Path
) -> None:
    registry.push_image("team/tool:v1", layer(tmp_path / "layer.tar.gz", {"bin/tool": b"x"}))
    load.credentials(**{"plain-http": "true"})

    assert [load(f"oci://{registry.host}/team/{name}").code for name in ("tool:v1", "tool:v2")] == ["NotFound"] * 2


def test_a_token_is_fetched_from_where_the_registry_says(load: Loader, registry: Registry, web: WebServer) -> None:
    """The registry stands behind a server that asks for a token, as hosted ones do."""
    registry.push_artifact("team/private", "v1", {"model.bin": b"weights"})

    def ask(request: Request, number: int) -> Reply | None:
        if request.path.startswith("/token"):
            known = request.headers.get("Authorization") == "Basic dXNlcjpzZWNyZXQ="
            return Reply(body=b'{"token": "granted", "expires_in": 300}') if known else Reply(401)
        if request.headers.get("Authorization") != "Bearer granted":
            challenge = f'Bearer realm="{web.url}/token",service="tests"'
            return Reply(401, {"WWW-Authenticate": challenge})
        return Reply(307, {"Location": f"http://{registry.host}{request.path}"})

    web.fault = ask
    load.credentials(**{"plain-http": "true", "username": "user", "password": "secret"})

    run = load(f"oci://{web.url.removeprefix('http://')}/team/private:v1")

    assert run.files() == {"model.bin": b"weights"}
    tokens = [request.path for request in web.requests if request.path.startswith("/token")]
    assert tokens == ["/token?scope=repository%3Ateam%2Fprivate%3Apull&service=tests"]


def test_a_blob_that_is_not_its_digest_is_corrupted(load: Loader, registry: Registry, web: WebServer) -> None:
    registry.push_artifact("team/bad", "v1", {"model.bin": b"weights"})

    def corrupt(request: Request, number: int) -> Reply | None:
        if "/blobs/" in request.path:
            return Reply(body=b"WEIGHTS")
        return Reply(307, {"Location": f"http://{registry.host}{request.path}"})

    web.fault = corrupt
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{web.url.removeprefix('http://')}/team/bad:v1")

    assert (run.code, run.message["file"]) == ("Corrupted", "model.bin")
    assert run.files() == {}
    assert [line["code"] for line in run.of("retry")] == ["Corrupted"]


def test_what_is_no_reference_is_an_invalid_source(load: Loader) -> None:
    for uri in (
        "oci://registry",
        "oci://registry/UPPER",
        "oci://user:password@registry/name",
        "oci://registry/a@sha256:1",
    ):
        assert load(uri).code == "InvalidSource"
