"""What the cluster context has of the namespaces, from an informer of them."""

import asyncio
from collections.abc import Container, Iterator, Mapping

from serve_core.context.cluster import has_user_range
from serve_kube.resources import key
from serve_webhook.cache.informers import Informer


class NamespaceLabels(Mapping[str, Mapping[str, str]]):
    """Labels by namespace, from an informer of namespaces."""

    def __init__(self, namespaces: Informer) -> None:
        self._namespaces = namespaces

    def __getitem__(self, name: str) -> Mapping[str, str]:
        if (found := self._namespaces.get("", name)) is None:
            raise KeyError(name)
        return found["metadata"].get("labels") or {}

    async def appears(self, name: str) -> None:
        """Return as soon as the informer has a namespace of that name."""
        seen = asyncio.Event()
        end = self._namespaces.subscribe(lambda _old, new: seen.set() if new and key(new) == ("", name) else None)
        try:
            if name not in self:
                await seen.wait()
        finally:
            end()

    def __iter__(self) -> Iterator[str]:
        return (name for _, name in self._namespaces.names())

    def __len__(self) -> int:
        return len(self._namespaces)


class UserRanges(Container[str]):
    """The namespaces that give their pods their user IDs."""

    def __init__(self, namespaces: Informer) -> None:
        self._namespaces = namespaces

    def __contains__(self, name: object) -> bool:
        found = self._namespaces.get("", str(name))
        return found is not None and has_user_range(found)
