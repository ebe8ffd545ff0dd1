"""The cluster context of a live cluster, from the same objects as the server's."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from kubectl_serve.cluster import Cluster, visible
from kubectl_serve.errors import NotInstalledError
from kubectl_serve.install import manifests
from kubectl_serve.install.manifests import RUNTIMES_CONFIG_MAP, SERVERS_CONFIG_MAP, SETTINGS_CONFIG_MAP
from kubectl_serve.io import documents
from serve_core.admission.completion import snapshots
from serve_core.api import runtimes, serving_spec
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import COMPLETION_LABEL, NAMESPACE, NODE_CACHE
from serve_core.base.json import JsonObject
from serve_core.context import istio, nodes
from serve_core.context.cluster import PRIVATE_NETWORKS, ClusterContext, LoaderConfig, Snapshot, with_user_ranges
from serve_core.knative import timeouts
from serve_core.policy.field_types import read_stores
from serve_kube.errors import ForbiddenError, NotFoundError
from serve_kube.resources import (
    CONFIG_MAPS,
    CSI_DRIVERS,
    DAEMON_SETS,
    MODEL_RUNTIMES,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    NODES,
    SERVICE_ENTRIES,
)

_KNATIVE = "knative-serving"
_FEATURES = "config-features"
_DEFAULTS = "config-defaults"
_AUTOSCALER = "config-autoscaler"
_IMAGES = "config-deployment"


async def context(cluster: Cluster) -> tuple[ClusterContext, frozenset[str]]:
    """The server's runtimes, loader, Knative's configuration and Istio, and the names of the cluster's ModelRuntimes.

    Raises NotInstalledError if kubectl-serve is not installed, ForbiddenError if the user may not read its settings.
    """
    settings = _document((await _config_map(cluster, NAMESPACE, SETTINGS_CONFIG_MAP)).get("settings.yaml", ""))
    catalogue = await _config_map(cluster, NAMESPACE, RUNTIMES_CONFIG_MAP)
    known = await _optional_config_map(cluster, NAMESPACE, SERVERS_CONFIG_MAP)
    features = await _config_map(cluster, _KNATIVE, _FEATURES)
    own = await _own(cluster)
    loader = settings.get("loader") or {}
    return (
        ClusterContext(
            loader=LoaderConfig(
                str(loader.get("image")),
                tuple(map(str, loader.get("allowNetworks") or PRIVATE_NETWORKS)),
                loader.get("signingImage"),
            ),
            runtimes=runtimes.extended(
                [
                    manifests.runtime_of(_document(text))
                    for name, text in sorted(catalogue.items())
                    if name.endswith(".yaml")
                ],
                own,
            ),
            servers=tuple(
                manifests.known_server_of(_document(text))
                for name, text in sorted(known.items())
                if name.endswith(".yaml")
            ),
            features=features,
            knative_defaults=await _optional_config_map(cluster, _KNATIVE, _DEFAULTS),
            knative_autoscaler=await _optional_config_map(cluster, _KNATIVE, _AUTOSCALER),
            istio=await mesh(cluster),
            without_image_volumes=nodes.without_image_volumes(await visible(cluster, NODES, None)),
            stores=read_stores(settings.get("stores") or ()),
            user_ranges=with_user_ranges(await visible(cluster, NAMESPACES, None)),
            sidecar_images=frozenset(map(str, settings.get("sidecarImages") or ())),
            snapshots=await _snapshots(cluster),
            node_cache=await _has_node_cache(cluster),
        ),
        frozenset(runtime.name for runtime in own),
    )


class _Judged(Mapping[str, str]):
    """Knative's feature flags for what admission has already judged: every flag counts as enabled."""

    def __getitem__(self, flag: str) -> str:
        return "enabled"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


_UNBOUNDED = dict.fromkeys((timeouts.DEFAULT, timeouts.MAXIMUM), str(2**31 - 1))
"""Knative's timeouts for what admission has already judged."""


async def context_to_render(cluster: Cluster, *, asks_istio: bool) -> ClusterContext:
    """The context to render a completed Deployment.

    The Deployment has its runtime and loader, and was judged with the real feature flags, which not every user may
    read. Istio is read, if the user may, only for a Deployment that needs objects of Istio.
    """
    return ClusterContext(
        LoaderConfig(""),
        features=_Judged(),
        istio=await mesh(cluster) if asks_istio else None,
        knative_defaults=_UNBOUNDED,
        knative_autoscaler={"allow-zero-initial-scale": "true"},
    )


def asks_istio(deployment: JsonObject) -> bool:
    """Whether a completed Deployment needs objects of Istio."""
    spec = serving_spec.read_stored(deployment)
    return spec is not None and (spec.auth != "none" or spec.telemetry is not None)


async def context_for_policies(cluster: Cluster) -> ClusterContext:
    """The server's context, as far as this user may read it; defaults for the rest.

    Without sidecar images, it is unknown which containers Knative adds to pods.
    """
    try:
        known, _ = await context(cluster)
        queue_proxy = (await _config_map(cluster, _KNATIVE, _IMAGES)).get("queue-sidecar-image", "")
        known = replace(known, sidecar_images=known.sidecar_images | {queue_proxy})
    except ForbiddenError:
        known = manifests.default_context()
    return replace(known, istio=await mesh(cluster))


async def mesh(cluster: Cluster) -> istio.IstioInstallation | None:
    """Istio's installation, as far as this user may read it; ``None`` if nothing is found."""
    wanted = {
        "injectors": visible(cluster, MUTATING_WEBHOOKS, None, labels=istio.INJECTORS),
        "config_maps": visible(cluster, CONFIG_MAPS, istio.NAMESPACE),
        "daemon_sets": visible(cluster, DAEMON_SETS, istio.NAMESPACE),
        "nodes": visible(cluster, NODES, None),
        "namespaces": visible(cluster, NAMESPACES, None),
        "service_entries": visible(cluster, SERVICE_ENTRIES, None),
    }
    return istio.detect(**dict(zip(wanted, await asyncio.gather(*wanted.values()), strict=True)))


async def _config_map(cluster: Cluster, namespace: str, name: str) -> dict[str, str]:
    try:
        found = await cluster.get(CONFIG_MAPS, namespace, name)
    except NotFoundError as error:
        raise NotInstalledError(
            f"there is no ConfigMap {name} in namespace {namespace}.",
            "Check the installation with `kubectl serve doctor`.",
        ) from error
    return found.get("data") or {}


async def _optional_config_map(cluster: Cluster, namespace: str, name: str) -> dict[str, str]:
    """Empty without this ConfigMap."""
    try:
        return (await cluster.get(CONFIG_MAPS, namespace, name)).get("data") or {}
    except NotFoundError:
        return {}


async def _has_node_cache(cluster: Cluster) -> bool:
    """Whether the node cache is installed, as far as this user may see it."""
    try:
        await cluster.get(CSI_DRIVERS, None, NODE_CACHE)
    except (NotFoundError, ForbiddenError):
        return False
    return True


async def _snapshots(cluster: Cluster) -> dict[str, Snapshot]:
    """The snapshots that models were completed with, as far as this user may read them."""
    found = {}
    for manifest in await visible(cluster, CONFIG_MAPS, NAMESPACE, labels=COMPLETION_LABEL):
        with suppress(ValueError):  # the server ignores it as well
            snapshot = snapshots.of_config_map(manifest)
            found[snapshots.digest(snapshot)] = snapshot
    return found


async def _own(cluster: Cluster) -> list[Runtime]:
    try:
        found, _ = await cluster.list(MODEL_RUNTIMES, None)
    except NotFoundError:  # an older installation without them
        return []
    return [manifests.runtime_of(each) for each in found]


def _document(text: str) -> JsonObject:
    return next((document.object for document in documents.parse(text, "the cluster's configuration")), {})
