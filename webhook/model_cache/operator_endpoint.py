"""What an operator asks of the driver: its content, and to verify or evict a model. HTTP on the loopback address.

Only ``kubectl port-forward`` reaches it, which needs the permission ``pods/portforward`` in the driver's namespace. The
downloads are in the same network: so only the driver's own user, and the container runtime's, which is the same, can
connect.
"""

import json
import os
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from model_cache.models import Models

_HOST = "127.0.0.1"
_SECONDS = 10
"""Until a client has sent its request."""
_MODEL = re.compile(r"/models/([0-9a-f]{64})", re.ASCII)
_CONNECTIONS = Path("/proc/self/net/tcp")
"""The connections of this network namespace, each with the user of its socket. Source: proc(5)."""


def contents(models: Models) -> list[dict[str, object]]:
    """Return the models on the node: without credentials, and without the query of a URL, which can be one."""
    store = models.store
    mounted = store.pods()
    return [
        {
            "name": each.tree.name,
            "sources": [_without_query(str(uri)) for uri in each.tree.fields.get("sources", ())],
            "digest": each.tree.fields.get("digest") or "",
            "bytes": each.bytes,
            "files": len(each.tree.contents),
            "used": each.used,
            "verified": each.tree.verified,
            "pods": sorted(mounted.get(each.tree.name, ())),
        }
        for each in store.content()
    ]


def _without_query(uri: str) -> str:
    return uri.partition("?")[0]


def handle(models: Models, method: str, path: str) -> tuple[int, object]:
    """Return the status and the answer to a request. Raises OSError."""
    if (method, path) == ("GET", "/models"):
        return 200, {"models": contents(models), "limit": models.store.limit, "used": models.store.used()}
    found = _MODEL.fullmatch(path)
    if found is None or method not in ("POST", "DELETE"):
        return 404, {"message": "there is no such request"}
    name = found[1]
    with models.store.pinned(name) as tree:
        if tree is None:
            return 404, {"message": "the node does not have this model any more"}
    if method == "POST":
        return 200, {"verified": models.store.verify(name, again=True)}
    if models.store.evict(name):
        return 200, {"evicted": True}
    return 409, {"message": "a pod uses the model"}


def is_own(local: int, peer: int, table: str, uid: int) -> bool:
    """Return whether a user has the socket of the client at port `peer`, by the text of :data:`_CONNECTIONS`."""
    rows = (line.split() for line in table.splitlines()[1:])
    wanted = (f"0100007F:{peer:04X}", f"0100007F:{local:04X}")
    return any(len(row) > 7 and (row[1], row[2]) == wanted and row[7] == str(uid) for row in rows)


def serve(
    models: Models, port: int, table: Callable[[], str] = _CONNECTIONS.read_text, uid: int | None = None
) -> ThreadingHTTPServer:
    """Serve until the process ends. Raises OSError. `uid`: the user who can connect; default: the driver's."""
    allowed = os.geteuid() if uid is None else uid

    class Handler(BaseHTTPRequestHandler):
        timeout = _SECONDS

        def _answer(self) -> None:
            try:
                if is_own(server.server_port, self.client_address[1], table(), allowed):
                    status, answer = handle(models, self.command, self.path)
                else:
                    status, answer = 403, {"message": "only an operator can do this"}
            except OSError as error:
                status, answer = 500, {"message": f"{error.strerror}: {error.filename}"}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer((_HOST, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
