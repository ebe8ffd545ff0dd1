"""Faults: how a store can damage a response."""

import base64
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from support.loader_harness import Loader, Reply, Request, WebServer, listing

STALL = 0.4
"""Duration of a stall in seconds."""


@dataclass(frozen=True)
class Fault:
    """A fault in a response, and the load's outcome if it occurs every time."""

    spoil: Callable[[Reply], Reply]
    lasting: str
    hear: Callable[[Request], Request] = lambda request: request
    """The kind of request that the server sees."""

    def answer(self, request: Request, honest: Callable[[Request], Reply]) -> Reply:
        """Return the damaged response of `honest`."""
        return self.spoil(honest(self.hear(request)))


def without_range(request: Request) -> Request:
    headers = {name: value for name, value in request.headers.items() if name.lower() != "range"}
    return replace(request, headers=headers)


def status(code: int) -> Callable[[Reply], Reply]:
    return lambda reply: Reply(code)


def stall(reply: Reply) -> Reply:
    threading.Event().wait(STALL)
    return reply


def stall_at_half(reply: Reply) -> Reply:
    def pieces(body: bytes) -> Iterator[bytes]:
        yield body[: len(body) // 2]
        threading.Event().wait(STALL)
        yield body[len(body) // 2 :]

    return replace(reply, pieces=pieces)


def cut(reply: Reply) -> Reply:
    return replace(reply, cut=0)


def cut_at_half(reply: Reply) -> Reply:
    return replace(reply, cut=len(reply.body) // 2)


def shorter(reply: Reply) -> Reply:
    """The body is shorter than the size in the list of objects, and Content-Length agrees with the body."""
    return Reply(reply.status, reply.headers | {"Content-Range": "bytes 0-0/1"}, reply.body[:1])


def corrupt(reply: Reply) -> Reply:
    half = len(reply.body) // 2
    return replace(reply, body=reply.body[:half] + bytes([reply.body[half] ^ 1]) + reply.body[half + 1 :])


def another_part(reply: Reply) -> Reply:
    """Like a cache that ignores Range."""
    if reply.status != 206:
        return Reply(503)
    whole = reply.headers["Content-Range"].rpartition("/")[2]
    return replace(reply, headers=reply.headers | {"Content-Range": f"bytes 1-{len(reply.body)}/{whole}"})


def another_version(reply: Reply) -> Reply:
    return replace(reply, headers=reply.headers | {"ETag": '"another"'})


FAULTS = {
    "storm of 503": Fault(status(503), "ServerError"),
    "storm of 429": Fault(status(429), "ServerError"),
    "500": Fault(status(500), "ServerError"),
    "stall": Fault(stall, "Stalled"),
    "cut": Fault(cut, "Unreachable"),
    "cut at half": Fault(cut_at_half, "Unreachable"),
    "truncated": Fault(shorter, "Changed"),
    "corrupted": Fault(corrupt, "Corrupted"),
    "another part": Fault(another_part, "ServerError"),
    "whole instead of a part": Fault(lambda reply: reply, "Loaded", without_range),
    "overwritten": Fault(another_version, "Changed"),
    "expired credentials": Fault(status(403), "Unauthorized"),
    "gone": Fault(status(404), "NotFound"),
}


def damaged_store(load: Loader, web: WebServer, weights: bytes, name: str, *, lasting: bool) -> Counter[str]:
    """Make ``web`` the store of ``s3://models/m``, with checksums and this fault in the first response, or in all.

    Returns the count of damaged responses, and of models that were there before the load had ended.
    """
    fault = FAULTS[name]
    web.files["/models/m/model.bin"] = weights
    value = base64.b64encode(hashlib.sha1(weights).digest()).decode()
    load.credentials(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=web.url)
    seen = Counter[str]()
    lock = threading.Lock()

    def misbehave(request: Request, number: int) -> Reply | None:
        seen["a model too early"] += (load.volume / "model").exists()
        if "list-type" in request.path:
            etag = f"<ETag>{web.etag(weights)}</ETag><Size>".encode()
            return Reply(body=listing("m/model.bin", size=len(weights)).replace(b"<Size>", etag))

        def honest(request: Request) -> Reply:
            reply = web.answer(request)
            reply.headers |= {"x-amz-checksum-sha1": value}
            return reply

        if request.method == "HEAD":
            return honest(request)
        with lock:
            damages = lasting or not seen[name]
            seen[name] += damages
        return fault.answer(request, honest) if damages else honest(request)

    web.fault = misbehave
    return seen
