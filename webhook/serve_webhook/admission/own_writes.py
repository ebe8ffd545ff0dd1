"""The server's own writes, held against the Deployments that they come from. Pure.

Kubernetes' policies bound them too (``manifests/base/15-server-bounds.yaml``), but see one object at a time: neither
that there is a served Deployment which becomes it, nor that its pods are those that the Deployment says. Replicas know.
"""

from collections.abc import Callable, Mapping
from typing import Any

from serve_core.admission.decide import render_stored
from serve_core.base.json import JsonObject, value_at
from serve_core.base.ownership import controller, identity, owns
from serve_core.context.cluster import ClusterContext
from serve_webhook.admission.review import AdmissionRequest, AdmissionResponse, UnseenError

_OF_POD = (
    "serviceAccountName", "volumes", "hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "runtimeClassName",
    "imagePullSecrets",
)  # fmt: skip
_OF_CONTAINER = ("image", "command", "args", "workingDir", "env", "envFrom", "volumeMounts")
"""What Knative's defaults leave alone."""


def judge(
    request: AdmissionRequest, context: ClusterContext, deployment: Callable[[str, str], JsonObject | None]
) -> AdmissionResponse:
    """Let through what a served Deployment becomes. ``deployment`` finds one by namespace and name.

    Raises :class:`UnseenError` for anything else: the replica that writes may have seen a change before this one.
    """
    if (new := request.new) is None:
        return AdmissionResponse()
    owner = controller(new) or {}
    found = deployment(request.namespace, str(owner.get("name")))
    if found is None or not owns(found, new):
        raise UnseenError
    wanted = {identity(each): each for each in render_stored(found, context).objects}.get(identity(new))
    if wanted is None or _pods(wanted) != _pods(new):
        raise UnseenError
    return AdmissionResponse()


def _pods(manifest: JsonObject) -> JsonObject:
    """What the pods of a Knative Service run, as whom, and with what; of another object, nothing."""
    pod = value_at(manifest, "spec", "template", "spec")
    if not isinstance(pod, dict):
        return {}
    containers = {
        key: [_picked(each, _OF_CONTAINER) for each in pod.get(key) or []] for key in ("initContainers", "containers")
    }
    return _picked(pod, _OF_POD) | containers


def _picked(owner: Any, keys: tuple[str, ...]) -> JsonObject:
    return {key: owner[key] for key in keys if owner.get(key)} if isinstance(owner, Mapping) else {}
