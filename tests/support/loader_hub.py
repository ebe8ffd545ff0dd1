"""A Hugging Face hub: its API and its redirects to a content network, both on loopback."""

import hashlib
import itertools
import json
from urllib.parse import unquote

from support.loader_harness import Reply, Request, WebServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository: small files in git, large ones in a content network."""

    def __init__(self, api: WebServer, network: WebServer, files: dict[str, bytes], large: dict[str, bytes]) -> None:
        self.api = api
        self.network = network
        self.files = files
        self.large = large
        self.name = "team/model"
        self.revisions = ("main", "refs%2Fpr%2F1", "feature%2Fone", COMMIT)
        """As in a URL."""
        self.commit = COMMIT
        self.past: dict[str, tuple[dict[str, bytes], dict[str, bytes]]] = {}
        """Files and large files of earlier commits."""
        self.token = ""
        self.once = False
        """Whether a signed URL of the content network is valid for one request only."""
        self.signed = itertools.count()
        self.used: set[str] = set()
        api.fault = self._answer
        network.fault = self._expire

    def push(self, files: dict[str, bytes], large: dict[str, bytes]) -> None:
        """Make `main` stand for these files from now on."""
        self.past[self.commit] = self.files, self.large
        self.files, self.large = files, large
        self.commit = hashlib.sha1(json.dumps(self.siblings()).encode()).hexdigest()

    def siblings(self) -> list[dict[str, object]]:
        small: list[dict[str, object]] = [
            {
                "rfilename": name,
                "size": len(body),
                "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest(),
            }
            for name, body in self.files.items()
        ]
        return small + [
            {
                "rfilename": name,
                "size": len(body),
                "blobId": "0" * 40,
                "lfs": {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134},
            }
            for name, body in self.large.items()
        ]

    def _answer(self, request: Request, number: int) -> Reply | None:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return Reply(401)
        known = [f"/api/models/{self.name}/revision/{revision}?blobs=true" for revision in self.revisions]
        if request.path in known:
            return Reply(body=json.dumps({"sha": self.commit, "siblings": self.siblings()}).encode())
        commit, _, name = unquote(request.path).removeprefix(f"/{self.name}/resolve/").partition("/")
        files, large = (self.past | {self.commit: (self.files, self.large)}).get(commit, ({}, {}))
        if name in large:
            place = f"/{commit}/{name}"
            self.network.files[place] = large[name]
            return Reply(302, {"Location": f"{self.network.url}{place}?Signature={next(self.signed)}"})
        if name not in files:
            return Reply(404)
        self.api.files[unquote(request.path)] = files[name]
        return None

    def _expire(self, request: Request, number: int) -> Reply | None:
        refused = self.once and request.path in self.used
        self.used.add(request.path)
        return Reply(403) if refused else None
