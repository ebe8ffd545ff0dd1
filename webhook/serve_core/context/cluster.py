"""What the core needs to know of the cluster, as one frozen value.

The server keeps it fresh from watches, the plugin reads it from the cluster or takes the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from model_uri import Store
from serve_core.api.runtimes import Runtime
from serve_core.context.istio import IstioInstallation
from serve_core.context.services import Services

if TYPE_CHECKING:
    from serve_core.policy.v1alpha1 import ServingPolicy

PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Where stores inside the cluster or the company live (RFC 1918, RFC 6598, RFC 4193)."""


REQUIRED_FEATURES = {
    "kubernetes.podspec-init-containers": "enabled",
}
"""What an installation needs of ConfigMap ``knative-serving/config-features``; assumed without a cluster at hand."""


@dataclass(frozen=True)
class LoaderConfig:
    """The init container that downloads models."""

    image: str
    allow_networks: tuple[str, ...] = PRIVATE_NETWORKS
    """Networks in CIDR notation that models may come from although they are not public."""
    signing_image: str | None = None
    """The same loader with the libraries that verify signatures; without one, ``image`` is tried for it too."""

    @property
    def images(self) -> tuple[str, ...]:
        return (self.image,) if self.signing_image is None else (self.image, self.signing_image)

    def chosen(self, *, verifying: bool) -> "LoaderConfig":
        """The loader with the one image that a model needs. ``verifying``: the model's signature is to be verified."""
        return replace(self, image=(verifying and self.signing_image) or self.image, signing_image=None)


Snapshot = LoaderConfig | Runtime
"""What a model was completed with; :mod:`serve_core.admission.snapshots` names each by its content."""


@dataclass(frozen=True)
class ClusterContext:
    loader: LoaderConfig
    runtimes: tuple[Runtime, ...] = ()
    features: Mapping[str, str] = field(default_factory=lambda: dict(REQUIRED_FEATURES))
    """The data of ConfigMap ``knative-serving/config-features``, as it stands there."""
    istio: IstioInstallation | None = None
    """``None`` where Istio is not installed."""
    policies: tuple["ServingPolicy", ...] = ()
    stores: tuple[Store, ...] = ()
    """Where places lead, as the operator's settings say; the loader is bound to them, whatever a Secret says."""
    sidecar_images: frozenset[str] = frozenset()
    """Images of containers that the platform adds to pods, such as Knative's queue-proxy; policies pass over them."""
    namespace_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels by namespace, for policies that select namespaces by them."""
    services: Services = field(default_factory=dict)
    """The Kubernetes Services of the cluster, but for those that Knative makes for each revision."""
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    """The loaders and runtimes that models were completed with earlier, by digest, as the server itself kept them."""

    @property
    def known_loaders(self) -> tuple[LoaderConfig, ...]:
        """The loaders that policies know again: those of now, and those that models were completed with earlier."""
        return (self.loader, *(each for each in self.snapshots.values() if isinstance(each, LoaderConfig)))

    @property
    def known_runtimes(self) -> tuple[Runtime, ...]:
        """The runtimes of now, and those that models were completed with earlier."""
        return (*self.runtimes, *(each for each in self.snapshots.values() if isinstance(each, Runtime)))
