"""Certificate rotation: the Secret, the TLS context and the webhooks' bundles."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from serve_core.base.constants import NAMESPACE
from serve_kube.resources import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS
from serve_webhook.cache.informers import Informer
from serve_webhook.certs.authority import Material
from serve_webhook.certs.rotation import SECRET, WEBHOOKS, CertificateRotation, ServingCertificate, read_secret
from serve_webhook.metrics import Metrics
from support.fake_api import Clock, MemoryApi
from support.waiting import until


def install(api: MemoryApi) -> None:
    for resource, webhooks in ((MUTATING_WEBHOOKS, ("one", "two")), (VALIDATING_WEBHOOKS, ("three",))):
        configuration = resource.identity(name=WEBHOOKS)
        configuration["webhooks"] = [
            {"name": name, "failurePolicy": "Fail", "clientConfig": {"service": {"name": "kubectl-serve"}}}
            for name in webhooks
        ]
        api.put(resource, configuration)


def bundles(api: MemoryApi) -> list[bytes]:
    return [
        base64.b64decode(webhook["clientConfig"].get("caBundle", ""))
        for resource in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)
        for webhook in api.objects[resource.plural, "", WEBHOOKS]["webhooks"]
    ]


def kept(api: MemoryApi) -> Material | None:
    return read_secret(api.objects.get(("secrets", NAMESPACE, SECRET)))


@asynccontextmanager
async def keeping(api: MemoryApi, clock: Clock, metrics: Metrics | None = None) -> AsyncIterator[None]:
    secrets, mutating, validating = (Informer(api, r) for r in (SECRETS, MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS))
    webhooks = ((MUTATING_WEBHOOKS, mutating), (VALIDATING_WEBHOOKS, validating))
    keeper = CertificateRotation(api, secrets, webhooks, metrics or Metrics(), clock)
    tasks = [asyncio.create_task(part.run()) for part in (secrets, mutating, validating, keeper)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def published(api: MemoryApi) -> bool:
    material = kept(api)
    return material is not None and bundles(api) == [material.bundle] * 3


async def test_the_first_leader_makes_the_secret_and_fills_every_bundle(api: MemoryApi, clock: Clock) -> None:
    install(api)
    async with keeping(api, clock):
        await until(lambda: published(api))
    webhook = api.objects[MUTATING_WEBHOOKS.plural, "", WEBHOOKS]["webhooks"][0]
    assert webhook["failurePolicy"] == "Fail"
    assert webhook["clientConfig"]["service"] == {"name": "kubectl-serve"}


async def test_the_next_leader_changes_nothing(api: MemoryApi, clock: Clock) -> None:
    install(api)
    async with keeping(api, clock):
        await until(lambda: published(api))
    api.writes.clear()
    metrics = Metrics()
    async with keeping(api, clock, metrics):
        await until(lambda: b"kubectl_serve_certificate_trusted 1.0" in metrics.render())
    assert api.writes == []


async def test_a_removed_bundle_is_restored(api: MemoryApi, clock: Clock) -> None:
    install(api)
    async with keeping(api, clock):
        await until(lambda: published(api))
        wiped: dict[str, Any] = await api.get(MUTATING_WEBHOOKS, "", WEBHOOKS)
        del wiped["webhooks"][1]["clientConfig"]["caBundle"]
        api.put(MUTATING_WEBHOOKS, wiped)
        assert not published(api)
        await until(lambda: published(api))


async def test_deleting_the_secret_replaces_the_key_without_a_gap(api: MemoryApi, clock: Clock) -> None:
    install(api)
    async with keeping(api, clock):
        await until(lambda: published(api))
        before = kept(api)
        api.remove(SECRETS, NAMESPACE, SECRET)
        await until(lambda: published(api))
        after = kept(api)
    assert before
    assert after
    assert after.authority.certificate != before.authority.certificate
    assert after.previous == before.authority.certificate, "replicas that still serve the old leaf are trusted"


async def test_a_broken_secret_is_replaced(api: MemoryApi, clock: Clock) -> None:
    install(api)
    api.put(SECRETS, SECRETS.identity(NAMESPACE, SECRET) | {"data": {"tls.crt": "bm9uc2Vuc2U="}})
    async with keeping(api, clock):
        await until(lambda: published(api))


async def test_every_replica_serves_what_the_secret_holds_and_keeps_it_when_it_goes(
    api: MemoryApi, clock: Clock
) -> None:
    install(api)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secrets = Informer(api, SECRETS)
    presented = ServingCertificate(secrets, context, metrics := Metrics())
    follower = asyncio.create_task(secrets.run())
    async with keeping(api, clock):
        async with asyncio.timeout(5):
            await presented.loaded.wait()
    api.remove(SECRETS, NAMESPACE, SECRET)
    await until(lambda: secrets.get(NAMESPACE, SECRET) is None)
    assert b"kubectl_serve_certificate_expiry_timestamp_seconds 1.7" in metrics.render()
    follower.cancel()
