"""Starts a cluster, removes it, and reports its status."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path

from localcluster import addons, build, control_plane, images, node, pins, prerequisites, processes, sandbox
from localcluster import cluster as clusters
from localcluster.addons import Kubectl
from localcluster.build import Binaries
from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.locks import held
from localcluster.paths import State
from localcluster.processes import Process, Record
from localcluster.progress import Progress, duration
from localcluster.sandbox import Sandbox

PROCESSES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
)


async def up(state: State, progress: Progress) -> None:
    """Start the cluster: build what is not cached, start what does not run, and wait until everything is ready.

    Raises:
        ClusterError: something is missing, failed to build, or did not become ready.
    """
    started = time.monotonic()
    prerequisites.need_root()
    await prerequisites.need(pins.DEBIAN_PACKAGES, progress)
    cache = state.product.cache
    async with held(state.lock, f"the cluster {state.name}", progress):
        async with held(cache / "addresses.lock", "the addresses of a new cluster", progress):
            cluster = await clusters.load_or_choose(state)
        async with held(cache / "lock", "the cache", progress):
            binaries = await build.binaries(cache, progress)
            imported = await images.imported(state.product, binaries, progress)
        async with progress.step("credentials and configuration"):
            await clusters.write_credentials(cluster)
            control_plane.hand_over(cluster)
            control_plane.write_config(cluster)
            node.write_config(cluster)
            clusters.link_programs(cluster, binaries)
            await images.give(imported, state.folder / "containerd")
        here = sandbox.find(state)
        if here is None:
            async with progress.step("sandbox: namespaces, network link, cgroups"):
                here = await sandbox.create(state, cluster.network)
        dead = await _start(cluster, here, binaries, progress)
        async with progress.step("CoreDNS, Traefik and Knative Serving are available"):
            await addons.ready(cluster, Kubectl(cluster), dead)
    progress.say(_summary(cluster, time.monotonic() - started))


async def down(state: State, progress: Progress) -> None:
    """End the cluster and remove everything except the cache. Without a cluster, do nothing."""
    started = time.monotonic()
    prerequisites.need_root()
    async with held(state.lock, f"the cluster {state.name}", progress):
        existed = state.folder.is_dir()
        await sandbox.remove(state)
        if existed:
            shutil.rmtree(state.folder)
        state.lock.unlink(missing_ok=True)
    said = f"ended and removed in {duration(time.monotonic() - started)}" if existed else "there is none"
    progress.say(f"Cluster {state.name}: {said}")


async def status(state: State) -> dict[str, str]:
    """Return the parts of the cluster, and the problem of each; empty if there is none.

    Raises:
        ClusterError: there is no such cluster.
    """
    cluster = existing(state)
    running = {name: Record(state.run / f"{name}.json").read() for name in ("sandbox", *PROCESSES)}
    parts = {name: "" if process else f"not running; see {state.log / name}.log" for name, process in running.items()}
    if not parts["kube-apiserver"]:
        if not await control_plane.api_is_ready(cluster):
            parts["kube-apiserver"] = f"{cluster.server}/readyz does not say ok; see {state.log / 'kube-apiserver'}.log"
        else:
            kubectl = Kubectl(cluster)
            parts |= await addons.report(kubectl)
    return parts


def existing(state: State) -> Cluster:
    """Return the cluster in this folder.

    Raises:
        ClusterError: there is none.
    """
    cluster = clusters.load(state)
    if cluster is None:
        raise ClusterError(f"there is no cluster {state.name}", f"Make it: scripts/cluster up --name {state.name}")
    return cluster


def running(state: State) -> Sandbox:
    """Return the sandbox of a running cluster.

    Raises:
        ClusterError: it does not run.
    """
    existing(state)
    here = sandbox.find(state)
    if here is None:
        raise ClusterError(
            f"the cluster {state.name} does not run", f"Start it: scripts/cluster up --name {state.name}"
        )
    return here


async def _start(cluster: Cluster, here: Sandbox, binaries: Binaries, progress: Progress) -> set[str]:
    """Start what does not run. Return the ids of ended containers that Kubernetes still reports as running."""
    state = cluster.state
    kubectl = Kubectl(cluster)

    async def start(commands: Mapping[str, list[str | Path]]) -> dict[str, Process]:
        return {name: await _ensure(state, here, name, command) for name, command in commands.items()}

    central = control_plane.commands(cluster, binaries)
    first = {name: central.pop(name) for name in ("etcd", "kube-apiserver")}
    started = await start({**first, "containerd": node.containerd_command()})

    def waiting(name: str, ready: Callable[[], Awaitable[bool]]) -> Coroutine[object, object, None]:
        return processes.until(ready, name, 180, (started[name], state.log / f"{name}.log"))

    async with progress.step("API server and containerd are ready"), asyncio.TaskGroup() as group:
        group.create_task(waiting("kube-apiserver", lambda: control_plane.api_is_ready(cluster)))
        group.create_task(waiting("containerd", lambda: images.containerd_is_ready(here)))
    dead = await addons.running_containers(kubectl) - await images.running_containers(here)
    await start(central)
    await start(node.commands(cluster, binaries))
    async with progress.step("manifests are applied"):
        await addons.apply(cluster, binaries, kubectl)
    return dead


async def _ensure(state: State, here: Sandbox, name: str, command: list[str | Path]) -> Process:
    record = Record(state.run / f"{name}.json")
    process = record.read()
    if process is None:
        process = await here.start(command, state.log / f"{name}.log")
        record.write(process)
    return process


def _summary(cluster: Cluster, seconds: float) -> str:
    option = "" if cluster.name == cluster.state.product.name else f" --name {cluster.name}"
    return f"""
Cluster {cluster.name} is ready after {duration(seconds)}.
  Kubernetes {pins.KUBERNETES} at {cluster.server}, Knative Serving {pins.KNATIVE[0].version}
  Ingress: http://{cluster.network.node} with the header Host: NAME.NAMESPACE.{cluster.state.product.domain}
  Kubeconfig: {cluster.state.kubeconfig}
Next: eval "$(scripts/cluster env{option})" && kubectl get nodes"""
