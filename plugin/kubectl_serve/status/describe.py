"""The content of ``describe``, from objects of the cluster. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from kubectl_serve.status.model import (
    REVISION_LABEL,
    ConditionView,
    ModelStatus,
    annotations_of,
    condition,
    name_of,
    pod_is_ready,
    status_of,
    statuses,
    traffic,
)
from serve_core.api import annotations, loader_protocol
from serve_core.api.annotations import FILLED
from serve_core.base import overlay
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_PREFETCHED, CONDITION_READY, LOADER_CONTAINER
from serve_core.base.json import JsonObject, unescape, value_at
from serve_core.base.reasons import Explanation


@dataclass(frozen=True)
class RevisionView:
    name: str
    ready: str
    reason: str
    percent: int
    created: str


@dataclass(frozen=True)
class PodView:
    name: str
    revision: str
    state: str
    restarts: int
    node: str
    created: str


@dataclass(frozen=True)
class EventView:
    last: str
    type: str
    reason: str
    about: str
    """The kind of object; ``name`` says which one."""
    name: str
    message: str


@dataclass(frozen=True)
class Description:
    """Everything that ``describe`` shows."""

    served: ModelStatus
    asked: list[tuple[str, str]]
    choices: tuple[Explanation, ...]
    filled: list[str]
    conditions: list[ConditionView]
    revisions: list[RevisionView]
    pods: list[PodView]
    events: list[EventView]

    def as_json(self) -> JsonObject:
        document = asdict(self)
        own: JsonObject = document.pop("served")
        return own | document | {"asked": dict(self.asked)}


def describe(
    deployment: JsonObject,
    service: JsonObject | None,
    revisions: Sequence[JsonObject],
    pods: Sequence[JsonObject],
    events: Sequence[JsonObject],
    explanations: tuple[Explanation, ...],
) -> Description:
    own = [condition(deployment, kind) for kind in (CONDITION_MODEL_LOADED, CONDITION_READY)]
    prefetched = condition(deployment, CONDITION_PREFETCHED)
    own += [prefetched] if prefetched.reason else []
    shares = {share.revision: share.percent for share in traffic(service)}
    names = {name_of(each) for each in (deployment, *revisions, *pods)}
    newest_first = sorted(revisions, key=lambda each: each["metadata"].get("creationTimestamp", ""), reverse=True)
    return Description(
        served=status_of(deployment, pods, service),
        asked=user_annotations(deployment),
        choices=explanations,
        filled=filled_fields(deployment),
        conditions=own,
        revisions=[_revision_view(each, shares) for each in newest_first],
        pods=[_pod_view(each) for each in sorted(pods, key=name_of)],
        events=sorted(
            (_event_view(each) for each in events if value_at(each, "regarding", "name") in names),
            key=lambda each: each.last,
        ),
    )


def _revision_view(revision: JsonObject, shares: dict[str, int]) -> RevisionView:
    ready = condition(revision, "Ready")
    return RevisionView(
        name_of(revision),
        ready.status,
        ready.reason,
        shares.get(name_of(revision), 0),
        revision["metadata"].get("creationTimestamp", ""),
    )


def _pod_view(pod: JsonObject) -> PodView:
    return PodView(
        name=name_of(pod),
        revision=(pod["metadata"].get("labels") or {}).get(REVISION_LABEL, ""),
        state=pod_state(pod),
        restarts=sum(status.get("restartCount", 0) for status in statuses(pod)),
        node=value_at(pod, "spec", "nodeName") or "",
        created=pod["metadata"].get("creationTimestamp", ""),
    )


def pod_state(pod: JsonObject) -> str:
    """The state of a pod in one word."""
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    if pod_is_ready(pod):
        return "Ready"
    if condition(pod, "PodScheduled").status == "False":
        return condition(pod, "PodScheduled").reason or "Pending"
    for kind, group in (("Init:", "initContainerStatuses"), ("", "containerStatuses")):
        for status in value_at(pod, "status", group) or []:
            state = status.get("state") or {}
            ended = state.get("terminated")
            waiting = state.get("waiting") or {}
            if ended and ended.get("exitCode") != 0:
                return f"{kind}{loader_protocol.parse(ended.get('message')).code or ended.get('reason') or 'Error'}"
            if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
                return f"{kind}{waiting['reason']}"
            if kind and "running" in state:
                return "Loading" if status["name"] == LOADER_CONTAINER else f"Init:{status['name']}"
    return "Starting"


def _event_view(event: JsonObject) -> EventView:
    last = (
        value_at(event, "series", "lastObservedTime")
        or event.get("deprecatedLastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp", "")
    )
    regarding = event.get("regarding") or {}
    return EventView(
        last=last,
        type=event.get("type", ""),
        reason=event.get("reason", ""),
        about=regarding.get("kind", ""),
        name=regarding.get("name", ""),
        message=" ".join(str(event.get("note") or "").split()),
    )


def user_annotations(deployment: JsonObject) -> list[tuple[str, str]]:
    """The user's own annotations, in the order of their documentation."""
    own = annotations_of(deployment)
    return [(each.name, own[each.key]) for each in annotations.USER if each.key in own]


def filled_fields(deployment: JsonObject) -> list[str]:
    """The fields that still have the webhook's value, by the part of the Deployment."""
    groups: dict[str, list[str]] = {}
    for path in sorted(overlay.decode(annotations_of(deployment).get(FILLED) or "", deployment) or ()):
        steps = [unescape(step) for step in path.split("/")[1:]]
        group, rest = _part(steps)
        names = groups.setdefault(group, [])
        if rest not in names:
            names.append(rest)
    return [f"{group}: {', '.join(names)}" for group, names in sorted(groups.items())]


def _part(steps: list[str]) -> tuple[str, str]:
    """The part of the Deployment in a path, and the field in that part."""
    pod = steps[3:] if steps[:3] == ["spec", "template", "spec"] else []
    if pod[:1] in (["containers"], ["initContainers"]) and len(pod) > 2:
        kind = "container" if pod[0] == "containers" else "init container"
        return f"{kind} {pod[1].partition('=')[2]}", pod[2]
    if pod:
        return "pods", pod[0]
    if steps[:3] == ["spec", "template", "metadata"]:
        return "pods", " ".join(steps[3:4])
    return "Deployment", steps[1]
