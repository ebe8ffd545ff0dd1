"""Models in an OCI registry: go-containerregistry's, on loopback."""

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from model_loader.verify.digest import of_manifest
from support.loader_harness import Loader, Registry, Reply, Request, WebServer, forward, layer


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_an_artifacts_files_have_their_titles(load: Loader, registry: Registry) -> None:
    files = {"model.safetensors": bytes(9 << 20), "config/config.json": b"{}"}
    digest = registry.push_artifact("team/model", "v1", files)
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/model@{digest}")

    assert run.files() == files
    assert run.message["digest"] == of_manifest({name: sha256(body) for name, body in files.items()})


def test_a_folder_packed_by_oras_is_unpacked_in_its_place(load: Loader, registry: Registry, tmp_path: Path) -> None:
    """Such a layer has the folder as its title, and the folder's name in its members."""
    packed = layer(tmp_path / "weights.tar.gz", {"weights/1.bin": b"1", "weights/2.bin": b"2"})
    registry.push_artifact("team/packed", "v1", {"config.json": b"{}"}, {"weights": packed})
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/packed:v1")

    assert run.files() == {"config.json": b"{}", "weights/1.bin": b"1", "weights/2.bin": b"2"}


def test_of_an_image_only_models_is_unpacked(load: Loader, registry: Registry, tmp_path: Path) -> None:
    base = layer(tmp_path / "base.tar.gz", {"bin/tool": b"x"}, link="etc/link")
    model = layer(tmp_path / "model.tar.gz", {"models/1/model.bin": b"weights"})
    registry.push_image("team/image:v1", base, model)
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/image:v1")

    assert run.files() == {"1/model.bin": b"weights"}
    assert run.message["digest"] == of_manifest({"1/model.bin": sha256(b"weights")})


@pytest.mark.parametrize("name", ["/models/a", "././models/a", "models//a", "etc/../models/./a"])
def test_a_layers_names_are_normalized_as_by_a_container_runtime(
    load: Loader, registry: Registry, tmp_path: Path, name: str
) -> None:
    registry.push_image("team/names:v1", layer(tmp_path / "layer.tar.gz", {name: b"weights"}))
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/names:v1").files() == {"a": b"weights"}


@pytest.mark.parametrize("name", [".wh.models", "models/.wh.a", "models/.wh..wh..opq", ".wh..wh..opq", "models"])
def test_a_layer_that_deletes_or_replaces_files_of_an_earlier_one_is_refused(
    load: Loader, registry: Registry, tmp_path: Path, name: str
) -> None:
    first = layer(tmp_path / "first.tar.gz", {"models/a": b"weights"})
    registry.push_image("team/gone:v1", first, layer(tmp_path / "second.tar.gz", {name: b""}))
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/gone:v1").code == "Refused"


def test_a_layer_without_a_tars_end_marker_is_accepted(load: Loader, registry: Registry, tmp_path: Path) -> None:
    """Not every builder writes it, and the registry's digest proves that nothing is missing."""
    tar = gzip.decompress(layer(tmp_path / "layer.tar.gz", {"models/a": b"weights"}).read_bytes())
    (tmp_path / "layer.tar.gz").write_bytes(gzip.compress(tar[:1024]))
    registry.push_image("team/open:v1", tmp_path / "layer.tar.gz")
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/open:v1").files() == {"a": b"weights"}


def test_a_link_below_models_is_refused(load: Loader, registry: Registry, tmp_path: Path) -> None:
    registry.push_image("team/linked:v1", layer(tmp_path / "layer.tar.gz", {}, link="models/passwd"))
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/linked:v1").code == "Refused"


def test_an_image_without_models_and_a_missing_tag_are_not_found(
    load: Loader, registry: Registry, tmp_path: Path
) -> None:
    registry.push_image("team/tool:v1", layer(tmp_path / "layer.tar.gz", {"bin/tool": b"x"}))
    load.credentials(**{"plain-http": "true"})

    assert [load(f"oci://{registry.host}/team/{name}").code for name in ("tool:v1", "tool:v2")] == ["NotFound"] * 2


def test_a_token_comes_from_the_registrys_token_service(load: Loader, registry: Registry, web: WebServer) -> None:
    """The registry is behind a server that requires a token, as hosted registries are."""
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


REALMS = [
    "http://{other}/token",  # another port
    "https://{other}/token",
    "http://localhost:{port}/token",
    "http://127.1:{port}/token",
    "https://auth.docker.io/token",
    "https://user@{host}/token",
    "http://{host}@{other}/token",
    "//{other}/token",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("realm", REALMS)
@pytest.mark.attack(35)
def test_a_password_is_not_sent_to_another_host(load: Loader, web: WebServer, realm: str) -> None:
    other = WebServer()
    host, port = web.url.removeprefix("http://"), web.url.rpartition(":")[2]
    place = realm.format(other=other.url.removeprefix("http://"), host=host, port=port)
    web.fault = lambda request, number: Reply(401, {"WWW-Authenticate": f'Bearer realm="{place}",service="tests"'})
    other.fault = lambda request, number: Reply(body=b'{"token": "granted"}')
    load.credentials(**{"plain-http": "true", "username": "user", "password": "secret"})

    run = load(f"oci://{host}/team/private:v1")
    other.close()

    assert run.code in ("Refused", "InvalidSource")
    assert other.requests == []
    assert not any("Authorization" in request.headers for request in web.requests)
    assert "secret" not in run.output


@pytest.mark.attack(35)
def test_no_token_is_fetched_over_plain_http_from_another_host(load: Loader, web: WebServer) -> None:
    """Anyone on the network path could return one, even if there is no password to steal."""
    other = WebServer()
    web.fault = lambda request, number: Reply(401, {"WWW-Authenticate": f'Bearer realm="{other.url}/token"'})
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{web.url.removeprefix('http://')}/team/public:v1")
    other.close()

    assert (run.code, other.requests) == ("Refused", [])


@pytest.mark.attack(35)
def test_a_token_service_in_the_secret_gets_the_password(load: Loader, web: WebServer) -> None:
    authority = trustme.CA()
    other = WebServer()
    other.secure(authority.issue_cert("127.0.0.1"))
    host, service = web.url.removeprefix("http://"), other.url.removeprefix("https://")
    web.fault = lambda request, number: Reply(401, {"WWW-Authenticate": f'Bearer realm="{other.url}/token"'})
    other.fault = lambda request, number: Reply(401)
    auths = {host: {"username": "user", "password": "secret"}, f"https://{service}/": {}}
    config = {".dockerconfigjson": json.dumps({"auths": auths}), "ca.crt": authority.cert_pem.bytes().decode()}
    load.credentials(**{"plain-http": "true"}, **config)

    assert load(f"oci://{host}/team/private:v1").code == "Unauthorized"
    other.close()
    assert {request.headers.get("Authorization") for request in other.requests} == {"Basic dXNlcjpzZWNyZXQ="}


@pytest.mark.parametrize("key", ["{host}", "https://{host}", "http://{host}/v1/"])
def test_a_docker_config_names_a_registry_by_host_or_url(load: Loader, web: WebServer, key: str) -> None:
    host = web.url.removeprefix("http://")
    auths = {key.format(host=host): {"auth": "dXNlcjpzZWNyZXQ="}}
    load.credentials(**{"plain-http": "true", ".dockerconfigjson": json.dumps({"auths": auths})})
    web.fault = lambda request, number: (
        None if "Authorization" in request.headers else Reply(401, {"WWW-Authenticate": "Basic"})
    )

    assert load(f"oci://{host}/team/private:v1").code == "NotFound"
    assert web.requests[-1].headers["Authorization"] == "Basic dXNlcjpzZWNyZXQ="


def test_a_blob_with_another_digest_is_corrupted(load: Loader, registry: Registry, web: WebServer) -> None:
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


@pytest.mark.parametrize("reference", ["v1", "digest"])
@pytest.mark.parametrize("announced", ["sha256:{}", "sha512:{}"])
def test_a_manifest_with_another_digest_than_in_the_header_is_corrupted(
    load: Loader, registry: Registry, web: WebServer, reference: str, announced: str
) -> None:
    """For a tag, only the header has a digest to compare with."""
    digest = registry.push_artifact("team/announced", "v1", {"model.bin": b"weights"})
    honest, size = forward(registry.host), 128 if "512" in announced else 64

    def lie(request: Request, number: int) -> Reply:
        reply = honest(request)
        if "/manifests/" in request.path:
            assert reply.headers["Docker-Content-Digest"] == digest
            reply.headers["Docker-Content-Digest"] = announced.format("0" * size)
        return reply

    web.fault = lie
    load.credentials(**{"plain-http": "true"})
    by = f":{reference}" if reference == "v1" else f"@{digest}"

    run = load(f"oci://{web.url.removeprefix('http://')}/team/announced{by}")

    assert (run.code, run.files()) == ("Corrupted", {})


def test_a_manifest_that_is_corrupted_once_is_read_again(load: Loader, registry: Registry, web: WebServer) -> None:
    registry.push_artifact("team/once", "v1", {"model.bin": b"weights"})
    honest, damaged = forward(registry.host), iter([b" "])

    def spoil(request: Request, number: int) -> Reply:
        reply = honest(request)
        return replace(reply, body=next(damaged, b"") + reply.body) if "/manifests/" in request.path else reply

    web.fault = spoil
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{web.url.removeprefix('http://')}/team/once:v1").files() == {"model.bin": b"weights"}


@pytest.mark.parametrize("announced", ["", "sha512:{sha512}", "blake3:00", "no digest"])
def test_a_missing_or_unknown_digest_in_the_header_is_accepted(
    load: Loader, registry: Registry, web: WebServer, announced: str
) -> None:
    registry.push_artifact("team/unannounced", "v1", {"model.bin": b"weights"})
    honest = forward(registry.host)

    def tell(request: Request, number: int) -> Reply:
        reply = honest(request)
        sha512 = hashlib.sha512(reply.body).hexdigest()
        return replace(reply, headers=reply.headers | {"Docker-Content-Digest": announced.format(sha512=sha512)})

    web.fault = tell
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{web.url.removeprefix('http://')}/team/unannounced:v1").files() == {"model.bin": b"weights"}


@pytest.mark.parametrize(
    "layers",
    [
        [{"models/Model": b"1"}, {"models/model": b"2"}],
        [{"models/é": b"1"}, {"models/e\u0301": b"2"}],
        [{"models/a": b"1"}, {"models/A/b": b"2"}],
        [{"models/a/b": b"1"}, {"models/A": b"2"}],
        [{"models/a": b"1"}, {"models/b": b"2"}, {"models/a": b"3"}],
    ],
)
def test_names_that_clash_across_the_layers_of_an_image_are_refused(
    load: Loader, registry: Registry, tmp_path: Path, layers: list[dict[str, bytes]]
) -> None:
    tars = [layer(tmp_path / f"{number}.tar.gz", members) for number, members in enumerate(layers)]
    registry.push_image("team/clash:v1", *tars)
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/clash:v1")

    assert (run.code, run.exit_code) == ("Refused", 14)
    assert not (run.volume / "model").exists()


def test_names_that_clash_between_a_packed_folder_and_a_file_are_refused(
    load: Loader, registry: Registry, tmp_path: Path
) -> None:
    registry.push_artifact(
        "team/mixed", "v1", {"Weights/a": b"1"}, {"weights": layer(tmp_path / "w", {"weights/A": b"2"})}
    )
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/mixed:v1").code == "Refused"


def test_an_invalid_reference_is_an_invalid_source(load: Loader) -> None:
    for uri in ("oci://registry", "oci://registry/UPPER", "oci://registry/a@sha256:1", "oci://registry/a/../b"):
        assert load(uri).code == "InvalidSource"
    assert load("oci://user:password@registry/name").code == "Refused"
