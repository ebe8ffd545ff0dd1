import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_cache.models import Models
from model_cache.process import Settings
from model_cache.store import Store
from support import loader_harness as harness


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return cache(tmp_path)


def cache(folder: Path, *, limit: int = 1 << 30, boot: str = "1", keep_free: int = 0, crashed: bool = False) -> Models:
    """The models of a node whose cache is in `folder`; a second one is the driver after a restart, or a crash."""
    if earlier := _STORES.pop(folder, None):
        earlier.close()
        if crashed:
            (earlier.root / "session").unlink()
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    settings = Settings((harness.LOOPBACK,), None, 8, secrets, {})
    _STORES[folder] = store = Store(folder / "cache", limit, boot, keep_free)
    return Models(store, settings)


_STORES: dict[Path, Store] = {}
"""The stores that are open, by folder."""


@pytest.fixture
def web() -> Iterator[harness.WebServer]:
    server = harness.WebServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Store]:
    """A store that keeps ETags."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "models").mkdir()
    with harness.store(folder, metadata=True) as running:
        yield running


def eventually(check: Callable[[], object], seconds: float = 30) -> None:
    """Wait for what another thread or process does."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)
