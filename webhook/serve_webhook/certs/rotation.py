"""Keeps the certificates: in the Secret, in this replica's TLS context, and in the API server's bundles.

Every replica serves what the Secret holds. Only the leader writes it, and the ``caBundle`` of our webhooks, which it
owns by server-side apply of that field alone.
"""

import asyncio
import base64
import binascii
import logging
import ssl
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NoReturn

from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject
from serve_kube.client import Client
from serve_kube.resources import SECRETS, Resource
from serve_webhook.cache.informers import Informer
from serve_webhook.certs import authority
from serve_webhook.certs.authority import Material
from serve_webhook.metrics import Metrics
from serve_webhook.work_queue import run_forever

SECRET = "kubectl-serve-certificates"  # noqa: S105 - its name
WEBHOOKS = "kubectl-serve"
"""Name of our mutating and of our validating webhook configuration."""
LOOK_SECONDS = 600.0
"""Between two looks at what time alone changes."""

logger = logging.getLogger(__name__)


def material_of(secret: JsonObject | None) -> Material | None:
    """What the Secret holds; ``None`` if there is none, or nothing that can be used."""
    data = (secret or {}).get("data") or {}
    if not data:
        return None
    try:
        return Material.from_files({name: base64.b64decode(value, validate=True) for name, value in data.items()})
    except (ValueError, binascii.Error) as error:
        logger.error("Secret %s/%s cannot be used and is made anew: %s", NAMESPACE, SECRET, error)
        return None


class ServingCertificate:
    """What this replica presents to the API server: loaded as soon as the Secret has it, and again when it changes."""

    def __init__(self, secrets: Informer, context: ssl.SSLContext, metrics: Metrics) -> None:
        self._context = context
        self._metrics = metrics
        self._leaf: object = None
        self.loaded = asyncio.Event()
        secrets.subscribe(lambda _, new: self._load(material_of(new)))

    def _load(self, material: Material | None) -> None:
        # A Secret that was deleted takes nothing away: the leader is about to write a new one.
        if material is None or material.leaf.certificate == self._leaf:
            return
        authority.load(self._context, material)
        self._leaf = material.leaf.certificate
        self._metrics.certificate_expiry.set(material.leaf.certificate.not_valid_after_utc.timestamp())
        self.loaded.set()
        logger.info("Serving a certificate that ends on %s.", material.leaf.certificate.not_valid_after_utc.date())


class CertificateRotation:
    """The leader's half."""

    def __init__(
        self,
        api: Client,
        secrets: Informer,
        configurations: Iterable[tuple[Resource, Informer]],
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._secrets = secrets
        self._configurations = tuple(configurations)
        self._metrics = metrics
        self._now = now
        self._changed = asyncio.Event()
        self._last: Material | None = None

    async def run(self) -> NoReturn:
        """Keep everything right until cancelled."""
        informers = (self._secrets, *(informer for _, informer in self._configurations))
        stops = [informer.subscribe(lambda _old, _new: self._changed.set()) for informer in informers]
        try:
            for informer in informers:
                await informer.synced.wait()
            await run_forever("The certificates", self._once, self._changed, logger, LOOK_SECONDS)
        finally:
            for stop in stops:
                stop()

    async def _once(self) -> None:
        secret = self._secrets.get(NAMESPACE, SECRET)
        material = material_of(secret)
        following = self._following(material)
        if following is not material:
            manifest = _manifest(following, secret)
            self._secrets.update_cache(await self._api.apply(SECRETS, manifest))
            logger.info("Wrote Secret %s/%s.", NAMESPACE, SECRET)
        self._last = following
        for resource, informer in self._configurations:
            await self._publish(resource, informer, following.bundle)
        trusted = all(authority.trusts(bundle, following.leaf.certificate) for bundle in self._bundles())
        self._metrics.certificate_trusted.set(trusted)

    def _following(self, material: Material | None) -> Material:
        now = self._now()
        if material is None:
            # A Secret that somebody deleted asks for a new key; who trusts the old one goes on working meanwhile.
            return authority.replace_key(self._last, now) if self._last else authority.issue(now)
        published = all(bundle == material.bundle for bundle in self._bundles())
        return authority.advance(material, now, published)

    async def _publish(self, resource: Resource, informer: Informer, bundle: bytes) -> None:
        configuration = informer.get("", WEBHOOKS)
        if configuration is None or all(live == bundle for live in _bundles(configuration)):
            return
        encoded = base64.b64encode(bundle).decode()
        manifest = resource.identity(name=WEBHOOKS)
        manifest["metadata"]["uid"] = configuration["metadata"]["uid"]
        manifest["webhooks"] = [
            {"name": webhook["name"], "clientConfig": {"caBundle": encoded}}
            for webhook in configuration.get("webhooks") or []
        ]
        informer.update_cache(await self._api.apply(resource, manifest))
        logger.info("Set the caBundle of %s %s.", resource.kind, WEBHOOKS)

    def _bundles(self) -> list[bytes]:
        found = (informer.get("", WEBHOOKS) for _, informer in self._configurations)
        return [bundle for configuration in found if configuration for bundle in _bundles(configuration)]


def _bundles(configuration: JsonObject) -> list[bytes]:
    return [
        base64.b64decode(webhook["clientConfig"].get("caBundle") or "")
        for webhook in configuration.get("webhooks") or []
    ]


def _manifest(material: Material, live: JsonObject | None) -> JsonObject:
    manifest = SECRETS.identity(NAMESPACE, SECRET)
    if live is not None:
        # Optimistic concurrency: a leader that was paused for a while must not overwrite its successor's.
        manifest["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
    data = {name: base64.b64encode(value).decode() for name, value in material.to_files().items()}
    return manifest | {"type": "Opaque", "data": data}
