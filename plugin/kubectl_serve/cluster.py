"""The requests that the commands make to a cluster. Objects are plain JSON."""

from argparse import Namespace
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from kubectl_serve.cli.streams import Streams
from serve_core.base.json import JsonObject
from serve_kube.errors import ForbiddenError, NotFoundError
from serve_kube.resources import Resource
from serve_kube.watch import WatchEvent


class Cluster(Protocol):
    """Every method raises a :class:`serve_kube.errors.ApiError` when the API server refuses a request.

    ``namespace`` None means all namespaces, or a cluster-scoped object.
    """

    namespace: str
    """The context's namespace."""

    async def version(self) -> JsonObject:
        """What the API server says about itself, with ``gitVersion``."""
        ...

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject: ...

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], str]:
        """All objects, and the resource version to watch from."""
        ...

    def pages(self, resource: Resource, namespace: str | None) -> AsyncIterator[Sequence[JsonObject]]:
        """All objects, page by page."""
        ...

    def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[JsonObject]]:
        """The changes after ``version``, until the server ends the watch. Raises GoneError if it is too old."""
        ...

    async def create(self, resource: Resource, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject: ...

    async def apply(
        self, resource: Resource, manifest: JsonObject, *, manager: str, dry_run: bool = False, force: bool = True
    ) -> JsonObject:
        """Server-side apply. ``force`` takes over fields of other managers; without it they are a ConflictError."""
        ...

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
        """JSON Merge Patch (RFC 7396). ``strategic``: Kubernetes' own, which merges lists."""
        ...

    async def delete(self, resource: Resource, namespace: str | None, name: str, *, dry_run: bool = False) -> None: ...

    def logs(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        previous: bool = False,
        tail: int | None = None,
    ) -> AsyncIterator[str]:
        """Lines of a container's log, without line ends."""
        ...

    async def forward(self, namespace: str, pod: str, port: int, reader: StreamReader, writer: StreamWriter) -> None:
        """Forward one connection to a pod's port through the API server, until either side ends it."""
        ...


Connect = Callable[[Namespace, Streams], AbstractAsyncContextManager[Cluster]]
"""Opens the cluster that the flags name."""


def namespace_of(args: Namespace, cluster: Cluster) -> str:
    """The namespace that the flags or the context name."""
    return args.namespace or cluster.namespace


async def visible(
    cluster: Cluster,
    resource: Resource,
    namespace: str | None,
    *,
    labels: str = "",
    fields: str = "",
    unseen: set[str] | None = None,
) -> list[JsonObject]:
    """The objects of a kind. None if the kind does not exist or is forbidden; then ``unseen`` gets its name."""
    try:
        return (await cluster.list(resource, namespace, labels=labels, fields=fields))[0]
    except NotFoundError:
        return []
    except ForbiddenError:
        if unseen is not None:
            unseen.add(resource.plural)
        return []
