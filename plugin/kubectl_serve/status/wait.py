"""Waiting for a model: how far it is, and whether that is the end. Pure."""

from dataclasses import dataclass

from kubectl_serve.status import loader_events
from kubectl_serve.status.model import (
    REVISION_LABEL,
    Snapshot,
    condition,
    name_of,
    newest_pods,
    notes,
    pod_is_ready,
    readiness,
    state_of,
)
from serve_core.api import loader_protocol
from serve_core.api.annotations import URL
from serve_core.api.loader_protocol import LoaderOutput
from serve_core.base.constants import LOADER_CONTAINER
from serve_core.base.json import JsonObject, value_at
from serve_core.workload.model_server import server_container

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


def steps(picture: Snapshot) -> list[Step]:
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


def _pod_steps(pod: JsonObject, line: LoaderOutput) -> list[Step]:
    scheduled = condition(pod, "PodScheduled")
    if scheduled.status != "True":
        return [Step("pod", f"no node can run the pod: {scheduled.message}")] if scheduled.message else []
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
        found.append(Step("server", f"model server ended with exit code {detail.get('exitCode')}, and restarts"))
    elif detail.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
        found.append(Step("server", f"model server: {detail['reason']}"))
    return found


def _loader_step(pod: JsonObject, line: LoaderOutput) -> Step:
    kind, detail = state_of(pod, LOADER_CONTAINER)
    if kind == "terminated":
        words = loader_protocol.words(detail.get("message"))
        if detail.get("exitCode") == 0:
            return Step("loader", loader_events.loaded_text(words))
        return Step("loader", f"loader failed: {words.code or detail.get('reason') or 'Error'}")
    if kind == "waiting":
        reason = detail.get("reason")
        plain = reason in (None, "PodInitializing", "ContainerCreating")
        return Step("loader", "loader starting" if plain else f"loader: {reason}")
    if line.event == "retry":
        return Step("loader", f"loader retries: {line.message or line.code}")
    if line.event == "failed":
        return Step("loader", f"loader failed: {line.code}")
    return Step("loader", "model loading", loader_events.progress_text(line), loader_events.bar(line))


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
