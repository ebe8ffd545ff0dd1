"""Faults: how a store can damage a response."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from support.loader_harness import Reply, Request

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
