"""The server in its own process, with its real limits and an API in memory, as the target of attacks.

``python lone_replica.py SETTINGS RUNTIMES``: a file and a folder, as the server's. Once ready, it prints one JSON line:
ports, and the authorities of its certificate. SIGTERM ends it.
"""

import asyncio
import gc
import json
import signal
import socket
import sys
from pathlib import Path

from serve_core.base.constants import NAMESPACE
from serve_core.context.cluster import REQUIRED_FEATURES
from serve_kube.resources import CONFIG_MAPS, NAMESPACES, POLICIES
from serve_webhook import logs, settings
from serve_webhook.app import FEATURES, Replica, ReplicaOptions
from serve_webhook.certs.rotation import SECRET, read_secret
from support.fake_api import MemoryApi
from support.reviews import STORES, document


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def main(file: Path, runtimes: Path) -> None:
    api, stop = MemoryApi(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    api.put(NAMESPACES, {"metadata": {"name": "ml", "labels": {"team": "a"}}})
    api.put(CONFIG_MAPS, CONFIG_MAPS.identity(*FEATURES) | {"data": dict(REQUIRED_FEATURES)})
    api.put(POLICIES, document("ServingPolicy", STORES))
    options = ReplicaOptions("lone", file, runtimes, "127.0.0.1", free_port(), free_port(), drain_seconds=0.1)
    replica = Replica(api, options, settings.load(file, runtimes))
    running = asyncio.create_task(replica.run(stop))
    while replica.missing() and not running.done():  # noqa: ASYNC110 - it is asked, as the kubelet asks
        await asyncio.sleep(0.01)
    if not running.done():
        material = read_secret(api.objects["secrets", NAMESPACE, SECRET])
        assert material is not None
        reported = {"port": options.port, "health": options.health_port, "bundle": material.bundle.decode()}
        print(json.dumps(reported), flush=True)
    await running


if __name__ == "__main__":
    logs.configure(sys.stderr)
    gc.collect()
    gc.freeze()
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
