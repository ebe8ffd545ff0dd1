"""Knative's feature flags, the keys of ConfigMap ``knative-serving/config-features``.

Source: Knative Serving 1.23, ``pkg/apis/config/features.go``. A value counts without regard to case; an unknown value
means the default, and an unknown key means nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve_core.base.reasons import meant, quote

ENABLED, ALLOWED, DISABLED = "enabled", "allowed", "disabled"
ON_BY_DEFAULT = frozenset({"multi-container", "kubernetes.podspec-volumes-emptydir"})

FIELD_FLAGS = frozenset((
    "kubernetes.containerspec-addcapabilities", "kubernetes.podspec-affinity", "kubernetes.podspec-dnsconfig",
    "kubernetes.podspec-dnspolicy", "kubernetes.podspec-fieldref", "kubernetes.podspec-hostaliases",
    "kubernetes.podspec-hostipc", "kubernetes.podspec-hostnetwork", "kubernetes.podspec-hostpid",
    "kubernetes.podspec-init-containers", "kubernetes.podspec-nodeselector",
    "kubernetes.podspec-persistent-volume-claim", "kubernetes.podspec-persistent-volume-write",
    "kubernetes.podspec-priorityclassname", "kubernetes.podspec-runtimeclassname", "kubernetes.podspec-schedulername",
    "kubernetes.podspec-securitycontext", "kubernetes.podspec-shareprocessnamespace", "kubernetes.podspec-tolerations",
    "kubernetes.podspec-topologyspreadconstraints", "kubernetes.podspec-volumes-csi",
    "kubernetes.podspec-volumes-emptydir", "kubernetes.podspec-volumes-ephemeral",
    "kubernetes.podspec-volumes-hostpath", "kubernetes.podspec-volumes-image",
    "kubernetes.podspec-volumes-mount-propagation", "multi-container", "multi-container-probing",
))  # fmt: skip
"""The flags that let a Knative Service have a field of a pod: those that :mod:`serve_core.knative.fields` asks for."""
FLAGS = FIELD_FLAGS | {
    "autodetect-http2",
    "kubernetes.podspec-dryrun",
    "queueproxy.mount-podinfo",
    "queueproxy.resource-defaults",
    "secure-pod-defaults",
    "tag-header-based-routing",
}
"""Every flag that Knative knows, or knew."""

RECOMMENDED = (
    "kubernetes.podspec-affinity",
    "kubernetes.podspec-fieldref",
    "kubernetes.podspec-init-containers",
    "kubernetes.podspec-nodeselector",
    "kubernetes.podspec-persistent-volume-claim",
    "kubernetes.podspec-persistent-volume-write",
    "kubernetes.podspec-priorityclassname",
    "kubernetes.podspec-runtimeclassname",
    "kubernetes.podspec-securitycontext",
    "kubernetes.podspec-tolerations",
    "kubernetes.podspec-topologyspreadconstraints",
    "kubernetes.podspec-volumes-emptydir",
    "multi-container",
    "multi-container-probing",
)
"""The flags that Deployments of model servers usually need, and that give a pod no more than any Deployment has.

The loader (init containers), accelerators (node selector, tolerations, affinity, spread, runtime class, priority),
caches and models on claims, scratch space, users and groups (``fsGroup``), a pod's own name and address, and probes of
sidecars. Flags that open the node to a pod (host path, network, PID, IPC, capabilities), and flags that few need, must
be named.
"""
_EVERYTHING_RECOMMENDED = "recommended"
_PREFIX = "kubernetes."


@dataclass(frozen=True, order=True)
class FeatureNeed:
    """A flag without which Knative refuses a Knative Service."""

    flag: str
    exact: bool = False
    """Whether it must be ``enabled``, not merely ``allowed``."""

    def is_met(self, features: Mapping[str, str]) -> bool:
        """``features``: the data of the ConfigMap."""
        found = state(features, self.flag)
        return found == ENABLED or (found == ALLOWED and not self.exact)


IMAGE_VOLUMES = FeatureNeed("kubernetes.podspec-volumes-image", exact=True)
"""For the image of a model as a volume."""
CSI_VOLUMES = FeatureNeed("kubernetes.podspec-volumes-csi", exact=True)
"""For a volume of the node cache."""


class UnknownFeatureError(ValueError):
    """A name is no feature flag about a pod's fields. ``hint`` has what it could mean."""

    def __init__(self, name: str, hint: str) -> None:
        self.sentence = f"{quote(name)} is not a feature flag of Knative."
        self.hint = hint
        super().__init__(f"{self.sentence} {hint}")


def state(features: Mapping[str, str], flag: str) -> str:
    """The state of a flag as Knative reads it. ``features``: the data of the ConfigMap."""
    value = str(features.get(flag, "")).lower()
    default = ENABLED if flag in ON_BY_DEFAULT else DISABLED
    return value if value in (ENABLED, ALLOWED, DISABLED) else default


def resolve(names: Iterable[str]) -> tuple[str, ...]:
    """The flags that ``names`` mean, each once, sorted: keys, keys without ``kubernetes.``, and ``recommended``.

    Raises UnknownFeatureError.
    """
    flags: set[str] = set()
    for name in names:
        if name == _EVERYTHING_RECOMMENDED:
            flags.update(RECOMMENDED)
            continue
        flag = name if name in FIELD_FLAGS else _PREFIX + name
        if flag not in FIELD_FLAGS:
            known = [_EVERYTHING_RECOMMENDED, *(each.removeprefix(_PREFIX) for each in sorted(FIELD_FLAGS))]
            hint = meant(name, known).strip() or f"Known: {', '.join(known)}."
            raise UnknownFeatureError(name, hint)
        flags.add(flag)
    return tuple(sorted(flags))
