"""Models of a Hugging Face hub: its API and its redirects to a content network, both on loopback."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator

import pytest

from loader.harness import Loader, Reply, Request, WebServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository, `team/model`: small files in git, large ones in a content network."""

    def __init__(self, api: WebServer, network: WebServer, files: dict[str, bytes], large: dict[str, bytes]) -> None:
        self.api = api
        self.network = network
        self.files = files
        self.large = large
        self.token = ""
        self.once = False
        """Whether a signed address of the network is good for one request only."""
        self.signed = itertools.count()
        self.used: set[str] = set()
        api.fault = self._answer
        network.fault = self._expire

    def _siblings(self) -> list[dict[str, object]]:
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
        if request.path in (
            "/api/models/team/model/revision/main?blobs=true",
            "/api/models/team/model/revision/refs%2Fpr%2F1?blobs=true",
        ):
            return Reply(body=json.dumps({"sha": COMMIT, "siblings": self._siblings()}).encode())
        name = request.path.removeprefix(f"/team/model/resolve/{COMMIT}/")
        if name in self.large:
            self.network.files[f"/{name}"] = self.large[name]
            return Reply(302, {"Location": f"{self.network.url}/{name}?Signature={next(self.signed)}"})
        return Reply(body=self.files[name]) if name in self.files else Reply(404)

    def _expire(self, request: Request, number: int) -> Reply | None:
        refused = self.once and request.path in self.used
        self.used.add(request.path)
        return Reply(403) if refused else None


@pytest.fixture
def hub(web: WebServer, load: Loader) -> Iterator[Hub]:
    network = WebServer()
    load.credentials(HF_ENDPOINT=web.url)
    yield Hub(web, network, {"config.json": b"{}"}, {"model.safetensors": os.urandom(20 << 20)})
    network.close()


def test_every_file_of_the_revision_is_read_by_its_commit(load: Loader, hub: Hub) -> None:
    run = load("hf://team/model")

    assert run.files() == hub.files | hub.large
    assert all(COMMIT in request.path for request in hub.api.requests[1:])


def test_a_revision_may_be_any_reference(load: Loader, hub: Hub) -> None:
    assert load("hf://team/model@refs/pr/1").code == "Loaded"
    assert load("hf://team/model@absent").code == "NotFound"


def test_the_token_is_sent_to_the_hub_and_not_to_its_network(load: Loader, hub: Hub) -> None:
    hub.token = "hf_secret"
    assert load("hf://team/model").code == "Unauthorized"
    load.credentials(HF_TOKEN="hf_secret")

    run = load("hf://team/model")

    assert run.code == "Loaded"
    assert not any("Authorization" in request.headers for request in hub.network.requests)
    assert "hf_secret" not in run.output
    assert "Signature" not in run.output


def test_a_signed_address_that_ends_is_asked_for_again(load: Loader, hub: Hub) -> None:
    hub.once = True

    assert load("hf://team/model").files() == hub.files | hub.large


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_not_what_the_hub_says_is_corrupted(load: Loader, hub: Hub, name: str) -> None:
    siblings = hub._siblings()
    hub._siblings = lambda: siblings  # type: ignore[method-assign]
    for files in (hub.files, hub.large):
        if name in files:
            files[name] = files[name][:-1] + b"!"

    run = load("hf://team/model")

    assert (run.code, run.message["file"]) == ("Corrupted", name)
    assert run.files() == {}


def test_a_file_that_is_corrupted_once_is_read_again(load: Loader, hub: Hub) -> None:
    def corrupt(request: Request, number: int) -> Reply | None:
        reply = hub.network.answer(request)
        if number == 1:
            reply.body = bytes(len(reply.body))
        return reply

    hub.network.fault = corrupt
    run = load("hf://team/model")

    assert run.files() == hub.files | hub.large
    assert [line["code"] for line in run.of("retry")] == ["Corrupted"]


def test_an_unsafe_name_in_a_repository_is_refused(load: Loader, hub: Hub) -> None:
    hub.files["../escape"] = b"x"

    assert load("hf://team/model").code == "Refused"
