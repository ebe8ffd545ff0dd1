"""Where things are kept on the machine, and under which paths the sandbox sees them."""

import os
from dataclasses import dataclass
from pathlib import Path

APPLICATION = "kubectl-serve"
PACKAGE = Path(__file__).parent
CHECKOUT = PACKAGE.parent.parent
MODULES = PACKAGE / "modules"
MANIFESTS = PACKAGE / "manifests"


def _base(variable: str, default: str) -> Path:
    # The XDG base directory specification: a relative value is to be ignored.
    value = Path(os.environ.get(variable, ""))
    return value if value.is_absolute() else Path.home() / default


def cache() -> Path:
    """The folder of downloads, binaries and image archives, shared by all clusters."""
    return _base("XDG_CACHE_HOME", ".cache") / APPLICATION


def clusters() -> Path:
    """The folder with one folder per cluster."""
    return _base("XDG_STATE_HOME", ".local/state") / APPLICATION / "clusters"


class Inside:
    """Fixed paths inside every sandbox, short enough for a Unix socket's 108 characters."""

    STATE = Path("/run/cluster")
    """The cluster's folder, bound here so that unprivileged users reach it without reading a home folder."""
    PROGRAMS = Path("/run/programs")
    """The cache's folder of built programs."""
    CONTAINERD = Path("/run/containerd/containerd.sock")
    PKI = STATE / "pki"
    CONFIG = STATE / "config"


@dataclass(frozen=True)
class State:
    """The folder of one cluster."""

    name: str

    @property
    def folder(self) -> Path:
        return clusters() / self.name

    @property
    def lock(self) -> Path:
        return clusters() / f".{self.name}.lock"

    @property
    def facts(self) -> Path:
        """What was chosen when the cluster was made."""
        return self.folder / "cluster.json"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def config(self) -> Path:
        """Configuration files and kubeconfigs of the cluster's own parts."""
        return self.folder / "config"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def run(self) -> Path:
        """One record per started process."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def bin(self) -> Path:
        """What `env` puts on PATH."""
        return self.folder / "bin"

    @property
    def applied(self) -> Path:
        """Exists once the manifests have been applied."""
        return self.folder / "applied"
