"""Models in an OCI registry: go-containerregistry's, on loopback."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import trustme
from backports import zstd

from model_loader.http.network import Network
from model_loader.outcomes import Code, LoadError
from model_loader.verify.digest import of_manifest
from support.loader_harness import Loader, Registry, Reply, Request, WebServer, forward, go_program, layer


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


@pytest.mark.parametrize("folder", [".", "iris"])
@pytest.mark.parametrize("options", [(), ("--image-spec", "v1.0"), ("--artifact-type", "application/vnd.example")])
def test_what_oras_pushes_is_loaded(
    load: Loader, registry: Registry, tmp_path: Path, folder: str, options: tuple[str, ...]
) -> None:
    oras = go_program("oras", "oras.land/oras/cmd/oras@v1.2.3")
    source = tmp_path / "source"
    (source / "iris/deep").mkdir(parents=True)
    (source / "iris/deep/model.joblib").write_bytes(b"weights")
    (source / "iris/config.json").write_bytes(b"{}")
    push = [str(oras), "push", "--plain-http", *options, f"{registry.host}/team/pushed:v1", folder]
    subprocess.run(push, cwd=source, check=True, capture_output=True)
    load.credentials(**{"plain-http": "true"})

    files = {"iris/deep/model.joblib": b"weights", "iris/config.json": b"{}"}
    assert load(f"oci://{registry.host}/team/pushed:v1").files() == files


MODELPACK = "application/vnd.cncf.model"
PATH = "org.cncf.model.filepath"


def plain_tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda body: body,
    "+gzip": gzip.compress,
    "+zstd": zstd.compress,
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", [f"{MODELPACK}.weight.v1", "application/vnd.kitops.modelkit.model.v1"])
def test_a_modelpack_has_files_and_tars(load: Loader, registry: Registry, kind: str, compression: str) -> None:
    """The files of a tar have their paths in it, and its annotation repeats one."""
    pack = COMPRESSIONS[compression]
    weights = pack(plain_tar({"weights/1.safetensors": b"1", "weights/2.safetensors": b"2"}))
    doc = pack(plain_tar({"README.md": b"# Iris"}))
    layers = [
        registry.blob("team/pack", b"{}", f"{MODELPACK}.weight.config.v1.raw", {PATH: "config.json"}),
        registry.blob("team/pack", b"vocabulary", f"{MODELPACK}.weight.config.v1.raw", {PATH: "tokenizer/vocab.txt"}),
        registry.blob("team/pack", weights, f"{kind}.tar{compression}", {PATH: "weights"}),
        registry.blob("team/pack", doc, f"{MODELPACK}.doc.v1.tar{compression}", {PATH: "README.md"}),
    ]
    config, artifact = f"{MODELPACK}.config.v1+json", f"{MODELPACK}.manifest.v1+json"
    manifest = registry.push("team/pack", "v1", layers, config=config, artifact=artifact)
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/pack:v1@{manifest['digest']}")

    files = {
        "config.json": b"{}",
        "tokenizer/vocab.txt": b"vocabulary",
        "weights/1.safetensors": b"1",
        "weights/2.safetensors": b"2",
        "README.md": b"# Iris",
    }
    assert run.files() == files
    assert run.message["digest"] == of_manifest({name: sha256(body) for name, body in files.items()})


def test_a_modelpack_with_the_config_of_an_image_is_whole(load: Loader, registry: Registry) -> None:
    """Container runtimes mount such an artifact as an image."""
    tar = registry.blob("team/mounted", plain_tar({"model.bin": b"1"}), "application/vnd.oci.image.layer.v1.tar")
    config, artifact = "application/vnd.oci.image.config.v1+json", f"{MODELPACK}.manifest.v1+json"
    registry.push("team/mounted", "v1", [tar], config=config, artifact=artifact)
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/mounted:v1").files() == {"model.bin": b"1"}


@pytest.mark.parametrize("compression", ["+gzip", "+zstd"])
def test_a_compressed_file_that_is_no_tar_is_refused(load: Loader, registry: Registry, compression: str) -> None:
    body, kind = COMPRESSIONS[compression](b"1"), f"application/vnd.kitops.modelkit.model.v1.raw{compression}"
    registry.push("team/compressed", "v1", [registry.blob("team/compressed", body, kind, {PATH: "model.bin"})])
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/compressed:v1").code == "Refused"


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "a/../../b", "a\\b", "a/./b"])
@pytest.mark.parametrize("key", [PATH, "org.cnai.model.filepath", "org.opencontainers.image.title"])
def test_an_unsafe_name_of_a_layer_is_refused(load: Loader, registry: Registry, name: str, key: str) -> None:
    registry.push("team/unsafe", "v1", [registry.blob("team/unsafe", b"1", f"{MODELPACK}.weight.v1.raw", {key: name})])
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/unsafe:v1")

    assert (run.code, run.files()) == ("Refused", {})


@pytest.mark.parametrize(
    "kind", [f"{MODELPACK}.weight.v1.raw", "application/octet-stream", f"{MODELPACK}.weight.v1.raw+gzip", "tarball"]
)
def test_a_layer_that_is_neither_a_named_file_nor_a_tar_is_refused(load: Loader, registry: Registry, kind: str) -> None:
    registry.push("team/unnamed", "v1", [registry.blob("team/unnamed", b"1", kind)])
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/unnamed:v1")

    assert run.code == "Refused"
    assert kind in str(run.message["message"])


DOCKER, OLLAMA = "application/vnd.docker.ai", "application/vnd.ollama.image"


@pytest.mark.parametrize(
    ("config", "layers", "files"),
    [
        (
            f"{DOCKER}.model.config.v0.1+json",
            [(f"{DOCKER}.gguf.v3", b"1"), (f"{DOCKER}.mmproj", b"2"), (f"{DOCKER}.license", b"3")],
            {"model.gguf": b"1", "mmproj.gguf": b"2"},
        ),
        (
            f"{DOCKER}.model.config.v0.1+json",
            [(f"{DOCKER}.gguf.v3", b"1"), (f"{DOCKER}.gguf.v3", b"2")],
            {"model-00001-of-00002.gguf": b"1", "model-00002-of-00002.gguf": b"2"},
        ),
        (
            f"{DOCKER}.model.config.v0.1+json",
            [
                (f"{DOCKER}.safetensors", b"1"),
                (f"{DOCKER}.vllm.config.tar", plain_tar({"config.json": b"{}"})),
                (f"{DOCKER}.chat.template.jinja", b"2"),
            ],
            {"model.safetensors": b"1", "config.json": b"{}", "chat_template.jinja": b"2"},
        ),
        (
            # Ollama's models have the config of a container image.
            "application/vnd.docker.container.image.v1+json",
            [(f"{OLLAMA}.model", b"1"), (f"{OLLAMA}.template", b"2"), (f"{OLLAMA}.params", b"{}")],
            {"model.gguf": b"1"},
        ),
    ],
)
def test_files_without_a_name_are_named_by_their_media_type(
    load: Loader, registry: Registry, config: str, layers: list[tuple[str, bytes]], files: dict[str, bytes]
) -> None:
    registry.push("team/typed", "v1", [registry.blob("team/typed", body, kind) for kind, body in layers], config=config)
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/typed:v1").files() == files


def test_docker_models_with_file_paths_keep_them(load: Loader, registry: Registry) -> None:
    layers = [
        registry.blob("team/paths", b"1", f"{DOCKER}.safetensors", {PATH: "text/model.safetensors"}),
        registry.blob("team/paths", b"2", f"{DOCKER}.license", {PATH: "LICENSE"}),
    ]
    registry.push("team/paths", "v1", layers, config=f"{DOCKER}.model.config.v0.2+json")
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/paths:v1").files() == {"text/model.safetensors": b"1", "LICENSE": b"2"}


def test_an_artifact_without_a_file_is_not_found(load: Loader, registry: Registry) -> None:
    """Attached artifacts, such as signatures, can have an empty layer only."""
    empty = registry.blob("team/empty", b"{}", "application/vnd.oci.empty.v1+json")
    registry.push("team/empty", "v1", [empty], artifact="application/vnd.example.signature")
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/empty:v1").code == "NotFound"


HERE = {"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]}
ELSEWHERE = {"os": "linux", "architecture": "s390x"}
UNKNOWN = {"os": "unknown", "architecture": "unknown"}
ATTESTATION = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        ([{"platform": ELSEWHERE}, {"platform": HERE}, {"platform": HERE}], 1),
        ([{}, {"platform": HERE}], 1),
        ([{"platform": ELSEWHERE}, {}], 1),
        ([{"platform": ELSEWHERE}, {"platform": UNKNOWN}], 0),
        ([{"platform": UNKNOWN, **ATTESTATION}, {"platform": ELSEWHERE}], 1),
        ([ATTESTATION, {}], 1),
        ([{}], 0),
        ([{"platform": ELSEWHERE}], 0),
        ([{"platform": {"os": "windows", "architecture": "amd64"}}, {"platform": ELSEWHERE}], None),
        ([{}, {}], None),
        ([{"platform": UNKNOWN, **ATTESTATION}], None),
    ],
)
def test_of_an_index_the_manifest_for_this_machine_is_read(
    load: Loader, registry: Registry, entries: list[dict[str, object]], chosen: int | None
) -> None:
    """Without one, the only other manifest: a model is usually the same for all machines."""
    manifests = []
    for number, entry in enumerate(entries):
        kind = "application/vnd.oci.image.layer.v1.tar"
        blob = registry.blob("team/index", b"%d" % number, kind, {"org.opencontainers.image.title": "model.bin"})
        manifests.append(registry.push("team/index", "", [blob]) | entry)
    index = registry.push_index("team/index", "v1", manifests)
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/team/index:v1@{index['digest']}")

    assert run.files() == ({} if chosen is None else {"model.bin": b"%d" % chosen})
    assert run.code == ("NotFound" if chosen is None else "Loaded")


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ],
)
def test_a_layer_of_an_image_can_be_compressed_by_zstd(load: Loader, registry: Registry, kind: str) -> None:
    layer = registry.blob("team/zstd", zstd.compress(plain_tar({"etc/passwd": b"", "models/a": b"1"})), kind)
    registry.push("team/zstd", "v1", [layer], config="application/vnd.oci.image.config.v1+json")
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{registry.host}/team/zstd:v1").files() == {"a": b"1"}


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
def test_an_identity_token_is_not_sent_to_another_host(load: Loader, web: WebServer) -> None:
    authority = trustme.CA()
    other = WebServer()
    other.secure(authority.issue_cert("127.0.0.1"))
    host = web.url.removeprefix("http://")
    web.fault = lambda request, number: Reply(401, {"WWW-Authenticate": f'Bearer realm="{other.url}/token"'})
    config = json.dumps({"auths": {host: {"identitytoken": "secret"}}})
    load.credentials(
        **{"plain-http": "true", ".dockerconfigjson": config, "ca.crt": authority.cert_pem.bytes().decode()}
    )

    run = load(f"oci://{host}/team/private:v1")
    other.close()

    assert (run.code, other.requests) == ("Refused", [])


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


@pytest.mark.parametrize("key", ["{host}", "https://{host}", "http://{host}/v1/", "{host}/team", "127.*.0.1:{port}"])
def test_a_docker_config_names_a_registry_by_host_or_url(load: Loader, web: WebServer, key: str) -> None:
    host = web.url.removeprefix("http://")
    auths = {key.format(host=host, port=host.partition(":")[2]): {"auth": "dXNlcjpzZWNyZXQ="}}
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
        manifest = request.method == "GET" and "/manifests/" in request.path
        return replace(reply, body=next(damaged, b"") + reply.body) if manifest else reply

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


@pytest.mark.parametrize("status", [400, 403, 404, 405])
def test_a_registry_without_head_is_read(load: Loader, web: WebServer, registry: Registry, status: int) -> None:
    registry.push_artifact("team/headless", "v1", {"model.bin": b"weights"})
    honest = forward(registry.host)
    web.fault = lambda request, number: Reply(status) if request.method == "HEAD" else honest(request)
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{web.url.removeprefix('http://')}/team/headless:v1").files() == {"model.bin": b"weights"}


@pytest.mark.parametrize("status", [403, 404])
def test_a_repository_that_is_hidden_without_a_password_is_read_with_it(
    load: Loader, web: WebServer, registry: Registry, status: int
) -> None:
    registry.push_artifact("team/hidden", "v1", {"model.bin": b"weights"})
    honest = forward(registry.host)
    web.fault = lambda request, number: honest(request) if "Authorization" in request.headers else Reply(status)
    load.credentials(**{"plain-http": "true", "username": "user", "password": "secret"})

    assert load(f"oci://{web.url.removeprefix('http://')}/team/hidden:v1").files() == {"model.bin": b"weights"}


@pytest.mark.parametrize("challenge", ['Basic realm="r", {bearer}', '{bearer}, Basic realm="r"', "{bearer}"])
def test_of_two_challenges_the_token_service_counts(
    load: Loader, web: WebServer, registry: Registry, challenge: str
) -> None:
    registry.push_artifact("team/both", "v1", {"model.bin": b"weights"})
    honest = forward(registry.host)
    bearer = f'bearer realm="{web.url}/token",service="tests",scope="repository:team/both:pull"'

    def ask(request: Request, number: int) -> Reply:
        if request.path.startswith("/token"):
            return Reply(body=b'{"access_token": "granted", "expires_in": null}')
        known = request.headers.get("Authorization") == "Bearer granted"
        return honest(request) if known else Reply(401, {"WWW-Authenticate": challenge.format(bearer=bearer)})

    web.fault = ask
    load.credentials(**{"plain-http": "true"})

    assert load(f"oci://{web.url.removeprefix('http://')}/team/both:v1").files() == {"model.bin": b"weights"}


def test_docker_hubs_names_lead_to_its_registry(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()

    def connect(self: Network, host: str, port: int, **_: object) -> NoReturn:
        asked.add((host, port))
        raise LoadError(Code.REFUSED, "no connection")

    monkeypatch.setattr(Network, "connect", connect)
    for uri in ("oci://iris", "oci://acme/iris:1.0", "oci://docker.io/acme/iris", "oci://index.docker.io/acme/iris"):
        assert load(uri).code == "Refused"
    assert asked == {("registry-1.docker.io", 443)}


@pytest.mark.attack(14)
def test_localhost_is_a_registry_at_a_loopback_address(load: Loader) -> None:
    for uri in ("oci://localhost/iris", "oci://LOCALHOST:443/iris", "oci://127.1/iris", "oci://[::1]/iris"):
        assert load(uri, network=None).code == "Refused"


def test_an_invalid_reference_is_an_invalid_source(load: Loader) -> None:
    for uri in ("oci://ghcr.io", "oci://registry/UPPER", "oci://registry/a@sha256:1", "oci://registry/a/../b"):
        assert load(uri).code == "InvalidSource"
    assert load("oci://user:password@registry/name").code == "Refused"
