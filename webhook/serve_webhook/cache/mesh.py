"""Istio's installation, and what the nodes can do, from watches.

Istio may be installed, changed or removed at any time.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from serve_core.base.json import JsonObject
from serve_core.context import istio, nodes
from serve_core.context.cluster import USER_RANGE, has_user_range
from serve_core.context.istio import IstioInstallation
from serve_kube.resources import CONFIG_MAPS, DAEMON_SETS, MUTATING_WEBHOOKS, NAMESPACES, NODES, SERVICE_ENTRIES
from serve_webhook.cache.informers import CachedResources, Informer

SETTLE_SECONDS = 0.2
"""After a change, so that changes that come together are evaluated once."""

_USED_DATA = ("values", "mesh")
"""Keys of Istio's ConfigMaps. The others have the sidecar's template, which is many times as large."""

logger = logging.getLogger(__name__)


class MeshCache(CachedResources):
    """The source of :meth:`context`; ``changed`` is called when it changes. ``informer`` creates an informer."""

    def __init__(self, informer: Callable[..., Informer], changed: Callable[[], None]) -> None:
        self._changed = changed
        self._informers: Mapping[str, Informer] = {
            "injectors": informer(
                MUTATING_WEBHOOKS, selectors={"labelSelector": istio.INJECTORS}, trim=_labelled, optional=True
            ),
            "config_maps": informer(CONFIG_MAPS, namespace=istio.NAMESPACE, trim=_configuration, optional=True),
            "daemon_sets": informer(DAEMON_SETS, namespace=istio.NAMESPACE, trim=_labelled, optional=True),
            "nodes": informer(NODES, trim=_node, optional=True),
            # Not optional: without the namespaces' labels, policies that select by labels would apply to no namespace.
            "namespaces": informer(NAMESPACES, trim=_namespace),
            "service_entries": informer(SERVICE_ENTRIES, trim=_entry, optional=True),
        }
        super().__init__(*self._informers.values())
        self._context: IstioInstallation | None = None
        self._without_image_volumes = nodes.without_image_volumes(())
        self._stale = True
        self._reported: tuple[IstioInstallation | None, str] = (None, self._without_image_volumes)
        self._timer: asyncio.TimerHandle | None = None
        for one in self._informers.values():
            one.subscribe(self._update)

    @property
    def namespaces(self) -> Informer:
        """Every namespace with its labels, and its range of user IDs."""
        return self._informers["namespaces"]

    def context(self) -> IstioInstallation | None:
        self._read()
        return self._context

    def without_image_volumes(self) -> str:
        """Why the nodes cannot mount images as volumes; empty if they can."""
        self._read()
        return self._without_image_volumes

    def _read(self) -> None:
        if self._stale:
            self._context = istio.detect(**{name: list(informer) for name, informer in self._informers.items()})
            self._without_image_volumes = nodes.without_image_volumes(self._informers["nodes"])
            self._stale = False

    def _update(self, _old: JsonObject | None, _new: JsonObject | None) -> None:
        self._stale = True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settle)

    def _settle(self) -> None:
        self._timer = None
        found = (self.context(), self.without_image_volumes())
        if self.synced and found != self._reported:
            self._reported = found
            logger.info("Istio: %s. Image volumes: %s.", _sentence(found[0]), found[1] or "on all nodes")
            self._changed()


def _sentence(context: IstioInstallation | None) -> str:
    if context is None:
        return "not installed"
    names = ", ".join(revision.name for revision in context.revisions) or "none"
    return f"revisions {names}" + (", ambient" if context.ambient else "")


def _labelled(manifest: JsonObject) -> JsonObject:
    """The object's name and labels."""
    metadata = manifest["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "resourceVersion") if key in metadata}
    return {"metadata": kept}


def _namespace(manifest: JsonObject) -> JsonObject:
    made = _labelled(manifest)
    if has_user_range(manifest):
        made["metadata"]["annotations"] = {USER_RANGE: manifest["metadata"]["annotations"][USER_RANGE]}
    return made


def _configuration(manifest: JsonObject) -> JsonObject:
    data = manifest.get("data") or {}
    return _labelled(manifest) | {"data": {key: data[key] for key in _USED_DATA if key in data}}


def _node(manifest: JsonObject) -> JsonObject:
    info = (manifest.get("status") or {}).get("nodeInfo") or {}
    versions = {key: info.get(key) for key in ("kubeletVersion", "containerRuntimeVersion")}
    made = _labelled(manifest) | {"status": {"nodeInfo": versions}}
    made["metadata"].pop("labels", None)
    return made


def _entry(manifest: JsonObject) -> JsonObject:
    spec = manifest.get("spec") or {}
    return _labelled(manifest) | {"spec": {key: spec[key] for key in ("hosts", "exportTo") if key in spec}}
