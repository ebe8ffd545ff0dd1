"""The server's assumptions about an API server, on the real one of KUBECONFIG."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

import pytest

from serve_kube.errors import ConflictError, NotFoundError
from serve_kube.http_client import HttpClient
from serve_kube.resources import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES
from serve_webhook.cache.informers import Informer
from serve_webhook.connection import connect
from serve_webhook.leader_election import Election, Timing
from support.waiting import until_changed

pytestmark = pytest.mark.cluster


@pytest.fixture
async def api() -> AsyncIterator[HttpClient]:
    if "KUBECONFIG" not in os.environ:
        pytest.fail("no cluster: run scripts/test cluster, or eval the output of scripts/cluster env", pytrace=False)
    async with await connect(os.environ["KUBECONFIG"]) as connected:
        yield connected


@pytest.fixture
async def namespace(api: HttpClient) -> AsyncIterator[str]:
    made = await api.create(NAMESPACES, NAMESPACES.identity(name=f"server-{token_hex(4)}"))
    yield made["metadata"]["name"]
    await api.delete(NAMESPACES, "", made["metadata"]["name"], uid=made["metadata"]["uid"])


def config_map(namespace: str, name: str = "a", **data: str) -> dict[str, Any]:
    return CONFIG_MAPS.identity(namespace, name) | {"data": data}


def deployment(namespace: str) -> dict[str, Any]:
    labels = {"app": "plain"}
    return DEPLOYMENTS.identity(namespace, "plain") | {
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "a", "image": "example.com/a:1"}]},
            },
        }
    }


async def test_an_informer_follows_the_api_server(api: HttpClient, namespace: str) -> None:
    await api.apply(CONFIG_MAPS, config_map(namespace, x="1"))
    informer = Informer(api, CONFIG_MAPS, namespace=namespace, selectors={"fieldSelector": "metadata.name=a"})
    task = asyncio.create_task(informer.run())
    async with asyncio.timeout(10):
        await informer.synced.wait()
    assert len(list(informer)) == 1
    changed = await api.merge(CONFIG_MAPS, namespace, "a", {"data": {"x": "2"}})
    await until_changed(informer, lambda: (informer.get(namespace, "a") or {}).get("data") == {"x": "2"})
    await api.delete(CONFIG_MAPS, namespace, "a", uid=changed["metadata"]["uid"])
    await until_changed(informer, lambda: informer.get(namespace, "a") is None)
    task.cancel()


async def test_the_uid_keeps_an_apply_and_a_deletion_from_another_object_of_that_name(
    api: HttpClient, namespace: str
) -> None:
    first = await api.apply(CONFIG_MAPS, config_map(namespace))
    manifest = config_map(namespace, x="1")
    manifest["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(ConflictError):
        await api.apply(CONFIG_MAPS, manifest)
    with pytest.raises(ConflictError):
        await api.delete(CONFIG_MAPS, namespace, "a", uid=manifest["metadata"]["uid"])
    manifest["metadata"]["name"] = "not-there"
    with pytest.raises((ConflictError, NotFoundError)):
        await api.apply(CONFIG_MAPS, manifest)
    manifest = config_map(namespace)
    manifest["metadata"]["uid"] = first["metadata"]["uid"]
    assert (await api.apply(CONFIG_MAPS, manifest))["metadata"]["resourceVersion"] == first["metadata"][
        "resourceVersion"
    ]


async def test_an_apply_without_force_takes_no_field_from_its_owner(api: HttpClient, namespace: str) -> None:
    await api.create(CONFIG_MAPS, config_map(namespace, x="theirs"))
    with pytest.raises(ConflictError):
        await api.apply(CONFIG_MAPS, config_map(namespace, x="ours"), force=False)


async def test_an_annotation_adds_one_to_a_deployments_generation_and_its_status_adds_none(
    api: HttpClient, namespace: str
) -> None:
    made = await api.create(DEPLOYMENTS, deployment(namespace))
    head = DEPLOYMENTS.identity(namespace, "plain")
    noted = await api.apply(
        DEPLOYMENTS,
        head | {"metadata": head["metadata"] | {"annotations": {"example.com/a": "1", "example.com/b": "2"}}},
    )
    assert noted["metadata"]["generation"] == made["metadata"]["generation"] + 1
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {
        "type": "example.com/Ready",
        "status": "True",
        "reason": "Ready",
        "message": "",
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }
    reported = await api.apply(DEPLOYMENTS, head | {"status": {"conditions": [condition]}}, subresource="status")
    assert reported["metadata"]["generation"] == noted["metadata"]["generation"]
    assert condition["type"] in {entry["type"] for entry in reported["status"]["conditions"]}
    # An apply that names them no more takes them off, and nothing else.
    bare = await api.apply(DEPLOYMENTS, head | {"status": {}}, subresource="status")
    assert condition["type"] not in {entry["type"] for entry in bare["status"].get("conditions", [])}
    assert "example.com/a" in bare["metadata"]["annotations"]


async def test_one_of_two_leads_and_the_other_follows_at_once_when_it_leaves(api: HttpClient, namespace: str) -> None:
    timing = Timing(lease_duration=3, renew_deadline=2, retry_period=0.2)
    leading: asyncio.Queue[str] = asyncio.Queue()

    def candidate(name: str) -> asyncio.Task[None]:
        async def work() -> None:
            leading.put_nowait(name)
            await asyncio.Event().wait()

        election = Election(api, name, lambda: datetime.now(UTC), namespace=namespace, timing=timing)
        return asyncio.create_task(election.campaign(work))

    tasks = {name: candidate(name) for name in ("one", "two")}
    async with asyncio.timeout(20):
        first = await leading.get()
        tasks[first].cancel()
        second = await leading.get()
    assert {first, second} == {"one", "two"}
    for task in tasks.values():
        task.cancel()
    await asyncio.wait(tasks.values())
