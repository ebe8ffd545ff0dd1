"""`--files` selects the files of a model, in every kind of source, before anything is downloaded."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from support.loader_harness import Loader, Registry, Store, WebServer, contents, layer, manifest_digest
from support.loader_hub import Hub
from unit.model_loader.test_archives import member, packed, tar

FILES = {
    "config.json": b"{}", "model.safetensors": b"weights", "original/consolidated.00.pth": b"copy",
    "original/params.json": b"{1}",
}  # fmt: skip
PATTERNS = "*.safetensors *.json !original/*"
SELECTED = {"config.json": b"{}", "model.safetensors": b"weights"}

Put = Callable[[], str]


@pytest.fixture(params=["s3", "hub", "artifact", "image", "packed artifact", "tar", "zip", "folder"])
def uri(
    request: pytest.FixtureRequest,
    load: Loader,
    s3: Store,
    hub: Hub,
    web: WebServer,
    registry: Registry,
    tmp_path: Path,
) -> str:
    """The URI of a model with FILES, in each kind of source."""
    load.credentials(**{"plain-http": "true"})
    name = f"files/{tmp_path.name.lower()}"

    def as_s3() -> str:
        s3.put("files", {f"{tmp_path.name}/{path}": body for path, body in FILES.items()})
        return f"s3://files/{tmp_path.name}"

    def as_hub() -> str:
        hub.files = {path: body for path, body in FILES.items() if path.endswith(".json")}
        hub.large = {path: body for path, body in FILES.items() if path not in hub.files}
        return "hf://team/model"

    def as_image() -> str:
        one = layer(
            tmp_path / "one.tar.gz", {f"models/{path}": body for path, body in FILES.items() if "/" not in path}
        )
        two = layer(tmp_path / "two.tar.gz", {f"models/{path}": body for path, body in FILES.items() if "/" in path})
        registry.push_image(f"{name}:v1", one, two)
        return f"oci://{registry.host}/{name}:v1"

    def as_packed_artifact() -> str:
        outer = {path: body for path, body in FILES.items() if "/" not in path}
        inner = layer(tmp_path / "inner.tar.gz", {path: body for path, body in FILES.items() if "/" in path})
        return f"oci://{registry.host}/{name}@{registry.push_artifact(name, 'v1', outer, {'original': inner})}"

    def as_archive(suffix: str, body: bytes) -> str:
        hub.api.fault = lambda request, number: None
        web.files = {f"/model{suffix}": body}
        return f"{web.url}/model{suffix}"

    def as_folder() -> str:
        for path, body in FILES.items():
            (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / path).write_bytes(body)
        return f"file://{tmp_path}/folder"

    ways: dict[object, Put] = {
        "s3": as_s3,
        "hub": as_hub,
        "artifact": lambda: f"oci://{registry.host}/{name}@{registry.push_artifact(name, 'v1', FILES)}",
        "image": as_image,
        "packed artifact": as_packed_artifact,
        "tar": lambda: as_archive(".tar.gz", tar(*(member(path, body) for path, body in FILES.items()))),
        "zip": lambda: as_archive(".zip", packed(*FILES.items())),
        "folder": as_folder,
    }
    return ways[request.param]()


def test_only_the_selected_files_are_loaded(load: Loader, uri: str) -> None:
    run = load(uri, options=("--files", PATTERNS))

    assert (run.code, run.files()) == ("Loaded", SELECTED)
    assert run.message["files"] == 2
    if not uri.endswith((".tar.gz", ".zip")):
        assert run.message["digest"] == manifest_digest(SELECTED)


def test_other_patterns_are_another_model(load: Loader, uri: str) -> None:
    load(uri, options=("--files", PATTERNS))

    run = load(uri, options=("--files", "original/"))

    assert run.files() == {path: body for path, body in FILES.items() if path.startswith("original/")}
    assert load(uri, options=("--files", "*")).files() == FILES


def test_patterns_that_match_nothing_are_an_error(load: Loader, uri: str) -> None:
    run = load(uri, options=("--files", "*.gguf"))

    assert (run.exit_code, run.code, run.files()) == (23, "NoFilesMatch", {})
    assert "matches *.gguf" in str(run.message["message"])
    assert "Correct the patterns in kubectl-serve.dev/files" in str(run.message["hint"])


def test_the_error_names_what_there_is(load: Loader, hub: Hub) -> None:
    run = load("hf://team/model", options=("--files", "*.gguf"))

    assert run.message["message"] == "no file of hf://team/model matches *.gguf"
    assert str(run.message["hint"]).startswith("It has config.json, model.safetensors. Correct the patterns")


def test_a_folder_packed_by_oras_is_selected_file_by_file(load: Loader, registry: Registry, tmp_path: Path) -> None:
    folder = layer(tmp_path / "weights.tar.gz", {"weights/1.bin": b"1", "weights/2.bin": b"2"})
    registry.push_artifact("files/packed", "v1", {"config.json": b"{}"}, {"weights": folder})
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{registry.host}/files/packed:v1", options=("--files", "weights/1.bin"))

    assert run.files() == {"weights/1.bin": b"1"}


def test_a_path_begins_with_the_folder_of_its_model(load: Loader, s3: Store) -> None:
    s3.put("several", {"base/model.safetensors": b"1", "base/a.bin": b"2", "legal/model.safetensors": b"3"})
    uris = ("s3://several/base", "s3://several/legal=adapters/legal")

    both = load(*uris, options=("--files", "*.safetensors"))
    assert set(both.files()) == {"model.safetensors", "adapters/legal/model.safetensors"}

    one = load(*uris, options=("--files", "model.safetensors"))
    assert (one.code, one.message["message"]) == (
        "NoFilesMatch",
        "no file of s3://several/legal matches model.safetensors",
    )


def test_nothing_is_requested_of_a_file_that_is_not_selected(load: Loader, hub: Hub) -> None:
    hub.files["large.bin"] = bytes(1 << 20)

    load("hf://team/model", options=("--files", "config.json"))

    assert [request.path for request in hub.api.requests if "large.bin" in request.path] == []
    assert hub.network.requests == []


def test_files_that_are_not_selected_need_no_space(load: Loader, hub: Hub) -> None:
    siblings = hub.siblings()
    siblings.append({"rfilename": "huge.bin", "size": 1 << 60, "blobId": "0" * 40})
    hub.siblings = lambda: siblings  # type: ignore[method-assign]

    assert load("hf://team/model").code == "NoSpace"
    assert load("hf://team/model", options=("--files", "!huge.bin")).files() == hub.files | hub.large


def test_one_file_has_to_match_too(load: Loader, s3: Store) -> None:
    s3.put("single", {"model.joblib": b"weights"})

    assert load("s3://single/model.joblib", options=("--files", "*.json")).code == "NoFilesMatch"
    run = load("s3://single/model.joblib", options=("--files", "model.*"))
    assert (run.files(), run.message["digest"]) == (
        {"model.joblib": b"weights"},
        f"sha256:{hashlib.sha256(b'weights').hexdigest()}",
    )


def test_a_digest_covers_the_selected_files(load: Loader, uri: str) -> None:
    digest = str(load(uri, options=("--files", PATTERNS)).message["digest"])

    assert load(uri, options=("--files", PATTERNS, "--digest", digest)).code == "Loaded"
    other = load(uri, options=("--files", "*.json", "--digest", digest))
    if uri.endswith((".tar.gz", ".zip")):  # the digest is the archive's
        assert other.code == "Loaded"
    else:
        assert (other.code, other.files()) == ("DigestMismatch", {})
        assert "only the files that kubectl-serve.dev/files selects" in str(other.message["hint"])


@pytest.mark.attack(12)
@pytest.mark.parametrize("text", ["", "-x", "$(HF_TOKEN)", "../x", "/etc/*", "a,b", "!"])
def test_patterns_that_admission_refuses_are_refused(load: Loader, hub: Hub, text: str) -> None:
    run = load("hf://team/model", options=(f"--files={text}",))

    assert (run.code, run.files()) == ("InvalidSource", {})
    assert hub.api.requests == []


def test_the_layout_of_the_hub_has_the_selected_files(load: Loader, hub: Hub) -> None:
    hub.files["original/params.json"] = b"{1}"

    run = load("hf://team/model", options=("--hub-cache", "--files", "*.json !original/"))

    assert set(contents(run.volume / "hub")) == {
        f"models--team--model/snapshots/{hub.commit}/config.json",
        "models--team--model/refs/main",
    }
