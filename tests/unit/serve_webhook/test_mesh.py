"""Istio in the server's cache: installed, changed, or forbidden to read."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serve_core.admission.decide import Verdict
from serve_core.base.json import JsonObject
from serve_core.context.cluster import USER_RANGE
from serve_core.context.istio import NAMESPACE, IstioInstallation
from serve_core.istio.authorization import is_access_policy
from serve_kube.errors import ForbiddenError, NotFoundError
from serve_kube.resources import (
    AUTHORIZATION_POLICIES,
    CONFIG_MAPS,
    KNATIVE_SERVICES,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    NODES,
    SERVICE_ENTRIES,
    Resource,
)
from serve_webhook.cache import mesh
from serve_webhook.cache.informers import Informer
from serve_webhook.cache.mesh import MeshCache
from serve_webhook.cache.namespaces import NamespaceLabels, UserRanges
from support.fake_api import MemoryApi
from support.istio_installation import control_plane

NOTHING = IstioInstallation(())


class Watched:
    """A watched mesh, and how often its change was reported."""

    def __init__(self, api: MemoryApi) -> None:
        def informer(resource: Resource, **arguments: Any) -> Informer:
            return Informer(api, resource, **arguments)

        self.reported: list[IstioInstallation | None] = []
        self._changed = asyncio.Event()
        self.mesh = MeshCache(informer, self._report)

    def _report(self) -> None:
        self.reported.append(self.mesh.context())
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


@asynccontextmanager
async def watching(api: MemoryApi) -> AsyncIterator[Watched]:
    made = Watched(api)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in made.mesh.parts()]
        await made.mesh.wait()
        yield made
        for task in tasks:
            task.cancel()


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "SETTLE_SECONDS", 0.0)


def install(api: MemoryApi, **how: Any) -> None:
    plane = control_plane(**how)
    for injector in plane["injectors"]:
        api.put(MUTATING_WEBHOOKS, injector)
    for config_map in plane["config_maps"]:
        config_map["metadata"]["namespace"] = NAMESPACE
        api.put(CONFIG_MAPS, config_map)


def node(kubelet: str, heartbeat: str = "") -> JsonObject:
    status = {"nodeInfo": {"kubeletVersion": kubelet}, "conditions": [{"lastHeartbeatTime": heartbeat}]}
    return {"metadata": {"name": "a"}, "status": status}


async def test_a_cluster_without_istio_has_none(api: MemoryApi) -> None:
    api.put(NODES, node("v1.35.4"))
    async with watching(api) as watched:
        assert watched.mesh.context() is None


async def test_what_the_nodes_can_mount_is_seen_when_it_changes(api: MemoryApi) -> None:
    def runs(runtime: str) -> JsonObject:
        info = {"kubeletVersion": "v1.35.4", "containerRuntimeVersion": runtime}
        return {"metadata": {"name": "a"}, "status": {"nodeInfo": info}}

    async with watching(api) as watched:
        assert watched.mesh.without_image_volumes() == "no node is known"
        api.put(NODES, runs("containerd://2.4.2"))
        await watched.until(lambda: not watched.mesh.without_image_volumes())
        api.put(NODES, runs("containerd://1.6.20"))
        await watched.until(lambda: "containerd 1.6.20" in watched.mesh.without_image_volumes())


async def test_istio_that_comes_later_is_seen(api: MemoryApi) -> None:
    api.put(NODES, node("v1.35.4"))
    async with watching(api) as watched:
        install(api, cni=True)
        await watched.until(lambda: bool((f := watched.mesh.context()) and f.revisions[0].cni))
        api.put(NAMESPACES, {"metadata": {"name": "team-a", "labels": {"istio-injection": "enabled", "other": "x"}}})
        await watched.until(lambda: bool((f := watched.mesh.context()) and f.injects("team-a")))
        context = watched.mesh.context()
        assert context is not None
        assert (context.kubelet, context.namespaces["team-a"]) == ((1, 35), {"istio-injection": "enabled"})


async def test_revisions_come_and_go_and_a_tag_moves(api: MemoryApi) -> None:
    api.put(NAMESPACES, {"metadata": {"name": "team-a", "labels": {"istio.io/rev": "prod"}}})
    install(api, version="1.23.4", revision="old", tags=("prod",), cni=True)

    def meant(watched: Watched) -> str | None:
        context = watched.mesh.context()
        found = context and context.revision("prod")
        return found.name if found else None

    async with watching(api) as watched:
        assert meant(watched) == "old"
        install(api, revision="new", tags=("prod",))
        await watched.until(lambda: meant(watched) == "new")
        api.remove(MUTATING_WEBHOOKS, "", "istio-sidecar-injector-old")
        for name in ("istio-old", "istio-sidecar-injector-old"):
            api.remove(CONFIG_MAPS, NAMESPACE, name)
        await watched.until(lambda: [r.name for r in (watched.mesh.context() or NOTHING).revisions] == ["new"])
        for name in ("istio-sidecar-injector-new", "istio-revision-tag-prod"):
            api.remove(MUTATING_WEBHOOKS, "", name)
        for name in ("istio-new", "istio-sidecar-injector-new"):
            api.remove(CONFIG_MAPS, NAMESPACE, name)
        await watched.until(lambda: watched.mesh.context() is None)


async def test_a_heartbeat_is_no_change(api: MemoryApi) -> None:
    api.put(NODES, node("v1.35.4", "1"))
    async with watching(api) as watched:
        install(api)
        await watched.until(lambda: watched.mesh.context() is not None)
        reported = len(watched.reported)
        api.put(NODES, node("v1.35.4", "2"))
        api.put(NODES, node("v1.28.0", "3"))
        await watched.until(lambda: bool((f := watched.mesh.context()) and f.kubelet == (1, 28)))
        assert len(watched.reported) == reported + 1


async def test_forbidden_resources_are_unknown_and_block_nothing(api: MemoryApi) -> None:
    install(api)
    api.failures["list configmaps"] = ForbiddenError("not yours", 403)
    api.failures["list serviceentries"] = NotFoundError("no such resource", 404)
    async with watching(api) as watched:
        context = watched.mesh.context()
        assert context is not None
        assert context.revisions[0].version is None


async def test_the_sidecars_template_is_not_kept(api: MemoryApi) -> None:
    install(api)
    kept: list[JsonObject] = []
    async with watching(api):
        informer = Informer(api, CONFIG_MAPS, trim=mesh._configuration)
        task = asyncio.create_task(informer.run())
        await informer.synced.wait()
        kept = list(informer)
        task.cancel()
    assert {key for each in kept for key in each["data"]} == {"values", "mesh"}


def test_a_model_is_access_policyed_before_it_is_there() -> None:
    guard = AUTHORIZATION_POLICIES.identity("default", "iris")
    service = KNATIVE_SERVICES.identity("default", "iris")
    entry = SERVICE_ENTRIES.identity("default", "iris")
    assert is_access_policy(guard)
    assert Verdict(service=service, extras=(entry, guard)).objects == (guard, service, entry)


async def test_namespaces_keep_their_labels_and_their_range_of_user_ids(api: MemoryApi) -> None:
    notes = {USER_RANGE: "1000680000/10000", "other": "1"}
    api.put(NAMESPACES, {"metadata": {"name": "ranged", "labels": {"team": "a"}, "annotations": notes}})
    api.put(NAMESPACES, {"metadata": {"name": "plain", "annotations": {"other": "1"}}})
    async with watching(api) as watched:
        namespaces = watched.mesh.namespaces
        ranges = UserRanges(namespaces)
        assert [name in ranges for name in ("ranged", "plain", "missing")] == [True, False, False]
        kept = namespaces.get("", "ranged")
        assert kept is not None
        assert kept["metadata"]["annotations"] == {USER_RANGE: "1000680000/10000"}
        assert NamespaceLabels(namespaces)["ranged"] == {"team": "a"}


@pytest.mark.attack(20)
async def test_namespaces_that_may_not_be_seen_are_waited_for(api: MemoryApi) -> None:
    """Policies select namespaces by labels: without them, no namespace would be selected."""
    install(api)
    api.failures["list namespaces"] = ForbiddenError("not yours", 403)
    made = mesh.MeshCache(lambda resource, **arguments: Informer(api, resource, **arguments), lambda: None)
    tasks = [asyncio.create_task(part) for part in made.parts()]
    others = [informer for name, informer in made._informers.items() if name != "namespaces"]
    await asyncio.gather(*(informer.synced.wait() for informer in others))
    assert not made.synced
    for task in tasks:
        task.cancel()
