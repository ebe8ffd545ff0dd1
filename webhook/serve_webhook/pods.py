"""What keeps a pod from serving, told from its status and its loader's last words. Pure.

Knative does not look at init containers, so that a failing download would show only as a deadline that passed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from serve_core import loader
from serve_core.istio import PROXY_UID
from serve_core.json import JsonObject, value_at
from serve_core.names import LOADER_CONTAINER
from serve_core.reasons import CATALOGUE, Kind, condition_message

REVISION_LABEL = "serving.knative.dev/revision"
_TEMPLATE_LABEL = "pod-template-hash"
"""By which ReplicaSets, and so the templates of one Deployment, tell their pods apart."""
QUEUE_PROXY = "queue-proxy"
LONGEST = 800
"""Characters of what a pod says about itself."""

_PULL_FAILURES = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"}
)
_START_FAILURES = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_STARTING = frozenset({None, "PodInitializing", "ContainerCreating"})
_NOT_FOUND = {"secret": ("SecretNotFound", "secret"), "configmap": ("ConfigMapNotFound", "config_map")}
_MISSING = re.compile(r'(secret|configmap) "([^"]+)" not found')
"""As the kubelet says it, of a volume and of a variable."""
_SIDECAR = "istio-proxy"
_INJECTED = "sidecar.istio.io/status"
"""Annotation of every pod that Istio's injector has seen to."""


@dataclass(frozen=True)
class Finding:
    """``status``: True, False or Unknown, as in a condition; ``code``: its reason."""

    status: str
    code: str
    message: str


def trim(pod: JsonObject) -> JsonObject:
    """The part of a pod that is read here: served models may have many."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels")
    annotations = metadata.get("annotations") or {}
    return {
        "metadata": {key: metadata[key] for key in kept if key in metadata}
        | ({"annotations": {_INJECTED: annotations[_INJECTED]}} if _INJECTED in annotations else {}),
        "spec": {"initContainers": [_trim_container(container) for container in spec.get("initContainers") or []]},
        "status": {
            key: status[key]
            for key in ("phase", "conditions", "initContainerStatuses", "containerStatuses")
            if key in status
        },
    }


def _trim_container(container: JsonObject) -> JsonObject:
    user = (container.get("securityContext") or {}).get("runAsUser")
    return {"name": container["name"], "securityContext": {"runAsUser": user}}


def of_revision(pods: Sequence[JsonObject], revision: str) -> list[JsonObject]:
    """The pods of a Knative revision that are not on their way out, oldest first."""
    return [pod for pod in _that_stay(pods) if _label(pod, REVISION_LABEL) == revision]


def of_template(pods: Sequence[JsonObject]) -> list[JsonObject]:
    """The pods that a Deployment runs itself that are not on their way out, oldest first.

    Those of its present template: the newest pod's. During a rollout there are some of the one before as well.
    """
    own = [pod for pod in _that_stay(pods) if _label(pod, REVISION_LABEL) is None]
    return [pod for pod in own if _label(pod, _TEMPLATE_LABEL) == _label(own[-1], _TEMPLATE_LABEL)]


def _that_stay(pods: Sequence[JsonObject]) -> list[JsonObject]:
    stay = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return sorted(stay, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))


def _label(pod: JsonObject, name: str) -> str | None:
    found: str | None = (pod["metadata"].get("labels") or {}).get(name)
    return found


def loader_is_running(pod: JsonObject) -> bool:
    return "running" in (_loader_status(pod).get("state") or {})


def loader_end(pod: JsonObject) -> tuple[str, float] | None:
    """The code that the loader has ended with, and the seconds that it took; ``None`` where it says neither."""
    words = loader.words(((_loader_status(pod).get("state") or {}).get("terminated") or {}).get("message"))
    code, seconds = words.get("code"), words.get("seconds")
    if not isinstance(seconds, int | float) or code not in CATALOGUE:
        return None
    return str(code), float(seconds)


def model_size(pod: JsonObject, line: JsonObject) -> int | None:
    """The bytes of the model, once its loader has told them. ``line``: the last of a running loader's log."""
    ended = loader.words(((_loader_status(pod).get("state") or {}).get("terminated") or {}).get("message"))
    share = loader.share(line)
    told = ended.get("bytes") if ended.get("code") == "Loaded" else share and share[1]
    return told if isinstance(told, int) and told > 0 else None


def last_line(log: str) -> JsonObject:
    """The last JSON object of the loader's log; empty if there is none."""
    for line in reversed(log.splitlines()):
        entry = loader.words(line)
        if "event" in entry:
            return entry
    return {}


def waits_since(pod: JsonObject) -> datetime | None:
    """Since when the node has had the pod without starting any container of it; ``None`` where that is not so."""
    status = pod.get("status") or {}
    started = any(
        (state.get("state") or {}).keys() - {"waiting"}
        or state.get("lastState")
        or value_at(state, "state", "waiting", "reason") not in _STARTING
        for key in ("initContainerStatuses", "containerStatuses")
        for state in status.get(key) or []
    )
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "True" and not started:
            return datetime.fromisoformat(condition["lastTransitionTime"])
    return None


def warning(events: Sequence[JsonObject]) -> str:
    """What the newest of a pod's Events says, if it is a warning: an image that is being pulled is none."""
    newest = max(events, key=_last_seen, default={})
    return str(newest.get("note") or "") if newest.get("type") == "Warning" else ""


def _last_seen(event: JsonObject) -> str:
    series = value_at(event, "series", "lastObservedTime")
    return str(series or event.get("deprecatedLastTimestamp") or event.get("eventTime") or "")


def loading(pod: JsonObject, line: JsonObject, name: str, warning: str = "") -> Finding:
    """How far the loader of this pod is.

    ``line``: the last of its log; ``name``: the Deployment's; ``warning``: what the node says of a pod that it cannot
    start.
    """
    found = _loading(pod, line, name, warning)
    if found.code in ("Unreachable", "Stalled") and _has_late_sidecar(pod):
        return Finding(
            found.status, "SidecarStartsLater", f"{sentence('SidecarStartsLater')} {found.message}"[:LONGEST]
        )
    return found


def _has_late_sidecar(pod: JsonObject) -> bool:
    """Whether Istio redirects the loader's traffic to a sidecar that starts when the loader has ended."""
    if _INJECTED not in (pod["metadata"].get("annotations") or {}):
        return False
    for container in (pod.get("spec") or {}).get("initContainers") or []:
        if container["name"] == _SIDECAR:
            return False
        if container["name"] == LOADER_CONTAINER:
            return bool((container.get("securityContext") or {}).get("runAsUser") != PROXY_UID)
    return False


def _loading(pod: JsonObject, line: JsonObject, name: str, warning: str) -> Finding:
    of = {"name": name, "namespace": pod["metadata"]["namespace"]}
    status = _loader_status(pod)
    state, before = status.get("state") or {}, (status.get("lastState") or {}).get("terminated")
    if terminated := state.get("terminated"):
        return _ended(terminated, of)
    if "running" in state:
        return _running(line, before, of)
    if unschedulable := _unschedulable(pod):
        return unschedulable
    waiting = state.get("waiting") or {}
    if (reason := waiting.get("reason")) in _PULL_FAILURES:
        return _finding("False", "ImagePullFailed", waiting)
    if reason in _START_FAILURES:
        return _not_started(pod, waiting)
    if before:
        return _ended(before, of)
    if warning:
        return _not_started(pod, {"message": warning})
    return Finding("Unknown", "Loading", "Waiting for the pod's containers to start.")


def serving(pod: JsonObject, name: str, warning: str = "") -> Finding | None:
    """What keeps the model server of this pod from serving; ``None`` if nothing is known to.

    ``warning``: what the node says of a pod that it cannot start.
    """
    if unschedulable := _unschedulable(pod):
        return unschedulable
    if warning:
        return _not_started(pod, {"message": warning})
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        state = status.get("state") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or (status.get("lastState") or {}).get("terminated") or {}
        reason = waiting.get("reason")
        if reason in _PULL_FAILURES:
            return _finding("False", "ImagePullFailed", waiting)
        if status["name"] == QUEUE_PROXY or "running" in state:
            continue
        if ended.get("reason") == "OOMKilled":
            return _finding("False", "OutOfMemory", {"message": f"Container {status['name']}."})
        if reason in _START_FAILURES:
            return _not_started(pod, waiting)
        # A server that ends is no server, whatever its exit code: MLServer ends with 0 where it cannot load the model.
        if ended:
            said = f"Container {status['name']} ended with exit code {ended.get('exitCode')}."
            return _finding(
                "False", "ServerCrashed", {"message": said}, name=name, namespace=pod["metadata"]["namespace"]
            )
    return None


def sentence(code: str, **words: str) -> str:
    """The catalogue's sentence and hint, as a message begins."""
    text = condition_message(code, **words)
    return text[:1].upper() + text[1:]


def _loader_status(pod: JsonObject) -> JsonObject:
    statuses = (pod.get("status") or {}).get("initContainerStatuses") or []
    found: JsonObject = next((status for status in statuses if status["name"] == LOADER_CONTAINER), {})
    return found


def _unschedulable(pod: JsonObject) -> Finding | None:
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _finding("False", "Unschedulable", condition)
    return None


def _not_started(pod: JsonObject, said: Mapping[str, object]) -> Finding:
    """What the kubelet says of a pod that it cannot start: that something is missing, or something else."""
    missing = _MISSING.search(str(said.get("message") or ""))
    if missing is None:
        return _finding("Unknown", "NotStarted", said)
    reason, what = _NOT_FOUND[missing[1]]
    return Finding("False", reason, sentence(reason, **{what: missing[2]}, namespace=pod["metadata"]["namespace"]))


def _running(line: JsonObject, before: JsonObject | None, of: Mapping[str, str]) -> Finding:
    event = line.get("event")
    if event in ("retry", "failed"):
        return _said(line, "Unknown" if event == "retry" else "False", of)
    if event in ("plan", "progress"):
        return Finding("Unknown", "Loading", _progress(line))
    # It has just started: what ended the run before is still the best that is known.
    return _ended(before, of) if before else Finding("Unknown", "Loading", sentence("Loading"))


def _ended(terminated: JsonObject, of: Mapping[str, str]) -> Finding:
    words = loader.words(terminated.get("message"))
    if terminated.get("exitCode") == 0:
        return Finding("True", "Loaded", _loaded(words))
    if terminated.get("reason") == "OOMKilled":
        return _finding("False", "OutOfMemory", {"message": f"Container {LOADER_CONTAINER}."})
    if words.get("code") == "Interrupted":
        return _said(words, "Unknown", of)
    if "code" in words:
        return _said(words, "False", of)
    said = f"Exit code {terminated.get('exitCode')}."
    return _finding("False", "LoaderCrashed", {"message": said}, **of)


def _said(words: Mapping[str, object], status: str, of: Mapping[str, str]) -> Finding:
    """The loader's own code, sentence and hint."""
    code, message = str(words.get("code")), str(words.get("message") or "")
    reason = CATALOGUE.get(code)
    if reason is None or reason.kind is not Kind.CONDITION:
        return _finding(status, "LoaderCrashed", {"message": message}, **of)
    if not message:
        return Finding(status, code, sentence(code))
    return Finding(status, code, f"{_stopped(message)} {words.get('hint') or reason.hint}".strip()[:LONGEST])


def _finding(status: str, code: str, said: Mapping[str, object], **words: str) -> Finding:
    """A code of ours, with what the kubelet or the scheduler says about it."""
    detail = " ".join(str(said.get("message") or "").split())[:LONGEST]
    return Finding(status, code, f"{sentence(code, **words)} {detail}".strip())


def _stopped(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _progress(line: JsonObject) -> str:
    share = loader.share(line)
    if share is None:
        return sentence("Loading")
    done, total = share
    return f"Downloaded {loader.size_text(done)} of {loader.size_text(total)} ({100 * done // total} %)."


def _loaded(words: JsonObject) -> str:
    brought = loader.loaded_text(words)
    told = f"Downloaded {brought}." if brought else sentence("Loaded")
    return f"{told} {loader.code_text(words)}".rstrip()
