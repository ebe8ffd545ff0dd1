"""Snapshots of the loader and of each runtime that models are completed with, in ConfigMaps of the server's namespace.

A Deployment has only the digests of its loader and its runtime. Admission writes nothing, so each replica stores the
present loader and runtimes first, and then completes with them. The leader deletes unused snapshots. Users cannot write
in that namespace, and a snapshot whose content does not match its digest is ignored.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NoReturn

from serve_core.admission.completion import completion_record, snapshots
from serve_core.api.annotations import COMPLETED_WITH
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import COMPLETION_LABEL, NAMESPACE
from serve_core.base.json import JsonObject
from serve_core.base.workload import Workload
from serve_core.context.cluster import LoaderConfig, Snapshot
from serve_kube.client import Client
from serve_kube.errors import ApiError, ConflictError, NotFoundError
from serve_kube.resources import CONFIG_MAPS, key
from serve_webhook.cache.informers import CachedResources, Informer
from serve_webhook.work_queue import run_forever

Catalogue = tuple[LoaderConfig, tuple[Runtime, ...]]

PASS_SECONDS = 600.0
"""Between two searches for unused snapshots."""
GRACE = timedelta(hours=1)
"""How long a snapshot must be unused: a replica may complete with older settings for up to a minute."""

logger = logging.getLogger(__name__)


class SnapshotCache(CachedResources):
    """The source of :attr:`published`, the loader and runtimes that admission completes with; ``changed`` is called
    when they change. ``present`` returns the configured ones."""

    def __init__(
        self,
        api: Client,
        informer: Callable[..., Informer],
        present: Callable[[], Catalogue],
        changed: Callable[[], None],
    ) -> None:
        self._api = api
        self._present = present
        self._changed = changed
        self._config_maps = informer(CONFIG_MAPS, namespace=NAMESPACE, selectors={"labelSelector": COMPLETION_LABEL})
        super().__init__(self._config_maps)
        self._known: dict[str, Snapshot] = {}
        self._unused: dict[str, datetime] = {}
        self._requested = asyncio.Event()
        self._is_published = asyncio.Event()
        self.published: Catalogue | None = None
        self._config_maps.subscribe(self._update)

    @property
    def known(self) -> Mapping[str, Snapshot]:
        """All stored snapshots by digest."""
        return self._known

    @property
    def synced(self) -> bool:
        return super().synced and self.published is not None

    async def wait(self) -> None:
        """Wait until admission can complete models."""
        await super().wait()
        await self._is_published.wait()

    def refresh(self) -> None:
        """Check again: the settings or the runtimes may have changed."""
        self._requested.set()

    async def collect(self, deployments: Informer, now: Callable[[], datetime]) -> NoReturn:
        """Delete snapshots that were unused for :data:`GRACE`. For the leader. ``deployments``: the served ones."""
        self._unused.clear()
        await self.wait()
        await deployments.synced.wait()
        while True:
            await self.collect_once(deployments, now())
            await asyncio.sleep(PASS_SECONDS)

    async def collect_once(self, deployments: Iterable[JsonObject], now: datetime) -> None:
        """Search once. What cannot be deleted stays until the next search."""
        used = set(snapshots.present(*self._present()))
        for deployment in deployments:
            used.update(_digests_of(deployment))
            await asyncio.sleep(0)  # there may be thousands
        unused = [manifest for manifest in self._config_maps if snapshots.digest_of(manifest) not in (None, *used)]
        self._unused = {
            name: self._unused.get(name, now) for name in (manifest["metadata"]["name"] for manifest in unused)
        }
        for manifest in unused:
            if now - self._unused[manifest["metadata"]["name"]] >= GRACE:
                try:
                    await self._delete(manifest, "no model needs it")
                except ApiError as error:
                    logger.warning("ConfigMap %s cannot be deleted: %s", manifest["metadata"]["name"], error)

    async def run(self) -> NoReturn:
        """Store present snapshots until cancelled. The runtimes must be complete before."""
        await self._config_maps.synced.wait()
        await run_forever("The snapshots of loader and runtimes", self._once, self._requested, logger)

    async def _once(self) -> None:
        catalogue = self._present()
        for digest, snapshot in snapshots.present(*catalogue).items():
            if digest not in self._known:
                await self._store(snapshots.config_map(snapshot))
        if catalogue != self.published:
            self.published = catalogue
            self._is_published.set()
            self._changed()

    async def _store(self, manifest: JsonObject) -> None:
        try:
            self._config_maps.update_cache(await self._api.create(CONFIG_MAPS, manifest))
        except ConflictError:
            # Another replica was first, or another object has the name.
            live = await self._api.get(CONFIG_MAPS, *key(manifest))
            if _read(live) is None or COMPLETION_LABEL not in (live["metadata"].get("labels") or {}):
                await self._delete(live, "its content does not match its name")
                live = await self._api.create(CONFIG_MAPS, manifest)
            self._config_maps.update_cache(live)

    async def _delete(self, manifest: JsonObject, why: str) -> None:
        try:
            await self._api.delete(CONFIG_MAPS, *key(manifest), uid=manifest["metadata"]["uid"])
        except NotFoundError:
            return
        logger.info("Deleted ConfigMap %s: %s.", manifest["metadata"]["name"], why)

    def _update(self, old: JsonObject | None, new: JsonObject | None) -> None:
        digest = snapshots.digest_of(new or old or {}) or ""
        snapshot = None if new is None else _read(new)
        if snapshot is not None:
            self._known[digest] = snapshot
        elif self._known.pop(digest, None) is not None or new is not None:
            self.refresh()  # it may be a present one


def _read(manifest: JsonObject) -> Snapshot | None:
    try:
        return snapshots.of_config_map(manifest)
    except ValueError as error:
        logger.error("ConfigMap %s is ignored: %s.", manifest["metadata"]["name"], error)
        return None


def _digests_of(deployment: JsonObject) -> tuple[str, ...]:
    record = completion_record.read(Workload(deployment).annotations.get(COMPLETED_WITH))
    return () if record is None else tuple(digest for digest in (record.loader, record.runtime) if digest)
