"""The cluster's Services: their names can conflict with a model's, and their selectors can match its pods."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from serve_core.base.json import JsonObject
from serve_core.context.services import NOT_A_REVISION, ServiceSummary, read
from serve_kube.resources import SERVICES, key
from serve_webhook.cache import trimming
from serve_webhook.cache.informers import CachedResources, Informer
from serve_webhook.cache.store import NamespaceBudget

MAX_NAMESPACE_BYTES = 3 * 2**20
"""4,000 Services. They are kept as Python values as well, which takes ten times as much."""


@dataclass(frozen=True)
class ServiceChange:
    """A Service whose summary has changed."""

    namespace: str
    name: str
    states: tuple[ServiceSummary, ...]
    """Before and after; only one of a Service that is new or deleted."""


class ServiceCache(CachedResources, Mapping[str, Mapping[str, ServiceSummary]]):
    """A summary of each Service by namespace and name; ``changed`` is called with each change."""

    def __init__(self, informer: Callable[..., Informer], changed: Callable[[ServiceChange], None]) -> None:
        self._changed = changed
        self._summaries: dict[str, dict[str, ServiceSummary]] = {}
        selectors, budget = {"labelSelector": NOT_A_REVISION}, NamespaceBudget(MAX_NAMESPACE_BYTES)
        # The name of a Service that cannot be read is in use as well.
        plain = informer(SERVICES, selectors=selectors, trim=trimming.service, stubs=True, budget=budget)
        super().__init__(plain)
        plain.subscribe(self._update)

    def __getitem__(self, namespace: str) -> Mapping[str, ServiceSummary]:
        return self._summaries[namespace]

    def __iter__(self) -> Iterator[str]:
        return iter(self._summaries)

    def __len__(self) -> int:
        return len(self._summaries)

    def _update(self, old: JsonObject | None, new: JsonObject | None) -> None:
        namespace, name = key(new or old or {})
        here = self._summaries.setdefault(namespace, {})
        before = here.pop(name, None)
        after = read(new) if new else None
        if after is not None:
            here[name] = after
        if not here:
            del self._summaries[namespace]
        if before != after:
            states = tuple(each for each in (before, after) if each is not None)
            self._changed(ServiceChange(namespace, name, states))
