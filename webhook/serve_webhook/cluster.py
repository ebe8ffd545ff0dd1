"""The Kubernetes API over HTTP: the only module that imports the client library.

The library finds the cluster and keeps the credentials fresh. Objects stay plain JSON: its typed models are slow and
large, and lose the fields that they do not know.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Self

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from serve_core.base import bounded_reading
from serve_core.base.bounded_reading import ListReader
from serve_core.base.constants import FIELD_MANAGER
from serve_core.base.json import JsonObject, value_at
from serve_webhook.api import (
    PODS,
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    Page,
    RejectedError,
    Resource,
    UnavailableError,
    Unread,
    UnreadableError,
    WatchEvent,
    key,
)

LINE_BYTES = bounded_reading.MOST_BYTES + 1024
"""Of a line of a watch: an object, and what stands around it."""
FIRST_PAGE = 50
"""Objects that are asked for at first; after that, as many as PAGE_BYTES hold of such as came."""
MOST_OF_A_PAGE = 500
PAGE_BYTES = 4 * 2**20
PART_BYTES = 2**18
"""Of a page that are read and handed on together: parsed they take ten to twenty times as much."""
REQUEST_SECONDS = 15
CONNECT_SECONDS = 5
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

_TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)

_ERRORS: dict[int, type[ApiError]] = {
    400: RejectedError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: RejectedError,
}


class Cluster:
    """The live cluster; see :class:`serve_webhook.api.Api`. Close it, or use it as a context manager."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, kubeconfig: str | None = None) -> Self:
        """The cluster that this pod runs in, or that ``kubeconfig`` names.

        Raises :class:`UnavailableError` if there is neither.
        """
        configuration = Configuration()
        try:
            if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        except config.ConfigException as error:
            raise UnavailableError(f"There is no cluster to connect to: {error}.") from error
        return cls(ApiClient(configuration))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> JsonObject:
        return await self._json("GET", resource.path(namespace, name))

    async def pages(
        self, resource: Resource, namespace: str = "", selectors: Mapping[str, str] | None = None
    ) -> AsyncIterator[Page]:
        params, limit = dict(selectors or {}), FIRST_PAGE
        while True:
            pieces = self._pieces(resource.path(namespace), params | {"limit": str(limit)})
            reader, size, count = ListReader(), 0, 0
            part = _Part()
            try:
                async for piece in pieces:
                    size += len(piece)
                    for text in reader.feed(piece):
                        count += 1
                        part.add(text)
                        if part.size >= PART_BYTES:
                            yield part.page()
                            part = _Part()
                metadata = reader.end()
                yield part.page(metadata["resourceVersion"])
            except (ValueError, KeyError) as error:
                raise UnavailableError(f"The API server's list of {resource.plural} is none: {error}.") from error
            finally:
                await pieces.aclose()
            if not (following := metadata.get("continue")):
                return
            params["continue"] = following
            limit = max(1, min(MOST_OF_A_PAGE, PAGE_BYTES * count // max(size, 1)))

    async def _pieces(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[bytes]:
        """The body of an answer that may be long: only silence makes it time out."""
        limits = aiohttp.ClientTimeout(sock_read=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        response = await self._send("GET", path, params, limits=limits)
        try:
            async for piece in response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"The answer to GET {path} broke off: {_sentence(error)}") from error
        finally:
            response.close()

    async def watch(
        self, resource: Resource, namespace: str, selectors: Mapping[str, str], version: str, seconds: int
    ) -> AsyncIterator[WatchEvent]:
        params = dict(selectors) | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        limits = aiohttp.ClientTimeout(total=seconds + REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        response = await self._send("GET", resource.path(namespace), params, limits=limits)
        try:
            async for line in _lines(response):
                kind, found = bounded_reading.read_event(line)
                if kind == "ERROR":
                    status = {} if isinstance(found, bounded_reading.UnreadableError) else found
                    code = status.get("code")
                    raise _error(code if isinstance(code, int) else 500, status)
                yield WatchEvent(kind, _unread(found) if isinstance(found, bounded_reading.UnreadableError) else found)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UnavailableError(f"The watch of {resource.plural} broke off: {_sentence(error)}") from error
        finally:
            response.close()

    async def create(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        return await self._json(
            "POST", resource.path(key(manifest)[0]), {"fieldManager": FIELD_MANAGER}, manifest, "application/json"
        )

    async def replace(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        return await self._json(
            "PUT", resource.path(*key(manifest)), {"fieldManager": FIELD_MANAGER}, manifest, "application/json"
        )

    async def apply(
        self,
        resource: Resource,
        manifest: JsonObject,
        *,
        subresource: str = "",
        force: bool = True,
        manager: str = FIELD_MANAGER,
    ) -> JsonObject:
        path = resource.path(*key(manifest), subresource)
        params = {"fieldManager": manager, "force": str(force).lower()}
        return await self._json("PATCH", path, params, manifest, APPLY)

    async def merge(self, resource: Resource, namespace: str, name: str, patch: JsonObject) -> JsonObject:
        return await self._json("PATCH", resource.path(namespace, name), {"fieldManager": FIELD_MANAGER}, patch, MERGE)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        await self._json("DELETE", resource.path(namespace, name), {}, options, "application/json")

    async def log(self, namespace: str, pod: str, container: str, *, lines: int, size: int) -> str:
        params = {"container": container, "tailLines": str(lines), "limitBytes": str(size)}
        body = await self._read("GET", PODS.path(namespace, pod, "log"), params)
        return body.decode(errors="replace")

    async def _json(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = "",
    ) -> JsonObject:
        answer = await self._read(method, path, params, body, content_type)
        try:
            return bounded_reading.read(answer)
        except bounded_reading.UnreadableError as error:
            if not error.metadata:
                raise UnavailableError(f"The API server answered {method} {path} with no object.") from error
            raise UnreadableError(f"The answer to {method} {path} cannot be read: {error.why}.") from error

    async def _read(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = "",
    ) -> bytes:
        response = await self._send(method, path, params, body, content_type)
        try:
            return await _body(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"The answer to {method} {path} broke off: {_sentence(error)}") from error

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = "",
        limits: aiohttp.ClientTimeout = _TIMEOUT,
    ) -> aiohttp.ClientResponse:
        """Start a request; the caller reads or closes the answer, which is a good one."""
        headers = {"Accept": "application/json", "User-Agent": "kubectl-serve-server"}
        if content_type:
            headers["Content-Type"] = content_type
        query = dict(params or {})
        try:
            await self._client.update_params_for_auth(headers, [], ["BearerToken"])
            response: aiohttp.ClientResponse = await self._client.rest_client.request(
                method,
                f"{self._client.configuration.host}{path}",
                query_params=query,
                headers=headers,
                body=body,
                _preload_content=False,
                _request_timeout=limits,
            )
            if response.status >= 400:
                raise _error(response.status, _document(await _body(response)))
        except (aiohttp.ClientError, TimeoutError, OSError, config.ConfigException) as error:
            raise UnavailableError(f"The API server did not answer {method} {path}: {_sentence(error)}") from error
        return response


class _Part:
    """Some objects of a list, as they are read."""

    def __init__(self) -> None:
        self.size = 0
        self._items: list[JsonObject] = []
        self._unread: list[Unread] = []

    def add(self, text: bytes | bounded_reading.UnreadableError) -> None:
        try:
            if isinstance(text, bounded_reading.UnreadableError):
                raise text
            self.size += len(text)
            self._items.append(bounded_reading.read_object(text))
        except bounded_reading.UnreadableError as error:
            self._unread.append(_unread(error))

    def page(self, version: str = "") -> Page:
        return Page(self._items, version, self._unread)


def _unread(error: bounded_reading.UnreadableError) -> Unread:
    return Unread(error.metadata, error.why)


def _error(status: int, document: JsonObject) -> ApiError:
    message = document.get("message") or f"The API server answered with status {status}."
    causes = value_at(document, "details", "causes")
    if status == 422 and any(
        value_at(cause, "field") == "metadata.uid" for cause in (causes if isinstance(causes, list) else ())
    ):
        status = 409  # what a PATCH says of another object of this name; DELETE and PUT call it a conflict
    return _ERRORS.get(status, UnavailableError)(str(message)[:2000], status)


def _document(body: bytes) -> JsonObject:
    try:
        return bounded_reading.read(body)
    except bounded_reading.UnreadableError:
        return {"message": body[:2000].decode(errors="replace").strip()}


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """One byte more than may be read, at most."""
    pieces, room = [], bounded_reading.MOST_BYTES + 1
    while room and (piece := await response.content.read(room)):
        pieces.append(piece)
        room -= len(piece)
    if room:
        response.release()
    else:
        response.close()
    return b"".join(pieces)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines: the stream reader's own ``readline`` refuses long ones. Of one that is too long comes what is enough
    to say so."""
    line = bytearray()
    async for chunk in response.content.iter_any():
        first, *rest = chunk.split(b"\n")
        line += first[: LINE_BYTES - len(line)]
        for part in rest:
            if line:
                yield bytes(line)
            line = bytearray(part[:LINE_BYTES])
