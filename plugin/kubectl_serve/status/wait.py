"""The steps of a model until it is ready, and whether waiting is over. Pure."""

from dataclasses import dataclass

from kubectl_serve.status import loader_events
from kubectl_serve.status.model import (
    REVISION_LABEL,
    ModelSnapshot,
    condition,
    is_registered,
    name_of,
    newest_pods,
    pod_is_ready,
    readiness,
    state_of,
)
from serve_core.api import loader_protocol, state
from serve_core.api.loader_protocol import LoaderOutput
from serve_core.base.constants import LOADER_CONTAINER, REGISTERED
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
"""Causes that may be temporary: waiting continues for a while."""


@dataclass(frozen=True)
class Step:
    key: str
    text: str
    detail: str = ""
    """Text that changes continuously."""
    bar: str = ""
    """The progress as a bar, for a line that can be rewritten."""


@dataclass(frozen=True)
class WaitResult:
    """Why waiting is over: the model is ready or registered, or has failed."""

    ready: bool
    definite: bool = True
    """False for a cause that may be temporary."""
    code: str = ""
    message: str = ""


def steps(snapshot: ModelSnapshot) -> list[Step]:
    """All steps so far; the last one is the present one."""
    if snapshot.deployment is None:
        return []
    found = [Step("accepted", f"Deployment {name_of(snapshot.deployment)} accepted")]
    if snapshot.service is not None:
        found.append(Step("service", "Knative Service created"))
    revision = value_at(snapshot.service, "status", "latestCreatedRevisionName")
    pods = newest_pods(snapshot.pods, revision)
    # A pod can appear before its revision is in the Knative Service's status.
    revision = revision or (value_at(pods[0], "metadata", "labels") or {}).get(REVISION_LABEL) if pods else revision
    if revision:
        found.append(Step("revision", f"revision {revision} created"))
    if pods:
        found += _pod_steps(pods[0], snapshot.line)
    if is_registered(snapshot.deployment):
        found.append(Step("registered", "registered, not started"))
    if readiness(snapshot.deployment).status == "True":
        found.append(Step("ready", f"ready at {state.read(snapshot.deployment).url or 'no URL'}"))
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
        output = loader_protocol.parse(detail.get("message"))
        if detail.get("exitCode") == 0:
            return Step("loader", loader_events.loaded_text(output))
        return Step("loader", f"loader failed: {output.code or detail.get('reason') or 'Error'}")
    if kind == "waiting":
        reason = detail.get("reason")
        plain = reason in (None, "PodInitializing", "ContainerCreating")
        return Step("loader", "loader starting" if plain else f"loader: {reason}")
    if line.event == "retry":
        return Step("loader", f"loader retries: {line.message or line.code}")
    if line.event == "failed":
        return Step("loader", f"loader failed: {line.code}")
    return Step("loader", "model loading", loader_events.progress_text(line), loader_events.bar(line))


def result_of(deployment: JsonObject | None) -> WaitResult | None:
    """The outcome, if the state does not change any more; None while there is neither success nor failure."""
    if deployment is None:
        return WaitResult(False, code="Deleted", message="the Deployment was deleted.")
    state = readiness(deployment)
    if state.status == "True" or state.reason == REGISTERED:
        return WaitResult(True)
    if state.status == "False" or state.reason in RETRYING:
        return WaitResult(False, state.reason not in RETRYING, state.reason, state.message)
    return None
