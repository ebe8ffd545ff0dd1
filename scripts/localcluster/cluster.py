"""One cluster: its folder, its addresses, and what identifies its version."""

import json
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from localcluster import build, network, paths, pins, pki
from localcluster.build import Binaries
from localcluster.errors import ClusterError
from localcluster.network import Network
from localcluster.paths import Inside, State

API_PORT = 6443


@dataclass(frozen=True)
class Cluster:
    """A cluster that has at least a folder."""

    state: State
    network: Network

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def node(self) -> str:
        """The name of its only node."""
        return self.state.name

    @property
    def server(self) -> str:
        """The API server's URL, outside the sandbox."""
        return f"https://{self.network.node}:{API_PORT}"


def version() -> str:
    """Return an identifier for the programs and manifests of a cluster."""
    programs = [build.folder_name(module).encode() for module in pins.MODULES]
    return build.fingerprint([*programs, *(path.read_bytes() for path in sorted(paths.MANIFESTS.rglob("*.yaml")))])


def load(state: State) -> Cluster | None:
    """Return the cluster in this folder, or None."""
    try:
        facts = json.loads(state.facts.read_text())
    except FileNotFoundError:
        return None
    return Cluster(state, Network(IPv4Network(facts["block"])))


async def load_or_choose(state: State) -> Cluster:
    """Return the cluster in this folder. A new one gets its addresses now.

    Raises:
        ClusterError: another version of this script made it, or no addresses are free.
    """
    found = load(state)
    if found is None:
        chosen = network.first_free(await network.taken(state.product.clusters))
        state.folder.mkdir(mode=0o711, parents=True, exist_ok=True)  # unprivileged processes traverse it
        unfinished = state.facts.with_suffix(".new")
        unfinished.write_text(json.dumps({"block": str(chosen.block), "version": version()}))
        unfinished.replace(state.facts)
        return Cluster(state, chosen)
    if json.loads(state.facts.read_text())["version"] != version():
        raise ClusterError(
            f"the cluster {state.name} was made by another version of this script",
            f"End it first: scripts/cluster down --name {state.name}",
        )
    return found


async def write_credentials(cluster: Cluster) -> None:
    """Make missing certificates and kubeconfigs."""
    addresses = cluster.network
    folder = cluster.state.pki
    leaves = pki.leaves(cluster.node, str(addresses.node), str(addresses.api_service))
    await pki.make(folder, leaves, issuer=cluster.state.product.name)
    local = f"https://127.0.0.1:{API_PORT}"
    for name in ("controller-manager", "scheduler", "kube-proxy", "kubelet"):
        pki.write_kubeconfig(cluster.state.config / f"{name}.kubeconfig", folder, name, local, cluster=cluster.name)
    pki.write_kubeconfig(cluster.state.kubeconfig, folder, "admin", cluster.server, cluster=cluster.name)
    # The API server shows this certificate to the product's webhooks, which verify it.
    webhooks = cluster.state.config / "webhooks.kubeconfig"
    user = cluster.state.product.webhook_service
    pki.write_kubeconfig(webhooks, folder, "front-proxy-client", local, cluster=cluster.name, user=user)


def link_programs(cluster: Cluster, binaries: Binaries) -> None:
    """Link kubectl and the product's programs, and nothing else, into the folder that `env` adds to PATH."""
    for program in (binaries.path("kubernetes", "kubectl"), *cluster.state.product.programs):
        link = cluster.state.bin / program.name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(program)


def inside(program: Path) -> Path:
    """Return the path of a built program inside the sandbox."""
    return Inside.PROGRAMS / program.parent.name / program.name
