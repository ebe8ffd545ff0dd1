"""The layout of `huggingface_hub` beside the model: the same files, found by the repository's name."""

import os
from pathlib import Path

import pytest

from support.loader_harness import Loader, Run, contents
from support.loader_hub import COMMIT, Hub

CACHE = ("--hub-cache",)


def cache(run: Run) -> dict[str, bytes]:
    return contents(run.volume / "hub")


def snapshot(hub: Hub) -> dict[str, bytes]:
    return {f"models--team--model/snapshots/{COMMIT}/{name}": body for name, body in (hub.files | hub.large).items()}


def test_the_cache_has_the_commits_files_and_the_reference(load: Loader, hub: Hub) -> None:
    hub.files["onnx/model.json"] = b"[]"

    run = load("hf://team/model", options=CACHE)

    assert run.files() == hub.files | hub.large
    assert cache(run) == {**snapshot(hub), "models--team--model/refs/main": COMMIT.encode()}


def test_the_cache_takes_no_space(load: Loader, hub: Hub) -> None:
    run = load("hf://team/model", options=CACHE)

    for name in hub.files | hub.large:
        linked = run.volume / "hub" / "models--team--model" / "snapshots" / COMMIT / name
        assert os.path.samefile(linked, run.volume / "model" / name)


def test_a_revision_is_found_by_its_name_and_as_the_default(load: Loader, hub: Hub) -> None:
    """A server that names no revision asks for main: it gets the revision that the Deployment names."""
    run = load("hf://team/model@refs/pr/1", options=CACHE)

    assert cache(run) == {
        **snapshot(hub),
        "models--team--model/refs/main": COMMIT.encode(),
        "models--team--model/refs/refs/pr/1": COMMIT.encode(),
    }


def test_a_repository_in_a_folder_of_the_model_has_its_own_names_in_the_cache(
    load: Loader, hub: Hub, tmp_path: Path
) -> None:
    run = load("hf://team/model=adapters/legal", f"file://{tmp_path}/secret=other", options=CACHE)

    assert set(run.files()) >= {f"adapters/legal/{name}" for name in hub.files}
    assert cache(run) == {**snapshot(hub), "models--team--model/refs/main": COMMIT.encode()}


def test_two_parts_of_one_repository_are_one_in_the_cache(load: Loader, hub: Hub) -> None:
    run = load("hf://team/model/config.json", "hf://team/model=all", options=CACHE)

    assert set(run.files()) == {"config.json", "all/config.json", "all/model.safetensors"}
    assert cache(run) == {**snapshot(hub), "models--team--model/refs/main": COMMIT.encode()}


def test_without_the_option_there_is_no_cache(load: Loader, hub: Hub) -> None:
    assert not cache(load("hf://team/model"))
    assert (load.volume / "model").exists()


def test_a_later_load_without_the_option_removes_the_cache(load: Loader, hub: Hub) -> None:
    load("hf://team/model", options=CACHE)

    run = load("hf://team/model")

    assert (run.files(), cache(run)) == (hub.files | hub.large, {})


@pytest.mark.parametrize("kept", ["hub", "state/hub"])
def test_a_start_after_a_kill_during_publishing_publishes_both(load: Loader, hub: Hub, kept: str) -> None:
    load("hf://team/model", options=CACHE)
    (load.volume / "model").rename(load.volume / "state" / "files")
    (load.volume / "hub").rename(load.volume / kept)
    asked = len(hub.api.requests)

    run = load("hf://team/model", options=CACHE)

    assert (run.files(), len(hub.api.requests)) == (hub.files | hub.large, asked)
    assert set(cache(run)) == {*snapshot(hub), "models--team--model/refs/main"}


def test_a_model_that_fails_its_digest_appears_nowhere(load: Loader, hub: Hub) -> None:
    run = load("hf://team/model", options=(*CACHE, f"--digest=sha256:{'0' * 64}"))

    assert (run.code, run.files(), cache(run)) == ("DigestMismatch", {}, {})


def test_a_link_in_place_of_the_cache_is_refused(load: Loader, hub: Hub, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (load.volume / "hub").symlink_to(outside)

    assert load("hf://team/model", options=CACHE).code == "Refused"
    assert contents(outside) == {}
