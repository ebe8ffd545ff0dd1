"""Compares the server's own writes with the Deployments that they are rendered from. Pure.

Kubernetes' admission policies limit them as well (``manifests/base/15-server-bounds.yaml``), but see only one object:
not whether a served Deployment exists for it, and not whether its pods are those of the Deployment.
"""

from collections.abc import Callable, Mapping
from typing import Any

from serve_core.admission.decide import render_stored
from serve_core.base.json import JsonObject, value_at
from serve_core.base.ownership import controller, identity, owns
from serve_core.context.cluster import ClusterContext
from serve_webhook.admission.review import AdmissionRequest, AdmissionResponse, UnseenError

_POD_FIELDS = (
    "serviceAccountName", "volumes", "hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "runtimeClassName",
    "imagePullSecrets",
)  # fmt: skip
_CONTAINER_FIELDS = ("image", "command", "args", "workingDir", "env", "envFrom", "volumeMounts")
"""Fields without defaults of Knative."""


def judge(
    request: AdmissionRequest, context: ClusterContext, deployment: Callable[[str, str], JsonObject | None]
) -> AdmissionResponse:
    """Allow what a served Deployment is rendered to. ``deployment`` finds one by namespace and name.

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
    """The relevant pod fields of a Knative Service; empty for another object."""
    pod = value_at(manifest, "spec", "template", "spec")
    if not isinstance(pod, dict):
        return {}
    containers = {
        key: [_picked(each, _CONTAINER_FIELDS) for each in pod.get(key) or []]
        for key in ("initContainers", "containers")
    }
    return _picked(pod, _POD_FIELDS) | containers


def _picked(owner: Any, keys: tuple[str, ...]) -> JsonObject:
    return {key: owner[key] for key in keys if owner.get(key)} if isinstance(owner, Mapping) else {}
