"""A git server over HTTPS, which runs git's own `http-backend`, and an LFS server beside it."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.loader_harness import Reply, Request, WebServer

_COMMITTER = {"NAME": "Ada", "EMAIL": "ada@example.com", "DATE": "2026-01-01T00:00:00Z"}


class GitServer:
    """The repository `team/model.git`. `web` serves it; `filters`: whether its server can leave out blobs."""

    def __init__(self, folder: Path, web: WebServer, *, filters: bool = True) -> None:
        self.web = web
        self.root = folder / "served"
        self.bare = self.root / "team/model.git"
        self.work = folder / "work"
        self.login = ""
        """The required Authorization header of git and of the batch API; empty for none."""
        self.headers: dict[str, str] = {"X-Lfs": "granted"}
        """The headers that the LFS server gives for its downloads, and requires there."""
        self.storage = web
        """The server of the LFS objects."""
        self.actions: dict[str, dict[str, object]] = {}
        """Other answers of the batch API, by object."""
        self.batches: list[dict[str, object]] = []
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare), at=folder)
        self.git("config", "uploadpack.allowFilter", str(filters).lower(), at=self.bare)
        self.git("config", "http.receivepack", "false", at=self.bare)
        self.git("clone", "--quiet", str(self.bare), str(self.work), at=folder)
        web.fault = self._answer

    @property
    def uri(self) -> str:
        """The URI of the repository."""
        return f"git+{self.web.url}/team/model.git"

    def git(self, *arguments: str, at: Path | None = None, stdin: bytes = b"") -> str:
        """Run git, and return its output."""
        people = {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in _COMMITTER.items()}
        environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(self.root.parent), **people}
        command = ["git", "-c", "protocol.file.allow=always", *arguments]
        found = subprocess.run(
            command, cwd=at or self.work, env=environment, input=stdin, capture_output=True, check=True
        )
        return found.stdout.decode().strip()

    def commit(self, files: Mapping[str, bytes], large: Mapping[str, bytes] | None = None) -> str:
        """Add files, and files in LFS; push, and return the commit."""
        pointers = {}
        for path, body in (large or {}).items():
            oid = hashlib.sha256(body).hexdigest()
            self.storage.files[f"/objects/{oid}"] = body
            text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(body)}\n"
            pointers[path] = text.encode()
        for path, body in {**files, **pointers}.items():
            (self.work / path).parent.mkdir(parents=True, exist_ok=True)
            (self.work / path).write_bytes(body)
        self.git("add", "--all")
        return self.push()

    def push(self) -> str:
        """Commit what is staged; push, and return the commit."""
        self.git("commit", "--quiet", "--allow-empty", "--message=change")
        self.git("push", "--quiet", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD")

    def _answer(self, request: Request, number: int) -> Reply | None:
        path, _, query = request.path.partition("?")
        if path.startswith("/objects/"):
            given = {name.lower(): value for name, value in request.headers.items()}
            granted = all(given.get(name.lower()) == value for name, value in self.headers.items())
            return None if granted else Reply(403)
        if self.login and request.headers.get("Authorization") != self.login:
            return Reply(401)
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(request.body))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": str(self.root.parent),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        ran = subprocess.run(
            ["git", "http-backend"], env=environment, input=request.body, capture_output=True, check=False
        )
        head, _, body = ran.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        return Reply(int(headers.pop("Status", "200").split(" ")[0]), headers, body)

    def _batch(self, order: dict[str, list[dict[str, object]]]) -> Reply:
        self.batches.append(dict(order))
        objects = []
        for each in order["objects"]:
            oid = str(each["oid"])
            action = {"href": f"{self.storage.url}/objects/{oid}", "header": self.headers}
            known = {"actions": {"download": action}, "authenticated": True}
            if f"/objects/{oid}" not in self.storage.files:
                known = {"error": {"code": 404, "message": "no such object"}}
            objects.append({**each, **known, **self.actions.get(oid, {})})
        return Reply(body=json.dumps({"transfer": "basic", "objects": objects}).encode())
