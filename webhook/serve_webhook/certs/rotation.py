"""Certificate rotation: the Secret, this replica's TLS context, and the ``caBundle`` of the webhooks.

Every replica serves the certificate in the Secret. Only the leader writes the Secret and the ``caBundle``, which it
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
"""Name of the mutating and of the validating webhook configuration."""
INTERVAL_SECONDS = 600.0
"""Between two checks of what changes with time alone."""

logger = logging.getLogger(__name__)


def read_secret(secret: JsonObject | None) -> Material | None:
    """The Secret's content; ``None`` if it does not exist, or cannot be used."""
    data = (secret or {}).get("data") or {}
    if not data:
        return None
    try:
        return Material.from_files({name: base64.b64decode(value, validate=True) for name, value in data.items()})
    except (ValueError, binascii.Error) as error:
        logger.error("Secret %s/%s cannot be used and will be replaced: %s", NAMESPACE, SECRET, error)
        return None


class ServingCertificate:
    """This replica's certificate: loaded once the Secret has one, and again when it changes."""

    def __init__(self, secrets: Informer, context: ssl.SSLContext, metrics: Metrics) -> None:
        self._context = context
        self._metrics = metrics
        self._leaf: object = None
        self.loaded = asyncio.Event()
        secrets.subscribe(lambda _, new: self._load(read_secret(new)))

    def _load(self, material: Material | None) -> None:
        # After a deletion the certificate stays: the leader is about to write a new Secret.
        if material is None or material.leaf.certificate == self._leaf:
            return
        authority.load(self._context, material)
        self._leaf = material.leaf.certificate
        self._metrics.certificate_expiry.set(material.leaf.certificate.not_valid_after_utc.timestamp())
        self.loaded.set()
        logger.info("Serving a certificate that ends on %s.", material.leaf.certificate.not_valid_after_utc.date())


class CertificateRotation:
    """Renews and publishes the certificates. Runs on the leader."""

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
        """Renew and publish until cancelled."""
        informers = (self._secrets, *(informer for _, informer in self._configurations))
        stops = [informer.subscribe(lambda _old, _new: self._changed.set()) for informer in informers]
        try:
            for informer in informers:
                await informer.synced.wait()
            await run_forever("The certificates", self._renew, self._changed, logger, INTERVAL_SECONDS)
        finally:
            for stop in stops:
                stop()

    async def _renew(self) -> None:
        secret = self._secrets.get(NAMESPACE, SECRET)
        material = read_secret(secret)
        wanted = self._wanted(material)
        if wanted is not material:
            manifest = _manifest(wanted, secret)
            self._secrets.update_cache(await self._api.apply(SECRETS, manifest))
            logger.info("Wrote Secret %s/%s.", NAMESPACE, SECRET)
        self._last = wanted
        for resource, informer in self._configurations:
            await self._publish(resource, informer, wanted.bundle)
        trusted = all(authority.trusts(bundle, wanted.leaf.certificate) for bundle in self._bundles())
        self._metrics.certificate_trusted.set(trusted)

    def _wanted(self, material: Material | None) -> Material:
        now = self._now()
        if material is None:
            # After a deletion of the Secret, the key is replaced by overlap: callers that trust the old one still
            # connect.
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
        # Optimistic concurrency: a paused former leader must not overwrite its successor's Secret.
        manifest["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
    data = {name: base64.b64encode(value).decode() for name, value in material.to_files().items()}
    return manifest | {"type": "Opaque", "data": data}
