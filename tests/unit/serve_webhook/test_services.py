"""The cluster's Services, as far as they matter to models."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from serve_core.context.services import ServiceSummary
from serve_kube.resources import SERVICES
from serve_webhook.cache.informers import Informer
from serve_webhook.cache.services import ServiceCache
from support.fake_api import MemoryApi


def service(name: str, app: str, namespace: str = "default", **labels: str) -> dict[str, Any]:
    head = SERVICES.identity(namespace, name)
    return head | {"metadata": head["metadata"] | {"labels": labels}, "spec": {"selector": {"app": app}}}


@asynccontextmanager
async def watching(api: MemoryApi, reported: list[str]) -> AsyncIterator[ServiceCache]:
    """``reported``: gets the namespaces with a change."""
    api.put(SERVICES, service("iris", "iris"))
    made = ServiceCache(
        lambda resource, **more: Informer(api, resource, **more), lambda change: reported.append(change.namespace)
    )
    tasks = [asyncio.create_task(part) for part in made.parts()]
    try:
        async with asyncio.timeout(10):
            await made.wait()
            yield made
    finally:
        for task in tasks:
            task.cancel()


async def until_reported(reported: list[str], *namespaces: str) -> None:
    while reported != list(namespaces):  # noqa: ASYNC110 - it is a plain call
        await asyncio.sleep(0)


async def test_summaries_are_current_and_changes_are_reported_by_namespace(api: MemoryApi) -> None:
    reported: list[str] = []
    async with watching(api, reported) as services:
        assert services == {"default": {"iris": ServiceSummary(selector={"app": "iris"})}}
        api.put(SERVICES, service("wine", "wine", "other"))
        await until_reported(reported, "default", "other")
        assert (len(services), services["other"]) == (2, {"wine": ServiceSummary(selector={"app": "wine"})})
        api.put(SERVICES, service("wine", "wine", "other", team="a"))
        api.put(SERVICES, service("iris", "lily"))
        await until_reported(reported, "default", "other", "default")
        assert services["default"] == {"iris": ServiceSummary(selector={"app": "lily"})}
        api.remove(SERVICES, "other", "wine")
        await until_reported(reported, "default", "other", "default", "other")
        assert list(services) == ["default"], "a namespace without any is as good as none"


async def test_those_that_knative_makes_of_each_revision_are_not_looked_at(api: MemoryApi) -> None:
    reported: list[str] = []
    async with watching(api, reported) as services:
        api.put(SERVICES, service("iris-00001", "iris", **{"serving.knative.dev/revision": "iris-00001"}))
        api.put(SERVICES, service("other", "other"))
        await until_reported(reported, "default", "default")
        assert set(services["default"]) == {"iris", "other"}
