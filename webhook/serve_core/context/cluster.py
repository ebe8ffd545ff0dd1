"""The cluster context: everything that the core needs about the cluster, in one frozen value.

The server updates it from watches; the plugin reads it from the cluster or uses the defaults.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from model_uri import Store
from serve_core.api.runtimes import Runtime
from serve_core.api.servers import KnownServer
from serve_core.base.json import JsonObject, value_at
from serve_core.context.istio import IstioInstallation
from serve_core.context.neighbours import Neighbours
from serve_core.context.services import Services

if TYPE_CHECKING:
    from serve_core.policy.v1alpha1 import ServingPolicy

PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Networks of stores inside the cluster or the company (RFC 1918, RFC 6598, RFC 4193)."""

USER_RANGE = "openshift.io/sa.scc.uid-range"
"""OpenShift's annotation of a namespace: the user IDs that its pods get."""

REQUIRED_FEATURES = {
    "kubernetes.podspec-init-containers": "enabled",
}
"""What an installation needs in ConfigMap ``knative-serving/config-features``; assumed without a cluster."""


@dataclass(frozen=True)
class LoaderConfig:
    """The init container that downloads models."""

    image: str
    allow_networks: tuple[str, ...] = PRIVATE_NETWORKS
    """Networks in CIDR notation that are not public and that models can come from."""
    signing_image: str | None = None
    """The same loader with the libraries that verify signatures; ``None``: ``image`` is used for that too."""

    @property
    def images(self) -> tuple[str, ...]:
        return (self.image,) if self.signing_image is None else (self.image, self.signing_image)

    def chosen(self, *, verifying: bool) -> "LoaderConfig":
        """The loader with the one image that a model needs. ``verifying``: whether the loader verifies a signature."""
        return replace(self, image=(verifying and self.signing_image) or self.image, signing_image=None)


Snapshot = LoaderConfig | Runtime
"""What a model is completed with; :mod:`serve_core.admission.completion.snapshots` names each by its digest."""


@dataclass(frozen=True)
class ClusterContext:
    loader: LoaderConfig
    runtimes: tuple[Runtime, ...] = ()
    features: Mapping[str, str] = field(default_factory=lambda: dict(REQUIRED_FEATURES))
    """The data of ConfigMap ``knative-serving/config-features``."""
    istio: IstioInstallation | None = None
    """``None`` if Istio is not installed."""
    policies: tuple["ServingPolicy", ...] = ()
    stores: tuple[Store, ...] = ()
    """The stores in the operator's settings; the loader is bound to them, whatever a Secret names."""
    sidecar_images: frozenset[str] = frozenset()
    """Images of containers that the platform adds to pods, such as Knative's queue-proxy; policies ignore them."""
    namespace_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The labels of each namespace, for policies that select namespaces by labels."""
    user_ranges: Container[str] = frozenset()
    """The namespaces whose pods get their user IDs from the platform; it refuses pods that name others."""
    services: Services = field(default_factory=dict)
    """The Kubernetes Services of the cluster, without those that Knative creates for each revision."""
    neighbours: Mapping[str, Neighbours] = field(default_factory=dict)
    """Autoscalers and disruption budgets by namespace. Admission does not know them: the server lists those of a
    namespace for the reconciler alone."""
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    """The loaders and runtimes that models were completed with, by digest, as the server stored them."""
    servers: tuple[KnownServer, ...] = ()
    """Model servers that are recognized in the Deployments of others."""
    without_image_volumes: str = ""
    """Why pods cannot have images as volumes, as a clause; empty if all nodes can mount them, as is assumed without a
    cluster."""
    knative_defaults: Mapping[str, str] = field(default_factory=dict)
    """The data of ConfigMap ``knative-serving/config-defaults``."""
    node_cache: bool = False
    """Whether the node cache is installed: its CSIDriver exists."""
    knative_autoscaler: Mapping[str, str] = field(default_factory=dict)
    """The data of ConfigMap ``knative-serving/config-autoscaler``."""

    @property
    def known_loaders(self) -> tuple[LoaderConfig, ...]:
        """The loaders that policies recognise: the present one, and those that models were completed with earlier."""
        return (self.loader, *(each for each in self.snapshots.values() if isinstance(each, LoaderConfig)))

    @property
    def known_runtimes(self) -> tuple[Runtime, ...]:
        """The runtimes that policies recognise: the present ones, and those that models were completed with earlier."""
        return (*self.runtimes, *(each for each in self.snapshots.values() if isinstance(each, Runtime)))


def has_user_range(namespace: JsonObject) -> bool:
    """Whether the pods of a Namespace get their user IDs from the platform."""
    return bool(value_at(namespace, "metadata", "annotations", USER_RANGE))


def with_user_ranges(namespaces: Iterable[JsonObject]) -> frozenset[str]:
    """The names of those Namespaces."""
    return frozenset(str(value_at(each, "metadata", "name")) for each in namespaces if has_user_range(each))
