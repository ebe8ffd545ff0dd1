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
    def applied(self) -> Path:
        """Exists after the manifests were applied."""
        return self.folder / "applied"
