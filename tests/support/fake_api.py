"""A Kubernetes API in memory: versions, generations, preconditions and watches, without schemas or defaults."""

import asyncio
import copy
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from serve_core.base import bounded_reading
from serve_core.base.constants import FIELD_MANAGER
from serve_core.base.json import JsonObject
from serve_kube.errors import ConflictError, GoneError, UnreadableError
from serve_kube.paging import Page, Unread
from serve_kube.resources import Resource, key
from serve_kube.watch import WatchEvent
from support.bounds import Write, refusals
from support.fake_kube import FakeKube, is_selected


class MemoryApi(FakeKube):
    """What :class:`serve_kube.client.Client` promises, for tests of what stands on it."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], JsonObject] = {}
        self.writes: list[str] = []
        self.lists: list[str] = []
        """Plural and selectors of every list."""
        self.logs: dict[str, str] = {}
        self.failures: dict[str, Exception] = {}
        self.beyond: list[str] = []
        """What the policies that bound the server's power say against its writes."""
        self.texts: dict[tuple[str, str, str], bytes] = {}
        """How some objects are stored, by plural, namespace and name, whatever was put there."""
        self._applied: dict[tuple[str, ...], JsonObject] = {}
        self._version = 100
        self._events: list[tuple[int, str, str, JsonObject, JsonObject | None]] = []
        self._changed = asyncio.Event()
        self._oldest = 0

    def stored(self, resource: Resource) -> Iterable[JsonObject]:
        return [each for where, each in self.objects.items() if where[0] == resource.plural]

    def put(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """Write as another client."""
        where = (resource.plural, *key(manifest))
        before = self.objects.get(where)
        manifest = copy.deepcopy(manifest)
        self._version += 1
        metadata = manifest["metadata"]
        metadata["resourceVersion"] = str(self._version)
        metadata.setdefault("uid", before["metadata"]["uid"] if before else f"uid-{self._version}")
        generation = before["metadata"]["generation"] if before else 0
        same_spec = before and before.get("spec") == manifest.get("spec")
        same_notes = before and before["metadata"].get("annotations") == metadata.get("annotations")
        counts_notes = resource.plural == "deployments"
        metadata["generation"] = generation + (not (same_spec and (same_notes or not counts_notes)))
        self.objects[where] = manifest
        self._tell(resource, "MODIFIED" if before else "ADDED", manifest, before)
        return copy.deepcopy(manifest)

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        manifest = copy.deepcopy(self.objects.pop((resource.plural, namespace, name)))
        self._version += 1
        manifest["metadata"]["resourceVersion"] = str(self._version)
        self._tell(resource, "DELETED", manifest)

    def forget_history(self) -> None:
        """What a compaction of etcd does to a watch that is behind."""
        self._version += 1
        self._oldest = self._version
        self._changed.set()
        self._changed = asyncio.Event()

    def _tell(self, resource: Resource, kind: str, manifest: JsonObject, before: JsonObject | None = None) -> None:
        self._events.append((self._version, resource.plural, kind, copy.deepcopy(manifest), before))
        self._changed.set()
        self._changed = asyncio.Event()

    def _shown(self, resource: Resource, manifest: JsonObject) -> JsonObject | Unread:
        """What is read of an object."""
        if (text := self.texts.get((resource.plural, *key(manifest)))) is None:
            return manifest
        version = manifest["metadata"]["resourceVersion"].encode()
        try:
            return bounded_reading.read_object(
                text.replace(b'"resourceVersion":"7"', b'"resourceVersion":"%b"' % version)
            )
        except bounded_reading.UnreadableObjectError as error:
            return Unread(error.metadata, error.why)

    def _check(self, verb: str, resource: Resource) -> None:
        if failure := self.failures.get(f"{verb} {resource.plural}"):
            raise failure

    def _bound(
        self, operation: str, resource: Resource, new: JsonObject | None, old: JsonObject | None, subresource: str = ""
    ) -> None:
        """Hold one of the server's writes against the policies that bound its power."""
        namespace, name = key(new or old or {})
        group = resource.api_version.rpartition("/")[0]
        plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
        found = refusals(Write(operation, group, plural, namespace, name, new, old))
        self.beyond += [f"{operation} {plural} {namespace}/{name}: {why}" for why in found]

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject:
        self._check("get", resource)
        found = self._shown(resource, self.live(resource, namespace, name))
        if isinstance(found, Unread):
            raise UnreadableError(f"cannot be read: {found.why}")
        return copy.deepcopy(found)

    async def pages(
        self, resource: Resource, namespace: str | None = None, selectors: Mapping[str, str] | None = None
    ) -> AsyncIterator[Page]:
        self._check("list", resource)
        self.lists.append(" ".join([resource.plural, *(selectors or {}).values()]))
        found = self.selected(resource, namespace, selectors)
        version = str(self._version)
        shown = [self._shown(resource, o) for o in found]
        for start in range(0, len(shown), 50):
            part = shown[start : start + 50]
            unread = [o for o in part if isinstance(o, Unread)]
            yield Page([o for o in part if not isinstance(o, Unread)], unread=unread)
        yield Page((), version)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        selectors: Mapping[str, str],
        version: str,
        seconds: int | None = None,
    ) -> AsyncIterator[WatchEvent[JsonObject | Unread]]:
        seen = int(version)
        while True:
            self._check("watch", resource)
            if seen < self._oldest:
                raise GoneError("too old", 410)
            for at, plural, kind, stored, before in list(self._events):
                if at <= seen or plural != resource.plural:
                    continue
                seen = at
                if is_selected(stored, None, selectors):
                    yield WatchEvent(kind, self._shown(resource, stored))
                elif before and is_selected(before, None, selectors):
                    yield WatchEvent("DELETED", stored)  # for who selects, it is gone
            await self._changed.wait()

    async def create(self, resource: Resource, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject:
        assert not dry_run, "the server makes no dry runs"
        self._check("create", resource)
        if (resource.plural, *key(manifest)) in self.objects:
            raise ConflictError("already exists", 409)
        self.writes.append(f"create {resource.plural}")
        self._bound("CREATE", resource, manifest, None)
        return self.put(resource, manifest)

    async def replace(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        self._check("replace", resource)
        live = self.live(resource, *key(manifest))
        if live["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise ConflictError("changed", 409)
        self.writes.append(f"replace {resource.plural}")
        self._bound("UPDATE", resource, manifest, live)
        return self.put(resource, manifest)

    async def apply(
        self,
        resource: Resource,
        manifest: JsonObject,
        *,
        subresource: str = "",
        force: bool = True,
        manager: str = "",
        dry_run: bool = False,
    ) -> JsonObject:
        assert not dry_run, "the server makes no dry runs"
        manager = manager or FIELD_MANAGER
        self._check("apply", resource)
        live = self.objects.get((resource.plural, *key(manifest)), {})
        _check_preconditions(live, manifest)
        at = (resource.plural, *key(manifest), subresource, manager)
        theirs = live and at not in self._applied and not subresource and "spec" in live and "spec" in manifest
        if theirs and not force:
            raise ConflictError("conflict with another manager of the spec", 409)
        merged = self.filled(resource, _merged(_dropped(live, self._applied.get(at, {}), manifest), manifest))
        self._applied[at] = manifest
        if merged == live:
            return copy.deepcopy(live)
        self.writes.append(f"apply {resource.plural}{'/' + subresource if subresource else ''}")
        self._bound("UPDATE" if live else "CREATE", resource, merged, live or None, subresource)
        return self.put(resource, merged)

    async def merge(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: JsonObject,
        *,
        dry_run: bool = False,
        strategic: bool = False,
    ) -> JsonObject:
        assert not dry_run
        assert not strategic
        live = self.live(resource, namespace, name)
        _check_preconditions(live, patch)
        merged = self.filled(resource, _merged(live, patch))
        self._bound("UPDATE", resource, merged, live)
        if merged == live:
            return copy.deepcopy(live)
        self.writes.append(f"merge {resource.plural}")
        return self.put(resource, merged)

    def filled(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """An object with what the API server, or a webhook, fills in."""
        return manifest

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        version: str = "",
        dry_run: bool = False,
    ) -> None:
        assert uid
        assert not dry_run
        live = self.live(resource, namespace, name)
        _check_preconditions(live, {"metadata": {"uid": uid, "resourceVersion": version}})
        self.writes.append(f"delete {resource.plural}")
        self._bound("DELETE", resource, None, live)
        self.remove(resource, namespace or "", name)

    async def log(self, namespace: str, pod: str, container: str, *, lines: int, size: int) -> str:
        return self.logs.get(pod, "")


def _check_preconditions(live: JsonObject, manifest: JsonObject) -> None:
    for precondition in ("uid", "resourceVersion"):
        wanted = manifest.get("metadata", {}).get(precondition)
        if wanted and live.get("metadata", {}).get(precondition) != wanted:
            raise ConflictError(f"{precondition} differs", 409)


def _dropped(live: JsonObject, before: JsonObject, now: JsonObject) -> JsonObject:
    """What a server-side apply removes: what the one before it had and it has no more."""
    kept = copy.deepcopy(live)
    for name, value in before.items():
        if isinstance(value, dict) and isinstance(kept.get(name), dict):
            kept[name] = _dropped(kept[name], value, now.get(name) or {})
        elif name == "conditions" and isinstance(kept.get(name), list):
            types = {condition["type"] for condition in value}
            kept[name] = [condition for condition in kept[name] if condition["type"] not in types]
        elif name not in now and name not in ("uid", "resourceVersion"):
            kept.pop(name, None)
    return kept


def _merged(live: JsonObject, patch: JsonObject) -> JsonObject:
    """As RFC 7396, but lists of named elements are merged by name, as server-side apply merges them."""
    merged = copy.deepcopy(live)
    for name, value in patch.items():
        old = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(old, dict):
            merged[name] = _merged(old, value)
        elif name == "webhooks" and isinstance(old, list):
            changes = {element["name"]: element for element in value}
            merged[name] = [_merged(element, changes.get(element["name"], {})) for element in old]
        elif name == "conditions" and isinstance(old, list):
            types = {condition["type"] for condition in value}
            merged[name] = [*(condition for condition in old if condition["type"] not in types), *copy.deepcopy(value)]
        else:
            merged[name] = copy.deepcopy(value)
    return merged


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **delta: float) -> None:
        self.now += timedelta(**delta)
