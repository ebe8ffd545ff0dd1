"""A Deployment in the making, of plain values and fields of the input (:mod:`kubectl_serve.kserve.base.accounting`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kubectl_serve.kserve.base.converted_runtime import ConvertedRuntime
from serve_core.api import annotations
from serve_core.api.annotations import DEPLOYMENT, MODE
from serve_core.base.json import JsonObject, object_at
from serve_core.context.cluster import ClusterContext


@dataclass
class Draft:
    context: ClusterContext
    name: str
    """The Deployment's, and so the model's."""
    runtimes: Sequence[ConvertedRuntime] = ()
    """The ServingRuntimes among the same files. Their ModelRuntimes are also in the context."""
    others: Sequence[JsonObject] = ()
    """Objects of Kubernetes itself among the same files, such as Secrets."""
    has_entries: bool = False
    """Whether a storage entry names the model, so that the Secret of the store has such entries."""
    is_plain: bool = False
    """Whether the image contains the model, so that kubectl-serve has nothing to load."""
    former_names: set[str] = field(default_factory=set)
    """Names of the model in the input that are not the Deployment's."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Name and namespace."""
    asked: dict[str, str] = field(default_factory=dict)
    """Annotations of kubectl-serve."""
    labels: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    """Fields of the Deployment's spec, without the template."""
    template_labels: dict[str, Any] = field(default_factory=dict)
    template_annotations: dict[str, Any] = field(default_factory=dict)
    pod: dict[str, Any] = field(default_factory=dict)

    @property
    def without_knative(self) -> bool:
        return self.asked.get(MODE) == DEPLOYMENT

    def other(self, kind: str, name: str) -> JsonObject | None:
        """The object of Kubernetes with that name among the same files, in the namespace of the input. One without a
        namespace is in any."""
        given = self.metadata.get("namespace")
        namespace = None if given is None else given.value
        for each in self.others:
            metadata = object_at(each, "metadata")
            is_here = namespace is None or metadata.get("namespace") in (None, namespace)
            if (each.get("apiVersion"), each.get("kind"), metadata.get("name")) == ("v1", kind, name) and is_here:
                return each
        return None

    def deployment(self) -> JsonObject:
        asked = {each.key: self.asked[each.key] for each in annotations.USER if each.key in self.asked}
        texts = {"labels": self.template_labels, "annotations": self.template_annotations}
        described = {key: value for key, value in texts.items() if value}
        template = {**({"metadata": described} if described else {}), **({"spec": self.pod} if self.pod else {})}
        spec = {**self.spec, **({"template": template} if template else {})}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                **self.metadata,
                **({"labels": self.labels} if self.labels else {}),
                "annotations": self.annotations | asked,
            },
            **({"spec": spec} if spec else {}),
        }
