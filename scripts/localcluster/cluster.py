"""One cluster: its folder, its addresses, and what identifies its version."""

import json
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

from localcluster import build, network, paths, pins, pki
from localcluster.build import Binaries
from localcluster.errors import ClusterError
from localcluster.network import Network
from localcluster.paths import Inside, Machine, State

API_PORT = 6443


@dataclass(frozen=True)
class Cluster:
    """A cluster that has at least a folder."""

    state: State
    network: Network
    nodes: int

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def machines(self) -> tuple[Machine, ...]:
        """One for each node. The first one also runs the control plane."""
        return tuple(Machine(self.state, number + 1) for number in range(self.nodes))

    @property
    def server(self) -> str:
        """The API server's URL, outside the first sandbox."""
        return f"https://{self.network.node}:{API_PORT}"


def version() -> str:
    """Return an identifier for the programs and manifests of a cluster."""
    programs = [build.folder_name(module).encode() for module in pins.MODULES]
    # Every `up` applies Istio's again, so they do not tie a cluster to a version.
    manifests = [path for path in sorted(paths.MANIFESTS.rglob("*.yaml")) if path.parent.name != "istio"]
    return build.fingerprint([*programs, *(path.read_bytes() for path in manifests)])


def load(state: State) -> Cluster | None:
    """Return the cluster in this folder, or None."""
    try:
        facts = json.loads(state.facts.read_text())
    except FileNotFoundError:
        return None
    return Cluster(state, Network(IPv4Network(facts["block"])), facts.get("nodes", 1))


async def load_or_choose(state: State, nodes: int | None) -> Cluster:
    """Return the cluster in this folder. A new one gets its addresses now.

    `nodes`: how many it must have. None: what it has; 1 for a new one.

    Raises:
        ClusterError: another version of this script made it, it has more nodes, or no addresses are free.
    """
    found = load(state)
    if found is None:
        chosen = network.first_free(await network.taken(state.product.clusters))
        state.folder.mkdir(mode=0o711, parents=True, exist_ok=True)  # unprivileged processes traverse it
        return _written(Cluster(state, chosen, nodes or 1))
    if json.loads(state.facts.read_text())["version"] != version():
        raise ClusterError(
            f"the cluster {state.name} was made by another version of this script",
            f"End it first: scripts/cluster down --name {state.name}",
        )
    if nodes is None or nodes == found.nodes:
        return found
    if nodes < found.nodes:
        raise ClusterError(
            f"the cluster {state.name} has {found.nodes} nodes, and nodes can only be added",
            f"End it first: scripts/cluster down --name {state.name}",
        )
    return _written(replace(found, nodes=nodes))


def _written(cluster: Cluster) -> Cluster:
    facts = cluster.state.facts
    unfinished = facts.with_suffix(".new")
    unfinished.write_text(
        json.dumps({"block": str(cluster.network.block), "version": version(), "nodes": cluster.nodes})
    )
    unfinished.replace(facts)
    return cluster


async def write_credentials(cluster: Cluster) -> None:
    """Make missing certificates and kubeconfigs."""
    addresses = cluster.network
    folder = cluster.state.pki
    first, *others = cluster.machines
    leaves = pki.leaves(first.name, str(addresses.node), str(addresses.api_service))
    await pki.make(folder, leaves, issuer=cluster.state.product.name)
    local = f"https://127.0.0.1:{API_PORT}"
    for name in ("controller-manager", "scheduler", "kube-proxy", "kubelet"):
        pki.write_kubeconfig(cluster.state.config / f"{name}.kubeconfig", folder, name, local, cluster=cluster.name)
    for machine in others:
        # Only what a node needs: its folder has no other keys.
        leaf = pki.kubelet(machine.name, str(addresses.link(machine.number).node))
        await pki.issue(leaf, folder, machine.pki)
        for name, source in (("kubelet", machine.pki), ("kube-proxy", folder)):
            target = machine.config / f"{name}.kubeconfig"
            pki.write_kubeconfig(target, source, name, cluster.server, cluster=cluster.name)
    pki.write_kubeconfig(cluster.state.kubeconfig, folder, "admin", cluster.server, cluster=cluster.name)
    # The API server shows this certificate to the product's webhooks, which verify it.
    webhooks = cluster.state.config / "webhooks.kubeconfig"
    user = cluster.state.product.webhook_service
    pki.write_kubeconfig(webhooks, folder, "front-proxy-client", local, cluster=cluster.name, user=user)


def link_programs(cluster: Cluster, binaries: Binaries) -> None:
    """Link kubectl and the product's programs, and nothing else, into the folder that `env` adds to PATH."""
    for program in (binaries.path("kubernetes", "kubectl"), *cluster.state.product.programs):
        link(cluster, program)


def link(cluster: Cluster, program: Path) -> None:
    """Link a program into the folder that `env` adds to PATH."""
    link = cluster.state.bin / program.name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(program)


def inside(program: Path) -> Path:
    """Return the path of a built program inside the sandbox."""
    return Inside.PROGRAMS / program.parent.name / program.name
