import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import loader_harness as harness
from support.loader_hub import Hub


@pytest.fixture
def load(tmp_path: Path) -> harness.Loader:
    return harness.Loader(tmp_path)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names below `example.com` lead to this machine."""
    known = socket.getaddrinfo

    def resolve(host: str, *arguments: object, **options: object) -> object:
        here = host.rstrip(".").endswith(".example.com")
        return known("127.0.0.1" if here else host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture
def web() -> Iterator[harness.WebServer]:
    server = harness.WebServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Store]:
    with harness.store(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def s3(store: harness.Store, load: harness.Loader) -> harness.Store:
    """The store, with the loader's Secret for it."""
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=store.endpoint)
    return store


@pytest.fixture(scope="session")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Store]:
    """A store that keeps the checksums of uploads."""
    folder = tmp_path_factory.mktemp("keeping")
    (folder / "models").mkdir()
    with harness.store(folder, metadata=True) as running:
        yield running


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Registry]:
    with harness.registry(tmp_path_factory.mktemp("registry") / "log") as running:
        yield running


@pytest.fixture
def hub(web: harness.WebServer, load: harness.Loader) -> Iterator[Hub]:
    """A hub with a model of a small file and a large one, and its endpoint in the loader's Secret."""
    network = harness.WebServer()
    load.credentials(HF_ENDPOINT=web.url)
    yield Hub(web, network, {"config.json": b"{}"}, {"model.safetensors": os.urandom(20 << 20)})
    network.close()
