"""A registry with one image, for requests with the user and password in REGISTRY_LOGIN.

The files below /registry have the digests of blobs as names; ``manifest`` is the image's manifest. It prints the method
and path of each request that it answers.
"""

import base64
import hashlib
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILES = Path("/registry")
LOGIN = "Basic " + base64.b64encode(os.environ["REGISTRY_LOGIN"].encode()).decode()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path != "/" and self.headers.get("Authorization") != LOGIN:
            self._answer(401, b"", {"WWW-Authenticate": 'Basic realm="registry"'})
            return
        print(self.command, self.path, flush=True)
        _, slash, digest = self.path.rpartition("/blobs/sha256:")
        if "/manifests/" in self.path:
            body = (FILES / "manifest").read_bytes()
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self._answer(200, body, {"Content-Type": MANIFEST, "Docker-Content-Digest": digest})
        elif slash and digest.isalnum() and (FILES / digest).is_file():
            self._answer(200, (FILES / digest).read_bytes(), {"Content-Type": "application/octet-stream"})
        else:
            self._answer(404 if slash else 200, b"", {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer(("", 5000), Handler).serve_forever()
