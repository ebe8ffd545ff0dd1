"""Models in Google Cloud Storage: fake-gcs-server on loopback."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from support import loader_harness as harness
from support.loader_harness import Loader

KEY = "a#b c?d=e+f%67&g/100%25/模 é.bin"
pytestmark = pytest.mark.slow  # builds the server the first time


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the server with one bucket, `models`, and return its address."""
    program = harness.go_program("fake-gcs-server", "github.com/fsouza/fake-gcs-server@v1.52.2")
    data = tmp_path_factory.mktemp("google")
    objects = {
        "iris/model.bin": b"weights" * (2 << 20),
        "iris/a b/c": b"1",
        "iris2/d": b"a sibling",
        "one": b"1",
        f"keys/{KEY}": b"1",
    }
    for name, body in objects.items():
        path = data / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    port = harness.free_port()
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory", "-data", str(data)]
    command = [str(program), *options, "-public-host", f"127.0.0.1:{port}", "-log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        harness.wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def gs(google: str, load: Loader) -> Loader:
    load.credentials(GS_ENDPOINT_URL=google, token="a-token")
    return load


def test_a_prefix_gives_its_objects(gs: Loader) -> None:
    assert gs("gs://models/iris").files() == {"model.bin": b"weights" * (2 << 20), "a b/c": b"1"}


def test_an_exact_name_gives_one_object(gs: Loader) -> None:
    assert gs("gs://models/one").files() == {"one": b"1"}


def test_every_character_of_a_name_can_be_encoded(gs: Loader) -> None:
    folder, _, name = KEY.rpartition("/")
    run = gs(f"gs://models/keys/{quote(folder)}=one", f"gs://models/keys/{quote(KEY)}=two")
    assert run.files() == {f"one/{name}": b"1", f"two/{name}": b"1"}


def test_a_missing_object_is_not_found(gs: Loader, tmp_path: Path) -> None:
    assert [gs(uri).code for uri in ("gs://models/absent", "gs://absent/iris")] == ["NotFound"] * 2
