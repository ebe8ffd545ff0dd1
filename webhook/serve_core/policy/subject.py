"""A subject: the one normal form in which policies see every object that serves a model.

:mod:`serve_core.subjects` makes one of each kind of object.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from model_uri import Store
from serve_core.api import annotations
from serve_core.api.annotations import path_of
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic
from serve_core.policy.expressions import Values

SubjectKind = Literal[
    "Deployment", "ServingRuntime", "InferenceService", "TrainedModel",
    "Service", "Configuration", "Revision", "Route", "DomainMapping", "Pod",
]  # fmt: skip
SUBJECT_KINDS: tuple[SubjectKind, ...] = get_args(SubjectKind)
"""What policies judge, in the order in which one is made of another: annotated Deployments, KServe's ServingRuntime
(a namespace's), InferenceService and TrainedModel, Knative's Service, Configuration, Revision, Route and DomainMapping,
and pods with the loader."""

_WORDS = re.compile(r"[^\s;|&'\"`()<>=,\[\]{}]+")


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: its URI as it stands in the object."""

    text: str
    path: str
    digest: bool = False
    """Whether its loader verifies a digest."""
    key: str = ""
    """The ConfigMap with the public key by which its loader verifies a signature; empty where none is verified."""
    store: Store | None = None
    """The store that its loader is bound to; ``None`` where the credentials decide."""
    adrift: str = ""
    """The field of the pod by which host names may resolve to other addresses; empty where there is none."""
    by_loader: bool = True
    """Whether a loader reads it, with its user's credentials. Otherwise the node does, or it is only asked for."""
    by_node: bool = False
    """Whether the node pulls it as an image."""
    unknown: str = ""
    """Why the object does not show what is loaded; empty where it does. If set, ``text`` is an unproven claim."""


@dataclass(frozen=True)
class ImageUse:
    """The image of a container or a volume."""

    image: str
    path: str
    note: str = ""
    """Why the image counts although it is the loader's."""


@dataclass(frozen=True)
class Use:
    """Something that is used or asked for by name."""

    name: str
    path: str


@dataclass(frozen=True)
class RuntimeUse(Use):
    """The runtime that serves, as its container shows; ``custom`` where the catalogue has none like it."""

    based_on: tuple[str, ...] = ()
    """The catalogue's runtimes whose image it has."""
    why: str = ""
    """Why it is custom although it seems to be one of those."""
    formats: tuple[str, ...] = ()
    """The formats that the catalogue's runtime serves; empty for ``custom`` and for KServe's runtimes."""


@dataclass(frozen=True)
class ContainerUse:
    """What a container uses."""

    name: str
    path: str
    amounts: Mapping[str, object] = field(default_factory=dict)
    """Resource to the limit, or to the request where there is no limit; as written."""
    variables: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    """The command, the arguments, the variables' values and the commands of probes and hooks, variables expanded."""
    taken_in: tuple[Use, ...] = ()
    """``envFrom``: the prefixes of variables whose names are not in the object."""
    unseen: tuple[Use, ...] = ()
    """Variables that the texts expand, and whose values are not in the object."""
    side: bool = True
    """Whether it runs beside the other containers, and not before them."""

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word of its texts, as :func:`plain_word` spells it."""
        return frozenset(map(plain_word, {word for text in self.texts for word in _WORDS.findall(text)}))


@dataclass(frozen=True)
class PodUse:
    """What one kind of pods of an object requests. Its containers are in the order in which they start."""

    path: str
    containers: tuple[ContainerUse, ...] = ()
    amounts: Mapping[str, object] = field(default_factory=dict)
    """Resources of the pod as a whole, as written. The larger of these and those of its containers counts."""
    overhead: Mapping[str, object] = field(default_factory=dict)
    """The pod overhead, in addition to that."""
    claims: tuple[str, ...] = ()
    """Paths of claims of dynamic resource allocation: the devices are not in the object."""
    times: int | None = 1
    """How many of these make one replica; ``None`` where the object does not say."""


@dataclass(frozen=True)
class ReplicaBounds:
    """Minimum and maximum replicas."""

    minimum: int
    maximum: int | None
    """The maximum; ``None`` where there is no upper bound."""
    beside: int = 0
    """How many more can run beside those: the surge of a rolling update, and other revisions with traffic."""
    maximum_path: str = field(default=path_of(annotations.SCALE), compare=False)
    """The field with the maximum."""
    minimum_path: str = field(default=path_of(annotations.SCALE), compare=False)
    """The field with the minimum."""

    @property
    def maximum_at_once(self) -> int | None:
        """The maximum number of replicas that can run at the same time."""
        return None if self.maximum is None else self.maximum + self.beside

    def __str__(self) -> str:
        return f"{self.minimum}.." if self.maximum is None else f"{self.minimum}..{self.maximum}"


@dataclass(frozen=True)
class Subject:
    """An object as policies see it. What the object does counts, not what it says of itself."""

    kind: SubjectKind
    namespace: str
    name: str
    workload: str
    """The name that exceptions use: of a pod, the object it belongs to; of a DomainMapping, the object it leads to."""
    document: JsonObject = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    former_labels: Mapping[str, str] = field(default_factory=dict)
    """The labels before the request: removing a label does not leave a policy in the same request."""
    made: bool = False
    """Whether it was made of another object that is judged. Then only its pods are judged."""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    stores: tuple[Store, ...] = ()
    """Where places lead in the namespace, according to its policies and the operator's settings."""
    origins: tuple[Origin, ...] = ()
    formats: tuple[Use, ...] = ()
    runtime: RuntimeUse | None = None
    protocol: Use | None = None
    images: tuple[ImageUse, ...] = ()
    containers: tuple[ContainerUse, ...] = ()
    pods: tuple[PodUse, ...] = ()
    """The same containers, grouped by pod, with the resources of each pod."""
    scale: ReplicaBounds | None = None
    """``None`` where the object does not say how many replicas there are: a pod is one of many."""
    mesh: Use | None = None
    past_sidecar: tuple[Use, ...] = ()
    """What can bypass Istio's sidecar, where there is one."""
    auth: Use | None = None
    issuers: tuple[Use, ...] = ()
    """Issuers of accepted tokens, and URLs of the keys that verify them."""
    visibility: Use | None = None
    mode: Use | None = None
    service_accounts: tuple[Use, ...] = ()
    secrets: tuple[Use, ...] = ()
    fault: Diagnostic | None = None
    """Why nothing more is known of it. If set, every rule finds this."""

    @property
    def title(self) -> str:
        return f"{self.kind.lower()}/{self.name}"

    @cached_property
    def values(self) -> Values:
        """The variables of expressions."""
        return Values(object=self.document, subject=self._for_expressions())

    def _for_expressions(self) -> JsonObject:
        return {
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "labels": dict(self.labels),
            "namespaceLabels": dict(self.namespace_labels),
            "sources": [origin.text for origin in self.origins],
            "formats": [use.name for use in self.formats],
            "images": [use.image for use in self.images],
            "secrets": [use.name for use in self.secrets],
            "serviceAccounts": [use.name for use in self.service_accounts],
            "least": self.scale.minimum if self.scale else 0,
            "most": -1 if self.scale is None or self.scale.maximum is None else self.scale.maximum,
        } | {
            name: use.name if (use := getattr(self, name)) else ""
            for name in ("runtime", "protocol", "mesh", "auth", "visibility", "mode")
        }


def plain_word(word: str) -> str:
    """An argument as programs compare it: ``--Trust_Remote_Code`` is ``trust-remote-code``."""
    return word.lower().replace("_", "-").lstrip("-")


def rescale(path: str) -> str:
    """A hint to change the replicas, which are set at ``path``."""
    return "Set kubectl-serve.dev/scale." if path == path_of(annotations.SCALE) else f"Set {path}."
