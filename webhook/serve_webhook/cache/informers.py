"""A local copy of some of the cluster's objects, kept current by one watch."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, NoReturn

from serve_core.base.bounded_reading import UnreadableObjectError, essential
from serve_core.base.json import JsonObject
from serve_kube.client import Client
from serve_kube.errors import ApiError, ForbiddenError, GoneError, NotFoundError
from serve_kube.paging import Unread
from serve_kube.resources import Resource, key
from serve_webhook.cache.store import CompressedObject, NamespaceBudget, version_of
from serve_webhook.cache.unread import UnreadObjects
from serve_webhook.work_queue import backoff

NamespacedName = tuple[str, str]
Handler = Callable[[JsonObject | None, JsonObject | None], None]
"""Called with the old and the new state of an object; ``None`` where it does not exist. Not called for a new version
whose kept part is the same."""

logger = logging.getLogger(__name__)

WATCH_SECONDS = (120, 180)
"""Range of a watch's duration: short enough to notice a dead connection, random so that watches do not end together."""


def untrimmed(manifest: JsonObject) -> JsonObject:
    return manifest


class Informer:
    """Lists and watches one resource by selector; the newest state of each object by namespace and name.

    Callers get their own copy of an object. An object that cannot be read, or is too large, counts as missing: this is
    logged once for each version, and affects no other object.
    """

    def __init__(
        self,
        api: Client,
        resource: Resource,
        *,
        namespace: str = "",
        selectors: Mapping[str, str] | None = None,
        trim: Callable[[JsonObject], JsonObject] = untrimmed,
        optional: bool = False,
        stubs: bool = False,
        budget: NamespaceBudget | None = None,
        restarted: Callable[[str], None] = lambda _: None,
        skipped: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``trim`` returns the part of an object to keep. ``optional``: the resource may be missing from the cluster,
        or forbidden; both count as no objects. ``stubs``: of objects that cannot be read, the metadata is kept.
        ``budget`` can be shared with other informers. ``restarted`` is called with the resource's plural after each
        failed watch, ``skipped`` for each version of an object that cannot be read."""
        self._api = api
        self._resource = resource
        self._namespace = namespace
        self._selectors = dict(selectors or {})
        self._trim = trim
        self._optional = optional
        self._stubs = stubs
        self._restarted = restarted
        self._skipped = skipped
        self._objects: dict[NamespacedName, CompressedObject] = {}
        self._budget = budget or NamespaceBudget()
        self._is_incomplete = False
        """Whether objects were left out because their namespace's budget is used up."""
        self._unread = UnreadObjects(resource)
        self._unread_handlers: list[Callable[[NamespacedName], None]] = []
        self._handlers: list[Handler] = []
        self._seen = 0
        """The newest resource version of the list or the watch."""
        self.synced = asyncio.Event()

    def __iter__(self) -> Iterator[JsonObject]:
        """The present objects, one at a time."""
        return (stored.manifest() for stored in list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def names(self) -> list[NamespacedName]:
        return list(self._objects)

    def get(self, namespace: str, name: str) -> JsonObject | None:
        stored = self._objects.get((namespace, name))
        return stored.manifest() if stored else None

    def size(self, namespace: str, name: str) -> int:
        """Bytes of an object as JSON."""
        stored = self._objects.get((namespace, name))
        return stored.size if stored else 0

    def subscribe(self, handler: Handler) -> Callable[[], None]:
        """Call ``handler`` with every change from now on. Returns a function that ends this."""
        self._handlers.append(handler)
        return lambda: self._handlers.remove(handler)

    def unread(self, namespace: str, name: str) -> Unread | None:
        """Why an existing object is missing here."""
        return self._unread.get((namespace, name))

    def on_unread(self, handler: Callable[[NamespacedName], None]) -> Callable[[], None]:
        """Call ``handler`` with the name of each object that cannot be read, now and from now on, once per version.

        Returns a function that ends this.
        """
        self._unread_handlers.append(handler)
        for name in self._unread:
            handler(name)
        return lambda: self._unread_handlers.remove(handler)

    def update_cache(self, manifest: JsonObject) -> None:
        """Store the response to a write, so that nothing acts on the state before it."""
        # The watch may be ahead of the response: an object that it has passed and does not have was deleted since.
        if key(manifest) in self._objects or version_of(manifest) > self._seen:
            self._store(manifest)

    async def run(self) -> NoReturn:
        """List and watch until cancelled."""
        attempt = 0
        while True:
            try:
                version = await self._relist()
                while True:
                    version = await self._watch(version)
                    attempt = 0
                    if self._is_incomplete:
                        version = await self._relist()
            except GoneError:
                logger.info("Listing %s again: the watch is too old.", self._resource.plural)
            except (NotFoundError, ForbiddenError) as error:
                if not self._optional:
                    logger.warning("The watch of %s failed: %s", self._resource.plural, error)
                elif not self.synced.is_set():
                    logger.info("Continuing without %s: %s", self._resource.plural, error)
                    self.synced.set()
            except ApiError as error:
                logger.warning("The watch of %s failed: %s", self._resource.plural, error)
            except Exception:  # objects of users must not end the process
                logger.exception("The watch of %s failed.", self._resource.plural)
            self._restarted(self._resource.plural)
            await asyncio.sleep(backoff(attempt))
            attempt += 1

    async def _relist(self) -> str:
        names: set[NamespacedName] = set()
        version = ""
        self._is_incomplete = False
        async for page in self._api.pages(self._resource, self._namespace, self._selectors):
            version = page.version
            for manifest in page.items:
                names.add(key(manifest))
                # Items of a list have neither kind nor version of their own.
                self._store({"apiVersion": self._resource.api_version, "kind": self._resource.kind} | manifest)
            for unread in page.unread:
                names.add(self._skip(unread))
            await asyncio.sleep(0)  # let reviews run
        for deleted in self._objects.keys() - names:
            self._delete(deleted, int(version))
        for deleted in self._unread.names() - names:
            self._unread.discard(deleted)
        self._seen = int(version)
        self.synced.set()
        return version

    async def _watch(self, version: str) -> str:
        self._unread.reset_log_limit()
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - jitter, not a secret
        async for event in self._api.watch(self._resource, self._namespace, self._selectors, version, seconds):
            found = event.object
            metadata = found.metadata if isinstance(found, Unread) else found["metadata"]
            version = metadata.get("resourceVersion") or version
            self._seen = int(version)
            if event.type == "DELETED":
                name = _name(metadata)
                self._unread.discard(name)
                self._delete(name, int(version))
            elif isinstance(found, Unread):
                self._skip(found)
            elif event.type != "BOOKMARK":
                self._store(found)
        return version

    def _store(self, manifest: JsonObject) -> None:
        name = key(manifest)
        old = self._objects.get(name)
        if old and old.version >= version_of(manifest):
            return
        try:
            new = self._trim(manifest)
            stored = CompressedObject.of(new)
            self._reserve(name, stored)
        except UnreadableObjectError as error:
            self._skip(Unread(manifest["metadata"], error.why))
            return
        except Exception as error:  # noqa: BLE001 - users can store objects of any shape
            self._skip(Unread(essential(manifest["metadata"]), f"it is not as expected ({type(error).__name__})"))
            return
        self._unread.discard(name)
        self._objects[name] = stored
        if old is None or old.data != stored.data:
            self._notify(old, new)

    def _skip(self, unread: Unread) -> NamespacedName:
        """Continue without an object; log each version of it once."""
        metadata = essential(unread.metadata)
        name, version = _name(metadata), metadata.get("resourceVersion", "")
        if not self._unread.add(name, metadata, unread.why):
            return name
        self._skipped(self._resource.plural)
        old = self._objects.get(name)
        if old and version.isdecimal() and old.version > int(version):
            return name
        self._evict(name)
        stub = None
        if self._stubs and name[1] and version.isdecimal():
            stub = self._store_stub(name, metadata)
        if old or stub:
            self._notify(old, stub)
        for handler in list(self._unread_handlers):
            handler(name)
        return name

    def _store_stub(self, name: NamespacedName, metadata: JsonObject) -> JsonObject | None:
        """Keep an object's metadata alone, if the budget allows it."""
        stub = {"apiVersion": self._resource.api_version, "kind": self._resource.kind, "metadata": metadata}
        try:
            stub = self._trim(stub)
            stored = CompressedObject.of(stub)
            self._reserve(name, stored)
        except Exception:  # noqa: BLE001 - the log already says that the object is skipped
            return None
        self._objects[name] = stored
        return stub

    def _reserve(self, name: NamespacedName, stored: CompressedObject) -> None:
        """Raises :class:`UnreadableObjectError` where the namespace's budget is used up."""
        old = self._objects.get(name)
        if not self._budget.reserve(name[0], stored.cost - (old.cost if old else 0)):
            self._is_incomplete = True
            raise UnreadableObjectError("its namespace has too much")

    def _evict(self, name: NamespacedName) -> None:
        if old := self._objects.pop(name, None):
            self._budget.reserve(name[0], -old.cost)

    def _delete(self, name: NamespacedName, version: int) -> None:
        """Remove what no longer existed at ``version``. The response to a write may have brought a newer object."""
        old = self._objects.get(name)
        if old and old.version <= version:
            self._evict(name)
            self._notify(old, None)

    def _notify(self, stored: CompressedObject | None, new: JsonObject | None) -> None:
        if not self._handlers:
            return
        old = stored.manifest() if stored else None
        for handler in list(self._handlers):
            try:
                handler(old, new)
            except Exception:  # one object must not keep the others from being handled
                self._skipped(self._resource.plural)
                logger.exception("%s %s/%s cannot be handled.", self._resource.kind, *key(new or old or {}))


class CachedResources:
    """Base of what is derived from informers: whether these are complete, and their coroutines."""

    def __init__(self, *informers: Informer) -> None:
        self._watched = informers

    @property
    def synced(self) -> bool:
        return all(informer.synced.is_set() for informer in self._watched)

    async def wait(self) -> None:
        """Wait until every object was read once."""
        for informer in self._watched:
            await informer.synced.wait()

    def parts(self) -> list[Coroutine[Any, Any, NoReturn]]:
        """The coroutines to run."""
        return [informer.run() for informer in self._watched]


def _name(metadata: JsonObject) -> NamespacedName:
    return metadata.get("namespace") or "", metadata.get("name") or ""
