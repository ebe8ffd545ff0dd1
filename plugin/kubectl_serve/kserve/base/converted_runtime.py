"""What the conversion of a ServingRuntime gives: a ModelRuntime, and what is left for the Deployments that use it."""

from dataclasses import dataclass, field

from kubectl_serve.kserve.base.accounting import Note
from serve_core.api.runtimes import Runtime
from serve_core.base.json import JsonObject, object_at


@dataclass(frozen=True)
class SupportedFormat:
    """A model format that a ServingRuntime lists, in KServe's words."""

    name: str
    version: str | None = None
    is_selected: bool = False
    """Whether KServe chooses the runtime for models of this format that name no runtime."""
    priority: int | None = None


@dataclass(frozen=True)
class ConvertedRuntime:
    name: str
    namespace: str | None
    """``None`` for a ClusterServingRuntime; empty if the document names none."""
    document: JsonObject | None = None
    """The ModelRuntime; ``None`` if the ServingRuntime cannot be one. A note says why."""
    runtime: Runtime | None = None
    """The same, read."""
    formats: tuple[SupportedFormat, ...] = ()
    protocols: tuple[str, ...] = ()
    """In KServe's words."""
    server_type: str = ""
    is_offered: bool = True
    """Whether KServe would use it: it is not disabled, and serves one model on one node."""
    container: JsonObject = field(default_factory=dict)
    """``env`` and ``volumeMounts`` of the model server's container in each Deployment; they can have placeholders."""
    pod: JsonObject = field(default_factory=dict)
    """Fields of the pod in each Deployment."""
    labels: JsonObject = field(default_factory=dict)
    annotations: JsonObject = field(default_factory=dict)
    """Of the pods."""
    notes: tuple[Note, ...] = ()

    @property
    def spec(self) -> JsonObject:
        """Of the ModelRuntime; empty if there is none."""
        return object_at(self.document, "spec")
