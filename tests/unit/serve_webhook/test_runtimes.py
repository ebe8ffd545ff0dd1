"""The cluster's ModelRuntimes in the server's cache."""

import asyncio
from typing import Any

import pytest

from serve_core.base.json import JsonObject
from serve_kube.resources import MODEL_RUNTIMES, Resource
from serve_webhook.cache.informers import Informer
from serve_webhook.cache.runtimes import RuntimeCache
from support.fake_api import MemoryApi


def runtime(name: str, image: str, protocols: tuple[str, ...] = ("v2",)) -> JsonObject:
    return {
        "apiVersion": "kubectl-serve.dev/v1alpha1",
        "kind": "ModelRuntime",
        "metadata": {"name": name},
        "spec": {"formats": [{"name": "sklearn"}], "protocols": list(protocols), "container": {"image": image}},
    }


async def test_they_come_change_and_go_and_a_broken_one_stays_as_it_was(
    api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    changed = asyncio.Event()

    def informer(resource: Resource, **arguments: Any) -> Informer:
        return Informer(api, resource, **arguments)

    seen = RuntimeCache(informer, changed.set)

    async def images() -> list[str]:
        await changed.wait()
        changed.clear()
        return [each.container["image"] for each in seen.own]

    api.put(MODEL_RUNTIMES, runtime("ours", "a:1"))
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in seen.parts()]
        await seen.wait()
        assert await images() == ["a:1"]
        api.put(MODEL_RUNTIMES, runtime("ours", "a:2"))
        assert await images() == ["a:2"]
        api.put(MODEL_RUNTIMES, runtime("ours", "a:3", protocols=("v9",)))
        assert await images() == ["a:2"]
        assert "ModelRuntime ours cannot be read: spec.protocols must be some of" in caplog.text
        api.remove(MODEL_RUNTIMES, "", "ours")
        assert await images() == []
        for task in tasks:
            task.cancel()
