"""What models are completed with, kept in ConfigMaps of the server's own namespace.

A Deployment names only digests of its loader and its runtime. Admission writes nothing, so everything that it may name
has to be there before: each replica keeps the loader and the runtimes of now, and only then completes with them. The
leader deletes what is of no use any more. No user writes there, and content that has not its digest does not count.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NoReturn

from serve_core.admission import completion_record, snapshots
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
"""Between two looks at what is of no use any more."""
GRACE = timedelta(hours=1)
"""For so long it has to be of no use: a replica may complete by older settings for as long as a minute."""

logger = logging.getLogger(__name__)


class Completions(CachedResources):
    """Keeps :attr:`published`, the loader and the runtimes that admission may complete with; ``changed`` is called when
    they are others. ``present`` are those of now."""

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
        self._kept = informer(CONFIG_MAPS, namespace=NAMESPACE, selectors={"labelSelector": COMPLETION_LABEL})
        super().__init__(self._kept)
        self._known: dict[str, Snapshot] = {}
        self._unused: dict[str, datetime] = {}
        self._look = asyncio.Event()
        self._first = asyncio.Event()
        self.published: Catalogue | None = None
        self._kept.subscribe(self._seen)

    @property
    def known(self) -> Mapping[str, Snapshot]:
        """Everything that is kept, by its digest."""
        return self._known

    @property
    def synced(self) -> bool:
        return super().synced and self.published is not None

    async def wait(self) -> None:
        """Until there is something to complete with."""
        await super().wait()
        await self._first.wait()

    def refresh(self) -> None:
        """Look again: the settings or the runtimes may be others."""
        self._look.set()

    async def collect(self, deployments: Informer, now: Callable[[], datetime]) -> NoReturn:
        """The leader's part: delete what has been of no use for :data:`GRACE`. ``deployments`` are those served."""
        self._unused.clear()
        await self.wait()
        await deployments.synced.wait()
        while True:
            await self.collect_once(deployments, now())
            await asyncio.sleep(PASS_SECONDS)

    async def collect_once(self, deployments: Iterable[JsonObject], now: datetime) -> None:
        """One look; what cannot be deleted is left to the next one."""
        used = set(snapshots.present(*self._present()))
        for deployment in deployments:
            used.update(_named(deployment))
            await asyncio.sleep(0)  # there may be thousands
        unused = [manifest for manifest in self._kept if snapshots.digest_of(manifest) not in (None, *used)]
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
        """Keep what is present, until cancelled. All runtimes have to be known before."""
        await self._kept.synced.wait()
        await run_forever("What models are completed with", self._once, self._look, logger)

    async def _once(self) -> None:
        catalogue = self._present()
        for digest, snapshot in snapshots.present(*catalogue).items():
            if digest not in self._known:
                await self._keep(snapshots.config_map(snapshot))
        if catalogue != self.published:
            self.published = catalogue
            self._first.set()
            self._changed()

    async def _keep(self, manifest: JsonObject) -> None:
        try:
            self._kept.update_cache(await self._api.create(CONFIG_MAPS, manifest))
        except ConflictError:
            # Another replica was first, or something else has its name.
            live = await self._api.get(CONFIG_MAPS, *key(manifest))
            if _read(live) is None or COMPLETION_LABEL not in (live["metadata"].get("labels") or {}):
                await self._delete(live, "it is not what its name stands for")
                live = await self._api.create(CONFIG_MAPS, manifest)
            self._kept.update_cache(live)

    async def _delete(self, manifest: JsonObject, why: str) -> None:
        try:
            await self._api.delete(CONFIG_MAPS, *key(manifest), uid=manifest["metadata"]["uid"])
        except NotFoundError:
            return
        logger.info("Deleted ConfigMap %s: %s.", manifest["metadata"]["name"], why)

    def _seen(self, old: JsonObject | None, new: JsonObject | None) -> None:
        digest = snapshots.digest_of(new or old or {}) or ""
        snapshot = None if new is None else _read(new)
        if snapshot is not None:
            self._known[digest] = snapshot
        elif self._known.pop(digest, None) is not None or new is not None:
            self.refresh()  # it may be one of those of now


def _read(manifest: JsonObject) -> Snapshot | None:
    try:
        return snapshots.of_config_map(manifest)
    except ValueError as error:
        logger.error("ConfigMap %s does not count: %s.", manifest["metadata"]["name"], error)
        return None


def _named(deployment: JsonObject) -> tuple[str, ...]:
    record = completion_record.read(Workload(deployment).annotations.get(COMPLETED_WITH))
    return () if record is None else tuple(digest for digest in (record.loader, record.runtime) if digest)
