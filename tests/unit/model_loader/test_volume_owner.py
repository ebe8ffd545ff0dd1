"""The loader deletes only what it wrote itself: not a user's files, and not the model of another pod."""

import os
from pathlib import Path

import pytest

from model_loader import loader
from model_loader.storage import volume
from support.loader_harness import Loader, WebServer, contents

URI = "/model.bin"


@pytest.fixture
def uri(web: WebServer) -> str:
    web.files[URI] = b"weights"
    return f"{web.url}{URI}"


def run_in(monkeypatch: pytest.MonkeyPatch, pod: str) -> None:
    """Run the loader in the pod of this name from now on."""
    monkeypatch.setattr(loader, "this_pod", lambda: pod)


@pytest.mark.parametrize("path", ["model/precious.txt", "hub/precious.txt", "state/precious.txt", "state/files/a/b"])
def test_a_volume_with_files_of_a_user_is_refused(load: Loader, uri: str, path: str) -> None:
    file = load.volume / path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"precious")

    run = load(uri)

    assert (run.code, run.message["hint"].startswith("Use an empty volume")) == ("Refused", True)  # type: ignore[attr-defined]
    assert f"folder {path.partition('/')[0]} " in str(run.message["message"])
    assert contents(load.volume) == {path: b"precious"}


def test_files_beside_the_loaders_folders_stay(load: Loader, uri: str) -> None:
    (load.volume / "data").mkdir()
    (load.volume / "data" / "precious.txt").write_bytes(b"precious")

    assert load(uri).files() == {"model.bin": b"weights"}
    assert contents(load.volume / "data") == {"precious.txt": b"precious"}


def test_empty_folders_lose_nothing_and_are_used(load: Loader, uri: str) -> None:
    """The kubelet makes the folder of a sub-path that another container mounts earlier."""
    for name in ("model", "state", "no-token"):
        (load.volume / name).mkdir()

    assert load(uri).files() == {"model.bin": b"weights"}


def test_a_model_that_appears_during_a_load_is_not_replaced(load: Loader, uri: str) -> None:
    assert load(f"{uri}.absent").code == "NotFound"
    (load.volume / "model").mkdir()
    (load.volume / "model" / "precious.txt").write_bytes(b"precious")

    assert load(uri).code == "Refused"
    assert contents(load.volume / "model") == {"precious.txt": b"precious"}


def test_a_pod_replaces_its_own_model(load: Loader, uri: str, web: WebServer) -> None:
    web.files["/other.bin"] = b"others"
    load(uri)

    assert load(f"{web.url}/other.bin").files() == {"other.bin": b"others"}
    assert sorted(path.name for path in load.volume.iterdir()) == ["model", "state"]


def test_the_model_of_another_pod_is_not_removed(
    load: Loader, uri: str, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/other.bin"] = b"others"
    run_in(monkeypatch, "first")
    load(uri)
    run_in(monkeypatch, "second")

    run = load(f"{web.url}/other.bin")

    assert (run.code, run.files()) == ("Refused", {"model.bin": b"weights"})
    assert "another pod, first" in str(run.message["message"])


def test_a_download_of_another_pod_is_not_touched(load: Loader, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in(monkeypatch, "first")
    load(f"{uri}.absent")
    (load.volume / "state" / "files").mkdir(exist_ok=True)
    (load.volume / "state" / "files" / "model.bin").write_bytes(b"half")
    run_in(monkeypatch, "second")

    assert load(uri).code == "Refused"
    assert contents(load.volume / "state" / "files") == {"model.bin": b"half"}
    run_in(monkeypatch, "first")
    assert load(uri).files() == {"model.bin": b"weights"}


def test_pods_with_the_same_model_share_it(
    load: Loader, uri: str, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in(monkeypatch, "first")
    load(uri)
    asked = len(web.requests)
    run_in(monkeypatch, "second")

    run = load(uri)

    assert (run.code, run.files(), len(web.requests)) == ("Loaded", {"model.bin": b"weights"}, asked)


def test_a_bad_key_removes_no_model_of_another_pod(
    load: Loader, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_in(monkeypatch, "first")
    load(uri)
    run_in(monkeypatch, "second")

    run = load(uri, options=("--signature-key", str(tmp_path / "absent.pub")))

    assert (run.code, run.files()) == ("CannotVerify", {"model.bin": b"weights"})


def test_of_two_loaders_that_start_at_once_one_owns_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one marks the volume between the first one's look and its mark."""
    mark = volume.Volume._mark

    def mark_late(self: volume.Volume, pod: str) -> None:
        if pod == "first":
            with volume.Volume(tmp_path, "second") as other:
                assert other.is_own
        mark(self, pod)

    monkeypatch.setattr(volume.Volume, "_mark", mark_late)

    with volume.Volume(tmp_path, "first") as late:
        assert (late.is_own, late.owner) == (False, "second")
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.parametrize("left", ["model", "hub"])
def test_a_start_after_a_kill_during_a_removal_goes_on(load: Loader, uri: str, web: WebServer, left: str) -> None:
    web.files["/other.bin"] = b"others"
    load(uri)
    (load.volume / "model").rename(load.volume / "state" / "old-model")
    if left == "hub":
        (load.volume / "hub").mkdir()
        (load.volume / "hub" / "file").write_bytes(b"linked")

    assert load(f"{web.url}/other.bin").files() == {"other.bin": b"others"}
    assert sorted(path.name for path in load.volume.iterdir()) == ["model", "state"]


def test_a_pod_is_known_by_its_host_name_and_uid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = "6f1f7a52-9b31-4b7d-8f39-0d1f2f3a4b5c"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 2 0:1 /var/lib/kubelet/pods/{uid}/etc-hosts /etc/hosts rw - ext4 /dev/sda rw\n")
    monkeypatch.setattr(volume, "_MOUNTS", mounts)
    assert volume.this_pod() == f"{os.uname().nodename} {uid}"
    mounts.write_text("1 2 0:1 / / rw - ext4 /dev/sda rw\n")
    assert volume.this_pod() == os.uname().nodename
