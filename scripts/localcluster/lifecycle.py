"""Starts a cluster, removes it, and reports its status."""

import asyncio
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from localcluster import addons, build, control_plane, images, istio, node, pins, prerequisites, processes, sandbox
from localcluster import cluster as clusters
from localcluster.addons import Kubectl
from localcluster.build import Binaries
from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.istio import Injection
from localcluster.locks import held
from localcluster.paths import Machine, State
from localcluster.processes import Process, Record
from localcluster.progress import Progress, duration
from localcluster.sandbox import Sandbox


async def up(state: State, nodes: int | None, injection: Injection | None, progress: Progress) -> None:
    """Start the cluster: build what is not cached, start what does not run, and wait until everything is ready.

    `nodes`: how many it must have. None: what it has; 1 for a new one. `injection`: install Istio, or change how it
    injects sidecars. None: keep what there is.

    Raises:
        ClusterError: something is missing, failed to build, or did not become ready.
    """
    started = time.monotonic()
    prerequisites.need_root()
    await prerequisites.need(pins.DEBIAN_PACKAGES, progress)
    cache = state.product.cache
    async with held(state.lock, f"the cluster {state.name}", progress):
        async with held(cache / "addresses.lock", "the addresses of a new cluster", progress):
            cluster = await clusters.load_or_choose(state, nodes)
        async with held(cache / "lock", "the cache", progress):
            binaries = await build.binaries(cache, progress)
            imported = await images.imported(state.product, binaries, progress)
        async with progress.step("credentials and configuration"):
            await clusters.write_credentials(cluster)
            control_plane.hand_over(cluster)
            control_plane.write_config(cluster)
            clusters.link_programs(cluster, binaries)
            for machine in cluster.machines:
                node.write_config(cluster, machine)
                await images.give(imported, machine.containerd)
        sandboxes = await _sandboxes(cluster, progress)
        await _start(cluster, sandboxes, binaries, progress)
        async with progress.step("CoreDNS, Traefik and Knative Serving are available"):
            await addons.ready(cluster, Kubectl(cluster))
        if injection := injection or istio.installed(cluster):
            await istio.install(cluster, sandboxes.values(), injection, progress)
    progress.say(_summary(cluster, time.monotonic() - started))


async def down(state: State, progress: Progress) -> None:
    """End the cluster and remove everything except the cache. Without a cluster, do nothing."""
    started = time.monotonic()
    prerequisites.need_root()
    async with held(state.lock, f"the cluster {state.name}", progress):
        existed = state.folder.is_dir()
        cluster = clusters.load(state)
        for machine in reversed(cluster.machines if cluster else (Machine(state),)):
            await sandbox.remove(machine)
        if existed:
            shutil.rmtree(state.folder)
        state.lock.unlink(missing_ok=True)
    said = f"ended and removed in {duration(time.monotonic() - started)}" if existed else "there is none"
    progress.say(f"Cluster {state.name}: {said}")


async def stop_node(state: State, name: str, progress: Progress) -> None:
    """Stop a node as a power failure does, without notice to Kubernetes.

    Raises:
        ClusterError: there is no such node, or the control plane runs on it.
    """
    prerequisites.need_root()
    async with held(state.lock, f"the cluster {state.name}", progress):
        machine = _machine(existing(state), name)
        async with progress.step(f"stopped {name}"):
            await sandbox.stop(machine)


async def start_node(state: State, name: str, progress: Progress) -> None:
    """Start a node that was stopped, and wait until it is ready.

    Raises:
        ClusterError: there is no such node, the control plane runs on it, or the node does not become ready.
    """
    prerequisites.need_root()
    async with held(state.lock, f"the cluster {state.name}", progress):
        cluster = existing(state)
        machine = _machine(cluster, name)
        running(Machine(state))
        here = sandbox.find(machine) or await sandbox.create(machine, cluster.network)
        binaries = await build.binaries(state.product.cache, progress)
        async with progress.step(f"started {name}"):
            sandboxes = {machine: here}
            await _start_containerds(sandboxes)
            dead = await _start_kubelets(cluster, sandboxes, binaries)
            await addons.nodes_are_ready(Kubectl(cluster), {machine.name}, dead)


async def status(state: State) -> dict[str, str]:
    """Return the parts of the cluster, and the problem of each; empty if there is none.

    Raises:
        ClusterError: there is no such cluster.
    """
    cluster = existing(state)
    parts = _processes(Machine(state), ("sandbox", *control_plane.PROCESSES, *node.PROCESSES))
    for machine in cluster.machines[1:]:
        found = _processes(machine, ("sandbox", *node.PROCESSES))
        parts |= {f"{machine.name}/{name}": trouble for name, trouble in found.items()}
    if not parts["kube-apiserver"]:
        if not await control_plane.api_is_ready(cluster):
            parts["kube-apiserver"] = f"{cluster.server}/readyz does not say ok; see {state.log / 'kube-apiserver'}.log"
        else:
            kubectl = Kubectl(cluster)
            nodes = await addons.report_nodes(kubectl)
            parts |= {f"node {each.name}": nodes.get(each.name, "is not registered") for each in cluster.machines}
            parts |= await addons.report(kubectl, addons.DEPLOYMENTS | istio.deployments(cluster))
    return parts


def _processes(machine: Machine, names: tuple[str, ...]) -> dict[str, str]:
    found = {name: Record(machine.run / f"{name}.json").read() for name in names}
    return {name: "" if process else f"not running; see {machine.log / name}.log" for name, process in found.items()}


def existing(state: State) -> Cluster:
    """Return the cluster in this folder.

    Raises:
        ClusterError: there is none.
    """
    cluster = clusters.load(state)
    if cluster is None:
        raise ClusterError(f"there is no cluster {state.name}", f"Make it: scripts/cluster up --name {state.name}")
    return cluster


def running(machine: Machine) -> Sandbox:
    """Return the sandbox of a machine of a running cluster.

    Raises:
        ClusterError: it does not run.
    """
    existing(machine.state)
    here = sandbox.find(machine)
    if here is None:
        what = f"the cluster {machine.name}" if machine.number == 1 else f"the node {machine.name}"
        raise ClusterError(f"{what} does not run", f"Start it: scripts/cluster up --name {machine.state.name}")
    return here


def _machine(cluster: Cluster, name: str) -> Machine:
    first, *others = cluster.machines
    if name == first.name:
        raise ClusterError(f"the control plane runs on {name}", "Only the other nodes can be stopped: up --nodes 2")
    for machine in others:
        if machine.name == name:
            return machine
    names = ", ".join(machine.name for machine in cluster.machines)
    raise ClusterError(f"the cluster {cluster.name} has no node {name}", f"Its nodes: {names}")


async def _sandboxes(cluster: Cluster, progress: Progress) -> dict[Machine, Sandbox]:
    found = {machine: sandbox.find(machine) for machine in cluster.machines}
    if all(found.values()):
        return {machine: here for machine, here in found.items() if here}
    async with progress.step("sandbox: namespaces, network link, cgroups"):
        first, *others = cluster.machines
        if found[first] is None:
            # Their links ended with the first machine.
            for machine in others:
                await sandbox.remove(machine)
        return {machine: sandbox.find(machine) or await sandbox.create(machine, cluster.network) for machine in found}


async def _start(
    cluster: Cluster, sandboxes: Mapping[Machine, Sandbox], binaries: Binaries, progress: Progress
) -> None:
    """Start what does not run, and wait until all nodes are ready."""
    first = Machine(cluster.state)
    central = control_plane.commands(cluster, binaries)
    for name in ("etcd", "kube-apiserver"):
        server = await _ensure(first, sandboxes[first], name, central.pop(name))
    log = first.log / "kube-apiserver.log"

    async def api_is_ready() -> bool:
        return await control_plane.api_is_ready(cluster)

    async with progress.step("API server and containerd are ready"), asyncio.TaskGroup() as group:
        group.create_task(processes.until(api_is_ready, "kube-apiserver", 180, (server, log)))
        group.create_task(_start_containerds(sandboxes))
    for name, command in central.items():
        await _ensure(first, sandboxes[first], name, command)
    dead = await _start_kubelets(cluster, sandboxes, binaries)
    kubectl = Kubectl(cluster)
    async with progress.step("manifests are applied"):
        await addons.apply(cluster, binaries, kubectl)
    async with progress.step("nodes are ready"):
        await addons.nodes_are_ready(kubectl, {machine.name for machine in sandboxes}, dead)


async def _start_containerds(sandboxes: Mapping[Machine, Sandbox]) -> None:
    for machine, here in sandboxes.items():
        started = await _ensure(machine, here, "containerd", node.containerd_command())
        ready = partial(images.containerd_is_ready, here)
        await processes.until(ready, "containerd", 180, (started, machine.log / "containerd.log"))


async def _start_kubelets(cluster: Cluster, sandboxes: Mapping[Machine, Sandbox], binaries: Binaries) -> set[str]:
    """Start the kubelets and kube-proxies. Return the ended containers that Kubernetes still reports as running."""
    reported = await addons.running_containers(Kubectl(cluster), {machine.name for machine in sandboxes})
    alive = [await images.running_containers(here) for here in sandboxes.values()]
    for machine, here in sandboxes.items():
        for name, command in node.commands(cluster, machine, binaries).items():
            await _ensure(machine, here, name, command)
    return reported.difference(*alive)


async def _ensure(machine: Machine, here: Sandbox, name: str, command: list[str | Path]) -> Process:
    record = Record(machine.run / f"{name}.json")
    process = record.read()
    if process is None:
        process = await here.start(command, machine.log / f"{name}.log")
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
