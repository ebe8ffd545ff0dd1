"""Unreadable objects: the commands continue without them, and report each in one line."""

import argparse
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Output, Streams
from kubectl_serve.cli.verbs import BY_NAME
from kubectl_serve.cluster import Cluster
from kubectl_serve.connection import connect
from kubectl_serve.errors import for_user
from serve_kube import errors
from serve_kube.resources import PODS, SERVICES
from support.http_api import serving
from support.stored import DEEP, READABLE, UNREADABLE, stored, text, with_value

pytestmark = pytest.mark.attack(23)


def flags(server: str) -> argparse.Namespace:
    parser = options.Parser(BY_NAME["get"])
    options.namespace(parser)
    options.connection(parser)
    return parser.read(["--server", server])


@asynccontextmanager
async def answering(body: bytes, status: int = 200) -> AsyncIterator[tuple[Cluster, io.StringIO]]:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body, status=status)

    said = io.StringIO()
    streams = Streams(io.StringIO(), Output(io.StringIO()), Output(said), {"KUBECONFIG": "/nowhere"})
    async with serving(handler) as host, connect(flags(host), streams) as cluster:
        yield cluster, said


def listed(*items: bytes) -> bytes:
    return b'{"metadata":{"resourceVersion":"9"},"items":[' + b",".join(items) + b"]}"


@pytest.mark.parametrize("bad", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_list_is_shown_without_it(bad: bytes) -> None:
    async with answering(listed(text(stored("before")), bad, bad, text(stored("after")))) as (cluster, said):
        found, version = await cluster.list(PODS, "default")
        pages = [each["metadata"]["name"] async for page in cluster.pages(PODS, None) for each in page]
    assert ([each["metadata"]["name"] for each in found], version, pages) == (["before", "after"], "9", pages)
    assert pages == ["before", "after"]
    (line,) = said.getvalue().splitlines()
    assert line.startswith("pod ")
    assert "is left out: " in line
    assert len(line) < 600


@pytest.mark.parametrize("bad", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_watch_goes_on_without_it(bad: bytes) -> None:
    lines = [b'{"type":"MODIFIED","object":' + each + b"}\n" for each in (bad, text(stored("after")))]
    async with answering(b"".join(lines)) as (cluster, said):
        found = [event.object["metadata"]["name"] async for event in cluster.watch(PODS, "default", "1")]
    assert (found, said.getvalue().count("is left out")) == (["after"], 1)


@pytest.mark.parametrize("odd", READABLE.values(), ids=READABLE.keys())
async def test_unused_fields_change_nothing(odd: bytes) -> None:
    async with answering(listed(odd)) as (cluster, said):
        (found,) = (await cluster.list(SERVICES, "default"))[0]
    assert (found["metadata"]["name"], said.getvalue()) == ("evil", "")


async def test_an_object_that_is_asked_for_is_an_error_that_names_it() -> None:
    async with answering(with_value(DEEP, "spec", "a")) as (cluster, _):
        with pytest.raises(errors.UnreadableError) as caught:
            await cluster.get(SERVICES, "default", "evil")
    assert caught.value.message == "default/evil cannot be read: it is nested more than 100 levels deep."
    assert for_user(caught.value).hint


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, b'{"message":' + DEEP + b"}", b"", b"7"])
async def test_what_is_no_answer_is_an_error_too(body: bytes, status: int) -> None:
    async with answering(body, status) as (cluster, _):
        for asked in (cluster.get(SERVICES, "default", "evil"), cluster.list(SERVICES, "default")):
            with pytest.raises(errors.ApiError):
                await asked
