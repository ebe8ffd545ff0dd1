"""The life of one replica: start, serve, lead while it holds the Lease, stop without dropping a request.

Every replica answers reviews. The leader also reconciles, audits and rotates the certificates.
"""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from serve_core.api import runtimes
from serve_core.base.constants import DEPLOYMENT_LABEL, NAMESPACE, NODE_CACHE, PREFETCH_LABEL, SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.context.services import NOT_A_REVISION
from serve_kube.client import Client
from serve_kube.resources import (
    CONFIG_MAPS,
    CSI_DRIVERS,
    DAEMON_SETS,
    DEPLOYMENTS,
    MUTATING_WEBHOOKS,
    OWNED,
    PODS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    VALIDATING_WEBHOOKS,
    Resource,
)
from serve_webhook import settings
from serve_webhook.admission import http, listener
from serve_webhook.audit.background import BackgroundAudit
from serve_webhook.cache import trimming
from serve_webhook.cache.informers import Informer
from serve_webhook.cache.mesh import MeshCache
from serve_webhook.cache.namespaces import NamespaceLabels, UserRanges
from serve_webhook.cache.policies import PolicyCache
from serve_webhook.cache.runtimes import RuntimeCache
from serve_webhook.cache.services import ServiceCache, ServiceChange
from serve_webhook.cache.snapshots import Catalogue, SnapshotCache
from serve_webhook.cache.store import NamespaceBudget
from serve_webhook.certs.files import CertificateFiles
from serve_webhook.certs.rotation import SECRET, WEBHOOKS, CertificateRotation, ServingCertificate
from serve_webhook.failure_policy import FailurePolicies
from serve_webhook.leader_election import Election
from serve_webhook.metrics import Metrics
from serve_webhook.reconcile.events import Recorder
from serve_webhook.reconcile.reconciler import Reconciler
from serve_webhook.settings import Configuration

FEATURES = ("knative-serving", "config-features")
"""Namespace and name of the ConfigMap with Knative's feature flags."""

DEFAULTS = ("knative-serving", "config-defaults")
AUTOSCALER = ("knative-serving", "config-autoscaler")
"""Namespace and name of the ConfigMap with Knative's bounds for timeouts."""

IMAGES = ("knative-serving", "config-deployment")
"""Namespace and name of the ConfigMap with the image of Knative's queue-proxy."""

_OF_PREFETCH = {"labelSelector": f"{DEPLOYMENT_LABEL},{PREFETCH_LABEL}"}
_OWN = {
    SERVICES: {"labelSelector": f"{DEPLOYMENT_LABEL},{NOT_A_REVISION}"},
    STATEFUL_SETS: _OF_PREFETCH,
    DAEMON_SETS: _OF_PREFETCH,
}
"""Selectors of the server's own objects, where others can have the label of a Deployment too, such as the Services of
Knative's revisions."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplicaOptions:
    """The command line of a replica."""

    identity: str
    settings: Path
    runtimes: Path
    host: str = "0.0.0.0"  # noqa: S104 - a pod's address is not known beforehand
    port: int = 8443
    health_port: int = 8080
    drain_seconds: float = listener.DRAIN_SECONDS
    servers: Path | None = None
    certificate: Path | None = None
    """Folder with the certificate of another issuer; ``None``: the server makes its own."""


class Replica:
    """One process of the server. ``configuration``: the content of its files at the start."""

    def __init__(self, api: Client, options: ReplicaOptions, configuration: Configuration) -> None:
        self._api = api
        self._options = options
        self._configuration = configuration
        self._metrics = Metrics()
        self._metrics.settings_valid.set(1)
        self._budget = NamespaceBudget()
        self._callers = configuration.callers
        self._tls = listener.tls_context(self._callers.certificate_authority if self._callers else "")
        self._features = self._single_object(CONFIG_MAPS, *FEATURES)
        self._defaults = self._single_object(CONFIG_MAPS, *DEFAULTS)
        self._autoscaler = self._single_object(CONFIG_MAPS, *AUTOSCALER)
        self._images = self._single_object(CONFIG_MAPS, *IMAGES)
        self._node_cache = self._single_object(CSI_DRIVERS, "", NODE_CACHE)
        self._secrets = self._single_object(SECRETS, NAMESPACE, SECRET)
        served = {"labelSelector": f"{SERVED_LABEL}=true"}
        self._deployments = self._informer(DEPLOYMENTS, selectors=served, trim=trimming.deployment)
        self._certificate_files = options.certificate and CertificateFiles(
            options.certificate, self._tls, self._metrics
        )
        self._serving_certificate = self._certificate_files or ServingCertificate(
            self._secrets, self._tls, self._metrics
        )
        self._reconciler: Reconciler | None = None
        self._audit: BackgroundAudit | None = None
        self._failure_policies: FailurePolicies | None = None
        self._mesh = MeshCache(self._informer, self._context_changed)
        self._namespace_labels = NamespaceLabels(self._mesh.namespaces)
        self._user_ranges = UserRanges(self._mesh.namespaces)
        self._mesh.namespaces.subscribe(self._namespace_changed)
        self._policies = PolicyCache(self._informer, self._context_changed)
        self._runtimes = RuntimeCache(self._informer, self._context_changed)
        self._services = ServiceCache(self._informer, self._service_changed)
        self._snapshots = SnapshotCache(api, self._informer, self._catalogue, self._refresh)
        self._answering = False
        self._stopping = False
        self._features.subscribe(lambda _old, _new: self._context_changed())
        self._defaults.subscribe(lambda _old, _new: self._context_changed())
        self._autoscaler.subscribe(lambda _old, _new: self._context_changed())
        self._node_cache.subscribe(lambda _old, _new: self._context_changed())

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then become unready, answer remaining requests, and return.

        Raises unhandled exceptions as an ExceptionGroup.
        """
        health = http.health_app(self.missing, self._metrics)
        async with (
            listener.serving(health, self._options.host, self._options.health_port),
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(part) for part in self._parts()]
            election = Election(self._api, self._options.identity, _now)
            campaign = group.create_task(election.campaign(self._lead))
            await stop.wait()
            logger.info("Stopping: out of service within %.0f s.", self._options.drain_seconds)
            self._stopping = True
            # Release the Lease first, so that another replica leads while this one still answers.
            campaign.cancel()
            await asyncio.sleep(self._options.drain_seconds)
            for task in tasks:
                task.cancel()

    def missing(self) -> list[str]:
        """What this replica waits for before it answers reviews."""
        parts = {
            "certificates": self._answering,
            "Knative's feature flags": self._features.synced.is_set(),
            "Knative's defaults": self._defaults.synced.is_set(),
            "Knative's autoscaler": self._autoscaler.synced.is_set(),
            "Knative's images": self._images.synced.is_set(),
            "the node cache": self._node_cache.synced.is_set(),
            "Deployments": self._deployments.synced.is_set(),
            "Istio's configuration": self._mesh.synced,
            "policies": self._policies.synced,
            "runtimes": self._runtimes.synced,
            "Services": self._services.synced,
            "what models are completed with": self._snapshots.synced,
            "its end": not self._stopping,
        }
        return [name for name, there in parts.items() if not there]

    def _parts(self) -> list[Coroutine[Any, Any, NoReturn]]:
        options, valid = self._options, self._metrics.settings_valid.set
        files = settings.follow(options.settings, options.runtimes, self._configured, valid, options.servers)
        caches = [
            self._features.run(),
            self._defaults.run(),
            self._autoscaler.run(),
            self._images.run(),
            self._node_cache.run(),
            self._certificate_files.run() if self._certificate_files else self._secrets.run(),
            self._deployments.run(),
            *self._mesh.parts(),
            *self._policies.parts(),
            *self._runtimes.parts(),
            *self._services.parts(),
            *self._snapshots.parts(),
        ]
        return [*caches, files, self._run_snapshots(), self._serve_reviews()]

    async def _run_snapshots(self) -> NoReturn:
        await self._runtimes.wait()
        await self._snapshots.run()

    async def _serve_reviews(self) -> NoReturn:
        """Answer reviews until cancelled, once there is a certificate."""
        await self._serving_certificate.loaded.wait()
        app = http.admission_app(
            self._known_context,
            self._deployments.get,
            self._metrics,
            exceptions=lambda: self._policies.exceptions,
            now=_now,
            stopping=lambda: self._stopping,
            callers=self._callers.names if self._callers else (),
            appears=self._namespace_labels.appears,
        )
        async with listener.serving(app, self._options.host, self._options.port, self._tls) as port:
            self._answering = True
            logger.info("Answering reviews on port %d.", port)
            await asyncio.Event().wait()
        raise AssertionError("waits for ever")

    async def _lead(self) -> None:
        """The leader's work, until cancelled."""
        budget, labelled = NamespaceBudget(), {"labelSelector": DEPLOYMENT_LABEL}
        owned = {
            resource: self._informer(resource, selectors=_OWN.get(resource, labelled), optional=True, budget=budget)
            for resource in OWNED
        }
        model_pods = self._informer(PODS, selectors=labelled, trim=trimming.pod, budget=budget)
        mutating, validating = (
            self._single_object(resource, "", WEBHOOKS) for resource in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)
        )
        webhooks = ((MUTATING_WEBHOOKS, mutating), (VALIDATING_WEBHOOKS, validating))
        rotation = CertificateRotation(self._api, self._secrets, webhooks, self._metrics, _now)
        recorder = Recorder(self._api, self._options.identity, _now)
        reconciler = Reconciler(
            self._api,
            deployments=self._deployments,
            owned=owned,
            pods=model_pods,
            context=self._context,
            recorder=recorder,
            metrics=self._metrics,
            now=_now,
        )
        audit = BackgroundAudit(
            self._api,
            deployments=self._deployments,
            policies=self._policies,
            context=self._context,
            recorder=recorder,
            metrics=self._metrics,
            now=_now,
        )
        failure_policies = FailurePolicies(self._api, validating, lambda: self._policies.policies)
        self._metrics.leading.set(1)
        try:
            async with asyncio.TaskGroup() as group:
                for informer in (*owned.values(), model_pods, mutating, validating):
                    group.create_task(informer.run())
                if self._certificate_files is None:
                    group.create_task(rotation.run())
                await self._features.synced.wait()
                await self._defaults.synced.wait()
                await self._autoscaler.synced.wait()
                await self._mesh.wait()
                await self._policies.wait()
                self._failure_policies = failure_policies
                group.create_task(failure_policies.run())
                await self._runtimes.wait()
                await self._services.wait()
                await self._snapshots.wait()
                group.create_task(self._snapshots.collect(self._deployments, _now))
                self._reconciler = reconciler
                group.create_task(reconciler.run())
                self._audit = audit
                group.create_task(audit.run())
        finally:
            self._reconciler = None
            self._audit = None
            self._failure_policies = None
            self._metrics.reset_leader_metrics()

    def _catalogue(self) -> Catalogue:
        """The present loader and runtimes."""
        configuration = self._configuration
        return configuration.loader, runtimes.extended(configuration.runtimes, self._runtimes.own)

    def _context(self) -> ClusterContext:
        loader, catalogue = self._snapshots.published or self._catalogue()
        features = self._features.get(*FEATURES) or {}
        defaults = self._defaults.get(*DEFAULTS) or {}
        autoscaler = self._autoscaler.get(*AUTOSCALER) or {}
        queue_proxy = ((self._images.get(*IMAGES) or {}).get("data") or {}).get("queue-sidecar-image", "")
        return ClusterContext(
            loader=loader,
            runtimes=catalogue,
            features=features.get("data") or {},
            knative_defaults=defaults.get("data") or {},
            knative_autoscaler=autoscaler.get("data") or {},
            istio=self._mesh.context(),
            without_image_volumes=self._mesh.without_image_volumes(),
            policies=self._policies.policies,
            servers=self._configuration.servers,
            stores=self._configuration.stores,
            sidecar_images=self._configuration.sidecar_images | {queue_proxy},
            namespace_labels=self._namespace_labels,
            user_ranges=self._user_ranges,
            services=self._services,
            snapshots=self._snapshots.known,
            node_cache=self._node_cache.get("", NODE_CACHE) is not None,
        )

    def _known_context(self) -> ClusterContext | None:
        caches = (self._mesh, self._policies, self._runtimes, self._services, self._snapshots)
        configuration = (self._features, self._defaults, self._autoscaler, self._images, self._node_cache)
        informers = (*configuration, self._deployments)
        read = (*(informer.synced.is_set() for informer in informers), *(cache.synced for cache in caches))
        return self._context() if all(read) else None

    def _configured(self, configuration: Configuration) -> None:
        self._configuration = configuration
        logger.info("Read the settings and %d runtimes.", len(configuration.runtimes))
        if configuration.callers != self._callers:
            logger.warning("The setting callers takes effect at the next start.")
        self._context_changed()

    def _context_changed(self) -> None:
        self._snapshots.refresh()
        self._refresh()

    def _refresh(self) -> None:
        if self._reconciler:
            self._reconciler.refresh()
        if self._audit:
            self._audit.refresh()
        if self._failure_policies:
            self._failure_policies.refresh()

    def _namespace_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        """Policies select namespaces by label."""
        if self._audit and old and new and old["metadata"].get("labels") != new["metadata"].get("labels"):
            self._audit.refresh()

    def _service_changed(self, change: ServiceChange) -> None:
        if self._reconciler:
            self._reconciler.service_changed(change)

    def _single_object(self, resource: Resource, namespace: str, name: str) -> Informer:
        return self._informer(resource, namespace=namespace, selectors={"fieldSelector": f"metadata.name={name}"})

    def _informer(self, resource: Resource, **arguments: Any) -> Informer:
        counts = self._metrics
        return Informer(
            self._api,
            resource,
            restarted=counts.watch_restarted,
            skipped=counts.object_skipped,
            **{"budget": self._budget, **arguments},
        )


def _now() -> datetime:
    return datetime.now(UTC)
