"""The working set of one admission: what its steps read, and what they have found and made so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from serve_core.admission import shape
from serve_core.api import state as model_state
from serve_core.api.annotations import DEPLOYMENT, MODE, MODEL
from serve_core.api.serving_spec import ServingSpec
from serve_core.api.state import State
from serve_core.base import overlay
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject
from serve_core.base.overlay import FieldRecord
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext
from serve_core.istio import injection
from serve_core.istio.injection import MeshDecision
from serve_core.knative.features import FeatureNeed
from serve_core.workload import on_node, serving_port
from serve_core.workload.serving_port import ServingPort


@dataclass(eq=False)
class Admission:
    """One Deployment on its way through :mod:`serve_core.admission.steps`."""

    deployment: JsonObject
    """The Deployment as it will be stored. The steps write to it; the rest is shared with the input."""
    context: ClusterContext
    previous: JsonObject | None = None
    """What the API server stores before an update."""
    state: State = field(default_factory=State)
    """What the reconciler has recorded on the stored Deployment, if that is served."""
    recorded: FieldRecord = field(default_factory=dict)
    """The fields that an earlier admission set and that are still as it set them."""
    filled: FieldRecord = field(default_factory=dict)
    """The fields that this admission sets."""
    not_adopted: bool = False
    """Whether the Deployment asks for adoption by a policy and no policy adopts it."""
    spec: ServingSpec = field(init=False)
    """What the annotations ask for. The step that reads them sets it; later steps run only for a served Deployment."""
    is_own_server: bool = False
    """Whether the model server is a container of the user's own, not a runtime's. Completion sets it."""
    name_conflict: str = ""
    """The Service of another owner because of which this admission chose another name."""
    findings: Findings = field(default_factory=Findings)
    service: JsonObject | None = None
    """The Knative Service."""
    feature_needs: frozenset[FeatureNeed] = frozenset()
    """Knative's feature flags that the Knative Service needs."""
    access_policies: list[JsonObject] = field(default_factory=list)
    """Istio's objects that decide who can call the model."""
    extras: list[JsonObject] = field(default_factory=list)
    """The other objects beside the Deployment."""

    @classmethod
    def of(cls, deployment: JsonObject, context: ClusterContext, previous: JsonObject | None = None) -> "Admission":
        """Start with a Deployment whose shape was checked. It is copied as far down as the steps themselves write;
        :mod:`serve_core.base.overlay` copies what it changes below."""
        copy = {**deployment, "metadata": {**deployment["metadata"]}}
        places: tuple[tuple[dict[str, Any], str], ...] = (
            (copy["metadata"], "annotations"),
            (copy["metadata"], "labels"),
            (copy, "spec"),
        )
        for owner, key in places:
            if isinstance(owner.get(key), dict):
                owner[key] = {**owner[key]}
        stored = shape.readable(previous)
        is_served = stored is not None and MODEL in Workload(stored).annotations
        return cls(copy, context, stored, model_state.read(stored) if is_served else State())

    @cached_property
    def workload(self) -> Workload:
        """The Deployment as it is now."""
        return Workload(self.deployment)

    @property
    def is_served(self) -> bool:
        """Whether the Deployment asks for a model."""
        return MODEL in self.workload.annotations

    @property
    def by_knative(self) -> bool:
        """Whether Knative runs the pods; otherwise the Deployment does."""
        return self.spec.mode != DEPLOYMENT

    @property
    def was_served(self) -> bool:
        """Whether the stored Deployment asks for a model."""
        return self.previous is not None and MODEL in Workload(self.previous).annotations

    @cached_property
    def was_running(self) -> bool:
        """Whether the stored Deployment has pods of its own, which may be serving."""
        if self.previous is None:
            return False
        previous = Workload(self.previous)
        if MODEL in previous.annotations and previous.annotations.get(MODE) != DEPLOYMENT:
            return False
        return bool(previous.spec.get("replicas", 1))

    @cached_property
    def mesh(self) -> MeshDecision:
        """How the pods are connected to the mesh, decided at the first use: completion does not change the answer."""
        has_user_range = self.workload.namespace in self.context.user_ranges
        is_image = self.spec.cache.on_node and not on_node.why_no_image(self.workload, self.spec, self.context)
        return injection.decide(
            self.workload,
            self.spec,
            self.context.istio,
            has_user_range=has_user_range,
            has_loader=self.spec.model.scheme != "pvc" and not is_image,
        )

    @property
    def serving_port(self) -> ServingPort:
        """The port that takes the requests, as the Deployment has it now."""
        return serving_port.of_pod(self.workload.containers, self.context.servers, self.spec.port)

    def fill(self, wanted: Mapping[str, Any]) -> None:
        """Set the fields of the overlay ``wanted`` that the Deployment lacks."""
        self.filled |= overlay.fill(self.deployment, wanted)

    def annotate(self, key: str, value: str) -> None:
        self._write("annotations", key, value)

    def label(self, key: str, value: str) -> None:
        self._write("labels", key, value)

    def _write(self, kind: str, key: str, value: str) -> None:
        metadata = self.deployment["metadata"]
        if metadata.get(kind) is None:
            metadata[kind] = {}
        metadata[kind][key] = value
