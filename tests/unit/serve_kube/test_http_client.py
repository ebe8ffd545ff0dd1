"""The client of the Kubernetes API, against a real HTTP server that answers like an API server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from serve_core.base.constants import FIELD_MANAGER
from serve_kube.access import Connection
from serve_kube.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from serve_kube.http_client import HttpClient
from serve_kube.paging import Page
from serve_kube.resources import DEPLOYMENTS, PODS
from serve_webhook.connection import client
from support.http_api import Handler, serving


@asynccontextmanager
async def cluster(handler: Handler) -> AsyncIterator[HttpClient]:
    async with serving(handler) as host, client(Connection(host=host)) as connected:
        yield connected


def answering(document: Any, status: int = 200) -> Handler:
    async def handler(_: web.BaseRequest) -> web.Response:
        return web.json_response(document, status=status)

    return handler


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidError),
        (401, ForbiddenError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, GoneError),
        (422, InvalidError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
async def test_an_error_carries_the_api_servers_own_sentence(status: int, error: type[ApiError]) -> None:
    async with cluster(answering({"kind": "Status", "message": "because"}, status)) as api:
        with pytest.raises(error, match="because") as caught:
            await api.get(DEPLOYMENTS, "default", "iris")
        assert caught.value.status == status


@pytest.mark.attack(14)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    requests: list[str] = []

    async def elsewhere(request: web.BaseRequest) -> web.Response:
        requests.append(request.path)
        return web.json_response({"kind": "Deployment", "metadata": {"name": "forged"}})

    async with serving(elsewhere) as host:

        async def redirecting(_: web.BaseRequest) -> web.Response:
            return web.Response(status=status, headers={"Location": f"{host}/elsewhere"})

        async with cluster(redirecting) as api:
            for request in (
                api.get(DEPLOYMENTS, "default", "iris"),
                api.create(DEPLOYMENTS, DEPLOYMENTS.identity("default", "iris")),
            ):
                with pytest.raises(ApiError, match=f"status {status}"):
                    await request
    assert requests == []


async def test_a_patch_that_meets_another_object_of_that_name_is_a_conflict() -> None:
    causes = [{"reason": "FieldValueInvalid", "field": "metadata.uid"}]
    refusal = {"kind": "Status", "message": "field is immutable", "details": {"causes": causes}}
    async with cluster(answering(refusal, 422)) as api:
        with pytest.raises(ConflictError):
            await api.apply(DEPLOYMENTS, DEPLOYMENTS.identity("default", "iris"))


async def test_nobody_there_is_unavailable_without_a_status() -> None:
    async with client(Connection(host="http://127.0.0.1:1")) as api:
        with pytest.raises(UnavailableError) as caught:
            await api.get(DEPLOYMENTS, "default", "iris")
        assert caught.value.status == 0


@pytest.mark.parametrize("text", ["<html>", "[]", ""])
async def test_what_is_no_object_is_unavailable(text: str) -> None:
    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(text=text)

    async with cluster(handler) as api:
        with pytest.raises(UnavailableError):
            await api.get(DEPLOYMENTS, "default", "iris")


async def test_a_proxy_of_the_environment_is_used_unless_it_excludes_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    async def proxy(request: web.BaseRequest) -> web.Response:
        asked.append((request.host, request.headers.get("Authorization")))
        return web.json_response({"kind": "Deployment", "metadata": {"name": "iris"}})

    passwords = tmp_path / "netrc"
    passwords.write_text("machine api.invalid login mallory password secret")
    monkeypatch.setenv("NETRC", str(passwords))
    async with serving(proxy) as host:
        monkeypatch.setenv("http_proxy", host)
        for excluded, seen in (("other.invalid", [("api.invalid", None)]), ("api.invalid", [])):
            monkeypatch.setenv("no_proxy", excluded)
            async with client(Connection(host="http://api.invalid")) as api:
                with suppress(UnavailableError):
                    await api.get(DEPLOYMENTS, "default", "iris")
            assert asked == seen
            asked.clear()


async def test_a_deletion_names_the_object_and_the_version_that_were_read() -> None:
    bodies = []

    async def handler(request: web.BaseRequest) -> web.Response:
        bodies.append(json.loads(await request.read()).get("preconditions"))
        return web.json_response({"kind": "Status"})

    async with cluster(handler) as api:
        await api.delete(DEPLOYMENTS, "default", "iris", uid="u1")
        await api.delete(DEPLOYMENTS, "default", "iris", uid="u1", version="7")
    assert bodies == [{"uid": "u1"}, {"uid": "u1", "resourceVersion": "7"}]


async def test_a_long_list_comes_page_by_page() -> None:
    answers = {
        "": {"metadata": {"resourceVersion": "7", "continue": "next"}, "items": [item("1")]},
        "next": {"metadata": {"resourceVersion": "7"}, "items": [item("2")]},
    }

    async def handler(request: web.BaseRequest) -> web.Response:
        assert request.query["labelSelector"] == "a=b,c"
        return web.json_response(answers[request.query.get("continue", "")])

    async with cluster(handler) as api:
        pages = [page async for page in api.pages(DEPLOYMENTS, "", {"labelSelector": "a=b,c"})]
    assert pages == [Page([item("1")], "7", []), Page([item("2")], "7", [])]


def item(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": "5"}, **more}


def streaming(*chunks: bytes) -> Handler:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        return response

    return handler


def event(kind: str, **found: Any) -> bytes:
    return (
        json.dumps({"type": kind, "object": {"metadata": {"name": "a", "resourceVersion": "5"}, **found}}).encode()
        + b"\n"
    )


async def test_a_watch_yields_events_however_they_are_cut_and_however_long() -> None:
    long = event("ADDED", text="x" * 1_500_000)
    both = event("MODIFIED", n=1) + event("DELETED", n=2)
    async with cluster(streaming(long[:100_000], long[100_000:], both[:5], both[5:])) as api:
        seen: list[tuple[str, Any]] = [(e.type, e.object) async for e in api.watch(DEPLOYMENTS, None, {}, "1", 5)]
    assert [kind for kind, _ in seen] == ["ADDED", "MODIFIED", "DELETED"]
    assert len(seen[0][1]["text"]) == 1_500_000


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ((event("ERROR", code=410, message="too old"),), GoneError),
        ((event("ERROR", code=500, message="etcd"),), UnavailableError),
        ((b"{nonsense}\n",), UnavailableError),
    ],
)
async def test_a_watch_that_ends_badly_says_how(chunks: tuple[bytes, ...], error: type[ApiError]) -> None:
    async with cluster(streaming(*chunks)) as api:
        with pytest.raises(error):
            async for _ in api.watch(DEPLOYMENTS, None, {}, "1", 5):
                pass


async def test_an_apply_is_a_patch_by_our_field_manager() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.json_response(
            {
                "path": request.path,
                "type": request.content_type,
                "query": dict(request.query),
                "sent": json.loads(await request.text()),
            }
        )

    manifest = DEPLOYMENTS.identity("default", "iris")
    async with cluster(handler) as api:
        seen = await api.apply(DEPLOYMENTS, manifest, subresource="status", force=False)
    assert seen["path"] == "/apis/apps/v1/namespaces/default/deployments/iris/status"
    assert seen["type"] == "application/apply-patch+yaml"
    assert seen["query"] == {"fieldManager": FIELD_MANAGER, "force": "false"}
    assert seen["sent"] == manifest


async def test_a_log_may_hold_anything() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        assert dict(request.query) == {"container": "model-loader", "tailLines": "5", "limitBytes": "100"}
        return web.Response(body=b"\xff{}\n")

    async with cluster(handler) as api:
        assert await api.log("default", "p", "model-loader", lines=5, size=100) == "\ufffd{}\n"


async def test_a_log_keeps_empty_lines_and_a_last_line_without_end() -> None:
    async with cluster(streaming(b"one\n\ntw", b"o\nthree")) as api:
        assert [line async for line in api.log_lines("default", "p", "c")] == ["one", "", "two", "three"]


def forwarding(*answers: bytes) -> Handler:
    """A kubelet that sends each message, and then what it got on channel 0."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.path_qs == "/api/v1/namespaces/default/pods/p/portforward?ports=80"
        socket = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
        await socket.prepare(request)
        for answer in answers:
            await socket.send_bytes(answer)
        received = await socket.receive_bytes()
        await socket.send_bytes(received)
        await socket.close()
        return socket

    return handler


@asynccontextmanager
async def forwarded(handler: Handler) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, list[str]]]:
    """A connection that is carried to port 80 of a pod, and the errors of that."""
    failures: list[str] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await api.forward("default", "p", 80, reader, writer)
        except ApiError as error:
            failures.append(error.message)
        finally:
            writer.close()

    async with cluster(handler) as api:
        server = await asyncio.start_server(carry, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer, failures
        writer.close()
        server.close()
        await server.wait_closed()


async def test_a_port_is_carried_both_ways() -> None:
    async with forwarded(forwarding(b"\x00\x50\x00", b"\x01\x50\x00", b"\x00hello ")) as (reader, writer, failures):
        writer.write(b"world")
        assert (await reader.read(), failures) == (b"hello world", [])


async def test_a_pod_that_refuses_the_connection_says_why() -> None:
    async with forwarded(forwarding(b"\x01\x50\x00", b"\x01connection refused")) as (reader, _, failures):
        assert await reader.read() == b""
        assert failures == ["the pod refuses the connection: connection refused."]


async def test_a_refused_forward_has_the_status() -> None:
    async with forwarded(answering({}, 403)) as (reader, _, failures):
        assert await reader.read() == b""
        assert failures == ["the API server refuses to forward to pod p (403)."]


def test_paths_are_quoted() -> None:
    assert PODS.path("a/b", "c?d", "log") == "/api/v1/namespaces/a%2Fb/pods/c%3Fd/log"
