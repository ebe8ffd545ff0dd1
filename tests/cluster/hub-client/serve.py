"""Load the model of the repository in MODEL_ID as any server does, and serve what was found."""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoConfig, AutoTokenizer

NAME = os.environ["MODEL_ID"]
LOADED = Path("/mnt/models")


def is_missing(file: str) -> bool:
    try:
        hf_hub_download(NAME, file)
    except LocalEntryNotFoundError:
        return True
    return False


def is_writable(folder: Path) -> bool:
    try:
        (folder / "file").touch()
    except OSError:
        return False
    return True


snapshot = Path(snapshot_download(NAME))
FOUND = {
    "commit": snapshot.name,
    "loaded": all(os.path.samefile(file, LOADED / file.name) for file in snapshot.iterdir()),
    "files": sorted(file.name for file in snapshot.iterdir()),
    "by commit": snapshot_download(NAME, revision=snapshot.name) == str(snapshot),
    "missing": is_missing("absent.json"),
    "writable": is_writable(snapshot) or is_writable(Path(os.environ["HF_HUB_CACHE"])),
    "hidden size": AutoConfig.from_pretrained(NAME).hidden_size,
    "tokens": AutoTokenizer.from_pretrained(NAME)("hello world")["input_ids"],
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(FOUND).encode())


signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the first process of a container has no default
HTTPServer(("", 8080), Handler).serve_forever()
