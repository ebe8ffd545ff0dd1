"""The driver is killed at random: what it leaves is whole, and within the limit."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model_cache.store import Store
from support import loader_harness as harness

LIMIT = 4 << 20
PROGRAM = """
import json, sys
from pathlib import Path
from model_cache.models import Models
from model_cache.process import Settings
from model_cache.request import Request
from model_cache.store import Store
folder, limit, *uris = json.loads(sys.argv[1])
settings = Settings(("127.0.0.0/8",), None, 8, Path(folder) / "secrets", {})
models = Models(Store(Path(folder) / "cache", limit, "1"), settings)
print("ready", flush=True)
while True:
    for uri in uris:
        with models.model(Request(("--", uri), {}), lambda event: None):
            pass
"""


@pytest.mark.slow
def test_a_killed_driver_leaves_whole_models(tmp_path: Path, web: harness.WebServer) -> None:
    chance = random.Random(20)
    (tmp_path / "secrets").mkdir()
    whole = set[str]()
    for number in range(8):
        body = chance.randbytes(900_000)
        web.files[f"/{number}.bin"] = body
        whole.add(hashlib.sha256(body).hexdigest())
    for _ in range(12):
        uris = [f"{web.url}/{number}.bin" for number in chance.sample(range(8), 8)]
        command = [sys.executable, "-c", PROGRAM, json.dumps([str(tmp_path), LIMIT, *uris])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                driver.wait(chance.uniform(0.05, 2.0))
            os.kill(driver.pid, signal.SIGKILL)

        store = Store(tmp_path / "cache", LIMIT, "1")
        try:
            assert store.used() <= LIMIT
            assert list((store.root / "work").iterdir()) == []
            for tree in store.trees():
                assert set(tree.contents.values()) <= whole
                assert store.verify(tree.name, again=True)
            contents = {path.name for path in (store.root / "files").iterdir() if path.suffix != ".sha256"}
            assert contents == {name for tree in store.trees() for name in tree.paths.values()}
        finally:
            store.close()
