"""The server never sees a model that is not signed with the required key, complete and without other files."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import model_signing
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from model_loader.verify.signatures import NAME
from support.loader_harness import Loader, Registry, Reply, Request, Run, Store, WebServer, contents, layer
from support.loader_hub import Hub
from support.loader_signing import Authority, Key


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return Key(tmp_path / "key")


@pytest.fixture
def model(tmp_path: Path, key: Key) -> Path:
    """A signed model."""
    folder = tmp_path / "source"
    for name, body in {"config.json": b"{}", "weights/one.bin": b"1", "weights/two.bin": b"2"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    key.sign(folder)
    return folder


def asking(key: Path) -> tuple[str, ...]:
    return (f"--signature-key={key}",)


def assert_refused(run: Run, message: str, code: str = "NotSigned") -> None:
    """Nothing remains that the server could load, and the message has the reason."""
    assert (run.code, run.message["retryable"]) == (code, False)
    assert message in str(run.message["message"])
    assert not (run.volume / "model").exists()
    assert not (run.volume / "state" / "files").exists()


def test_a_signed_model_is_loaded_and_reported_as_signed(load: Loader, model: Path, key: Key) -> None:
    run = load(model.as_uri(), options=asking(key.public))

    assert (run.code, run.message["signed"]) == ("Loaded", True)
    assert run.files() == contents(model)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_larger_curves_are_accepted(load: Loader, model: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    other = Key(tmp_path / "other", curve)
    other.sign(model)

    assert load(model.as_uri(), options=asking(other.public)).code == "Loaded"


def test_without_a_key_no_signature_is_required(load: Loader, model: Path) -> None:
    (model / NAME).write_bytes(b"whatever")

    run = load(model.as_uri())

    assert run.code == "Loaded"
    assert "signed" not in run.message


def put(name: str, body: bytes = b"evil") -> Callable[[Path], object]:
    def change(model: Path) -> None:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(body)

    return change


def remove(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def bundle(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    """Change the signature's envelope."""

    def changed(model: Path) -> None:
        document = json.loads((model / NAME).read_text())
        change(document["dsseEnvelope"])
        (model / NAME).write_text(json.dumps(document))

    return changed


def forge(envelope: dict[str, object]) -> None:
    payload = json.loads(base64.b64decode(str(envelope["payload"])))
    payload["predicate"]["resources"] = []
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(put("weights/two.bin"), "weights/two.bin is not the file that was signed", id="changed"),
        pytest.param(put("weights/three.bin"), "weights/three.bin is not among the files", id="added"),
        pytest.param(put("weights/model.sig"), "weights/model.sig is not among the files", id="added signature"),
        pytest.param(put(".git/hooks/x.py"), ".git/hooks/x.py is not among the files", id="added for git"),
        pytest.param(put(".github/model-settings.json"), ".github/model-settings.json is not", id="added for GitHub"),
        pytest.param(put("weights/.gitignore"), "weights/.gitignore is not among the files", id="added further down"),
        pytest.param(remove("weights/two.bin"), "weights/two.bin was signed and is missing", id="removed"),
        pytest.param(remove(NAME), "the model has no signature model.sig", id="no signature"),
        pytest.param(put(NAME, b""), "the signature model.sig is invalid: JSONDecodeError", id="empty"),
        pytest.param(put(NAME, b"\xff\x00" * 99), "is invalid: UnicodeDecodeError", id="garbage"),
        pytest.param(put(NAME, b"[" * 200_000), "is invalid: RecursionError", id="deep"),
        pytest.param(put(NAME, b"{}"), "is invalid: KeyError", id="not a bundle"),
        pytest.param(put(NAME, b" " * (33 << 20)), "model.sig is too large", id="too large"),
        pytest.param(bundle(forge), "is invalid: InvalidSignature", id="another list"),
        pytest.param(bundle(lambda envelope: envelope.update(signatures=[])), "is invalid: ", id="not signed"),
    ],
)
def test_a_model_that_differs_from_the_signed_one_is_refused(
    load: Loader, model: Path, key: Key, change: Callable[[Path], object], message: str
) -> None:
    change(model)

    assert_refused(load(model.as_uri(), options=asking(key.public)), message)


def test_another_key_is_refused(load: Loader, model: Path, tmp_path: Path) -> None:
    assert_refused(load(model.as_uri(), options=asking(Key(tmp_path / "other").public)), "Key mismatch")


def test_the_signature_of_another_model_is_refused(load: Loader, model: Path, key: Key, tmp_path: Path) -> None:
    other = tmp_path / "other"
    put("config.json", b"{}")(other)
    key.sign(other, model / NAME)

    assert_refused(load(model.as_uri(), options=asking(key.public)), "weights/one.bin is not among the files")


def test_files_that_the_signer_ignored_are_refused(load: Loader, model: Path, key: Key) -> None:
    put("weights/three.bin")(model)
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["weights/three.bin"])
    key.sign(model, hashing=hashing)

    assert_refused(load(model.as_uri(), options=asking(key.public)), "weights/three.bin is not among the files")


def test_files_that_the_signing_tool_always_omits_are_accepted(load: Loader, model: Path, key: Key) -> None:
    put(".gitattributes")(model)
    put(".gitignore")(model)

    assert load(model.as_uri(), options=asking(key.public)).code == "Loaded"


def test_omitted_files_that_the_signer_listed_are_verified(load: Loader, model: Path, key: Key) -> None:
    put(".gitattributes", b"* text")(model)
    key.sign(model, hashing=model_signing.hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False))
    put(".gitattributes")(model)

    assert_refused(load(model.as_uri(), options=asking(key.public)), ".gitattributes is not the file that was signed")


@pytest.mark.parametrize(
    "hashing",
    [
        pytest.param(model_signing.hashing.Config().use_shard_serialization(shard_size=4), id="shards"),
        pytest.param(model_signing.hashing.Config().use_file_serialization(hashing_algorithm="blake3"), id="blake3"),
    ],
)
def test_a_signature_of_anything_but_sha256_of_whole_files_is_refused(
    load: Loader, model: Path, key: Key, hashing: model_signing.hashing.Config
) -> None:
    key.sign(model, hashing=hashing)

    assert_refused(load(model.as_uri(), options=asking(key.public)), "does not sign the sha256 of whole files")


@pytest.mark.parametrize("whole", [True, False], ids=["the folder is signed", "the file is signed"])
def test_a_single_file_has_its_signature_in_the_same_folder(
    load: Loader, web: WebServer, key: Key, tmp_path: Path, whole: bool
) -> None:
    put("model.bin", b"weights")(tmp_path / "one")
    tool = [sys.executable, "-m", "model_signing", "sign", "key", "--private_key", str(key.private)]
    signed = tmp_path / "one" if whole else tmp_path / "one" / "model.bin"
    subprocess.run([*tool, str(signed)], cwd=tmp_path, check=True, capture_output=True)
    web.files = {"/iris/model.bin": b"weights", "/iris/model.sig": (tmp_path / "model.sig").read_bytes()}

    plain, run = load(f"{web.url}/iris/model.bin"), load(f"{web.url}/iris/model.bin", options=asking(key.public))

    assert run.message["signed"] is True
    assert run.files() == {"model.bin": b"weights", "model.sig": web.files["/iris/model.sig"]}
    assert run.message["digest"] == plain.message["digest"]
    web.files["/iris/model.bin"] = b"evil"
    load.volume = tmp_path / "again"
    load.volume.mkdir()
    refused = load(f"{web.url}/iris/model.bin", options=asking(key.public))
    assert_refused(refused, "model.bin is not the file that was signed")


def test_a_single_file_without_a_signature_is_not_read(load: Loader, web: WebServer, key: Key) -> None:
    web.files["/iris/model.bin"] = b"weights"

    run = load(f"{web.url}/iris/model.bin", options=asking(key.public))

    assert_refused(run, f"there is no signature {web.url}/iris/model.sig")
    assert not run.of("plan")


@pytest.mark.parametrize("uri", ["s3://signed/iris", "s3://signed/iris/config.json"])
def test_a_signature_in_a_bucket(load: Loader, s3: Store, key: Key, model: Path, uri: str) -> None:
    if uri.endswith("json"):
        key.sign(model / "config.json", model / NAME)
    s3.put("signed", {f"iris/{name}": body for name, body in contents(model).items()})

    assert load(uri, options=asking(key.public)).message["signed"] is True


def test_an_object_without_a_signature_is_refused(load: Loader, s3: Store, key: Key) -> None:
    s3.put("unsigned", {"model.bin": b"weights"})

    run = load("s3://unsigned/model.bin", options=asking(key.public))

    assert_refused(run, "there is no signature s3://unsigned/model.sig")


Publish = Callable[[Path], str]
"""Publishes a folder, and returns its URI."""


@pytest.fixture(params=["hub", "artifact", "packed artifact", "image"])
def publish(request: pytest.FixtureRequest, load: Loader, hub: Hub, registry: Registry, tmp_path: Path) -> Publish:
    """A hub or a registry, to publish models as users do."""
    name = f"team/{tmp_path.name.lower()}"
    load.credentials(**{"plain-http": "true"})

    def to_hub(model: Path) -> str:
        hub.files, hub.large = {".gitattributes": b"*.bin filter=lfs"}, {}
        for path, body in contents(model).items():
            (hub.large if path.endswith(".bin") else hub.files)[path] = body
        return "hf://team/model"

    def as_artifact(model: Path) -> str:
        return f"oci://{registry.host}/{name}@{registry.push_artifact(name, 'v1', contents(model))}"

    def as_packed_artifact(model: Path) -> str:
        """`oras push` from inside the folder: `config.json weights model.sig`."""
        inner = {path: body for path, body in contents(model).items() if "/" in path}
        outer = {path: body for path, body in contents(model).items() if "/" not in path}
        packed = layer(tmp_path / "packed.tar.gz", inner)
        return f"oci://{registry.host}/{name}@{registry.push_artifact(name, 'v1', outer, {'weights': packed})}"

    def as_image(model: Path) -> str:
        """The signature is a separate layer, pushed later."""
        files = {f"models/{path}": body for path, body in contents(model).items()}
        signature = {path: files.pop(path) for path in [f"models/{NAME}"] if path in files}
        layers = layer(tmp_path / "model.tar.gz", files), layer(tmp_path / "signature.tar.gz", signature)
        registry.push_image(f"{name}:v1", *layers)
        return f"oci://{registry.host}/{name}:v1"

    ways: dict[object, Publish] = {
        "hub": to_hub,
        "artifact": as_artifact,
        "packed artifact": as_packed_artifact,
        "image": as_image,
    }
    return ways[request.param]


def test_a_signed_model_of_a_hub_or_registry_is_loaded(
    load: Loader, model: Path, key: Key, publish: Publish, tmp_path: Path
) -> None:
    uri = publish(model)

    run = load(uri, options=asking(key.public))

    assert (run.code, run.message["signed"]) == ("Loaded", True)
    assert {name: body for name, body in run.files().items() if name != ".gitattributes"} == contents(model)
    assert_refused(load(uri, options=asking(Key(tmp_path / "other").public)), "Key mismatch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(put("weights/two.bin", b"3"), "weights/two.bin is not the file that was signed", id="one byte"),
        pytest.param(put("weights/three.bin"), "weights/three.bin is not among the files", id="one file more"),
        pytest.param(remove("weights/two.bin"), "weights/two.bin was signed and is missing", id="one file less"),
        pytest.param(remove(NAME), "the model has no signature model.sig", id="no signature"),
    ],
)
def test_a_changed_model_of_a_hub_or_registry_is_refused(
    load: Loader, model: Path, key: Key, publish: Publish, change: Callable[[Path], object], message: str
) -> None:
    change(model)

    assert_refused(load(publish(model), options=asking(key.public)), message)


def zipped(folder: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body in contents(folder).items():
            archive.writestr(name, body)
    return out.getvalue()


def test_an_archive_contains_its_signature(load: Loader, web: WebServer, model: Path, key: Key) -> None:
    web.files["/model.zip"] = zipped(model)
    assert load(f"{web.url}/model.zip", options=asking(key.public)).message["signed"] is True

    put("weights/two.bin")(model)
    web.files["/changed.zip"] = zipped(model)
    run = load(f"{web.url}/changed.zip", options=asking(key.public))
    assert_refused(run, "weights/two.bin is not the file that was signed")


def test_several_models_have_a_signature_each(load: Loader, model: Path, key: Key, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    put("adapter.bin", b"small")(adapter)
    key.sign(adapter)
    uris = (model.as_uri(), f"{adapter.as_uri()}=adapters/legal")

    run = load(*uris, options=asking(key.public))

    assert run.files() == contents(model) | {f"adapters/legal/{k}": body for k, body in contents(adapter).items()}
    # The other model's signature covers what a model adds to its folder.
    put("adapters/legal/config.json")(model)
    load.volume.joinpath("model").rename(tmp_path / "before")
    assert_refused(load(*uris, options=asking(key.public)), "adapters/legal/config.json is not among the files")


def test_one_of_several_models_without_a_signature_is_refused(
    load: Loader, model: Path, key: Key, tmp_path: Path
) -> None:
    put("adapter.bin", b"small")(tmp_path / "adapter")

    run = load(model.as_uri(), f"{(tmp_path / 'adapter').as_uri()}=adapters", options=asking(key.public))

    assert_refused(run, "the model has no signature adapters/model.sig")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda planted: planted.symlink_to("/"), "planted is not a regular file", id="link"),
        pytest.param(lambda planted: planted.write_bytes(b"evil"), "planted is not from any source", id="file"),
    ],
)
def test_files_that_others_put_on_the_volume_are_refused(
    load: Loader, web: WebServer, key: Key, tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    put("model.bin", b"weights")(tmp_path / "one")
    key.sign(tmp_path / "one", tmp_path / "model.sig")
    web.files = {"/model.bin": b"weights", "/model.sig": (tmp_path / "model.sig").read_bytes()}

    lock = threading.Lock()

    def plant(request: Request, number: int) -> Reply | None:
        with lock:
            if (files := load.volume / "state" / "files").exists() and not os.path.lexists(files / "planted"):
                make(files / "planted")
        return None

    web.fault = plant
    assert_refused(load(f"{web.url}/model.bin", options=asking(key.public)), message)


def test_a_certificate_of_a_trusted_authority(load: Loader, model: Path, tmp_path: Path) -> None:
    trusted, other = Authority(tmp_path / "trusted"), Authority(tmp_path / "other")
    trusted.sign(model)

    assert load(model.as_uri(), options=asking(trusted.certificate)).message["signed"] is True
    assert_refused(load(model.as_uri(), options=asking(other.certificate)), "is invalid: X509StoreContextError")


def test_a_certificate_does_not_verify_a_signature_by_a_key(
    load: Loader, model: Path, key: Key, tmp_path: Path
) -> None:
    Authority(tmp_path / "trusted").sign(model)

    assert_refused(load(model.as_uri(), options=asking(key.public)), "is invalid: ")


@pytest.mark.parametrize("found", ["absent", "empty", "garbage", "private"])
def test_an_invalid_key_is_reported_before_the_download(
    load: Loader, web: WebServer, tmp_path: Path, key: Key, found: str
) -> None:
    web.files["/model.bin"] = b"weights"
    file = tmp_path / "key.pub"
    if found != "absent":
        file.write_bytes({"empty": b"", "garbage": b"\x00\xff", "private": key.private.read_bytes()}[found])

    run = load(f"{web.url}/model.bin", options=asking(file))

    assert_refused(run, "the key ", code="CannotVerify")
    assert "key.pub" in str(run.message["hint"])
    assert web.requests == []


def test_a_missing_library_is_reported_before_the_download(
    load: Loader, web: WebServer, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/model.bin"] = b"weights"
    monkeypatch.setitem(sys.modules, "model_signing._signing", None)

    run = load(f"{web.url}/model.bin", options=asking(key.public))

    assert_refused(run, "does not have the libraries for verifying signatures", code="CannotVerify")
    assert "loader.signingImage" in str(run.message["hint"])
    assert web.requests == []


def test_a_second_start_with_the_same_key_reads_nothing(
    load: Loader, model: Path, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(model.as_uri(), options=asking(key.public))
    monkeypatch.setitem(sys.modules, "model_signing._signing", None)

    run = load(model.as_uri(), options=asking(key.public))

    assert (run.code, run.message["signed"], run.of("plan")) == ("Loaded", True, [])


@pytest.mark.parametrize("first", ["another key", "no key"])
def test_a_second_start_with_another_key_verifies_again(
    load: Loader, model: Path, key: Key, tmp_path: Path, first: str
) -> None:
    other = Key(tmp_path / "other").public
    earlier = load(model.as_uri(), options=asking(key.public) if first == "another key" else ())
    assert earlier.code == "Loaded"

    assert_refused(load(model.as_uri(), options=asking(other)), "Key mismatch")


@pytest.mark.parametrize("found", ["absent", "empty"])
def test_a_second_start_without_the_key_leaves_no_model(load: Loader, model: Path, tmp_path: Path, found: str) -> None:
    load(model.as_uri())
    file = tmp_path / "key.pub"
    if found == "empty":
        file.write_bytes(b"")

    assert_refused(load(model.as_uri(), options=asking(file)), "the key ", code="CannotVerify")


@pytest.mark.parametrize("patterns", ["!weights/two.bin", "config.json weights/one.bin"])
def test_a_signed_file_that_is_not_selected_can_be_missing(
    load: Loader, model: Path, key: Key, publish: Publish, patterns: str
) -> None:
    run = load(publish(model), options=(*asking(key.public), "--files", patterns))

    assert (run.code, run.message["signed"]) == ("Loaded", True)
    assert {*run.files()} - {".gitattributes"} == {"config.json", "weights/one.bin", NAME}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(put("weights/one.bin", b"3"), "weights/one.bin is not the file that was signed", id="changed"),
        pytest.param(put("weights/evil.bin"), "weights/evil.bin is not among the files", id="added"),
        pytest.param(remove("weights/one.bin"), "weights/one.bin was signed and is missing", id="removed"),
        pytest.param(remove(NAME), "the model has no signature model.sig", id="no signature"),
    ],
)
def test_what_is_selected_must_be_signed_and_present(
    load: Loader, model: Path, key: Key, publish: Publish, change: Callable[[Path], object], message: str
) -> None:
    change(model)

    assert_refused(load(publish(model), options=(*asking(key.public), "--files", "!weights/two.bin")), message)


def test_copies_of_the_weights_that_are_left_out_can_be_signed_or_not(
    load: Loader, hub: Hub, key: Key, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "original").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "original/consolidated.00.pth"):
        (source / name).write_bytes(name.encode())
    key.sign(source)
    hub.large = contents(source) | {"pytorch_model.bin": b"not signed"}
    hub.files = {}

    run = load("hf://team/model", options=asking(key.public))

    assert set(run.files()) == {"config.json", "model.safetensors", NAME}
    assert run.message["signed"] is True
    assert_refused(
        load("hf://team/model", options=(*asking(key.public), "--files", "*")),
        "pytorch_model.bin is not among the files",
    )
