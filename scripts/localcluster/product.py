"""The product whose development cluster this is."""

import os
from dataclasses import dataclass
from pathlib import Path

from localcluster.pins import Image


@dataclass(frozen=True)
class Product:
    """Names that must not collide with another product's on the same machine, and programs for the shell."""

    name: str
    """Prefix or name of caches, state folders, cgroups, the base image and the default cluster."""
    image_prefix: str
    """Prefix of the images of the cluster's own programs."""
    domain: str
    """Public URLs are http://NAME.NAMESPACE.DOMAIN. It need not resolve: clients send the name as the Host header."""
    webhook_service: str
    """NAME.NAMESPACE.svc of the admission webhooks that verify the API server's client certificate."""
    programs: tuple[Path, ...]
    """Programs that `env` adds to PATH, in addition to kubectl. They need not exist yet."""

    @property
    def cache(self) -> Path:
        """The folder of downloads, binaries and image archives, shared by all clusters."""
        return _base("XDG_CACHE_HOME", ".cache") / self.name

    @property
    def clusters(self) -> Path:
        """The folder with one folder for each cluster."""
        return _base("XDG_STATE_HOME", ".local/state") / self.name / "clusters"

    def reference(self, image: Image) -> str:
        """Return the name and tag of one of the cluster's own images."""
        return f"{self.image_prefix}/{image.name}:{image.version}"


def _base(variable: str, default: str) -> Path:
    # The XDG base directory specification: programs ignore a relative value.
    value = Path(os.environ.get(variable, ""))
    return value if value.is_absolute() else Path.home() / default
