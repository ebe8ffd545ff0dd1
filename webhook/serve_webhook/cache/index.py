"""Watched objects by the Deployment that they belong to."""

import itertools
from collections.abc import Callable

from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject
from serve_kube.resources import key
from serve_webhook.cache.informers import Informer, NamespacedName

MAX_OBJECTS = 500
MAX_BYTES = 4 * 2**20
"""Of one Deployment's objects that are decompressed together: more than a model with many pods has."""


class DeploymentIndex:
    """An informer's objects by the Deployment that their label names, in the same namespace."""

    def __init__(self, informer: Informer, changed: Callable[[NamespacedName], None]) -> None:
        """``changed`` is called with a Deployment's name when one of its objects changes, and at once for all."""
        self._informer = informer
        self._changed = changed
        self._names: dict[NamespacedName, dict[NamespacedName, None]] = {}
        self.close = informer.subscribe(self._update)
        for manifest in informer:
            self._update(None, manifest)

    def of(self, deployment: NamespacedName) -> tuple[JsonObject, ...]:
        """Its objects. Any user can write the label, so there is a maximum number, and a maximum size."""
        found, room = [], MAX_BYTES
        for name in itertools.islice(self._names.get(deployment, ()), MAX_OBJECTS):
            room -= self._informer.size(*name)
            if room < 0:
                break
            if (manifest := self._informer.get(*name)) is not None:
                found.append(manifest)
        return tuple(found)

    def _update(self, old: JsonObject | None, new: JsonObject | None) -> None:
        before, after = old and _deployment_of(old), new and _deployment_of(new)
        if old and before and before != after:
            del self._names[before][key(old)]
            if not self._names[before]:
                del self._names[before]
            self._changed(before)
        if new and after:
            self._names.setdefault(after, {})[key(new)] = None
            self._changed(after)


def _deployment_of(manifest: JsonObject) -> NamespacedName | None:
    metadata = manifest["metadata"]
    name = (metadata.get("labels") or {}).get(DEPLOYMENT_LABEL)
    return (metadata["namespace"], name) if name else None
