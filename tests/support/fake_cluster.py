"""A cluster of plain objects for commands: requests are answered from a list, and a script makes the changes."""

import asyncio
import copy
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from serve_core.base.json import JsonObject
from serve_kube import errors
from serve_kube.resources import Resource
from serve_kube.watch import WatchEvent
from support.fake_kube import FakeKube, is_selected

NOW = 1_795_456_010.0
"""When the recording begins: 2026-11-23T17:46:50Z."""


@dataclass
class Happens:
    """Something that happens to an object, ``after`` so many seconds."""

    after: float
    object: JsonObject
    type: str = "MODIFIED"


@dataclass
class FakeCluster(FakeKube):
    """See :class:`kubectl_serve.cluster.Cluster`. It holds data; it does not play the API server."""

    objects: list[JsonObject] = field(default_factory=list)
    happens: list[Happens] = field(default_factory=list)
    log: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Lines by pod and container."""
    unreadable: errors.ApiError | None = None
    """Why there is no log."""
    completes: JsonObject | None = None
    """What becomes of a Deployment that is created; without it, what was sent."""
    refuses: errors.ApiError | None = None
    """How creating is answered, if not with success."""
    hidden: frozenset[str] = frozenset()
    """Plurals that this user may not see."""
    namespace: str = "default"
    wrote: list[tuple[str, str, JsonObject]] = field(default_factory=list)
    """Verb, resource and object of every write."""
    elapsed: float = 0.0
    keeps_status: bool = False
    """Whether applying leaves the status and the generation, as the API server does."""

    def __post_init__(self) -> None:
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def now(self) -> float:
        return NOW + self.elapsed

    def stored(self, resource: Resource) -> list[JsonObject]:
        if resource.plural in self.hidden:
            raise errors.ForbiddenError(f"{resource.plural} is forbidden", 403)
        return [
            each for each in self.objects if (each["apiVersion"], each["kind"]) == (resource.api_version, resource.kind)
        ]

    async def version(self) -> JsonObject:
        return {"gitVersion": "v1.35.4"}

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject:
        return copy.deepcopy(self.live(resource, namespace, name))

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], str]:
        return self.selected(resource, namespace, _selectors(labels, fields)), "1"

    async def pages(self, resource: Resource, namespace: str | None) -> AsyncIterator[Sequence[JsonObject]]:
        for each in (await self.list(resource, namespace))[0]:
            yield [each]

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[JsonObject]]:
        while True:
            async with self._moved:
                await self._moved.wait_for(lambda: bool(self.happens) and self._is_of(self.happens[0].object, resource))
                event = self.happens.pop(0)
                self.elapsed += event.after
                self._change(event)
                self._moved.notify_all()
            if is_selected(event.object, namespace, _selectors(labels, fields)):
                shown = copy.deepcopy(event.object)
                shown["metadata"]["resourceVersion"] = str(len(self.happens))
                yield WatchEvent(event.type, shown)
            # Let followers see each state separately.
            for _ in range(20):
                await asyncio.sleep(0)

    @staticmethod
    def _is_of(thing: JsonObject, resource: Resource) -> bool:
        return (thing["apiVersion"], thing["kind"]) == (resource.api_version, resource.kind)

    def _change(self, event: Happens) -> None:
        key = _key(event.object)
        self.objects = [each for each in self.objects if _key(each) != key]
        if event.type != "DELETED":
            self.objects.append(event.object)

    async def create(self, resource: Resource, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject:
        self.wrote.append(("dry-run" if dry_run else "create", resource.plural, copy.deepcopy(manifest)))
        if self.refuses is not None:
            raise self.refuses
        made = copy.deepcopy(self.completes or manifest)
        if not dry_run:
            self.objects.append(made)
        return made

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
        self.wrote.append(("dry-run" if dry_run else "merge", resource.plural, copy.deepcopy(patch)))
        return await self.get(resource, namespace, name)

    async def apply(
        self, resource: Resource, manifest: JsonObject, *, manager: str, dry_run: bool = False, force: bool = True
    ) -> JsonObject:
        self.wrote.append(("dry-run" if dry_run else "apply", resource.plural, copy.deepcopy(manifest)))
        before = next((each for each in self.objects if _key(each) == _key(manifest)), None)
        same = before is not None and _without_version(before) == manifest
        after = copy.deepcopy(manifest)
        version = before["metadata"]["resourceVersion"] if before and same else f"{len(self.wrote)}"
        if before and self.keeps_status and "status" in before:
            after["status"] = before["status"]
            after["metadata"]["generation"] = before["metadata"]["generation"]
        after["metadata"]["resourceVersion"] = version
        if not dry_run:
            self.objects = [each for each in self.objects if _key(each) != _key(manifest)] + [after]
        return after

    async def delete(self, resource: Resource, namespace: str | None, name: str, *, dry_run: bool = False) -> None:
        found = await self.get(resource, namespace, name)
        if dry_run:
            self.wrote.append(("dry-run", resource.plural, found))
            return
        self.wrote.append(("delete", resource.plural, found))
        self.objects = [each for each in self.objects if _key(each) != _key(found)]

    async def logs(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        previous: bool = False,
        tail: int | None = None,
    ) -> AsyncIterator[str]:
        if self.unreadable:
            raise self.unreadable
        lines = self.log[pod, container]
        for line in lines if tail is None else lines[-tail:]:
            yield line

    async def forward(self, namespace: str, pod: str, port: int, reader: StreamReader, writer: StreamWriter) -> None:
        raise errors.UnreachableError("nothing is forwarded here.")


def _key(thing: JsonObject) -> tuple[str, str, str, str]:
    metadata = thing["metadata"]
    return thing["apiVersion"], thing["kind"], metadata.get("namespace", ""), metadata["name"]


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {"labelSelector": labels, "fieldSelector": fields}


def _without_version(thing: JsonObject) -> JsonObject:
    return thing | {"metadata": {key: value for key, value in thing["metadata"].items() if key != "resourceVersion"}}


RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> list[JsonObject]:
    """Objects as a real API server gave them, in the order of their changes: Kubernetes 1.35, Knative 1.23."""
    return [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()]


def at_the_end(name: str) -> list[JsonObject]:
    """The last state of every recorded object."""
    return list({_key(each): each for each in recorded(name)}.values())
