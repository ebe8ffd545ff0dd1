"""The API server's REST interface for tests with thousands of requests, without a process for each."""

import base64
import http.client
import json
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from cluster.support import Json


class ApiServer:
    """One connection to the cluster of KUBECONFIG, as its user."""

    def __init__(self) -> None:
        shown = subprocess.run(
            ["kubectl", "config", "view", "--minify", "--raw", "-o", "json"], capture_output=True, text=True, check=True
        )
        config = json.loads(shown.stdout)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=_decoded(cluster, "certificate-authority-data"))
        with tempfile.TemporaryDirectory() as folder:
            pair = Path(folder) / "client.pem"
            pair.touch(mode=0o600)
            pair.write_text(_decoded(user, "client-certificate-data") + _decoded(user, "client-key-data"))
            context.load_cert_chain(pair)
        address = urlsplit(cluster["server"])
        self._connection = http.client.HTTPSConnection(str(address.hostname), address.port, timeout=60, context=context)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str) -> Json:
        status, body = self.request("GET", path, None)
        assert status == 200, body
        return body

    def dry_run(self, path: str, document: Json) -> tuple[int, Json]:
        """A dry run of creating an object, with unknown fields refused. Returns the status, and the object or the
        error."""
        return self.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", document)

    def create(self, path: str, document: Json) -> None:
        """Create an object, which may exist already."""
        status, body = self.request("POST", path, document)
        assert status in (201, 409), body

    def delete(self, path: str) -> None:
        status, body = self.request("DELETE", path, None)
        assert status in (200, 404), body

    def patch(self, path: str, document: Json) -> Json:
        status, body = self.request("PATCH", path, document)
        assert status == 200, body
        return body

    def request(self, method: str, path: str, document: Json | None = None) -> tuple[int, Json]:
        """The status, and the object or the error."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        body = None if document is None else json.dumps(document)
        self._connection.request(method, path, body, {"Content-Type": kind, "Accept": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.headers.get_content_type() != "application/json":
            return response.status, {"message": answer.decode().strip()}  # of an unknown API group
        return response.status, json.loads(answer)


def _decoded(owner: Json, key: str) -> str:
    return base64.b64decode(owner[key]).decode()
