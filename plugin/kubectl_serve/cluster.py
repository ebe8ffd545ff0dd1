"""The Kubernetes API over HTTP: the only module of the plugin that imports the client library.

The library reads kubeconfig files and keeps credentials fresh. Objects stay plain JSON: its typed models are slow and
large, and lose the fields that they do not know.
"""

import asyncio
import contextlib
import os
import struct
from argparse import Namespace
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config.kube_config import ConfigNode, KubeConfigLoader, KubeConfigMerger
from multidict import CIMultiDict

from kubectl_serve import __version__, errors
from kubectl_serve.api import PODS, Api, Resource, WatchEvent
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cli.verbs import PROGRAM
from serve_core.base import bounded_reading
from serve_core.base.bounded_reading import ListReader
from serve_core.base.constants import GROUP
from serve_core.base.json import JsonObject

FIELD_MANAGER = "kubectl-serve-client"
_PAGE = 500
_REQUEST_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_APPLY = "application/apply-patch+yaml"
_JSON = "application/json"
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SUBPROTOCOL = "v4.channel.k8s.io"

_Query = Any
"""Name and value pairs; the library's annotations want a dict, its code takes both."""

_ERRORS: dict[int, type[errors.ApiError]] = {
    400: errors.InvalidError,
    401: errors.ForbiddenError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    410: errors.GoneError,
    422: errors.InvalidError,
}


@contextlib.asynccontextmanager
async def connect(args: Namespace, streams: Streams) -> AsyncIterator[Api]:
    """The cluster that kubectl would talk to with the same flags. Raises ServeError if there is none."""
    configuration, namespace = await _configuration(args, streams.environment)
    headers = [("User-Agent", f"kubectl-serve/{__version__}")]
    if args.as_user:
        headers.append(("Impersonate-User", args.as_user))
    elif args.as_groups:
        raise errors.UsageError("--as-group needs --as.", "Name the user to impersonate with --as.")
    headers += [("Impersonate-Group", group) for group in args.as_groups]
    try:
        client = ApiClient(configuration)
    except (OSError, ValueError) as error:
        raise errors.ServeError(
            f"the certificates of the kubeconfig cannot be used: {error}.", "Check that its files exist and are PEM."
        ) from error
    try:
        yield _Cluster(client, namespace, headers, args.request_timeout or _REQUEST_SECONDS, streams)
    finally:
        await client.close()


async def _configuration(args: Namespace, environment: Mapping[str, str]) -> tuple[Configuration, str]:
    configuration = Configuration()
    # Go's clients accept certificates without the extensions that Python 3.13 began to insist on.
    configuration.disable_strict_ssl_verification = True
    try:
        namespace = await _load(args, environment, configuration)
    except config.ConfigException as error:
        raise errors.ServeError(
            f"the kubeconfig cannot be used: {str(error).rstrip('.')}.", "`kubectl config view` shows it."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise errors.ServeError(
            f"the kubeconfig cannot be read: {errors.sentence(error)}.", "`kubectl config view` shows it."
        ) from error
    if args.server:
        configuration.host = args.server.rstrip("/")
    if args.token:
        configuration.api_key["BearerToken"] = f"Bearer {args.token}"
    if args.insecure_skip_tls_verify:
        configuration.verify_ssl = False
    return configuration, namespace


async def _load(args: Namespace, environment: Mapping[str, str], configuration: Configuration) -> str:
    """Fill ``configuration`` as kubectl would; return the context's namespace."""
    found = _kubeconfigs(args, environment)
    if args.kubeconfig and not found:
        raise errors.ServeError(f"there is no kubeconfig {args.kubeconfig}.", "Check the path after --kubeconfig.")
    if not found:
        if "KUBERNETES_SERVICE_HOST" in environment:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            return _own_namespace()
        if args.server:
            return "default"
        raise errors.ServeError(
            "there is no cluster to talk to: no kubeconfig was found.",
            "Set KUBECONFIG, or pass --kubeconfig FILE.",
        )
    merger = KubeConfigMerger(os.pathsep.join(found))
    merged = merger.config
    if merged is None:
        raise errors.ServeError("the kubeconfig is empty.", "`kubectl config view` shows it.")
    # Of several files kubectl goes by the first that has a current context, the library by the last.
    current = (each.get("current-context") for each in merger.config_files.values())
    merged.value["current-context"] = next(filter(None, current), None)
    context = _context(merged, args)
    loader = KubeConfigLoader(config_dict=merged, config_base_path=None)
    await loader.load_and_set(configuration)
    return str(context.get("namespace") or "default")


def contexts(args: Namespace, environment: Mapping[str, str]) -> list[str]:
    """The names of all contexts that can be chosen."""
    files = _kubeconfigs(args, environment)
    found = KubeConfigMerger(os.pathsep.join(files)).config if files else None
    return [] if found is None else [each["name"] for each in found.value.get("contexts") or []]


def _kubeconfigs(args: Namespace, environment: Mapping[str, str]) -> list[str]:
    paths = args.kubeconfig or environment.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    files = [(path, Path(path).expanduser()) for path in paths.split(os.pathsep) if path]
    return [path for path, file in files if file.is_file() and file.stat().st_size]


def _own_namespace() -> str:
    """The namespace of the pod that this runs in."""
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"


def _context(merged: ConfigNode, args: Namespace) -> JsonObject:
    """Put the context that the flags ask for into the merged kubeconfig as its current one, and return it.

    The library can choose a context, but not exchange its cluster or user, nor do without a user.
    """
    document = merged.value
    wanted = args.context or document.get("current-context")
    context: JsonObject = {}
    if wanted:
        named = merged["contexts"].get_with_name(wanted, safe=True)
        if named is None:
            known = ", ".join(sorted(str(entry["name"]) for entry in document["contexts"])) or "none"
            raise errors.ServeError(f"the kubeconfig has no context {wanted}.", f"It has: {known}.")
        context = dict(named["context"].value)
    elif not args.cluster:
        raise errors.ServeError(
            "the kubeconfig has no current context.", "`kubectl config use-context NAME` sets one, or pass --context."
        )
    context["cluster"] = args.cluster or context.get("cluster")
    context["user"] = args.user or context.get("user")
    for kind in ("cluster", "user"):
        if context[kind] and merged[f"{kind}s"].get_with_name(context[kind], safe=True) is None:
            if kind == "user" and not args.user:
                context["user"] = None
                continue
            raise errors.ServeError(f"the kubeconfig has no {kind} {context[kind]}.", "`kubectl config view` shows it.")
    if not context["user"]:
        context["user"] = "kubectl-serve/nobody"
        document["users"].append({"name": context["user"], "user": {}})
    document["contexts"].append({"name": "kubectl-serve/chosen", "context": context})
    document["current-context"] = "kubectl-serve/chosen"
    return context


class _Cluster:
    """See :class:`kubectl_serve.api.Api`."""

    def __init__(
        self, client: ApiClient, namespace: str, headers: list[tuple[str, str]], seconds: float, streams: Streams
    ) -> None:
        self.namespace = namespace
        self._client = client
        self._host = str(client.configuration.host)
        self._headers = headers
        self._seconds = seconds
        self._streams = streams
        self._warned: set[str] = set()

    async def version(self) -> JsonObject:
        return await self._json("GET", "/version")

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject:
        return await self._json("GET", resource.path(namespace, name))

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], str]:
        objects: list[JsonObject] = []
        version = ""
        async for page, metadata in self._pages(resource, namespace, _selectors(labels, fields)):
            objects += page
            version = metadata["resourceVersion"]
        return objects, version

    async def pages(self, resource: Resource, namespace: str | None) -> AsyncIterator[Sequence[JsonObject]]:
        async for page, _ in self._pages(resource, namespace, []):
            yield page

    async def _pages(
        self, resource: Resource, namespace: str | None, selectors: _Query
    ) -> AsyncIterator[tuple[Sequence[JsonObject], JsonObject]]:
        """Objects that can be read, and the list's own metadata."""
        query = [*selectors, ("limit", str(_PAGE))]
        # They come without their type.
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        following = ""
        while True:
            path, more = resource.path(namespace), [("continue", following)] if following else []
            response = await self._send("GET", path, query + more, seconds=self._seconds)
            reader = ListReader()
            page: MutableSequence[JsonObject] = []
            try:
                async for piece in response.content.iter_any():
                    for text in reader.feed(piece):
                        try:
                            page.append(head | _object(text))
                        except bounded_reading.UnreadableError as error:
                            self._skip(resource, error)
                metadata = reader.end()
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                raise errors.UnreachableError(
                    f"the API server's answer cannot be read: {errors.sentence(error)}."
                ) from error
            finally:
                response.close()
            yield page, metadata
            following = metadata.get("continue", "")
            if not following:
                return

    def _skip(self, resource: Resource, error: bounded_reading.UnreadableError) -> None:
        """Say once of an object that it is left out."""
        parts = (error.metadata.get("namespace"), error.metadata.get("name"))
        said = f"{resource.title} {'/'.join(filter(None, parts)) or 'without a name'} is left out: {error.why}."
        if said not in self._warned:
            self._warned.add(said)
            self._streams.note(said)

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        query = [
            *_selectors(labels, fields),
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
        ]
        response = await self._send("GET", resource.path(namespace), query, seconds=None)
        async for line in _lines(response):
            try:
                kind, found = bounded_reading.read_event(line)
            except ValueError as error:
                raise errors.UnreachableError("the API server's answer is no event of a watch.") from error
            if isinstance(found, bounded_reading.UnreadableError):
                self._skip(resource, found)
            elif kind == "ERROR":
                code = found.get("code")
                raise _error(code if isinstance(code, int) else 500, found)
            else:
                yield WatchEvent(kind, found)

    async def create(self, resource: Resource, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject:
        query = [("fieldManager", FIELD_MANAGER)] + ([("dryRun", "All")] if dry_run else [])
        path = resource.path(manifest["metadata"].get("namespace"))
        return await self._json("POST", path, query, manifest, _JSON)

    async def apply(
        self, resource: Resource, manifest: JsonObject, *, manager: str, dry_run: bool = False, force: bool = True
    ) -> JsonObject:
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"])
        query = [("fieldManager", manager)]
        query += ([("force", "true")] if force else []) + ([("dryRun", "All")] if dry_run else [])
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
        query = [("fieldManager", FIELD_MANAGER)] + ([("dryRun", "All")] if dry_run else [])
        content_type = _STRATEGIC if strategic else _MERGE
        return await self._json("PATCH", resource.path(namespace, name), query, patch, content_type)

    async def delete(self, resource: Resource, namespace: str | None, name: str, *, dry_run: bool = False) -> None:
        # Where there is a body, the API server reads no options from the query.
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            **({"dryRun": ["All"]} if dry_run else {}),
        }
        await self._json("DELETE", resource.path(namespace, name), [], options, _JSON)

    async def logs(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        previous: bool = False,
        tail: int | None = None,
    ) -> AsyncIterator[str]:
        query = [("container", container)]
        query += [("follow", "true")] if follow else []
        query += [("previous", "true")] if previous else []
        query += [("tailLines", str(tail))] if tail is not None else []
        response = await self._send(
            "GET", PODS.path(namespace, pod, "log"), query, seconds=None if follow else self._seconds
        )
        async for line in _lines(response):
            yield line.decode(errors="replace")

    async def forward(self, namespace: str, pod: str, port: int, reader: StreamReader, writer: StreamWriter) -> None:
        """kubelet's websocket protocol: channel 0 carries data, 1 an error; each begins with the port's number.

        Source: k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go.
        """
        headers = await self._authorised([])
        url = self._host + PODS.path(namespace, pod, "portforward") + f"?ports={port}"
        try:
            async with self._client.rest_client.pool_manager.ws_connect(
                url, headers=headers, protocols=[_SUBPROTOCOL], max_msg_size=0
            ) as socket:
                await _carry(socket, port, reader, writer)
        except aiohttp.WSServerHandshakeError as error:
            raise _error(
                error.status, {"message": f"the API server refuses to forward to pod {pod} ({error.status})."}
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise errors.UnreachableError(f"the connection to pod {pod} broke: {errors.sentence(error)}.") from error

    async def _json(
        self,
        method: str,
        path: str,
        query: _Query | None = None,
        body: JsonObject | None = None,
        content_type: str = "",
    ) -> JsonObject:
        response = await self._send(method, path, query or [], body, content_type, self._seconds)
        try:
            return bounded_reading.read(await response.read())
        except bounded_reading.UnreadableError as error:
            if not error.metadata:
                raise errors.UnreachableError("the API server's answer is not a JSON object.") from error
            name = "/".join(error.metadata[key] for key in ("namespace", "name") if key in error.metadata)
            raise errors.UnreadableError(
                f"{name} cannot be read: {error.why}.", "Look at it with kubectl; correct it, or delete it."
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.UnreachableError(
                f"the API server's answer cannot be read: {errors.sentence(error)}."
            ) from error

    async def _send(
        self,
        method: str,
        path: str,
        query: _Query,
        body: JsonObject | None = None,
        content_type: str = "",
        seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        headers = await self._authorised(query)
        # Not everywhere: the kubelet refuses to forward a port where only JSON is accepted.
        headers["Accept"] = "application/json, */*"
        if content_type:
            headers["Content-Type"] = content_type
        host = self._host
        try:
            response: aiohttp.ClientResponse = await self._client.rest_client.request(
                method,
                host + path,
                query_params=query,
                headers=headers,
                body=body,
                _preload_content=False,
                _request_timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS),
            )
            self._pass_on_warnings(response)
            if response.status >= 400:
                raise _error(response.status, _document(await response.read()))
        except aiohttp.ClientConnectorCertificateError as error:
            raise errors.UnreachableError(
                f"the certificate of {host} is not trusted: {error.certificate_error}.",
                "Check certificate-authority-data of the kubeconfig.",
            ) from error
        except TimeoutError as error:
            raise errors.UnreachableError(
                f"{host} did not answer {method} {path} in time.", "Is the cluster up? --request-timeout waits longer."
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise errors.UnreachableError(
                f"the API server {host} cannot be reached: {errors.connecting(error.os_error)}.",
                "Is the cluster up? Is it this context?",
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise errors.UnreachableError(
                f"the API server {host} cannot be reached: {errors.sentence(error)}.",
                "Is the cluster up? Is it this context?",
            ) from error
        return response

    async def _authorised(self, query: _Query) -> Any:
        # Impersonate-Group may stand there several times; the library's annotations want a dict, its code does not.
        headers: Any = CIMultiDict(self._headers)
        await self._client.update_params_for_auth(headers, query, ["BearerToken"])
        return headers

    def _pass_on_warnings(self, response: aiohttp.ClientResponse) -> None:
        """Show the warnings of admission, once each. RFC 7234, section 5.5: code, agent and quoted text."""
        for header in response.headers.getall("Warning", []):
            parts = header.split(" ", 2)
            text = parts[2].strip('"').replace('\\"', '"') if len(parts) == 3 else header
            if text not in self._warned:
                self._warned.add(text)
                self._streams.note(f"Warning: {text}")


def _object(text: bytes | bounded_reading.UnreadableError) -> JsonObject:
    if isinstance(text, bounded_reading.UnreadableError):
        raise text
    return bounded_reading.read_object(text)


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
                raise errors.UnreachableError(f"the pod does not take the connection: {data.decode(errors='replace')}.")
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


def _selectors(labels: str, fields: str) -> _Query:
    return [(key, text) for key, text in (("labelSelector", labels), ("fieldSelector", fields)) if text]


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines of any length: the stream reader's own ``readline`` refuses long ones."""
    rest = b""
    try:
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise errors.UnreachableError(f"the API server's answer broke off: {errors.sentence(error)}.") from error
    finally:
        response.close()


def _document(body: bytes) -> JsonObject:
    try:
        return bounded_reading.read(body)
    except bounded_reading.UnreadableError:
        return {"message": body[:2000].decode(errors="replace").strip()}


def _error(status: int, document: Mapping[str, Any]) -> errors.ApiError:
    """A Status object of the API server as an error of ours."""
    message = str(document.get("message") or f"the API server answered with status {status}").strip()
    denied = message.partition(" denied the request: ")
    if denied[1]:
        return errors.RefusedError(denied[2], webhook=denied[0].rpartition("admission webhook ")[2].strip('"'))
    if document.get("reason") == "AlreadyExists":
        return errors.AlreadyExistsError(message)
    if "failed calling webhook" in message:
        ours = f'.{GROUP}"' in message
        return errors.ApiError(
            f"an admission webhook of the cluster does not answer: {message}",
            f"It is kubectl-serve's own: `{PROGRAM} doctor` tells why."
            if ours
            else "Look at the pods of that webhook.",
        )
    hint = ""
    if status == 401:
        hint = "Log in to the cluster again: the credentials of the kubeconfig are not valid (any more)."
    elif status == 403:
        hint = "Ask the cluster's administrator for this permission, or use another context."
    return _ERRORS.get(status, errors.ApiError)(message, hint)
