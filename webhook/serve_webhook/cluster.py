"""The Kubernetes API over HTTP: the only module that imports the client library.

The library finds the cluster and keeps the credentials fresh. Objects stay plain JSON: its typed models are slow and
large, and lose the fields that they do not know.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Self

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from serve_core.json import JsonObject
from serve_core.names import FIELD_MANAGER
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
    WatchEvent,
    key,
)

PAGE = 500
REQUEST_SECONDS = 15
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

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

    async def list(self, resource: Resource, namespace: str, selectors: Mapping[str, str]) -> list[JsonObject]:
        return [each async for page in self.pages(resource, PAGE, namespace, selectors) for each in page.items]

    async def pages(
        self, resource: Resource, size: int, namespace: str = "", selectors: Mapping[str, str] | None = None
    ) -> AsyncIterator[Page]:
        params = dict(selectors or {}) | {"limit": str(size)}
        while True:
            document = await self._json("GET", resource.path(namespace), params)
            yield Page(document.get("items") or [], document["metadata"]["resourceVersion"])
            if not (following := document["metadata"].get("continue")):
                return
            params["continue"] = following

    async def watch(
        self, resource: Resource, namespace: str, selectors: Mapping[str, str], version: str, seconds: int
    ) -> AsyncIterator[WatchEvent]:
        params = dict(selectors) | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        response = await self._send("GET", resource.path(namespace), params, seconds=seconds + REQUEST_SECONDS)
        try:
            async for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error(event["object"].get("code", 500), event["object"])
                yield WatchEvent(event["type"], event["object"])
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
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
            document = json.loads(answer)
        except ValueError as error:
            raise UnavailableError(f"The API server answered {method} {path} with no JSON.") from error
        if not isinstance(document, dict):
            raise UnavailableError(f"The API server answered {method} {path} with no JSON object.")
        return document

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
            return await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"The answer to {method} {path} broke off: {_sentence(error)}") from error

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = "",
        seconds: float = REQUEST_SECONDS,
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
                _request_timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=5),
            )
            if response.status >= 400:
                raise _error(response.status, _document(await response.read()))
        except (aiohttp.ClientError, TimeoutError, OSError, config.ConfigException) as error:
            raise UnavailableError(f"The API server did not answer {method} {path}: {_sentence(error)}") from error
        return response


def _error(status: int, document: JsonObject) -> ApiError:
    message = document.get("message") or f"The API server answered with status {status}."
    causes = (document.get("details") or {}).get("causes") or []
    if status == 422 and any(cause.get("field") == "metadata.uid" for cause in causes):
        status = 409  # what a PATCH says of another object of this name; DELETE and PUT call it a conflict
    return _ERRORS.get(status, UnavailableError)(str(message)[:2000], status)


def _document(body: bytes) -> JsonObject:
    try:
        document = json.loads(body)
    except ValueError:
        return {"message": body.decode(errors="replace").strip()}
    return document if isinstance(document, dict) else {}


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines of any length: the stream reader's own ``readline`` refuses long ones."""
    parts: list[bytes] = []
    async for chunk in response.content.iter_any():
        first, *rest = chunk.split(b"\n")
        parts.append(first)
        for part in rest:
            if line := b"".join(parts):
                yield line
            parts = [part]
