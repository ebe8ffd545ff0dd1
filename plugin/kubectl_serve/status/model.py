"""Served models and their pods, read from objects of the cluster. Pure: no cluster, no streams, no clock."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from serve_core.api import models, runtimes, serving_spec
from serve_core.api import state as model_state
from serve_core.api.annotations import MODEL, PROTOCOL, RUNTIME
from serve_core.api.loader_protocol import NOTHING, LoaderOutput
from serve_core.base.constants import (
    CONDITION_MODEL_LOADED,
    CONDITION_READY,
    DEPLOYMENT_LABEL,
    REGISTERED,
    SERVED_LABEL,
)
from serve_core.base.json import JsonObject, value_at
from serve_core.knative.name_conflict import service_name
from serve_core.workload.model_server import server_container
from serve_kube.conditions import find_condition

REVISION_LABEL = "serving.knative.dev/revision"


@dataclass(frozen=True)
class ConditionView:
    type: str
    status: str = "Unknown"
    """True, False or Unknown."""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Traffic:
    revision: str
    percent: int
    latest: bool


@dataclass(frozen=True)
class ModelStatus:
    """A served model, as in the table and in ``-o json``."""

    name: str
    namespace: str
    ready: str
    """True, False or Unknown."""
    reason: str
    message: str
    model: str
    url: str | None
    service: str
    """The Knative Service; in mode ``deployment`` the Service."""
    revision: str | None
    """The newest ready revision."""
    replicas: int
    """Pods that are ready."""
    runtime: str | None
    format: str | None
    protocol: str | None
    image: str | None
    created: str
    traffic: tuple[Traffic, ...] = ()

    def as_json(self) -> JsonObject:
        return asdict(self)


@dataclass(frozen=True)
class ModelSnapshot:
    """Everything of one served model at one moment."""

    deployment: JsonObject | None
    service: JsonObject | None = None
    pods: tuple[JsonObject, ...] = ()
    line: LoaderOutput = NOTHING
    """The loader's last output."""


def name_of(thing: JsonObject) -> str:
    return str(thing["metadata"]["name"])


def annotations_of(thing: JsonObject) -> JsonObject:
    """The annotations."""
    return value_at(thing, "metadata", "annotations") or {}


def is_served(deployment: JsonObject) -> bool:
    return (value_at(deployment, "metadata", "labels") or {}).get(SERVED_LABEL) == "true"


def condition(thing: JsonObject | None, kind: str) -> ConditionView:
    """A condition of an object; Unknown if missing."""
    found = find_condition(thing, kind)
    return ConditionView(kind, found.get("status", "Unknown"), found.get("reason", ""), found.get("message", ""))


def readiness(deployment: JsonObject) -> ConditionView:
    """Whether the model answers, with the cause if not. Unknown while the conditions are out of date."""
    ready = condition(deployment, CONDITION_READY)
    if not model_state.is_current(deployment) and ready.status != "Unknown":
        return ConditionView(CONDITION_READY, "Unknown", "Progressing", "the change is not rolled out yet.")
    loaded = condition(deployment, CONDITION_MODEL_LOADED)
    # While the model is not loaded, ModelLoaded has the cause. A model that is only registered waits for its route.
    waits_for_it = ready.status == "Unknown" and loaded.status != "True" and loaded.reason not in ("", REGISTERED)
    if waits_for_it or ready.reason == "ModelNotLoaded":
        return ConditionView(CONDITION_READY, ready.status, loaded.reason, loaded.message)
    return ready


def is_registered(deployment: JsonObject) -> bool:
    """Whether the model is accepted and not started: its first request starts it."""
    return readiness(deployment).reason == REGISTERED


def containers_of(deployment: JsonObject) -> list[JsonObject]:
    """The containers of its pod template."""
    return value_at(deployment, "spec", "template", "spec", "containers") or []


def status_of(
    deployment: JsonObject, pods: Iterable[JsonObject] = (), service: JsonObject | None = None
) -> ModelStatus:
    metadata = deployment["metadata"]
    own, state = annotations_of(deployment), model_state.read(deployment)
    ready = readiness(deployment)
    spec = serving_spec.read_stored(deployment)
    model_format = runtimes.format_of(spec)[0] if spec else None
    container = server_container(containers_of(deployment)) or {}
    return ModelStatus(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        ready=ready.status,
        reason=ready.reason,
        message=ready.message,
        model=models.canonical(own.get(MODEL, "")),
        url=state.url or None,
        service=service_name(deployment),
        revision=state.revision or None,
        replicas=sum(1 for pod in pods if is_of(pod, deployment) and pod_is_ready(pod)),
        runtime=own.get(RUNTIME),
        format=str(model_format) if model_format else None,
        protocol=own.get(PROTOCOL),
        image=container.get("image"),
        created=metadata.get("creationTimestamp", ""),
        traffic=traffic(service),
    )


def traffic(service: JsonObject | None) -> tuple[Traffic, ...]:
    """The share of each revision, as Knative reports it."""
    return tuple(
        Traffic(entry.get("revisionName", ""), entry.get("percent") or 0, bool(entry.get("latestRevision")))
        for entry in value_at(service, "status", "traffic") or []
        if entry.get("percent")
    )


def is_of(pod: JsonObject, deployment: JsonObject) -> bool:
    metadata = pod["metadata"]
    return bool(
        (metadata.get("labels") or {}).get(DEPLOYMENT_LABEL) == deployment["metadata"]["name"]
        and metadata.get("namespace") == deployment["metadata"].get("namespace")
    )


def pod_is_ready(pod: JsonObject) -> bool:
    return condition(pod, "Ready").status == "True" and "deletionTimestamp" not in pod["metadata"]


def newest_pods(pods: Iterable[JsonObject], revision: str | None = None) -> list[JsonObject]:
    """The pods of the newest revision, or of ``revision``: the newest first, and those being deleted last."""

    def order(pod: JsonObject) -> tuple[bool, str, str]:
        metadata = pod["metadata"]
        return "deletionTimestamp" not in metadata, metadata.get("creationTimestamp") or "", metadata["name"]

    ordered = sorted(pods, key=order, reverse=True)
    if not ordered:
        return []
    wanted = revision or (ordered[0]["metadata"].get("labels") or {}).get(REVISION_LABEL)
    return [pod for pod in ordered if (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) == wanted]


def statuses(pod: JsonObject) -> list[JsonObject]:
    """The statuses of all containers, init containers first."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def container_status(pod: JsonObject, container: str) -> JsonObject:
    found: JsonObject = next((status for status in statuses(pod) if status["name"] == container), {})
    return found


def state_of(pod: JsonObject, container: str) -> tuple[str, JsonObject]:
    """``waiting``, ``running`` or ``terminated``, with its details; ``waiting`` if there is no state."""
    state = container_status(pod, container).get("state") or {}
    return next(((kind, detail) for kind, detail in state.items()), ("waiting", {}))
