"""The Kubernetes API over HTTP. Objects stay plain JSON, and are read with bounds."""

import asyncio
import contextlib
import json
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Self
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from multidict import CIMultiDict

from serve_core.base import bounded_reading
from serve_core.base.json import JsonObject
from serve_kube import errors
from serve_kube.access import Connection
from serve_kube.errors import connection_reason, of_status, reason
from serve_kube.paging import FIRST_PAGE, Page, PageReader, Unread
from serve_kube.resources import PODS, Resource, key
from serve_kube.watch import WatchEvent, lines, read_event

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_PORT_FORWARD = "v4.channel.k8s.io"
_READ_BYTES = 2**21
"""The buffer of a connection: etcd's largest object is 1.5 MiB."""

_KEEP_SECONDS = 60.0
"""How long an unused connection stays open; a new one costs a TLS handshake. The API server closes it after 90 s."""

_NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


class HttpClient:
    """See :class:`serve_kube.client.Client`. Create it in an event loop; close it, or use it as a context manager."""

    def __init__(
        self,
        connection: Connection,
        *,
        user_agent: str,
        field_manager: str,
        request_seconds: float,
        connect_seconds: float,
        headers: Iterable[tuple[str, str]] = (),
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``request_seconds`` bounds each request, and the silence in answers that can be long; ``warn`` gets each
        warning of admission. Raises OSError and ValueError for certificates that cannot be used."""
        self._connection = connection
        self._headers = [("User-Agent", user_agent), *headers]
        self._manager = field_manager
        self._seconds = request_seconds
        self._connect_seconds = connect_seconds
        self._warn = warn
        tls = connection.tls()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=True if tls is None else tls, keepalive_timeout=_KEEP_SECONDS),
            proxy=connection.proxy or _environment_proxy(connection.host),
            read_bufsize=_READ_BYTES,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def version(self) -> JsonObject:
        """What the API server says about itself, with ``gitVersion``."""
        return await self._json("GET", "/version")

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject:
        return await self._json("GET", resource.path(namespace, name))

    async def pages(
        self, resource: Resource, namespace: str | None = None, selectors: Mapping[str, str] | None = None
    ) -> AsyncIterator[Page]:
        query, path = dict(selectors or {}), resource.path(namespace)
        limit = FIRST_PAGE
        while True:
            reader = PageReader()
            try:
                async with (
                    aclosing(self._stream(path, query | {"limit": str(limit)}, self._idle_timeout())) as pieces,
                    aclosing(reader.pages(pieces)) as pages,
                ):
                    async for page in pages:
                        yield page
            except (ValueError, KeyError) as error:
                raise errors.UnreachableError(
                    f"the API server's answer is not a list of {resource.plural}: {reason(error)}."
                ) from error
            if not reader.following:
                return
            query["continue"], limit = reader.following, reader.limit()

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        selectors: Mapping[str, str],
        version: str,
        seconds: int | None = None,
    ) -> AsyncIterator[WatchEvent[JsonObject | Unread]]:
        query = dict(selectors) | {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
        if seconds is not None:
            query["timeoutSeconds"] = str(seconds)
        time_limits = self._total_timeout(None if seconds is None else seconds + self._seconds)
        try:
            async with aclosing(self._stream(resource.path(namespace), query, time_limits)) as pieces:
                async for line in lines(pieces):
                    if line:
                        yield read_event(line)
        except ValueError as error:
            raise errors.UnreachableError(f"the watch of {resource.plural} ended: {reason(error)}.") from error

    async def create(self, resource: Resource, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject:
        path = resource.path(manifest["metadata"].get("namespace"))
        return await self._json("POST", path, self._write(dry_run=dry_run), manifest, _JSON)

    async def replace(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        return await self._json("PUT", resource.path(*key(manifest)), self._write(), manifest, _JSON)

    async def apply(
        self,
        resource: Resource,
        manifest: JsonObject,
        *,
        subresource: str = "",
        force: bool = True,
        manager: str = "",
        dry_run: bool = False,
    ) -> JsonObject:
        path = resource.path(*key(manifest), subresource)
        query = self._write(dry_run=dry_run, manager=manager) | {"force": str(force).lower()}
        return await self._json("PATCH", path, query, manifest, _APPLY)

    async def merge(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: JsonObject,
        *,
        dry_run: bool = False,
        strategic: bool = False,
    ) -> JsonObject:
        content_type = _STRATEGIC if strategic else _MERGE
        return await self._json(
            "PATCH", resource.path(namespace, name), self._write(dry_run=dry_run), patch, content_type
        )

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        version: str = "",
        dry_run: bool = False,
    ) -> None:
        # Where there is a body, the API server reads no options from the query.
        options: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        conditions = {"uid": uid, "resourceVersion": version}
        if preconditions := {key: value for key, value in conditions.items() if value}:
            options["preconditions"] = preconditions
        if dry_run:
            options["dryRun"] = ["All"]
        await self._json("DELETE", resource.path(namespace, name), {}, options, _JSON)

    async def log(self, namespace: str, pod: str, container: str, *, lines: int, size: int) -> str:
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(size)}
        return (await self._read("GET", PODS.path(namespace, pod, "log"), query)).decode(errors="replace")

    async def log_lines(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        previous: bool = False,
        tail: int | None = None,
    ) -> AsyncIterator[str]:
        """Lines of a container's log, without their ends. ``follow``: until the container ends."""
        query = {"container": container}
        query |= {"follow": "true"} if follow else {}
        query |= {"previous": "true"} if previous else {}
        query |= {"tailLines": str(tail)} if tail is not None else {}
        time_limits = self._total_timeout(None if follow else self._seconds)
        async with aclosing(self._stream(PODS.path(namespace, pod, "log"), query, time_limits)) as pieces:
            async for line in lines(pieces, rest=True):
                yield line.decode(errors="replace")

    async def forward(self, namespace: str, pod: str, port: int, reader: StreamReader, writer: StreamWriter) -> None:
        """Carry one connection to a pod's port through the API server, until either side ends it.

        kubelet's websocket protocol: channel 0 carries data, 1 an error; each begins with the port's number.
        Source: k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go.
        """
        url = self._connection.host + PODS.path(namespace, pod, "portforward") + f"?ports={port}"
        try:
            async with self._session.ws_connect(
                url, headers=await self._request_headers(), protocols=[_PORT_FORWARD], max_msg_size=0
            ) as socket:
                await _carry(socket, port, reader, writer)
        except aiohttp.WSServerHandshakeError as error:
            message = f"the API server refuses to forward to pod {pod} ({error.status})."
            raise of_status(error.status, {"message": message}) from error
        except _NETWORK_ERRORS as error:
            raise errors.UnreachableError(f"the connection to pod {pod} broke: {reason(error)}.") from error

    def _write(self, *, dry_run: bool = False, manager: str = "") -> dict[str, str]:
        return {"fieldManager": manager or self._manager} | ({"dryRun": "All"} if dry_run else {})

    def _total_timeout(self, seconds: float | None) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=seconds, sock_connect=self._connect_seconds)

    def _idle_timeout(self) -> aiohttp.ClientTimeout:
        """For an answer that can be long: only silence makes it time out."""
        return aiohttp.ClientTimeout(sock_read=self._seconds, sock_connect=self._connect_seconds)

    async def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = "",
    ) -> JsonObject:
        answer = await self._read(method, path, query, body, content_type)
        try:
            return bounded_reading.read(answer)
        except bounded_reading.UnreadableObjectError as error:
            if not error.metadata:
                raise errors.UnreachableError(
                    f"the API server's response to {method} {path} is not a JSON object."
                ) from error
            name = "/".join(error.metadata[step] for step in ("namespace", "name") if step in error.metadata)
            raise errors.UnreadableError(f"{name} cannot be read: {error.why}.") from error

    async def _read(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = "",
    ) -> bytes:
        response = await self._send(method, path, query, self._total_timeout(self._seconds), body, content_type)
        try:
            return await _body(response)
        except _NETWORK_ERRORS as error:
            raise errors.UnreachableError(f"the response to {method} {path} ended early: {reason(error)}.") from error

    async def _stream(
        self, path: str, query: Mapping[str, str], time_limits: aiohttp.ClientTimeout
    ) -> AsyncGenerator[bytes, None]:
        """The answer to a GET request, as it comes."""
        response = await self._send("GET", path, query, time_limits)
        try:
            async for piece in response.content.iter_any():
                yield piece
        except _NETWORK_ERRORS as error:
            raise errors.UnreachableError(f"the response to GET {path} ended early: {reason(error)}.") from error
        finally:
            response.close()

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        time_limits: aiohttp.ClientTimeout,
        body: JsonObject | None = None,
        content_type: str = "",
    ) -> aiohttp.ClientResponse:
        """Start a request. The caller reads or closes the answer, whose status is below 300."""
        headers = await self._request_headers()
        # Not for all requests: the kubelet refuses to forward a port if only JSON is accepted.
        headers["Accept"] = "application/json, */*"
        if content_type:
            headers["Content-Type"] = content_type
        host = self._connection.host
        try:
            response = await self._session.request(
                method,
                host + path + (f"?{urlencode(query)}" if query else ""),
                headers=headers,
                data=None if body is None else json.dumps(body),
                timeout=time_limits,
                server_hostname=self._connection.tls_server_name,
                allow_redirects=False,  # an aggregated API could send the request, and its answer, anywhere
            )
            for header in response.headers.getall("Warning", []):
                self._warn(_warning(header))
            if response.status >= 300:
                raise of_status(response.status, _document(await _body(response)))
        except aiohttp.ClientConnectorCertificateError as error:
            raise errors.UntrustedCertificateError(
                f"the certificate of {host} is not trusted: {error.certificate_error}."
            ) from error
        except TimeoutError as error:
            raise errors.TimedOutError(f"{host} did not answer {method} {path} in time.") from error
        except aiohttp.ClientConnectorError as error:
            raise errors.NotConnectedError(
                f"the API server {host} cannot be reached: {connection_reason(error.os_error)}."
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise errors.NotConnectedError(f"the API server {host} cannot be reached: {reason(error)}.") from error
        return response

    async def _request_headers(self) -> CIMultiDict[str]:
        headers = CIMultiDict(self._headers)  # Impersonate-Group can be there several times
        if authorization := await self._connection.authorization():
            headers["Authorization"] = authorization
        return headers


def _environment_proxy(host: str) -> str | None:
    """The proxy that the environment names for a URL.

    aiohttp's ``trust_env`` would look it up for each request, and a password in ``.netrc`` as well, each in a thread.
    """
    url = urlsplit(host)
    return None if url.hostname and proxy_bypass(url.hostname) else getproxies().get(url.scheme)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """One byte more than may be read, at most."""
    pieces, room = [], bounded_reading.MAX_BYTES + 1
    while room and (piece := await response.content.read(room)):
        pieces.append(piece)
        room -= len(piece)
    if room:
        response.release()
    else:
        response.close()
    return b"".join(pieces)


def _document(body: bytes) -> JsonObject:
    try:
        return bounded_reading.read(body)
    except bounded_reading.UnreadableObjectError:
        return {"message": body[:2000].decode(errors="replace").strip()}


def _warning(header: str) -> str:
    """The text of a Warning header. RFC 7234, section 5.5: code, agent and quoted text."""
    parts = header.split(" ", 2)
    return parts[2].strip('"').replace('\\"', '"') if len(parts) == 3 else header


async def _carry(
    socket: aiohttp.ClientWebSocketResponse, port: int, reader: StreamReader, writer: StreamWriter
) -> None:
    async def upstream() -> None:
        while data := await reader.read(65536):
            await socket.send_bytes(b"\x00" + data)

    async def downstream() -> None:
        greeted: set[int] = set()
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel not in greeted:
                greeted.add(channel)
                if data[:2] == struct.pack("<H", port):
                    data = data[2:]
            if data and channel == 1:
                raise errors.UnreachableError(f"the pod refuses the connection: {data.decode(errors='replace')}.")
            if data:
                writer.write(data)
                await writer.drain()

    up = asyncio.create_task(upstream())
    try:
        await downstream()
    finally:
        up.cancel()
        with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError, OSError):
            await up
