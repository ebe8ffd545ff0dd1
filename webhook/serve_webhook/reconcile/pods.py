"""What keeps a pod from serving, told from its status and its loader's last words. Pure.

Knative does not look at init containers, so that a failing download would show only as a deadline that passed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from serve_core.api import loader_protocol
from serve_core.api.loader_protocol import LoaderOutput
from serve_core.base.constants import DEPLOYMENT_LABEL, LOADER_CONTAINER
from serve_core.base.json import JsonObject, value_at
from serve_core.base.ownership import controller
from serve_core.base.reasons import CATALOGUE, condition_message
from serve_core.istio.injection import PROXY_UID

REVISION_LABEL = "serving.knative.dev/revision"
_TEMPLATE_LABEL = "pod-template-hash"
"""By which ReplicaSets, and so the templates of one Deployment, tell their pods apart."""
QUEUE_PROXY = "queue-proxy"
LONGEST = 800
"""Characters of what a pod says about itself."""

_UNCUT = 63 - len("-deployment") - 32
"""Characters that Knative keeps of a revision's name in that of its Deployment (knative.dev/pkg, kmeta.ChildName)."""
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
class PodFinding:
    """``status``: True, False or Unknown, as in a condition; ``code``: its reason."""

    status: str
    code: str
    message: str


def trim(pod: JsonObject) -> JsonObject:
    """The part of a pod that is read here, of the types that it has by Kubernetes' API, and of a bounded size: served
    models may have many pods, and whoever may create pods can write what theirs say."""
    metadata = pod["metadata"]
    annotations = _object(metadata.get("annotations"))
    labels = _object(metadata.get("labels"))
    kept: JsonObject = {key: metadata[key] for key in _METADATA if isinstance(metadata.get(key), str)}
    kept["labels"] = {key: labels[key] for key in _LABELS if isinstance(labels.get(key), str)}
    if _INJECTED in annotations:
        kept["annotations"] = {_INJECTED: ""}
    if (owner := controller(pod)) is not None:
        kept["ownerReferences"] = [{"controller": True} | {key: _text(owner.get(key)) for key in _REFERENCE}]
    spec, status = _object(pod.get("spec")), _object(pod.get("status"))
    return {
        "metadata": kept,
        "spec": {"initContainers": [_trim_container(each) for each in _objects(spec.get("initContainers"))]},
        "status": {
            "conditions": [
                {key: _text(each.get(key)) for key in _CONDITION}
                for each in _objects(status.get("conditions"))
                if each.get("type") == _SCHEDULED
            ],
            **{
                key: [_trim_status(each) for each in _objects(status.get(key))]
                for key in ("initContainerStatuses", "containerStatuses")
            },
        },
    }


_METADATA = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")
_LABELS = (DEPLOYMENT_LABEL, REVISION_LABEL, _TEMPLATE_LABEL)
_REFERENCE = ("apiVersion", "kind", "name", "uid")
_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
_SCHEDULED = "PodScheduled"
_MOST_CONTAINERS = 50
"""Containers of one pod that are looked at."""
_LONGEST_TEXT = 4096
"""Characters: the kubelet cuts a termination message there."""


def _trim_container(container: JsonObject) -> JsonObject:
    user = _object(container.get("securityContext")).get("runAsUser")
    uid = user if isinstance(user, int) else None
    return {"name": _text(container.get("name")), "securityContext": {"runAsUser": uid}}


def _trim_status(status: JsonObject) -> JsonObject:
    return {
        "name": _text(status.get("name")),
        "state": _trim_state(status.get("state")),
        "lastState": _trim_state(status.get("lastState")),
    }


def _trim_state(state: object) -> JsonObject:
    """The one of its states that a container is in, or none."""
    for kind, found in _object(state).items():
        if kind in ("running", "waiting", "terminated") and isinstance(found, dict):
            texts = {key: _text(found.get(key)) for key in ("reason", "message") if found.get(key)}
            code = found.get("exitCode")
            return {kind: texts | ({"exitCode": code} if isinstance(code, int) else {})}
    return {}


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[JsonObject]:
    found = value[:_MOST_CONTAINERS] if isinstance(value, list) else ()
    return [each for each in found if isinstance(each, dict)]


def _text(value: object) -> str:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else ""


def of_revision(pods: Sequence[JsonObject], revision: str) -> list[JsonObject]:
    """The pods of a Knative revision that are not on their way out, oldest first."""
    return [pod for pod in _that_stay(pods) if _label(pod, REVISION_LABEL) == revision and _is_of(pod, revision)]


def of_template(pods: Sequence[JsonObject]) -> list[JsonObject]:
    """The pods that a Deployment runs itself that are not on their way out, oldest first.

    Those of its present template: the newest pod's. During a rollout there are some of the one before as well.
    """
    own = [pod for pod in _that_stay(pods) if _label(pod, REVISION_LABEL) is None and _is_of(pod)]
    return [pod for pod in own if _label(pod, _TEMPLATE_LABEL) == _label(own[-1], _TEMPLATE_LABEL)]


def _is_of(pod: JsonObject, revision: str = "") -> bool:
    """Whether its controller is a ReplicaSet of the revision's Deployment, or of the Deployment that its label names.

    A label is written by whoever makes a pod. So is a controller, but Kubernetes deletes the pod where there is no such
    ReplicaSet, and counts it as one of its replicas where there is.
    """
    owner, template = controller(pod) or {}, _label(pod, _TEMPLATE_LABEL)
    if (owner.get("apiVersion"), owner.get("kind")) != ("apps/v1", "ReplicaSet") or not template:
        return False
    name = str(owner.get("name"))
    if not revision:
        return name == f"{_label(pod, DEPLOYMENT_LABEL)}-{template}"
    return name.startswith(revision[:_UNCUT]) and name.endswith(f"-deployment-{template}")


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
    said = _last_words(pod)
    return (said.code, said.seconds) if said.code and said.seconds is not None else None


def model_size(pod: JsonObject, line: LoaderOutput) -> int | None:
    """The bytes of the model, once its loader has said them. ``line``: the last of a running loader's log."""
    ended = _last_words(pod)
    share = loader_protocol.share(line)
    return (ended.size if ended.code == "Loaded" else share[1] if share else None) or None


def _last_words(pod: JsonObject) -> LoaderOutput:
    return loader_protocol.words(value_at(_loader_status(pod), "state", "terminated", "message"))


def last_line(log: str) -> LoaderOutput:
    """The last line of the loader's log that is the loader's."""
    found = (loader_protocol.words(line) for line in reversed(log.splitlines()))
    return next((said for said in found if said.event), loader_protocol.NOTHING)


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
        if condition["type"] == _SCHEDULED and condition["status"] == "True" and not started:
            with suppress(ValueError):
                since = datetime.fromisoformat(condition["lastTransitionTime"])
                return since if since.tzinfo else None
    return None


def newest(events: Iterable[JsonObject]) -> JsonObject:
    """Of a pod's Events the one that was seen last; empty where there is none."""
    return max(events, key=_last_seen, default={})


def warning(event: JsonObject) -> str:
    """What a pod's newest Event says, if it is a warning: an image that is being pulled is none."""
    return str(event.get("note") or "")[:LONGEST] if event.get("type") == "Warning" else ""


def _last_seen(event: JsonObject) -> str:
    series = value_at(event, "series", "lastObservedTime")
    return str(series or event.get("deprecatedLastTimestamp") or event.get("eventTime") or "")


def loading(pod: JsonObject, line: LoaderOutput, name: str, warning: str = "") -> PodFinding:
    """How far the loader of this pod is.

    ``line``: the last of its log; ``name``: the Deployment's; ``warning``: what the node says of a pod that it cannot
    start.
    """
    found = _loading(pod, line, name, warning)
    if found.code in ("Unreachable", "Stalled") and _has_late_sidecar(pod):
        return PodFinding(
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


def _loading(pod: JsonObject, line: LoaderOutput, name: str, warning: str) -> PodFinding:
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
    return PodFinding("Unknown", "Loading", "Waiting for the pod's containers to start.")


def serving(pod: JsonObject, name: str, warning: str = "") -> PodFinding | None:
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


def _unschedulable(pod: JsonObject) -> PodFinding | None:
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _finding("False", "Unschedulable", condition)
    return None


def _not_started(pod: JsonObject, said: Mapping[str, object]) -> PodFinding:
    """What the kubelet says of a pod that it cannot start: that something is missing, or something else."""
    missing = _MISSING.search(str(said.get("message") or ""))
    if missing is None:
        return _finding("Unknown", "NotStarted", said)
    reason, what = _NOT_FOUND[missing[1]]
    return PodFinding("False", reason, sentence(reason, **{what: missing[2]}, namespace=pod["metadata"]["namespace"]))


def _running(line: LoaderOutput, before: JsonObject | None, of: Mapping[str, str]) -> PodFinding:
    if line.event in ("retry", "failed"):
        return _said(line, "Unknown" if line.event == "retry" else "False", of)
    if line.event in ("plan", "progress"):
        return PodFinding("Unknown", "Loading", _progress(line))
    # It has just started: what ended the run before is still the best that is known.
    return _ended(before, of) if before else PodFinding("Unknown", "Loading", sentence("Loading"))


def _ended(terminated: JsonObject, of: Mapping[str, str]) -> PodFinding:
    words = loader_protocol.words(terminated.get("message"))
    if terminated.get("exitCode") == 0:
        return PodFinding("True", "Loaded", _loaded(words))
    if terminated.get("reason") == "OOMKilled":
        return _finding("False", "OutOfMemory", {"message": f"Container {LOADER_CONTAINER}."})
    if words.code == "Interrupted":
        return _said(words, "Unknown", of)
    if words.code:
        return _said(words, "False", of)
    said = f"Exit code {terminated.get('exitCode')}."
    return _finding("False", "LoaderCrashed", {"message": said}, **of)


def _said(words: LoaderOutput, status: str, of: Mapping[str, str]) -> PodFinding:
    """The loader's own code, sentence and hint."""
    reason = CATALOGUE.get(words.code)
    if reason is None or words.code == "Loaded":
        return _finding(status, "LoaderCrashed", {"message": words.message}, **of)
    if not words.message:
        return PodFinding(status, words.code, sentence(words.code))
    return PodFinding(status, words.code, f"{_stopped(words.message)} {words.hint or reason.hint}".strip()[:LONGEST])


def _finding(status: str, code: str, said: Mapping[str, object], **words: str) -> PodFinding:
    """A code of ours, with what the kubelet or the scheduler says about it."""
    detail = " ".join(str(said.get("message") or "").split())[:LONGEST]
    return PodFinding(status, code, f"{sentence(code, **words)} {detail}".strip())


def _stopped(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _progress(line: LoaderOutput) -> str:
    share = loader_protocol.share(line)
    if share is None:
        return sentence("Loading")
    done, total = share
    return (
        f"Downloaded {loader_protocol.size_text(done)} of {loader_protocol.size_text(total)} ({100 * done // total} %)."
    )


def _loaded(words: LoaderOutput) -> str:
    brought = loader_protocol.loaded_text(words)
    told = f"Downloaded {brought}." if brought else sentence("Loaded")
    return f"{told} {loader_protocol.code_text(words)}".rstrip()
