"""Metrics for Prometheus, in its text format. They have numbers, and no name of a model.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from model_cache.models import Models

_PREFIX = "kubectl_serve_cache"
_SECONDS = 10
"""Until a client has sent its request."""


def text(models: Models) -> str:
    """Return the present values."""
    counts, store = models.counts, models.store
    rows = (
        ("hits_total", "counter", "Mounts of models that the node had.", counts.hits),
        ("downloads_total", "counter", "Downloads of models, or of their changed files.", counts.downloads),
        ("download_seconds_total", "counter", "Seconds of these downloads.", counts.seconds),
        ("received_bytes_total", "counter", "Bytes that stores sent.", counts.received),
        ("failures_total", "counter", "Mounts that failed.", counts.failures),
        ("evictions_total", "counter", "Models that made room for others.", store.evictions),
        ("models", "gauge", "Models on the node.", len(store.trees())),
        ("used_bytes", "gauge", "Bytes of their content.", store.used()),
        ("limit_bytes", "gauge", "Limit of these bytes.", store.limit),
    )
    return "".join(
        f"# HELP {_PREFIX}_{name} {what}\n# TYPE {_PREFIX}_{name} {kind}\n{_PREFIX}_{name} {value}\n"
        for name, kind, what, value in rows
    )


def serve(models: Models, port: int) -> ThreadingHTTPServer:
    """Serve the metrics until the process ends. Raises OSError."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _SECONDS

        def do_GET(self) -> None:
            body = text(models).encode() if self.path == "/metrics" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
