"""Why a pod does not serve, from its status and its loader's termination message. Pure.

Knative ignores init containers: it would report a failed download only as an exceeded deadline.
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
from serve_core.syntax import image_reference
from serve_core.workload import model_image
from serve_kube.conditions import find_condition
from serve_webhook.cache.trimming import INJECTED_ANNOTATION, POD_READY, REVISION_LABEL, SCHEDULED, TEMPLATE_LABEL

QUEUE_PROXY = "queue-proxy"
MAX_DETAIL = 800
"""Characters of a pod's own text in a message."""

_UNCUT_LENGTH = 63 - len("-deployment") - 32
"""Characters of a revision's name that are in its Deployment's name (knative.dev/pkg, kmeta.ChildName)."""
_PULL_FAILURES = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_START_FAILURES = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_STARTING = frozenset({None, "PodInitializing", "ContainerCreating"})
_NOT_FOUND = {"secret": ("SecretNotFound", "secret"), "configmap": ("ConfigMapNotFound", "config_map")}
_MISSING = re.compile(r'(secret|configmap) "([^"]+)" not found')
"""The kubelet's sentence about a volume or a variable. It has no reason code for this: the text is all there is."""
_MOUNT_FAILURE = "ImageVolumeMountFailed"
"""In the message of a container runtime that cannot mount an image (k8s.io/cri-api, ``pkg/errors``)."""
_SIDECAR = "istio-proxy"
_REDIRECT = "istio-init"
"""Redirects a pod's traffic. Istio puts it first if the sidecar is native, and last if the sidecar is not."""
_ON_NODE = re.compile(r'for volume "model" : rpc error: code = \w{1,32} desc = ([A-Za-z]{1,32}): (.*)', re.DOTALL)
"""The kubelet's sentence about a volume that the node cache does not mount: a code of the loader, and its message."""


@dataclass(frozen=True)
class PodFinding:
    """``status``: True, False or Unknown, as in a condition; ``code``: its reason."""

    status: str
    code: str
    message: str


def of_revision(pods: Sequence[JsonObject], revision: str) -> list[JsonObject]:
    """The pods of a Knative revision that are not being deleted, oldest first."""
    return [pod for pod in _remaining(pods) if _label(pod, REVISION_LABEL) == revision and _is_of(pod, revision)]


def of_template(pods: Sequence[JsonObject]) -> list[JsonObject]:
    """The pods of a Deployment's present template that are not being deleted, oldest first.

    The present template is that of the newest pod: during a rollout, there are pods of the earlier one as well.
    """
    own = [pod for pod in _remaining(pods) if _label(pod, REVISION_LABEL) is None and _is_of(pod)]
    return [pod for pod in own if _label(pod, TEMPLATE_LABEL) == _label(own[-1], TEMPLATE_LABEL)]


def _is_of(pod: JsonObject, revision: str = "") -> bool:
    """Whether its controller is a ReplicaSet of the revision's Deployment, or of the Deployment in its label.

    A pod's creator chooses its labels, and its controller too. But Kubernetes deletes a pod whose ReplicaSet does not
    exist, and counts it as one of the ReplicaSet's replicas otherwise.
    """
    owner, template = controller(pod) or {}, _label(pod, TEMPLATE_LABEL)
    if (owner.get("apiVersion"), owner.get("kind")) != ("apps/v1", "ReplicaSet") or not template:
        return False
    name = str(owner.get("name"))
    if not revision:
        return name == f"{_label(pod, DEPLOYMENT_LABEL)}-{template}"
    return name.startswith(revision[:_UNCUT_LENGTH]) and name.endswith(f"-deployment-{template}")


def _remaining(pods: Sequence[JsonObject]) -> list[JsonObject]:
    stay = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return sorted(stay, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))


def _label(pod: JsonObject, name: str) -> str | None:
    found: str | None = (pod["metadata"].get("labels") or {}).get(name)
    return found


def loader_is_running(pod: JsonObject) -> bool:
    return "running" in (_loader_status(pod).get("state") or {})


def loader_result(pod: JsonObject) -> tuple[str, float] | None:
    """Code and seconds of the loader's termination message; ``None`` where one is missing."""
    final = _final_output(pod)
    return (final.code, final.seconds) if final.code and final.seconds is not None else None


def model_size(pod: JsonObject, output: LoaderOutput) -> int | None:
    """Bytes of the model, once the loader reports them. ``output``: the last one of a running loader."""
    final = _final_output(pod)
    share = loader_protocol.share(output)
    return (final.size if final.code == "Loaded" else share[1] if share else None) or None


def _final_output(pod: JsonObject) -> LoaderOutput:
    return loader_protocol.parse(value_at(_loader_status(pod), "state", "terminated", "message"))


def last_output(log: str) -> LoaderOutput:
    """The last line of a log that the loader wrote."""
    found = (loader_protocol.parse(line) for line in reversed(log.splitlines()))
    return next((output for output in found if output.event), loader_protocol.NOTHING)


def is_ready(pod: JsonObject) -> bool:
    return bool(find_condition(pod, POD_READY).get("status") == "True")


def waiting_since(pod: JsonObject) -> datetime | None:
    """When the pod was scheduled, if none of its containers has started; otherwise ``None``."""
    status = pod.get("status") or {}
    started = any(
        (state.get("state") or {}).keys() - {"waiting"}
        or state.get("lastState")
        or value_at(state, "state", "waiting", "reason") not in _STARTING
        for key in ("initContainerStatuses", "containerStatuses")
        for state in status.get(key) or []
    )
    scheduled = find_condition(pod, SCHEDULED)
    if scheduled.get("status") == "True" and not started:
        with suppress(ValueError):
            since = datetime.fromisoformat(scheduled["lastTransitionTime"])
            return since if since.tzinfo else None
    return None


def newest_event(events: Iterable[JsonObject]) -> JsonObject:
    """The Event that was seen last; empty if there is none."""
    return max(events, key=_last_seen, default={})


def warning(event: JsonObject) -> str:
    """The text of a pod's newest Event if that is a warning; pulling an image is not."""
    return str(event.get("note") or "")[:MAX_DETAIL] if event.get("type") == "Warning" else ""


def _last_seen(event: JsonObject) -> str:
    series = value_at(event, "series", "lastObservedTime")
    return str(series or event.get("deprecatedLastTimestamp") or event.get("eventTime") or "")


def loader_finding(pod: JsonObject, output: LoaderOutput, name: str, warning: str = "") -> PodFinding:
    """The state of a pod's loader.

    ``output``: the loader's last one; ``name``: the Deployment's; ``warning``: the node's about a pod that does not
    start.
    """
    found = _loader_finding(pod, output, name, warning)
    if found.code in ("Unreachable", "Stalled") and _has_late_sidecar(pod):
        return PodFinding(
            found.status, "SidecarStartsLater", f"{sentence('SidecarStartsLater')} {found.message}"[:MAX_DETAIL]
        )
    return found


def _has_late_sidecar(pod: JsonObject) -> bool:
    """Whether Istio redirects the loader's traffic to a sidecar that starts only after the loader has ended."""
    if INJECTED_ANNOTATION not in (pod["metadata"].get("annotations") or {}):
        return False
    containers = (pod.get("spec") or {}).get("initContainers") or []
    for container in containers:
        if container["name"] == _SIDECAR:
            return False
        if container["name"] == LOADER_CONTAINER:
            as_sidecar = (container.get("securityContext") or {}).get("runAsUser") == PROXY_UID
            return not as_sidecar and containers[-1]["name"] != _REDIRECT
    return False


def _loader_finding(pod: JsonObject, output: LoaderOutput, name: str, warning: str) -> PodFinding:
    names = {"name": name, "namespace": pod["metadata"]["namespace"]}
    status = _loader_status(pod)
    state, before = status.get("state") or {}, (status.get("lastState") or {}).get("terminated")
    if terminated := state.get("terminated"):
        return _from_exit(terminated, names)
    if "running" in state:
        return _from_running(output, before, names)
    if unschedulable := _unschedulable(pod):
        return unschedulable
    waiting = state.get("waiting") or {}
    if (reason := waiting.get("reason")) in _PULL_FAILURES:
        return _finding("False", "ImagePullFailed", waiting)
    if reason in _START_FAILURES:
        return _not_started(pod, waiting)
    if before:
        return _from_exit(before, names)
    if found := _ON_NODE.search(warning):
        return _from_cache(found[1], found[2])
    if warning:
        return _not_started(pod, {"message": warning})
    if not status and _has_started(pod):
        return PodFinding("True", "Loaded", sentence("Loaded"))  # from the node cache: before any container
    return PodFinding("Unknown", "Loading", "Waiting for the pod's containers to start.")


def _has_started(pod: JsonObject) -> bool:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return any((status.get("state") or {}).keys() - {"waiting"} or status.get("lastState") for status in statuses)


def _from_cache(code: str, message: str) -> PodFinding:
    """The node cache's reason why it does not mount a model."""
    if code not in loader_protocol.CODES:
        return PodFinding("Unknown", "Loading", f"{sentence('Loading')} {message}"[:MAX_DETAIL])
    return PodFinding("False", code, message[:MAX_DETAIL])


def image_finding(pod: JsonObject, server: str, image: str, warning: str = "") -> PodFinding:
    """The state of the model in a pod whose model is an image on the node.

    ``server``: the container that mounts it, which the kubelet creates once it has the image; ``image``: its reference.
    """
    if unschedulable := _unschedulable(pod):
        return unschedulable
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    status: JsonObject = next((each for each in statuses if each["name"] == server), {})
    state = status.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason"), str(waiting.get("message") or "")
    if reason in _PULL_FAILURES:
        is_model = image_reference.repository(image) in message
        return _finding("False", "ModelNotPulled" if is_model else "ImagePullFailed", waiting)
    if reason in _START_FAILURES:
        if _MOUNT_FAILURE in message:
            return _finding("False", "ModelNotMounted", waiting, folder=model_image.FOLDER)
        return _not_started(pod, waiting)
    if state.keys() - {"waiting"} or status.get("lastState"):
        return PodFinding("True", "ModelPulled", sentence("ModelPulled"))
    if warning:
        return _not_started(pod, {"message": warning})
    return PodFinding("Unknown", "PullingModel", sentence("PullingModel"))


def server_finding(pod: JsonObject, name: str, warning: str = "") -> PodFinding | None:
    """Why a pod's model server does not serve; ``None`` if no reason is known.

    ``warning``: the node's about a pod that does not start.
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
        # A server must not end, whatever its exit code: MLServer ends with 0 where it cannot load the model.
        if ended:
            detail = f"Container {status['name']} ended with exit code {ended.get('exitCode')}."
            return _finding(
                "False", "ServerCrashed", {"message": detail}, name=name, namespace=pod["metadata"]["namespace"]
            )
    return None


def sentence(code: str, **values: str) -> str:
    """The catalogue's sentence and hint, as the beginning of a message."""
    text = condition_message(code, **values)
    return text[:1].upper() + text[1:]


def _loader_status(pod: JsonObject) -> JsonObject:
    statuses = (pod.get("status") or {}).get("initContainerStatuses") or []
    found: JsonObject = next((status for status in statuses if status["name"] == LOADER_CONTAINER), {})
    return found


def _unschedulable(pod: JsonObject) -> PodFinding | None:
    scheduled = find_condition(pod, SCHEDULED)
    return _finding("False", "Unschedulable", scheduled) if scheduled.get("reason") == "Unschedulable" else None


def _not_started(pod: JsonObject, state: Mapping[str, object]) -> PodFinding:
    """Why the kubelet does not start a pod: a missing object, or another reason."""
    missing = _MISSING.search(str(state.get("message") or ""))
    if missing is None:
        return _finding("Unknown", "NotStarted", state)
    reason, what = _NOT_FOUND[missing[1]]
    return PodFinding("False", reason, sentence(reason, **{what: missing[2]}, namespace=pod["metadata"]["namespace"]))


def _from_running(output: LoaderOutput, before: JsonObject | None, names: Mapping[str, str]) -> PodFinding:
    if output.event in ("retry", "failed"):
        return _from_output(output, "Unknown" if output.event == "retry" else "False", names)
    if output.event in ("plan", "progress"):
        return PodFinding("Unknown", "Loading", _progress(output))
    # It has just started: the result of the run before is the newest information.
    return _from_exit(before, names) if before else PodFinding("Unknown", "Loading", sentence("Loading"))


def _from_exit(terminated: JsonObject, names: Mapping[str, str]) -> PodFinding:
    output = loader_protocol.parse(terminated.get("message"))
    if terminated.get("exitCode") == 0:
        return PodFinding("True", "Loaded", _loaded(output))
    if terminated.get("reason") == "OOMKilled":
        return _finding("False", "OutOfMemory", {"message": f"Container {LOADER_CONTAINER}."})
    if output.code == "Interrupted":
        return _from_output(output, "Unknown", names)
    if output.code:
        return _from_output(output, "False", names)
    detail = f"Exit code {terminated.get('exitCode')}."
    return _finding("False", "LoaderCrashed", {"message": detail}, **names)


def _from_output(output: LoaderOutput, status: str, names: Mapping[str, str]) -> PodFinding:
    """The loader's own code, sentence and hint."""
    reason = CATALOGUE.get(output.code)
    if reason is None or output.code == "Loaded":
        return _finding(status, "LoaderCrashed", {"message": output.message}, **names)
    if not output.message:
        return PodFinding(status, output.code, sentence(output.code))
    return PodFinding(
        status, output.code, f"{_with_period(output.message)} {output.hint or reason.hint}".strip()[:MAX_DETAIL]
    )


def _finding(status: str, code: str, state: Mapping[str, object], **values: str) -> PodFinding:
    """The catalogue's sentence, with the message of the kubelet or the scheduler."""
    detail = " ".join(str(state.get("message") or "").split())[:MAX_DETAIL]
    return PodFinding(status, code, f"{sentence(code, **values)} {detail}".strip())


def _with_period(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _progress(output: LoaderOutput) -> str:
    share = loader_protocol.share(output)
    if share is None:
        return sentence("Loading")
    done, total = share
    return (
        f"Downloaded {loader_protocol.size_text(done)} of {loader_protocol.size_text(total)} ({100 * done // total} %)."
    )


def _loaded(output: LoaderOutput) -> str:
    details = loader_protocol.loaded_text(output)
    text = f"Downloaded {details}." if details else sentence("Loaded")
    return " ".join(filter(None, (text, loader_protocol.skipped_text(output), loader_protocol.code_text(output))))
