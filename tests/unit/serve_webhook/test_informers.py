"""Informers: local copies of the cluster's objects."""

import asyncio
import copy
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge
from serve_core.api.annotations import MODEL
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_kube.errors import NotFoundError, UnavailableError
from serve_kube.paging import Page
from serve_kube.resources import DEPLOYMENTS, KNATIVE_SERVICES
from serve_webhook.cache import informers
from serve_webhook.cache.index import DeploymentIndex
from serve_webhook.cache.informers import Informer
from support.fake_api import MemoryApi
from support.waiting import running, until_changed


def manifest(name: str, owner: str = "", **spec: Any) -> dict[str, Any]:
    labels = {DEPLOYMENT_LABEL: owner} if owner else {}
    return DEPLOYMENTS.identity("default", name) | {
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": spec,
    }


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informers, "backoff", lambda _: 0.0)


async def test_it_has_what_was_there_and_follows_what_comes(api: MemoryApi) -> None:
    api.put(DEPLOYMENTS, manifest("old"))
    informer = Informer(api, DEPLOYMENTS)
    async with running(informer):
        assert [found["metadata"]["name"] for found in informer] == ["old"]
        api.put(DEPLOYMENTS, manifest("new"))
        api.put(DEPLOYMENTS, manifest("old", replicas=2))
        await until_changed(informer, lambda: (informer.get("default", "old") or {}).get("spec") == {"replicas": 2})
        api.remove(DEPLOYMENTS, "default", "new")
        await until_changed(informer, lambda: informer.get("default", "new") is None)


async def test_of_thousands_of_models_each_takes_little_memory(api: MemoryApi) -> None:
    deployment = judge(DEPLOYMENTS.identity("default", "a") | {"metadata": {"name": "a", "namespace": "default",
                       "annotations": {MODEL: "s3://models/a.joblib"}}}, default_context()).deployment  # fmt: skip
    assert deployment is not None
    tracemalloc.start()
    informer = Informer(api, DEPLOYMENTS)
    before, _ = tracemalloc.get_traced_memory()
    for number in range(500):
        metadata = deployment["metadata"] | {"name": f"m{number}", "resourceVersion": "1"}
        informer.update_cache(copy.deepcopy(deployment | {"metadata": metadata}))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(informer), (after - before) // 500 < 3500) == (500, True)


async def test_each_caller_gets_its_own_copy_of_an_object(api: MemoryApi) -> None:
    api.put(DEPLOYMENTS, manifest("a", replicas=1))
    informer = Informer(api, DEPLOYMENTS)
    async with running(informer):
        (informer.get("default", "a") or {})["spec"]["replicas"] = 2
        assert (informer.get("default", "a") or {})["spec"] == {"replicas": 1}


async def test_what_is_written_while_a_long_list_is_read_stays(api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.put(DEPLOYMENTS, manifest("old"))
    informer, listed = Informer(api, DEPLOYMENTS), api.pages

    async def pages(*arguments: Any) -> AsyncIterator[Page]:
        async for page in listed(*arguments):
            if page.version:
                informer.update_cache(api.put(DEPLOYMENTS, manifest("new")))
            yield page

    monkeypatch.setattr(api, "pages", pages)
    reported: list[str] = []
    informer.subscribe(lambda old, new: reported.append((new or {"metadata": {"name": "none"}})["metadata"]["name"]))
    async with running(informer):
        assert (sorted(informer.names()), reported) == ([("default", "new"), ("default", "old")], ["old", "new"])


async def test_a_watch_that_is_too_old_lists_again_and_reports_deletions(api: MemoryApi) -> None:
    api.put(DEPLOYMENTS, manifest("stays"))
    api.put(DEPLOYMENTS, manifest("goes"))
    restarts: list[str] = []
    informer = Informer(api, DEPLOYMENTS, restarted=restarts.append)
    gone = []
    informer.subscribe(lambda old, new: gone.append(old and old["metadata"]["name"]) if new is None else None)
    async with running(informer):
        del api.objects["deployments", "default", "goes"]  # unseen
        api.forget_history()
        await until_changed(informer, lambda: informer.get("default", "goes") is None)
    assert (gone, restarts) == (["goes"], ["deployments"])


async def test_the_api_server_may_be_away_at_the_start(api: MemoryApi) -> None:
    api.failures["list deployments"] = UnavailableError("not yet")
    informer = Informer(api, DEPLOYMENTS)
    task = asyncio.create_task(informer.run())
    await asyncio.sleep(0)
    assert not informer.synced.is_set()
    del api.failures["list deployments"]
    async with asyncio.timeout(5):
        await informer.synced.wait()
    task.cancel()


async def test_a_kind_that_the_cluster_lacks_counts_as_none(api: MemoryApi) -> None:
    api.failures["list services"] = NotFoundError("no such resource")
    informer = Informer(api, KNATIVE_SERVICES, optional=True)
    async with running(informer):
        assert list(informer) == []


async def test_the_answer_to_a_write_counts_at_once_and_an_older_event_not_any_more(api: MemoryApi) -> None:
    api.put(DEPLOYMENTS, manifest("a", replicas=1))
    informer = Informer(api, DEPLOYMENTS)
    async with running(informer):
        api.put(DEPLOYMENTS, manifest("a", replicas=2))
        newest = api.put(DEPLOYMENTS, manifest("a", replicas=3))
        informer.update_cache(newest)
        seen = []
        informer.subscribe(lambda _old, new: seen.append((new or {}).get("spec")))
        api.put(DEPLOYMENTS, manifest("b"))
        await until_changed(informer, lambda: informer.get("default", "b") is not None)
        assert {"replicas": 2} not in seen
        assert (informer.get("default", "a") or {})["spec"] == {"replicas": 3}


async def test_a_new_version_with_the_same_kept_part_is_no_change(api: MemoryApi) -> None:
    def without_status(found: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in found.items() if key != "status"}

    api.put(DEPLOYMENTS, manifest("a") | {"status": {"replicas": 1}})
    informer = Informer(api, DEPLOYMENTS, trim=without_status)
    async with running(informer):
        seen = []
        informer.subscribe(lambda _old, new: seen.append((new or {})["metadata"]["name"]))
        newest = api.put(DEPLOYMENTS, manifest("a") | {"status": {"replicas": 2}})["metadata"]["resourceVersion"]
        api.put(DEPLOYMENTS, manifest("b"))
        await until_changed(informer, lambda: informer.get("default", "b") is not None)
        assert seen == ["b"]
        assert (informer.get("default", "a") or {})["metadata"]["resourceVersion"] == newest, "writes need it"


async def test_an_answer_that_comes_after_the_deletion_revives_nothing(api: MemoryApi) -> None:
    informer = Informer(api, DEPLOYMENTS)
    async with running(informer):
        answer = api.put(DEPLOYMENTS, manifest("a"))
        await until_changed(informer, lambda: informer.get("default", "a") is not None)
        api.remove(DEPLOYMENTS, "default", "a")
        await until_changed(informer, lambda: informer.get("default", "a") is None)
        informer.update_cache(answer)
        assert informer.get("default", "a") is None


async def test_a_recreated_object_stays_after_the_deletion_event_of_the_first(api: MemoryApi) -> None:
    api.put(DEPLOYMENTS, manifest("a", replicas=1))
    informer = Informer(api, DEPLOYMENTS)
    async with running(informer):
        api.remove(DEPLOYMENTS, "default", "a")
        informer.update_cache(api.put(DEPLOYMENTS, manifest("a", replicas=2)))
        seen: list[Any] = []
        informer.subscribe(lambda _old, new: seen.append(new and new["metadata"]["name"]))
        api.put(DEPLOYMENTS, manifest("b"))
        await until_changed(informer, lambda: informer.get("default", "b") is not None)
        assert (seen, (informer.get("default", "a") or {})["spec"]) == (["b"], {"replicas": 2})


async def test_an_index_finds_objects_by_their_deployment(api: MemoryApi) -> None:
    api.put(DEPLOYMENTS, manifest("one", owner="iris"))
    informer = Informer(api, DEPLOYMENTS)
    reported: list[tuple[str, str]] = []
    async with running(informer):
        index = DeploymentIndex(informer, reported.append)
        assert [found["metadata"]["name"] for found in index.of(("default", "iris"))] == ["one"]
        api.put(DEPLOYMENTS, manifest("one", owner="wine"))
        await until_changed(informer, lambda: bool(index.of(("default", "wine"))))
        assert index.of(("default", "iris")) == ()
        api.remove(DEPLOYMENTS, "default", "one")
        await until_changed(informer, lambda: not index.of(("default", "wine")))
    assert reported == [("default", name) for name in ("iris", "iris", "wine", "wine")]
