"""Snapshots exist before a model is completed with them, and as long as a model needs them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from serve_core.admission.completion import snapshots
from serve_core.admission.decide import judge
from serve_core.api.annotation_values import Format
from serve_core.api.annotations import COMPLETED_WITH, MODEL
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_kube.errors import ApiError, UnavailableError
from serve_kube.resources import CONFIG_MAPS, Resource
from serve_webhook.cache.informers import Informer
from serve_webhook.cache.snapshots import GRACE, Catalogue, SnapshotCache
from support.fake_api import Clock, MemoryApi
from support.waiting import until

OLD = (LoaderConfig("loader:1"), (Runtime("server", (Format("sklearn"),), ("v2",), {"image": "server:1"}),))
NEW = (LoaderConfig("loader:2", (), "loader:2-signing"), (replace(OLD[1][0], container={"image": "server:2"}),))


@dataclass
class Replica:
    """As far as it is about these. ``present`` are its own settings."""

    api: MemoryApi
    present: Catalogue
    published: list[Catalogue] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        def informer(resource: Resource, **arguments: Any) -> Informer:
            return Informer(self.api, resource, **arguments)

        self.kept = SnapshotCache(self.api, informer, lambda: self.present, self._changed)

    def _changed(self) -> None:
        assert self.kept.published
        missing = snapshots.present(*self.kept.published).keys() - stored(self.api)
        assert not missing, "nothing is completed with what is not there"
        self.published.append(self.kept.published)
        self.changed.set()

    async def takes(self, present: Catalogue) -> None:
        self.present = present
        self.changed.clear()
        self.kept.refresh()
        await self.changed.wait()

    def context(self) -> ClusterContext:
        assert self.kept.published
        return ClusterContext(*self.kept.published, snapshots=self.kept.known)


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for each in replicas for part in (*each.kept.parts(), each.kept.run())]
        for each in replicas:
            await each.kept.wait()
        yield
        for task in tasks:
            task.cancel()


def stored(api: MemoryApi) -> set[str]:
    return {snapshots.digest_of(each) or "" for where, each in api.objects.items() if where[0] == CONFIG_MAPS.plural}


def digests(*catalogues: Catalogue) -> set[str]:
    return {digest for each in catalogues for digest in snapshots.present(*each)}


def served(context: ClusterContext, previous: JsonObject | None = None, **notes: str) -> JsonObject:
    metadata = {"name": "iris", "namespace": "ml", "annotations": {MODEL: "s3://models/iris.joblib", **notes}}
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    verdict = judge(document, context, previous)
    assert verdict.deployment, verdict.problems
    return verdict.deployment


def loader_image(deployment: JsonObject) -> str:
    return str(deployment["spec"]["template"]["spec"]["initContainers"][0]["image"])


async def test_everything_of_now_is_there_before_anything_is_completed_with_it(api: MemoryApi) -> None:
    replica = Replica(api, OLD)
    async with running(replica):
        assert replica.published == [OLD]
        assert stored(api) == digests(OLD)
        await replica.takes(NEW)
        assert stored(api) == digests(OLD, NEW)
        assert replica.context().known_loaders[0].image == "loader:2"
        assert {each.image for each in replica.context().known_loaders} == {"loader:1", "loader:2", "loader:2-signing"}


async def test_it_is_not_completed_with_what_cannot_be_kept(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_webhook.work_queue.backoff", lambda _: 0.01)
    replica = Replica(api, OLD)
    async with running(replica):
        api.failures["create configmaps"] = UnavailableError("not now")
        replica.present = NEW
        replica.kept.refresh()
        await until(lambda: "cannot be updated: not now" in caplog.text)
        assert replica.kept.published == OLD
        api.failures.clear()
        await replica.changed.wait()
        await until(lambda: replica.kept.published == NEW)


async def test_it_is_not_ready_before_they_are_kept(api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_webhook.work_queue.backoff", lambda _: 0.01)
    api.failures["create configmaps"] = UnavailableError("not now")
    replica = Replica(api, OLD)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in (*replica.kept.parts(), replica.kept.run())]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not replica.kept.synced
        api.failures.clear()
        await replica.kept.wait()
        assert replica.kept.synced
        for task in tasks:
            task.cancel()


async def test_two_replicas_that_start_at_once_keep_each_once(api: MemoryApi) -> None:
    async with running(one := Replica(api, OLD), two := Replica(api, OLD)):
        assert one.published == two.published == [OLD]
    assert len([write for write in api.writes if write == "create configmaps"]) == len(digests(OLD))


async def test_what_one_replica_completed_with_the_other_knows(api: MemoryApi) -> None:
    """While settings reach one replica after the other."""
    async with running(early := Replica(api, NEW), late := Replica(api, OLD)):
        await until(lambda: digests(NEW) <= late.kept.known.keys())
        made = served(early.context())
        assert loader_image(served(late.context(), made)) == "loader:2"


async def test_a_restart_writes_nothing(api: MemoryApi) -> None:
    async with running(Replica(api, OLD)):
        pass
    api.writes.clear()
    async with running(again := Replica(api, OLD)):
        assert again.published == [OLD]
    assert api.writes == []


async def test_what_is_deleted_by_hand_comes_back_if_it_is_of_now(api: MemoryApi) -> None:
    async with running(Replica(api, OLD)):
        for digest in digests(OLD):
            api.remove(CONFIG_MAPS, NAMESPACE, f"completion-{digest}")
        await until(lambda: stored(api) == digests(OLD))


@pytest.mark.attack(36)
@pytest.mark.parametrize("labelled", [True, False])
async def test_what_stands_under_the_name_of_one_and_is_not_is_put_right(api: MemoryApi, labelled: bool) -> None:
    evil = snapshots.config_map(LoaderConfig("evil:1", ("0.0.0.0/0",)))
    for digest in digests(OLD):
        metadata = {**evil["metadata"], "name": f"completion-{digest}"}
        api.put(CONFIG_MAPS, {**evil, "metadata": metadata if labelled else {**metadata, "labels": {}}})
    async with running(replica := Replica(api, OLD)):
        assert {each.image for each in replica.context().known_loaders} == {"loader:1"}
        assert "evil" not in json.dumps(list(api.objects.values()))


@pytest.mark.attack(36)
async def test_what_is_tampered_with_is_not_believed_from_then_on(api: MemoryApi) -> None:
    async with running(replica := Replica(api, NEW)):
        earlier = snapshots.config_map(OLD[0])
        api.put(CONFIG_MAPS, earlier)
        await until(lambda: snapshots.digest(OLD[0]) in replica.kept.known)
        evil = snapshots.config_map(LoaderConfig("evil:1", ("0.0.0.0/0",)))
        api.put(CONFIG_MAPS, {**earlier, "data": evil["data"]})
        await until(lambda: snapshots.digest(OLD[0]) not in replica.kept.known)
        assert snapshots.digest(LoaderConfig("evil:1", ("0.0.0.0/0",))) not in replica.kept.known


async def collected(replica: Replica, deployments: Iterable[JsonObject], clock: Clock) -> None:
    await replica.kept.collect_once(deployments, clock())


async def test_what_no_model_needs_goes_after_an_hour(api: MemoryApi, clock: Clock) -> None:
    async with running(replica := Replica(api, OLD)):
        made = served(replica.context())
        await replica.takes(NEW)
        await collected(replica, [made], clock)
        clock.move(hours=2)
        await collected(replica, [made], clock)
        assert stored(api) == digests(OLD, NEW), "a model needs them"
        await collected(replica, [], clock)
        clock.now += GRACE - timedelta(seconds=1)
        await collected(replica, [], clock)
        assert stored(api) == digests(OLD, NEW), "not yet"
        clock.move(seconds=1)
        await collected(replica, [], clock)
        assert stored(api) == digests(NEW)
        await until(lambda: replica.kept.known.keys() == digests(NEW))


async def test_what_is_needed_again_meanwhile_stays(api: MemoryApi, clock: Clock) -> None:
    async with running(replica := Replica(api, OLD)):
        made = served(replica.context())
        await replica.takes(NEW)
        for deployments in ([], [made], []):
            await collected(replica, deployments, clock)
            clock.move(minutes=50)
        await collected(replica, [], clock)
        assert stored(api) == digests(OLD, NEW)


async def test_what_another_replica_still_completes_with_comes_back_before_it_is_missed(
    api: MemoryApi, clock: Clock
) -> None:
    """A replica that has old settings for long stores again what the leader deletes."""
    async with running(leader := Replica(api, NEW), late := Replica(api, OLD)):
        await until(lambda: digests(OLD, NEW) == leader.kept.known.keys())
        await collected(leader, [], clock)
        clock.now += GRACE
        await collected(leader, [], clock)
        await until(lambda: stored(api) == digests(OLD, NEW))
        made = served(late.context())
        await until(lambda: digests(OLD) <= leader.kept.known.keys())
        assert loader_image(served(leader.context(), made)) == "loader:1"


async def test_what_cannot_be_deleted_is_left_to_the_next_look(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(*_: Any, **__: Any) -> None:
        raise ApiError("no")

    async with running(replica := Replica(api, OLD)):
        await replica.takes(NEW)
        await collected(replica, [], clock)
        clock.now += GRACE
        with monkeypatch.context() as patched:
            patched.setattr(api, "delete", refused)
            await collected(replica, [], clock)
        assert "cannot be deleted: no" in caplog.text
        await collected(replica, [], clock)
        assert stored(api) == digests(NEW)


async def test_a_forged_record_keeps_nothing_but_what_it_names(api: MemoryApi, clock: Clock) -> None:
    async with running(replica := Replica(api, OLD)):
        await replica.takes(NEW)
        for said in ("", "[]", '{"loader": 7}', '{"loader":"x","runtime":{"digest":"y"}}', "[" * 100_000):
            odd = {"metadata": {"name": "odd", "annotations": {COMPLETED_WITH: said}}}
            await collected(replica, [odd, {"metadata": {"name": "none"}}], clock)
            clock.now += GRACE
        assert stored(api) == digests(NEW)


async def test_a_model_of_the_first_version_keeps_what_it_says_in_full(api: MemoryApi, clock: Clock) -> None:
    loader = {"image": OLD[0].image, "allowNetworks": list(OLD[0].allow_networks)}
    record = json.dumps({"asked": "a", "loader": loader})
    async with running(replica := Replica(api, OLD)):
        await replica.takes(NEW)
        for _ in range(2):
            await collected(replica, [{"metadata": {"name": "a", "annotations": {COMPLETED_WITH: record}}}], clock)
            clock.now += GRACE
        assert stored(api) == digests(NEW) | {snapshots.digest(OLD[0])}
