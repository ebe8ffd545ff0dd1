"""What the screen shows, made of objects of the cluster. Pure: no cluster, no streams, no clock."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

from serve_core import annotations, loader, runtimes
from serve_core.annotations import FILLED, MODEL, OBSERVED_GENERATION, PROTOCOL, READY_REVISION, RUNTIME, URL
from serve_core.complete import server_container
from serve_core.json import JsonObject, unescape, value_at
from serve_core.loader import count_text, size_text
from serve_core.names import (
    CONDITION_MODEL_LOADED,
    CONDITION_READY,
    DEPLOYMENT_LABEL,
    LOADER_CONTAINER,
    SERVED_LABEL,
)
from serve_core.reasons import Choice
from serve_core.services import service_name
from serve_core.verdict import serving_spec

REVISION_LABEL = "serving.knative.dev/revision"
NONE = "<none>"
UNKNOWN = "<unknown>"

RETRYING = frozenset(
    {
        "Unreachable",
        "ServerError",
        "Stalled",
        "Interrupted",
        "Changed",
        "Unschedulable",
        "NotStarted",
        "SidecarStartsLater",
    }
)
"""Causes that may pass by themselves: whoever waits is patient with them."""


@dataclass(frozen=True)
class Condition:
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
class Served:
    """A served model, as the table shows it and as ``-o json`` prints it."""

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
    """The newest revision that is ready."""
    replicas: int
    """Pods that serve at the moment."""
    runtime: str | None
    format: str | None
    protocol: str | None
    image: str | None
    created: str
    traffic: tuple[Traffic, ...] = ()

    def as_json(self) -> JsonObject:
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    """Everything of one served model at one moment."""

    deployment: JsonObject | None
    service: JsonObject | None = None
    pods: tuple[JsonObject, ...] = ()
    line: JsonObject = field(default_factory=dict)
    """What the loader said last."""


def name_of(thing: JsonObject) -> str:
    return str(thing["metadata"]["name"])


def notes(thing: JsonObject) -> JsonObject:
    """The annotations."""
    return value_at(thing, "metadata", "annotations") or {}


def is_served(deployment: JsonObject) -> bool:
    return (value_at(deployment, "metadata", "labels") or {}).get(SERVED_LABEL) == "true"


def condition(thing: JsonObject | None, kind: str) -> Condition:
    """A condition of an object; Unknown if it is not there."""
    for entry in value_at(thing, "status", "conditions") or []:
        if entry.get("type") == kind:
            return Condition(kind, entry.get("status", "Unknown"), entry.get("reason", ""), entry.get("message", ""))
    return Condition(kind)


def is_current(deployment: JsonObject) -> bool:
    """Whether the conditions speak of the Deployment as it is now."""
    return bool(notes(deployment).get(OBSERVED_GENERATION) == str(deployment["metadata"].get("generation")))


def readiness(deployment: JsonObject) -> Condition:
    """Whether the model answers, with the cause if it does not. Unknown as long as the conditions are out of date."""
    ready = condition(deployment, CONDITION_READY)
    if not is_current(deployment) and ready.status != "Unknown":
        return Condition(CONDITION_READY, "Unknown", "Progressing", "the change is not rolled out yet.")
    loaded = condition(deployment, CONDITION_MODEL_LOADED)
    # As long as the model is not loaded, the other condition knows more.
    waits_for_it = ready.status == "Unknown" and loaded.status != "True" and loaded.reason
    if waits_for_it or ready.reason == "ModelNotLoaded":
        return Condition(CONDITION_READY, ready.status, loaded.reason, loaded.message)
    return ready


def served(deployment: JsonObject, pods: Iterable[JsonObject] = (), service: JsonObject | None = None) -> Served:
    metadata = deployment["metadata"]
    own = notes(deployment)
    ready = readiness(deployment)
    spec = serving_spec(deployment)
    model_format = runtimes.format_of(spec)[0] if spec else None
    container = server_container(value_at(deployment, "spec", "template", "spec", "containers") or []) or {}
    return Served(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        ready=ready.status,
        reason=ready.reason,
        message=ready.message,
        model=" ".join(own.get(MODEL, "").split()),
        url=own.get(URL),
        service=service_name(deployment),
        revision=own.get(READY_REVISION),
        replicas=sum(1 for pod in pods if is_of(pod, deployment) and pod_is_ready(pod)),
        runtime=own.get(RUNTIME),
        format=str(model_format) if model_format else None,
        protocol=own.get(PROTOCOL),
        image=container.get("image"),
        created=metadata.get("creationTimestamp", ""),
        traffic=traffic(service),
    )


def traffic(service: JsonObject | None) -> tuple[Traffic, ...]:
    """Which revision gets how much, as Knative reports it."""
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
    """The pods of the newest revision, or of ``revision``, the newest pod first; those that are ending come last."""

    def order(pod: JsonObject) -> tuple[bool, str, str]:
        metadata = pod["metadata"]
        return "deletionTimestamp" not in metadata, metadata.get("creationTimestamp") or "", metadata["name"]

    ordered = sorted(pods, key=order, reverse=True)
    if not ordered:
        return []
    wanted = revision or (ordered[0]["metadata"].get("labels") or {}).get(REVISION_LABEL)
    return [pod for pod in ordered if (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) == wanted]


def _statuses(pod: JsonObject) -> list[JsonObject]:
    """Those of the init containers come first."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def container_status(pod: JsonObject, container: str) -> JsonObject:
    found: JsonObject = next((status for status in _statuses(pod) if status["name"] == container), {})
    return found


def state_of(pod: JsonObject, container: str) -> tuple[str, JsonObject]:
    """``waiting``, ``running`` or ``terminated``, and what Kubernetes says of it; ``waiting`` if it says nothing."""
    state = container_status(pod, container).get("state") or {}
    return next(((kind, detail) for kind, detail in state.items()), ("waiting", {}))


# -- Waiting: how far it is, and whether that is the end. ----------------------------------------------------------


@dataclass(frozen=True)
class Step:
    key: str
    text: str
    detail: str = ""
    """What changes all the time."""
    bar: str = ""
    """The same as a picture, for a line that can be rewritten."""


@dataclass(frozen=True)
class End:
    """Waiting is over: the model is ready, or will not be."""

    ready: bool
    definite: bool = True
    """False for a cause that may pass by itself."""
    code: str = ""
    message: str = ""


def steps(picture: Picture) -> list[Step]:
    """How far it is, the last step being the present one."""
    if picture.deployment is None:
        return []
    found = [Step("accepted", f"Deployment {name_of(picture.deployment)} accepted")]
    if picture.service is not None:
        found.append(Step("service", "Knative Service created"))
    revision = value_at(picture.service, "status", "latestCreatedRevisionName")
    pods = newest_pods(picture.pods, revision)
    # A pod may be seen before the Knative Service says of which revision it is.
    revision = revision or (value_at(pods[0], "metadata", "labels") or {}).get(REVISION_LABEL) if pods else revision
    if revision:
        found.append(Step("revision", f"revision {revision} created"))
    if pods:
        found += _pod_steps(pods[0], picture.line)
    if readiness(picture.deployment).status == "True":
        found.append(Step("ready", f"ready at {notes(picture.deployment).get(URL) or 'no URL'}"))
    return found


def _pod_steps(pod: JsonObject, line: JsonObject) -> list[Step]:
    scheduled = condition(pod, "PodScheduled")
    if scheduled.status != "True":
        return [Step("pod", f"no node takes the pod: {scheduled.message}")] if scheduled.message else []
    found = [Step("pod", f"pod scheduled on {value_at(pod, 'spec', 'nodeName') or 'a node'}")]
    containers = value_at(pod, "spec", "initContainers") or []
    if any(container["name"] == LOADER_CONTAINER for container in containers):
        found.append(_loader_step(pod, line))
        if state_of(pod, LOADER_CONTAINER)[0] != "terminated":
            return found
    server = server_container(value_at(pod, "spec", "containers") or []) or {}
    kind, detail = state_of(pod, server.get("name", ""))
    if pod_is_ready(pod):
        found.append(Step("server", "model server ready"))
    elif kind == "running":
        found.append(Step("server", "model server starting"))
    elif kind == "terminated":
        found.append(
            Step("server", f"model server ended with exit code {detail.get('exitCode')}, and is started again")
        )
    elif detail.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
        found.append(Step("server", f"model server: {detail['reason']}"))
    return found


def _loader_step(pod: JsonObject, line: JsonObject) -> Step:
    kind, detail = state_of(pod, LOADER_CONTAINER)
    if kind == "terminated":
        words = loader.words(detail.get("message"))
        if detail.get("exitCode") == 0:
            return Step("loader", loaded_text(words))
        return Step("loader", f"loader failed: {words.get('code') or detail.get('reason') or 'Error'}")
    if kind == "waiting":
        reason = detail.get("reason")
        plain = reason in (None, "PodInitializing", "ContainerCreating")
        return Step("loader", "loader starting" if plain else f"loader: {reason}")
    if line.get("event") == "retry":
        return Step("loader", f"loader tries again: {line.get('message') or line.get('code')}")
    if line.get("event") == "failed":
        return Step("loader", f"loader failed: {line.get('code')}")
    return Step("loader", "model loading", progress_text(line), bar(line))


def end(deployment: JsonObject | None) -> End | None:
    """Whether waiting for the model is over, if it stays like this; None while nothing is wrong."""
    if deployment is None:
        return End(False, code="Deleted", message="the Deployment was deleted.")
    state = readiness(deployment)
    if state.status == "True":
        return End(True)
    if state.status == "False" or state.reason in RETRYING:
        return End(False, state.reason not in RETRYING, state.reason, state.message)
    return None


# -- The loader's words. -------------------------------------------------------------------------------------------


def progress_text(line: JsonObject) -> str:
    """``45 % of 12.3 MiB, 11.0 MiB/s``; empty if the line says nothing of it."""
    done, total, rate = line.get("bytes"), line.get("total"), line.get("rate")
    if line.get("event") == "plan" and isinstance(done, int):
        return f"{size_text(done)} in {count_text(line.get('files'), 'file')}"
    if line.get("event") != "progress" or not isinstance(done, int):
        return ""
    share = f"{100 * done // total} % of {size_text(total)}" if isinstance(total, int) and total else size_text(done)
    return share + (f", {size_text(rate)}/s" if isinstance(rate, int | float) and rate else "")


_BAR = 20
"""Characters between the brackets."""


def bar(line: JsonObject) -> str:
    """``[#########           ] ``, for a line that can be rewritten; empty where the share is not known."""
    found = loader.share(line)
    if found is None:
        return ""
    filled = min(_BAR * found[0] // found[1], _BAR)
    return f"[{'#' * filled}{' ' * (_BAR - filled)}] "


def loaded_text(words: JsonObject) -> str:
    return f"model loaded: {loader.loaded_text(words)}".removesuffix(": ")


def loader_line(words: JsonObject) -> str:
    """One line of the loader's log for a person."""
    event = words.get("event")
    if event == "plan":
        return f"downloading {progress_text(words)}"
    if event == "progress":
        return progress_text(words) or "downloading"
    if event == "loaded":
        return loaded_text(words)
    said = ": ".join(str(words[key]) for key in ("code", "message") if words.get(key))
    said = said if said.endswith((".", "!", "?")) else f"{said}."
    hint = f" {words['hint']}" if words.get("hint") else ""
    if event == "retry":
        wait = words.get("wait")
        again = f" (attempt {words.get('attempt')}" + (
            f", next in {wait:.0f} s)" if isinstance(wait, int | float) else ")"
        )
        return f"trying again{again}: {said}{hint}"
    return f"failed: {said}{hint}" if event == "failed" else json.dumps(words)


# -- Time and tables. ----------------------------------------------------------------------------------------------


def seconds_since(timestamp: str, now: float) -> float | None:
    """Seconds between a Kubernetes timestamp and ``now``; None if it is none."""
    try:
        return now - datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def age_text(timestamp: str, now: float) -> str:
    """An age as kubectl writes it. Source: k8s.io/apimachinery, pkg/util/duration/duration.go."""
    elapsed = seconds_since(timestamp, now)
    if elapsed is None:
        return UNKNOWN
    seconds = max(int(elapsed), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    rules = (
        (seconds < 120, f"{seconds}s"),
        (minutes < 10, _two(minutes, "m", seconds % 60, "s")),
        (minutes < 180, f"{minutes}m"),
        (hours < 8, _two(hours, "h", minutes % 60, "m")),
        (hours < 48, f"{hours}h"),
        (days < 8, _two(days, "d", hours % 24, "h")),
        (days < 730, f"{days}d"),
    )
    return next((text for applies, text in rules if applies), f"{days // 365}y")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}" + (f"{small}{small_unit}" if small else "")


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters: its end, which tells models apart, and its scheme if there is room."""
    if len(text) <= width:
        return text
    scheme = text.partition("://")[0] + "://" if "://" in text and width >= 24 else ""
    return scheme + "…" + text[len(text) - (width - 1 - len(scheme)) :]


_SHORTEST_MODEL = 16


def table(models: Sequence[Served], now: float, width: int, *, wide: bool, namespaces: bool) -> list[list[str]]:
    """Headings and rows. Without ``wide`` the model's URI gives way, so that a row fits into ``width`` if it can."""
    headings = ["NAME", "READY", "REPLICAS", "MODEL", "URL"]
    if wide:
        headings += ["REASON", "REVISION", "TRAFFIC", "FORMAT", "IMAGE"]
    headings = (["NAMESPACE"] if namespaces else []) + [*headings, "AGE"]
    rows = [_row(model, now, wide=wide, namespaces=namespaces) for model in models]
    if not wide and rows:
        column = headings.index("MODEL")
        widths = [max(len(row[index]) for row in [headings, *rows]) for index in range(len(headings))]
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        if excess > 0:
            room = max(widths[column] - excess, _SHORTEST_MODEL)
            rows = [[*row[:column], shortened(row[column], room), *row[column + 1 :]] for row in rows]
    return [headings, *rows]


def _row(model: Served, now: float, *, wide: bool, namespaces: bool) -> list[str]:
    row = [model.namespace] if namespaces else []
    row += [model.name, model.ready, str(model.replicas), model.model or NONE, model.url or NONE]
    if wide:
        row += [
            model.reason or NONE,
            model.revision or NONE,
            ",".join(f"{share.revision}={share.percent}%" for share in model.traffic) or NONE,
            model.format or NONE,
            model.image or NONE,
        ]
    return [*row, age_text(model.created, now)]


def asked(deployment: JsonObject) -> list[tuple[str, str]]:
    """The user's own annotations, in the order of their documentation."""
    own = notes(deployment)
    return [(each.name, own[each.key]) for each in annotations.USER if each.key in own]


def filled(deployment: JsonObject) -> list[str]:
    """What the webhook filled in, by the part of the Deployment that it stands in."""
    groups: dict[str, list[str]] = {}
    for path in sorted(loader.words(notes(deployment).get(FILLED))):
        steps = [unescape(step) for step in path.split("/")[1:]]
        group, rest = _part(steps)
        names = groups.setdefault(group, [])
        if rest not in names:
            names.append(rest)
    return [f"{group}: {', '.join(names)}" for group, names in sorted(groups.items())]


def _part(steps: list[str]) -> tuple[str, str]:
    """The part that a path leads into, and what is filled in there."""
    pod = steps[3:] if steps[:3] == ["spec", "template", "spec"] else []
    if pod[:1] in (["containers"], ["initContainers"]) and len(pod) > 2:
        kind = "container" if pod[0] == "containers" else "init container"
        return f"{kind} {pod[1].partition('=')[2]}", pod[2]
    if pod:
        return "pods", pod[0]
    if steps[:3] == ["spec", "template", "metadata"]:
        return "pods", " ".join(steps[3:4])
    return "Deployment", steps[1]


# -- Describing. ---------------------------------------------------------------------------------------------------


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
class Described:
    """Everything that ``describe`` shows."""

    served: Served
    asked: list[tuple[str, str]]
    choices: tuple[Choice, ...]
    filled: list[str]
    conditions: list[Condition]
    revisions: list[RevisionView]
    pods: list[PodView]
    events: list[EventView]

    def as_json(self) -> JsonObject:
        document = asdict(self)
        own: JsonObject = document.pop("served")
        return own | document | {"asked": dict(self.asked)}


def described(
    deployment: JsonObject,
    service: JsonObject | None,
    revisions: Sequence[JsonObject],
    pods: Sequence[JsonObject],
    events: Sequence[JsonObject],
    choices: tuple[Choice, ...],
) -> Described:
    own = [condition(deployment, kind) for kind in (CONDITION_MODEL_LOADED, CONDITION_READY)]
    shares = {share.revision: share.percent for share in traffic(service)}
    names = {name_of(each) for each in (deployment, *revisions, *pods)}
    newest_first = sorted(revisions, key=lambda each: each["metadata"].get("creationTimestamp", ""), reverse=True)
    return Described(
        served=served(deployment, pods, service),
        asked=asked(deployment),
        choices=choices,
        filled=filled(deployment),
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
        restarts=sum(status.get("restartCount", 0) for status in _statuses(pod)),
        node=value_at(pod, "spec", "nodeName") or "",
        created=pod["metadata"].get("creationTimestamp", ""),
    )


def pod_state(pod: JsonObject) -> str:
    """One word: what a person wants to know of a pod first."""
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    if pod_is_ready(pod):
        return "Ready"
    if condition(pod, "PodScheduled").status == "False":
        return condition(pod, "PodScheduled").reason or "Pending"
    for kind, statuses in (("Init:", "initContainerStatuses"), ("", "containerStatuses")):
        for status in value_at(pod, "status", statuses) or []:
            state = status.get("state") or {}
            ended = state.get("terminated")
            waiting = state.get("waiting") or {}
            if ended and ended.get("exitCode") != 0:
                return f"{kind}{loader.words(ended.get('message')).get('code') or ended.get('reason') or 'Error'}"
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
