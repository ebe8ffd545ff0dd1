"""The driver's process: its command line."""

import argparse
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from model_cache import messages, metrics, operator_endpoint, privileges
from model_cache.driver import Node, Paths, Server
from model_cache.models import Models
from model_cache.process import Settings
from model_cache.store import Store
from model_loader.http.network import Network

_PASSED = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "PATH", "LANG")
"""Variables of the driver that downloads get: the operator's. Nothing that identifies the node to a cloud."""
_TEND_SECONDS = 1.0
_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="model-cache", description="CSI driver of kubectl-serve's node cache.")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR", help="the folder of the cache")
    parser.add_argument("--size", type=size, required=True, metavar="SIZE", help="limit of the cache, such as 100Gi")
    parser.add_argument(
        "--keep-free",
        default="20%",
        metavar="SIZE",
        help="what stays free of the disk, such as 20%% (default) or 50Gi; above the kubelet's limit for evictions",
    )
    parser.add_argument("--kubelet", type=Path, default=Path("/var/lib/kubelet"), metavar="DIR")
    parser.add_argument("--secrets", type=Path, required=True, metavar="DIR", help="a folder in memory")
    parser.add_argument("--node", required=True, metavar="NAME")
    parser.add_argument("--version", default="0", metavar="VERSION")
    parser.add_argument("--allow-network", action="append", default=[], metavar="CIDR")
    parser.add_argument("--metrics", type=int, metavar="PORT", help="port of the metrics")
    parser.add_argument("--operator", type=int, metavar="PORT", help="port of the operator's requests, on loopback")
    parser.add_argument("--uid", type=int, default=2_000_000, help="first of the users that downloads run as")
    parser.add_argument("--downloads", type=int, default=8, metavar="N", help="maximum of downloads at once")
    return parser


def size(text: str) -> int:
    """Return the bytes of a quantity. Raises ValueError."""
    number = text.rstrip("KMGTi")
    return int(number) * _UNITS[text[len(number) :]]


def free(text: str, disk: int) -> int:
    """Return the bytes of a quantity, or of a share of the disk. Raises ValueError."""
    return disk * int(text[:-1]) // 100 if text.endswith("%") else size(text)


def tend(store: Store, ended: threading.Event) -> None:
    """Keep the cache below its limits, until the driver ends."""
    while not ended.wait(_TEND_SECONDS):
        try:
            store.tend()
        except OSError as error:
            print(json.dumps({"event": "failed", "error": f"{error.strerror}: {error.filename}"}), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    options = parser().parse_args(arguments)
    Network.of(options.allow_network)  # not only when a model is mounted
    os.umask(0o022)
    options.secrets.chmod(0o711)  # a download reaches its own folder, and makes no other
    for path in options.secrets.iterdir():
        shutil.rmtree(path)  # of a driver that crashed
    privileges.keep_needed()
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    settings = Settings(tuple(options.allow_network), options.uid, options.downloads, options.secrets, environment)
    paths = Paths(options.kubelet)
    disk = os.statvfs(options.cache)
    store = Store(options.cache, options.size, keep_free=free(options.keep_free, disk.f_blocks * disk.f_frsize))
    models = Models(store, settings)
    node = Node(models, paths, options.node)
    if options.metrics:
        metrics.serve(models, options.metrics)
    if options.operator:
        operator_endpoint.serve(models, options.operator)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    def registered(status: messages.RegistrationStatus) -> None:
        print(json.dumps({"event": "registered", "done": status.registered, "error": status.error}), flush=True)

    threading.Thread(target=tend, args=(store, ended), daemon=True).start()
    server = Server(node, paths, options.version, registered)
    ended.wait()
    server.stop()
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
