"""The requests to the Kubernetes API that the plugin and the server make."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from serve_core.base.json import JsonObject
from serve_kube.paging import Page, Unread
from serve_kube.resources import Resource
from serve_kube.watch import WatchEvent


class Client(Protocol):
    """Every operation raises a :class:`serve_kube.errors.ApiError`.

    ``namespace`` is None or empty for cluster-scoped objects, and in lists and watches for all namespaces.
    ``selectors`` can have ``labelSelector`` and ``fieldSelector``. ``manager`` is a field manager; the default is the
    client's own.
    """

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject: ...

    def pages(
        self, resource: Resource, namespace: str | None = None, selectors: Mapping[str, str] | None = None
    ) -> AsyncIterator[Page]:
        """All objects, a few hundred kilobytes at a time. Their ``kind`` and ``apiVersion`` are missing."""
        ...

    def watch(
        self,
        resource: Resource,
        namespace: str | None,
        selectors: Mapping[str, str],
        version: str,
        seconds: int | None = None,
    ) -> AsyncIterator[WatchEvent[JsonObject | Unread]]:
        """The changes after ``version``, for ``seconds`` at most. Raises GoneError if that version is too old."""
        ...

    async def create(self, resource: Resource, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject: ...

    async def replace(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """Replace the object; the resource version of ``manifest`` must be the live one."""
        ...

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
        """Delete the object, if it has this UID and this resource version; its dependents follow in the background."""
        ...

    async def log(self, namespace: str, pod: str, container: str, *, lines: int, size: int) -> str:
        """The last ``lines`` lines of a container's log, ``size`` bytes at most."""
        ...
