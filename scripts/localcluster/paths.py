"""Paths: on the machine, and in the sandbox."""

from dataclasses import dataclass
from pathlib import Path

from localcluster.product import Product

PACKAGE = Path(__file__).parent
MODULES = PACKAGE / "modules"
MANIFESTS = PACKAGE / "manifests"


class Inside:
    """Constant paths in every sandbox, short enough for the 108 characters of a Unix socket."""

    STATE = Path("/run/cluster")
    """The cluster's folder, mounted here so that unprivileged users reach it without access to a home folder."""
    PROGRAMS = Path("/run/programs")
    """The cache's folder of built programs."""
    CONTAINERD = Path("/run/containerd/containerd.sock")
    PKI = STATE / "pki"
    CONFIG = STATE / "config"
    CNI_PLUGINS = STATE / "cni-plugins"


@dataclass(frozen=True)
class State:
    """The folder of one cluster."""

    name: str
    product: Product

    @property
    def folder(self) -> Path:
        return self.product.clusters / self.name

    @property
    def lock(self) -> Path:
        return self.product.clusters / f".{self.name}.lock"

    @property
    def facts(self) -> Path:
        """What was chosen when the cluster was created."""
        return self.folder / "cluster.json"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def config(self) -> Path:
        """Configuration files and kubeconfigs of the cluster's own processes."""
        return self.folder / "config"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def run(self) -> Path:
        """One record for each started process."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def bin(self) -> Path:
        """The folder that `env` adds to PATH."""
        return self.folder / "bin"

    @property
    def istio(self) -> Path:
        """How Istio injects sidecars; does not exist without Istio."""
        return self.folder / "istio"

    @property
    def istio_operator(self) -> Path:
        """How Istio is installed, as istioctl reads it."""
        return self.config / "istio.yaml"

    @property
    def applied(self) -> Path:
        """Exists after the manifests were applied."""
        return self.folder / "applied"


@dataclass(frozen=True)
class Machine:
    """One machine of a cluster, by number: its name as a node, and its folder, which is STATE in its sandbox.

    Machine 1 also runs the control plane, and has the folder of the cluster.
    """

    state: State
    number: int = 1

    @property
    def name(self) -> str:
        """The node's name."""
        return self.state.name if self.number == 1 else f"{self.state.name}-{self.number}"

    @property
    def folder(self) -> Path:
        return self.state.folder if self.number == 1 else self.state.folder / "nodes" / self.name

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def cni_plugins(self) -> Path:
        """The programs of the pods' network."""
        return self.folder / "cni-plugins"

    @property
    def containerd(self) -> Path:
        """Images and containers."""
        return self.folder / "containerd"
