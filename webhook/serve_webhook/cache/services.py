"""The Services of the cluster, whose names may be in a model's way or whose selectors may find its pods."""

from collections.abc import Callable, Iterator, Mapping

from serve_core.base.json import JsonObject
from serve_core.context.services import NOT_A_REVISION, ServiceSummary, read
from serve_kube.resources import SERVICES, key
from serve_webhook.cache import trimming
from serve_webhook.cache.informers import CachedResources, Informer
from serve_webhook.cache.store import NamespaceBudget

MOST_OF_A_NAMESPACE = 3 * 2**20
"""Bytes: 4,000 Services. They are kept as values, too, which takes ten times as much."""


class Services(CachedResources, Mapping[str, Mapping[str, ServiceSummary]]):
    """What matters of each, by namespace and name; ``changed`` is called with the namespace where it is different."""

    def __init__(self, informer: Callable[..., Informer], changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._found: dict[str, dict[str, ServiceSummary]] = {}
        selectors, budget = {"labelSelector": NOT_A_REVISION}, NamespaceBudget(MOST_OF_A_NAMESPACE)
        # Of one that cannot be read the name is taken all the same.
        plain = informer(SERVICES, selectors=selectors, trim=trimming.service, stubs=True, budget=budget)
        super().__init__(plain)
        plain.subscribe(self._update)

    def __getitem__(self, namespace: str) -> Mapping[str, ServiceSummary]:
        return self._found[namespace]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def _update(self, old: JsonObject | None, new: JsonObject | None) -> None:
        namespace, name = key(new or old or {})
        here = self._found.setdefault(namespace, {})
        before = here.pop(name, None)
        after = read(new) if new else None
        if after is not None:
            here[name] = after
        if not here:
            del self._found[namespace]
        if before != after:
            self._changed(namespace)
