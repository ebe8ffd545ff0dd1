"""The cluster's ModelRuntimes, parsed when they change."""

import logging
from collections.abc import Callable

from serve_core.api import runtimes
from serve_core.api.runtimes import Runtime
from serve_core.base.json import JsonObject
from serve_kube.resources import MODEL_RUNTIMES
from serve_webhook.cache.informers import CachedResources, Informer

logger = logging.getLogger(__name__)


class RuntimeCache(CachedResources):
    """The source of :attr:`own`; ``changed`` is called when it changes."""

    def __init__(self, informer: Callable[..., Informer], changed: Callable[[], None]) -> None:
        self._changed = changed
        models = informer(MODEL_RUNTIMES)
        super().__init__(models)
        self._own: dict[str, Runtime] = {}
        models.subscribe(self._runtime_changed)

    @property
    def own(self) -> tuple[Runtime, ...]:
        return tuple(self._own.values())

    def _runtime_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if new is not None:
            try:
                runtime = runtimes.parse(new)
                self._own[runtime.name] = runtime
            except ValueError as error:
                # The last valid one stays: models must not move to another server because of a typing error.
                logger.error("ModelRuntime %s cannot be read: %s.", new["metadata"]["name"], error)
        elif old is not None:
            self._own.pop(old["metadata"]["name"], None)
        self._changed()
