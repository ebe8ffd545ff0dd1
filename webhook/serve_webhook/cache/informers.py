"""A copy of some of the cluster's objects, kept fresh by one watch."""

import asyncio
import itertools
import json
import logging
import random
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from serve_core.base.bounded_reading import UnreadableError, essential
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject
from serve_webhook.api import Api, ApiError, ForbiddenError, GoneError, NotFoundError, Resource, Unread, key
from serve_webhook.work_queue import backoff

Name = tuple[str, str]
Handler = Callable[[JsonObject | None, JsonObject | None], None]
"""Called with an object as it was and as it is; ``None`` stands for "not there"."""

logger = logging.getLogger(__name__)

WATCH_SECONDS = (120, 180)
"""How long one watch lasts: short enough to notice a connection that died in silence, jittered against herds."""
LARGEST_KEPT = 2**16
"""Bytes, packed. A completed Deployment takes 2.6 KB."""
MOST_OF_A_NAMESPACE = 16 * 2**20
"""Bytes of all its objects together: 5,000 completed Deployments."""
_OF_EACH = 512
"""Bytes that Python takes for each object, beside what is in it."""
MOST_UNREAD = 1000
"""Objects of a namespace of which it is remembered that, and why, they are skipped."""
MOST_SAID = 20
"""Lines of the log about one namespace's skipped objects, during one watch."""

MOST_AT_ONCE = 500
LARGEST_AT_ONCE = 4 * 2**20
"""Objects of one Deployment that are unpacked together, and their bytes: more than a model with many pods has."""


def whole(manifest: JsonObject) -> JsonObject:
    """Everything is kept."""
    return manifest


@dataclass(frozen=True, slots=True)
class _Kept:
    """An object at rest: a completed Deployment takes 2.6 KB, and 27 KB as Python values."""

    version: int
    packed: bytes
    size: int
    """Bytes before they were packed: what repeats itself takes a hundredth."""

    @classmethod
    def of(cls, manifest: JsonObject) -> Self:
        """Raises :class:`UnreadableError`."""
        text = json.dumps(manifest, separators=(",", ":")).encode()
        packed = zlib.compress(text, level=1)
        if len(packed) > LARGEST_KEPT:
            raise UnreadableError(f"it takes more than {LARGEST_KEPT >> 10} KiB")
        return cls(_version(manifest), packed, len(text))

    @property
    def cost(self) -> int:
        """Bytes that it takes of its namespace's budget. It is unpacked now and then, so what is packed to less than a
        quarter counts as a quarter."""
        return max(len(self.packed), self.size // 4) + _OF_EACH

    def manifest(self) -> JsonObject:
        unpacked: JsonObject = json.loads(zlib.decompress(self.packed))
        return unpacked


class Budget:
    """How much is kept of each namespace: whoever fills one takes nothing from the others."""

    def __init__(self, most: int = MOST_OF_A_NAMESPACE) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()

    def take(self, namespace: str, size: int) -> bool:
        """Take ``size`` bytes more, or give them back where it is negative; whether there were as many."""
        taken = self._taken[namespace] + size
        # What is in no namespace is the administrators'.
        if size > 0 and namespace and taken > self._most:
            return False
        self._taken[namespace] = taken
        if not taken:
            del self._taken[namespace]
        return True


class Informer:
    """Lists and watches one resource by selector; the newest state of each object by namespace and name.

    Whoever asks for an object gets one of its own. What cannot be read, or is too large, counts as not there: that is
    said once for each of its versions, and nothing else suffers from it.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        *,
        namespace: str = "",
        selectors: Mapping[str, str] | None = None,
        trim: Callable[[JsonObject], JsonObject] = whole,
        optional: bool = False,
        stubs: bool = False,
        budget: Budget | None = None,
        restarted: Callable[[str], None] = lambda _: None,
        skipped: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``trim`` makes of an object what is kept of it. ``optional``: the resource may be missing from the cluster,
        or not ours to see; both count as no objects. ``stubs``: what cannot be read is there with its metadata alone.
        ``restarted`` is called with the resource's plural each time that everything has to be listed again, ``skipped``
        for each version of an object that cannot be read. ``budget``: shared with other informers."""
        self._api = api
        self._resource = resource
        self._namespace = namespace
        self._selectors = dict(selectors or {})
        self._trim = trim
        self._optional = optional
        self._stubs = stubs
        self._restarted = restarted
        self._skipped = skipped
        self._objects: dict[Name, _Kept] = {}
        self._budget = budget or Budget()
        self._starved = False
        """Whether something was left out because its namespace has too much."""
        self._unread: dict[Name, Unread] = {}
        self._unread_of: Counter[str] = Counter()
        """How many, by namespace."""
        self._said: Counter[str] = Counter()
        """Lines of the log during the present watch, by namespace."""
        self._when_unread: list[Callable[[Name], None]] = []
        self._handlers: list[Handler] = []
        self._seen = 0
        self.synced = asyncio.Event()

    def __iter__(self) -> Iterator[JsonObject]:
        """The objects of now, one at a time."""
        return (kept.manifest() for kept in list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def names(self) -> list[Name]:
        """Namespace and name of each object."""
        return list(self._objects)

    def get(self, namespace: str, name: str) -> JsonObject | None:
        kept = self._objects.get((namespace, name))
        return kept.manifest() if kept else None

    def size(self, namespace: str, name: str) -> int:
        """Bytes of an object, as text."""
        kept = self._objects.get((namespace, name))
        return kept.size if kept else 0

    def subscribe(self, handler: Handler) -> Callable[[], None]:
        """Call ``handler`` with every change from now on; what is returned ends that."""
        self._handlers.append(handler)
        return lambda: self._handlers.remove(handler)

    def unread(self, namespace: str, name: str) -> Unread | None:
        """Why an object is not there that should be."""
        return self._unread.get((namespace, name))

    def when_unread(self, handler: Callable[[Name], None]) -> Callable[[], None]:
        """Call ``handler`` with the name of each object that cannot be read, now and from now on, once for a version.

        What is returned ends that.
        """
        self._when_unread.append(handler)
        for name in list(self._unread):
            handler(name)
        return lambda: self._when_unread.remove(handler)

    def remember(self, manifest: JsonObject) -> None:
        """Take in the answer to a write, so that nobody acts on the state before it."""
        # The watch may be ahead of the answer: what it has passed and does not have was deleted since.
        if key(manifest) in self._objects or _version(manifest) > self._seen:
            self._put(manifest)

    async def run(self) -> NoReturn:
        """List and watch until cancelled."""
        attempt = 0
        while True:
            try:
                version = await self._relist()
                while True:
                    version = await self._follow(version)
                    attempt = 0
                    if self._starved:
                        version = await self._relist()
            except GoneError:
                logger.info("Listing %s again: the watch is too old.", self._resource.plural)
            except (NotFoundError, ForbiddenError) as error:
                if not self._optional:
                    logger.warning("The watch of %s failed: %s", self._resource.plural, error)
                elif not self.synced.is_set():
                    logger.info("Going on without %s: %s", self._resource.plural, error)
                    self.synced.set()
            except ApiError as error:
                logger.warning("The watch of %s failed: %s", self._resource.plural, error)
            except Exception:  # what others store must not end the process
                logger.exception("The watch of %s failed.", self._resource.plural)
            self._restarted(self._resource.plural)
            await asyncio.sleep(backoff(attempt))
            attempt += 1

    async def _relist(self) -> str:
        names: set[Name] = set()
        version = ""
        self._starved = False
        async for page in self._api.pages(self._resource, self._namespace, self._selectors):
            version = page.version
            for manifest in page.items:
                names.add(key(manifest))
                # Items of a list carry neither kind nor version of their own.
                self._put({"apiVersion": self._resource.api_version, "kind": self._resource.kind} | manifest)
            for unread in page.unread:
                names.add(self._skip(unread))
            await asyncio.sleep(0)  # let reviews through
        for gone in self._objects.keys() - names:
            self._drop(gone, int(version))
        for gone in self._unread.keys() - names:
            self._is_read(gone)
        self._seen = int(version)
        self.synced.set()
        return version

    async def _follow(self, version: str) -> str:
        self._said.clear()
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - jitter, not a secret
        async for event in self._api.watch(self._resource, self._namespace, self._selectors, version, seconds):
            found = event.object
            metadata = found.metadata if isinstance(found, Unread) else found["metadata"]
            version = metadata.get("resourceVersion") or version
            self._seen = int(version)
            if event.type == "DELETED":
                name = _name(metadata)
                self._is_read(name)
                self._drop(name, int(version))
            elif isinstance(found, Unread):
                self._skip(found)
            elif event.type != "BOOKMARK":
                self._put(found)
        return version

    def _put(self, manifest: JsonObject) -> None:
        name = key(manifest)
        old = self._objects.get(name)
        if old and old.version >= _version(manifest):
            return
        try:
            new = self._trim(manifest)
            kept = _Kept.of(new)
            self._make_room(name, kept)
        except UnreadableError as error:
            self._skip(Unread(manifest["metadata"], error.why))
            return
        except Exception as error:  # noqa: BLE001 - whatever somebody has made of it
            self._skip(Unread(essential(manifest["metadata"]), f"it is not as expected ({type(error).__name__})"))
            return
        self._is_read(name)
        self._objects[name] = kept
        self._tell(old, new)

    def _skip(self, unread: Unread) -> Name:
        """Go on without an object; say so once for each version of it."""
        metadata = essential(unread.metadata)
        name, version = _name(metadata), metadata.get("resourceVersion", "")
        before = self._unread.get(name)
        if before and before.metadata.get("resourceVersion", "") == version:
            return name
        self._remember_unread(name, Unread(_head(metadata), unread.why), is_new=before is None)
        self._skipped(self._resource.plural)
        self._say_skipped(name, unread.why)
        old = self._objects.get(name)
        if old and version.isdecimal() and old.version > int(version):
            return name
        self._forget(name)
        stub = None
        if self._stubs and name[1] and version.isdecimal():
            stub = self._stub(name, metadata)
        if old or stub:
            self._tell(old, stub)
        for handler in list(self._when_unread):
            handler(name)
        return name

    def _stub(self, name: Name, metadata: JsonObject) -> JsonObject | None:
        """Keep an object's metadata alone, where there is room."""
        stub = {"apiVersion": self._resource.api_version, "kind": self._resource.kind, "metadata": metadata}
        try:
            stub = self._trim(stub)
            kept = _Kept.of(stub)
            self._make_room(name, kept)
        except Exception:  # noqa: BLE001 - it was said that the object is skipped
            return None
        self._objects[name] = kept
        return stub

    def _remember_unread(self, name: Name, unread: Unread, *, is_new: bool) -> None:
        if is_new:
            if self._unread_of[name[0]] >= MOST_UNREAD:
                return
            self._unread_of[name[0]] += 1
        self._unread[name] = unread

    def _is_read(self, name: Name) -> None:
        """It is skipped no more: it can be read, or is gone."""
        if self._unread.pop(name, None) is not None:
            self._unread_of[name[0]] -= 1
            if not self._unread_of[name[0]]:
                del self._unread_of[name[0]]

    def _say_skipped(self, name: Name, why: str) -> None:
        """Whoever changes such an object again and again does not fill the log."""
        self._said[name[0]] += 1
        if self._said[name[0]] <= MOST_SAID:
            logger.warning("%s %s is skipped: %s.", self._resource.kind, "/".join(filter(None, name)), why)
        elif self._said[name[0]] == MOST_SAID + 1:
            logger.warning("More %s of namespace %s are skipped.", self._resource.plural, name[0])

    def _make_room(self, name: Name, kept: _Kept) -> None:
        """Raises :class:`UnreadableError` where there is none in its namespace."""
        old = self._objects.get(name)
        if not self._budget.take(name[0], kept.cost - (old.cost if old else 0)):
            self._starved = True
            raise UnreadableError("its namespace has too much")

    def _forget(self, name: Name) -> None:
        if old := self._objects.pop(name, None):
            self._budget.take(name[0], -old.cost)

    def _drop(self, name: Name, version: int) -> None:
        """Take out what was not there any more at ``version``; the answer to a write may have brought a newer one."""
        old = self._objects.get(name)
        if old and old.version <= version:
            self._forget(name)
            self._tell(old, None)

    def _tell(self, kept: _Kept | None, new: JsonObject | None) -> None:
        if not self._handlers:
            return
        old = kept.manifest() if kept else None
        for handler in list(self._handlers):
            try:
                handler(old, new)
            except Exception:  # one object must not keep the others from being handled
                self._skipped(self._resource.plural)
                logger.exception("%s %s/%s cannot be handled.", self._resource.kind, *key(new or old or {}))


class CachedResources:
    """What is kept from informers: when it is complete, and what has to run for it."""

    def __init__(self, *informers: Informer) -> None:
        self._watched = informers

    @property
    def synced(self) -> bool:
        return all(informer.synced.is_set() for informer in self._watched)

    async def wait(self) -> None:
        """Until everything has been seen once."""
        for informer in self._watched:
            await informer.synced.wait()

    def parts(self) -> list[Coroutine[Any, Any, NoReturn]]:
        """What has to run."""
        return [informer.run() for informer in self._watched]


class Index:
    """An informer's objects by the Deployment that their label names, within its namespace."""

    def __init__(self, informer: Informer, changed: Callable[[Name], None]) -> None:
        """``changed`` is called with the Deployment's name whenever one of its objects changes, now for all of them."""
        self._informer = informer
        self._changed = changed
        self._found: dict[Name, dict[Name, None]] = {}
        self.close = informer.subscribe(self._update)
        for manifest in informer:
            self._update(None, manifest)

    def of(self, deployment: Name) -> tuple[JsonObject, ...]:
        """Its objects; the first ones where there are more than anybody needs, as anybody can write the label."""
        found, room = [], LARGEST_AT_ONCE
        for name in itertools.islice(self._found.get(deployment, ()), MOST_AT_ONCE):
            room -= self._informer.size(*name)
            if room < 0:
                break
            if (manifest := self._informer.get(*name)) is not None:
                found.append(manifest)
        return tuple(found)

    def _update(self, old: JsonObject | None, new: JsonObject | None) -> None:
        before, after = old and _deployment_of(old), new and _deployment_of(new)
        if old and before and before != after:
            del self._found[before][key(old)]
            if not self._found[before]:
                del self._found[before]
            self._changed(before)
        if new and after:
            self._found.setdefault(after, {})[key(new)] = None
            self._changed(after)


def _deployment_of(manifest: JsonObject) -> Name | None:
    metadata = manifest["metadata"]
    name = (metadata.get("labels") or {}).get(DEPLOYMENT_LABEL)
    return (metadata["namespace"], name) if name else None


def _head(metadata: JsonObject) -> JsonObject:
    """Essential metadata without labels, which take a hundred times as much."""
    return {key: value for key, value in metadata.items() if key != "labels"}


def _name(metadata: JsonObject) -> Name:
    return metadata.get("namespace") or "", metadata.get("name") or ""


def _version(manifest: JsonObject) -> int:
    """Resource versions of one resource can be compared as integers (Kubernetes API conventions since 1.35)."""
    return int(manifest["metadata"]["resourceVersion"])
