"""Memory of a replica, in its own process, with an API server that stores large objects.

``python hostile_cluster.py KIND`` prints one JSON line: MiB before, and the maximum. Objects arrive over HTTP, as from
an API server; all other lists are empty.
"""

import asyncio
import json
import random
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from serve_core.api.annotations import MODEL
from serve_core.base.constants import DEPLOYMENT_LABEL, SERVED_LABEL
from serve_core.context.cluster import REQUIRED_FEATURES, LoaderConfig
from serve_kube.access import Connection
from serve_webhook.app import FEATURES, Replica, ReplicaOptions
from serve_webhook.connection import client
from serve_webhook.settings import Configuration
from support.stored import stored


def large_service(number: int) -> bytes:
    ports = [{"name": f"p{n}", "protocol": "TCP", "port": n, "targetPort": f"t{n}"} for n in range(1, 15_001)]
    return _text(stored(f"evil-{number}", "theirs", spec={"selector": {"app": "a"}, "ports": ports}))


def labelled_deployment(number: int) -> bytes:
    env = [{"name": f"VARIABLE_{n}", "value": f"{number}-{n}" * 20} for n in range(8_000)]
    made = stored(f"evil-{number}", "theirs", spec={"template": {"spec": {"containers": [{"env": env}]}}})
    made["metadata"] |= {"labels": {SERVED_LABEL: "true"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}
    made["metadata"] |= {"finalizers": ["theirs/for-ever"], "generation": 1}
    return _text(made)


def large_pod(number: int) -> bytes:
    env = [{"name": f"VARIABLE_{n}", "value": f"{number}-{n}" * 20} for n in range(8_000)]
    made = stored(f"evil-{number}", "theirs", spec={"containers": [{"env": env}]}, status={"phase": "Running"})
    made["metadata"]["labels"] = {DEPLOYMENT_LABEL: f"evil-{number}"}
    return _text(made)


def large_knative_service(number: int) -> bytes:
    deep = [[{"a": [n]}] for n in range(50_000)]
    made = stored(f"evil-{number}", "theirs", spec={"template": {"spec": {"containers": deep}}})
    made["metadata"]["labels"] = {DEPLOYMENT_LABEL: f"evil-{number}"}
    return _text(made)


def managed_fields(number: int) -> bytes:
    made = stored(f"evil-{number}", "theirs", spec={"selector": {"app": "a"}})
    made["metadata"]["managedFields"] = [{"manager": "a", "fieldsV1": {f"f:{n}": {} for n in range(100_000)}}]
    return _text(made)


def copy_of_the_model(number: int) -> bytes:
    """Objects with the served model's label that compress to a hundredth."""
    made = stored(f"evil-{number}", spec={"selector": {"app": "a"}})
    made["metadata"] |= {"labels": {DEPLOYMENT_LABEL: "iris"}, "annotations": {"a": "x" * 250_000}}
    return _text(made)


def labelled_service(number: int) -> bytes:
    """The maximum number of labels, so different that they do not compress."""
    drawn = random.Random(number)
    made = stored(f"evil-{number}", "theirs")
    labels = {f"l{n}-{drawn.getrandbits(180)}.example.com/{drawn.getrandbits(180)}": str(n) for n in range(95)}
    made["metadata"]["labels"] = labels
    selector = {f"l{n}-{drawn.getrandbits(190)}": str(drawn.getrandbits(190)) for n in range(50)}
    made["spec"] = {"selector": selector, "ports": [{"targetPort": f"p{drawn.getrandbits(40)}"} for _ in range(50)]}
    return _text(made)


KINDS: dict[str, tuple[str, Callable[[int], bytes], int]] = {
    "services": ("/api/v1/services", large_service, 60),
    "deployments": ("/apis/apps/v1/deployments", labelled_deployment, 60),
    "pods": ("/api/v1/pods", large_pod, 60),
    "knative": ("/apis/serving.knative.dev/v1/services", large_knative_service, 60),
    "fields": ("/api/v1/services", managed_fields, 20),
    "copies": ("/apis/serving.knative.dev/v1/services", copy_of_the_model, 700),
    "labels": ("/api/v1/services", labelled_service, 4_000),
}
"""Their resource, their content, and their number."""


def _text(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


class Server:
    """The parts of an API server that a replica needs to start and to lead."""

    def __init__(self, kind: str) -> None:
        self._path, made, count = KINDS[kind]
        self._one, self._count = made(0), count
        self._stored: dict[str, Any] = {}
        self.asked: set[str] = set()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.add(request.path)
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(60)
            return response
        if request.method != "GET":
            found = self._stored.get(request.path, {})
            found |= json.loads(await request.text())
            found["metadata"] |= {"resourceVersion": "9", "uid": "u"}
            path = request.path if request.method != "POST" else f"{request.path}/{found['metadata']['name']}"
            self._stored[path] = found
            return web.json_response(found)
        if re.search(r"/leases/|/secrets/", request.path):
            found = self._stored.get(request.path)
            return web.json_response(found or {"message": "not found"}, status=200 if found else 404)
        response = web.StreamResponse()
        await response.prepare(request)
        async for part in self._list(request):
            await response.write(part)
        return response

    async def _list(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        yield b'{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":['
        if request.path == self._path:
            for number in range(self._count):
                yield (b"," if number else b"") + self._one.replace(b"evil-0", b"evil-%d" % number)
        elif "config-features" in request.query.get("fieldSelector", ""):
            flags = {"metadata": {"namespace": FEATURES[0], "name": FEATURES[1], "resourceVersion": "5"}}
            yield _text(flags | {"data": dict(REQUIRED_FEATURES)})
        elif request.path == "/apis/apps/v1/deployments":
            served = stored("iris", spec={"template": {"spec": {"containers": [{"name": "a"}]}}})
            served["metadata"] |= {"labels": {SERVED_LABEL: "true"}, "annotations": {MODEL: "s3://models/a"}}
            yield _text(served)
        yield b"]}"


def peak() -> float:
    """Maximum MiB of this process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


async def serve(kind: str) -> None:
    runner = web.ServerRunner(web.Server(Server(kind)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("{1}".format(*runner.addresses[0]), flush=True)
    await asyncio.Event().wait()


async def main(kind: str) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "support.hostile_cluster", "--serve", kind, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout
    try:
        port = int(await server.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            options = ReplicaOptions(
                "lone", Path(folder) / "s.yaml", Path(folder), "127.0.0.1", 0, 0, drain_seconds=0.01
            )
            async with client(Connection(host=f"http://127.0.0.1:{port}")) as api:
                replica, stop = Replica(api, options, Configuration(LoaderConfig("loader:1"), ())), asyncio.Event()
                idle = peak()
                running = asyncio.create_task(replica.run(stop))
                async with asyncio.timeout(90):
                    while replica.missing() or not replica._reconciler:
                        assert not running.done(), running.exception()
                        await asyncio.sleep(0.05)
                    while not all(each.synced.is_set() for each in leaders(replica)):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                await asyncio.sleep(0.5)
                stop.set()
                await running
                served = replica._deployments.get("default", "iris") is not None or kind == "deployments"
                print(json.dumps({"kind": kind, "idle MiB": idle, "peak MiB": peak(), "served": served}))
    finally:
        server.kill()
        await server.wait()


def leaders(replica: Replica) -> list[Any]:
    made = replica._reconciler
    return [made._pods, *made._owned.values()] if made else []


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[2]) if sys.argv[1] == "--serve" else main(sys.argv[1]))
