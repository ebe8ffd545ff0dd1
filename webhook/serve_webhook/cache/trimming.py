"""The parts of watched objects that are kept: what the server reads, and nothing else. Pure.

Any user can create thousands of Services, and of Deployments with our label. Memory is for what is served.
"""

from serve_core.api.annotations import DEPLOYMENT, HANDOVER, MODE, MODEL
from serve_core.base.bounded_reading import essential
from serve_core.base.constants import DEPLOYMENT_LABEL, GROUP, PREFIX
from serve_core.base.json import JsonObject, list_of, object_at, objects_in, value_at
from serve_core.base.ownership import controller
from serve_core.context.services import has_number, named_ports, selector

REVISION_LABEL = "serving.knative.dev/revision"
TEMPLATE_LABEL = "pod-template-hash"
"""Label of a ReplicaSet's pods: it differs between the templates of one Deployment."""
INJECTED_ANNOTATION = "sidecar.istio.io/status"
"""On every pod that Istio's injector has changed."""
_POD_METADATA = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")
_POD_LABELS = (DEPLOYMENT_LABEL, REVISION_LABEL, TEMPLATE_LABEL)
_REFERENCE_FIELDS = ("apiVersion", "kind", "name", "uid")
_CONDITION_FIELDS = ("type", "status", "reason", "message", "lastTransitionTime")
SCHEDULED = "PodScheduled"
POD_READY = "Ready"
_MAX_CONTAINERS = 50
"""Containers of one pod that are kept."""
_MAX_TEXT = 4096
"""Characters, the kubelet's limit of a termination message."""
_STATUS_FIELDS = (
    "observedGeneration",
    "replicas",
    "updatedReplicas",
    "readyReplicas",
    "availableReplicas",
)
_UNUSED_METADATA = ("managedFields", "selfLink")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Annotation with a copy of the whole object."""
_MAX_CONDITIONS = 30


def deployment(manifest: JsonObject) -> JsonObject:
    """A served Deployment without unused parts; of one that is no longer served, what must be undone.

    The status of a parked Deployment is not read: its controller changes it many times, and its pods are Knative's.
    """
    metadata, notes = manifest["metadata"], manifest["metadata"].get("annotations") or {}
    is_parked = MODEL in notes and HANDOVER not in notes and notes.get(MODE) != DEPLOYMENT
    status = _status(object_at(manifest.get("status")), only_ours=is_parked)
    kept = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "status": status}
    if MODEL in notes:
        others = {key: value for key, value in notes.items() if key != _LAST_APPLIED}
        whole = {key: value for key, value in metadata.items() if key not in _UNUSED_METADATA}
        return kept | {"metadata": whole | {"annotations": others}, "spec": manifest["spec"]}
    ours = {key: value for key, value in notes.items() if key.startswith(f"{GROUP}/")}
    generation = {"generation": metadata["generation"]} if "generation" in metadata else {}
    replicas = value_at(manifest, "spec", "replicas")
    return kept | {
        "metadata": {**essential(metadata), **generation, "annotations": ours},
        "spec": {} if replicas is None else {"replicas": replicas},
    }


def _status(status: JsonObject, *, only_ours: bool) -> JsonObject:
    """``only_ours``: without what the Deployment's controller writes."""
    kept = {} if only_ours else {key: status[key] for key in _STATUS_FIELDS if key in status}
    if isinstance(conditions := status.get("conditions"), list):
        found = [each for each in conditions if isinstance(each, dict)]
        ours = [each for each in found if str(each.get("type")).startswith(PREFIX)] if only_ours else found
        kept["conditions"] = ours[:_MAX_CONDITIONS]
    return kept


def service(manifest: JsonObject) -> JsonObject:
    """The parts of a Service that :func:`serve_core.context.services.read` reads."""
    metadata = essential(manifest["metadata"])
    label = value_at(metadata, "labels", DEPLOYMENT_LABEL)
    metadata["labels"] = {} if label is None else {DEPLOYMENT_LABEL: label}
    if (owner := controller(manifest)) is not None:
        kept = {key: owner[key] for key in ("kind", "name", "uid") if isinstance(owner.get(key), str)}
        metadata["ownerReferences"] = [{"controller": True, **kept}]
    ports: list[JsonObject] = [{"targetPort": name} for name in named_ports(manifest)]
    if ports and has_number(manifest):
        ports.append({})
    return {"metadata": metadata, "spec": {"selector": selector(manifest), "ports": ports}}


def pod(manifest: JsonObject) -> JsonObject:
    """The part of a pod that conditions are made of, with the types of Kubernetes' API and a bounded size.

    Served models may have many pods, and users who create pods choose their content.
    """
    metadata = manifest["metadata"]
    annotations = object_at(metadata.get("annotations"))
    labels = object_at(metadata.get("labels"))
    kept: JsonObject = {key: metadata[key] for key in _POD_METADATA if isinstance(metadata.get(key), str)}
    kept["labels"] = {key: labels[key] for key in _POD_LABELS if isinstance(labels.get(key), str)}
    if INJECTED_ANNOTATION in annotations:
        kept["annotations"] = {INJECTED_ANNOTATION: ""}
    if (owner := controller(manifest)) is not None:
        kept["ownerReferences"] = [{"controller": True} | {key: _text(owner.get(key)) for key in _REFERENCE_FIELDS}]
    spec, status = object_at(manifest.get("spec")), object_at(manifest.get("status"))
    return {
        "metadata": kept,
        "spec": {"initContainers": [_container(each) for each in _objects(spec.get("initContainers"))]},
        "status": {
            "conditions": [
                {key: _text(each.get(key)) for key in _CONDITION_FIELDS}
                for each in _objects(status.get("conditions"))
                if each.get("type") in (SCHEDULED, POD_READY)
            ],
            **{
                key: [_container_status(each) for each in _objects(status.get(key))]
                for key in ("initContainerStatuses", "containerStatuses")
            },
        },
    }


def _container(container: JsonObject) -> JsonObject:
    user = object_at(container.get("securityContext")).get("runAsUser")
    uid = user if isinstance(user, int) else None
    return {"name": _text(container.get("name")), "securityContext": {"runAsUser": uid}}


def _container_status(status: JsonObject) -> JsonObject:
    return {
        "name": _text(status.get("name")),
        "state": _container_state(status.get("state")),
        "lastState": _container_state(status.get("lastState")),
    }


def _container_state(state: object) -> JsonObject:
    """The present state of a container, if it has one."""
    for kind, found in object_at(state).items():
        if kind in ("running", "waiting", "terminated") and isinstance(found, dict):
            texts = {key: _text(found.get(key)) for key in ("reason", "message") if found.get(key)}
            code = found.get("exitCode")
            return {kind: texts | ({"exitCode": code} if isinstance(code, int) else {})}
    return {}


def _objects(value: object) -> list[JsonObject]:
    return objects_in(list_of(value)[:_MAX_CONTAINERS])


def _text(value: object) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""
