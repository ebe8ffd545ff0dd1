"""A link on the volume, created by anyone at any time, redirects no write to outside of it."""

import contextlib
import shutil
import threading
from pathlib import Path

import pytest

from model_loader.download.file_state import PART_BYTES
from support.loader_harness import Loader, Reply, Request, WebServer, contents
from unit.model_loader.test_archives import member, tar


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder next to the volume, with a file in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(b"precious")
    return folder


def plant(load: Loader, path: str, target: Path) -> None:
    """Replace `path` of the volume by a link."""
    link = load.volume / path
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(link)
    link.symlink_to(target)


def plant_when_read(load: Loader, web: WebServer, path: str, target: Path) -> None:
    """Create the link as soon as the loader reads the model, which is then planned."""

    lock = threading.Lock()

    def answer(request: Request, number: int) -> Reply | None:
        with lock:
            if (load.volume / "state" / "files").exists() and not (load.volume / path).is_symlink():
                plant(load, path, target)
        return None

    web.fault = answer


@pytest.mark.parametrize("path", ["model", "hub", "state", "state/files"])
def test_a_link_in_place_of_a_folder_is_refused(load: Loader, web: WebServer, outside: Path, path: str) -> None:
    web.files["/model.bin"] = b"weights"
    if "/" in path:
        assert load(f"{web.url}/absent.bin").code == "NotFound"  # the volume is the loader's now
    plant(load, path, outside)

    assert load(f"{web.url}/model.bin").code == "Refused"
    assert contents(outside) == {"file": b"precious"}


@pytest.mark.parametrize("path", ["state/journal", "state/complete.json.part"])
def test_a_link_in_place_of_a_file_is_refused(load: Loader, web: WebServer, outside: Path, path: str) -> None:
    web.files["/model.bin"] = b"weights"
    assert load(f"{web.url}/absent.bin").code == "NotFound"  # the volume is the loader's now
    (load.volume / "state" / "files").mkdir(exist_ok=True)
    plant(load, path, outside / "file")

    assert load(f"{web.url}/model.bin").code == "Refused"
    assert contents(outside) == {"file": b"precious"}


@pytest.mark.parametrize("path", ["state/files/deep", "state/files/deep/er"])
def test_a_link_that_appears_during_the_download_is_refused(
    load: Loader, web: WebServer, outside: Path, path: str
) -> None:
    web.files["/model.bin"] = bytes(8 * PART_BYTES)
    (outside / "er").mkdir()
    plant_when_read(load, web, path, outside)

    # Internal: the loader looked after the folder was removed and before the link was there.
    assert load(f"{web.url}/model.bin=deep/er", f"{web.url}/model.bin=other").code in ("Refused", "Internal")
    assert contents(outside) == {"file": b"precious"}


@pytest.mark.parametrize(
    ("path", "target"), [("state/files/data", "outside"), ("state/files/data/weights.bin", "outside/file")]
)
def test_a_link_that_appears_before_unpacking_is_refused(
    load: Loader, web: WebServer, outside: Path, path: str, target: str
) -> None:
    web.files["/model.tar.gz"] = tar(member("data/weights.bin", b"weights"))
    plant_when_read(load, web, path, outside.parent / target)

    assert load(f"{web.url}/model.tar.gz").code == "Refused"
    assert contents(outside) == {"file": b"precious"}


def test_the_loader_removes_the_link_and_not_its_target(load: Loader, web: WebServer, outside: Path) -> None:
    web.files["/model.bin"] = b"weights"
    assert load(f"{web.url}/model.bin").code == "Loaded"
    plant(load, "model/more", outside)
    web.files["/other.bin"] = b"others"

    assert load(f"{web.url}/other.bin").files() == {"other.bin": b"others"}
    assert contents(outside) == {"file": b"precious"}
