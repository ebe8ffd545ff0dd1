"""A read-only view of a workload: where a Deployment has its metadata, its pod template and what the template holds.

Only this module knows the path to each. It expects the shape that :mod:`serve_core.admission.shape` checks: a field
that is missing, or null, reads as empty.
"""

from collections.abc import Sequence

from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject

TEMPLATE = "spec.template"
"""Path of the pod template."""
POD = f"{TEMPLATE}.spec"
"""Path of the pod's spec."""


class Workload:
    """A Deployment, as it is now: nothing is copied, and a later change of the object shows."""

    __slots__ = ("manifest",)

    def __init__(self, manifest: JsonObject) -> None:
        self.manifest = manifest

    @property
    def metadata(self) -> JsonObject:
        found: JsonObject = self.manifest["metadata"]
        return found

    @property
    def name(self) -> str:
        found: str = self.manifest["metadata"]["name"]
        return found

    @property
    def namespace(self) -> str:
        """Empty in a manifest that names none."""
        return self.manifest["metadata"].get("namespace") or ""

    @property
    def annotations(self) -> dict[str, str]:
        return self.manifest["metadata"].get("annotations") or {}

    @property
    def labels(self) -> dict[str, str]:
        return self.manifest["metadata"].get("labels") or {}

    @property
    def spec(self) -> JsonObject:
        return self.manifest.get("spec") or {}

    @property
    def match_labels(self) -> dict[str, str]:
        """Of the selector."""
        return (self.spec.get("selector") or {}).get("matchLabels") or {}

    @property
    def template(self) -> JsonObject:
        return self.spec.get("template") or {}

    @property
    def template_annotations(self) -> dict[str, str]:
        return (self.template.get("metadata") or {}).get("annotations") or {}

    @property
    def template_labels(self) -> dict[str, str]:
        return (self.template.get("metadata") or {}).get("labels") or {}

    @property
    def pod_labels(self) -> dict[str, str]:
        """The labels of its pods once it is completed, before and after completion."""
        return {**self.match_labels, **self.template_labels, DEPLOYMENT_LABEL: self.name}

    @property
    def pod(self) -> JsonObject:
        """The pod's spec."""
        return self.template.get("spec") or {}

    @property
    def containers(self) -> list[JsonObject]:
        return self.pod.get("containers") or []

    @property
    def init_containers(self) -> list[JsonObject]:
        return self.pod.get("initContainers") or []

    @property
    def volumes(self) -> list[JsonObject]:
        return self.pod.get("volumes") or []


def index_of(container: JsonObject | None, containers: Sequence[JsonObject]) -> int:
    """The index of this very container, for the path in a message; 0 if it is not in the list."""
    return next((index for index, each in enumerate(containers) if each is container), 0)
