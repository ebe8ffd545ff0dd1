"""What is kept of the objects that are watched: what is read of them, and no more. Pure.

Anybody can make thousands of Services, and Deployments with our label; memory is for what is served.
"""

from serve_core.api.annotations import MODEL
from serve_core.base.bounded_reading import essential
from serve_core.base.constants import DEPLOYMENT_LABEL, GROUP
from serve_core.base.json import JsonObject, value_at
from serve_core.base.ownership import controller
from serve_core.context.services import named_ports, selector

_OF_A_STATUS = ("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "conditions")
_NOT_READ = ("managedFields", "selfLink")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Annotation with a copy of everything."""
_MOST_CONDITIONS = 30


def deployment(manifest: JsonObject) -> JsonObject:
    """All of a served Deployment but what nobody reads; of one that is served no more, what is left to be undone."""
    metadata, notes = manifest["metadata"], manifest["metadata"].get("annotations") or {}
    status = manifest.get("status") if isinstance(manifest.get("status"), dict) else {}
    kept = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "status": _status(status or {})}
    if MODEL in notes:
        others = {key: value for key, value in notes.items() if key != _APPLIED}
        whole = {key: value for key, value in metadata.items() if key not in _NOT_READ}
        return kept | {"metadata": whole | {"annotations": others}, "spec": manifest["spec"]}
    ours = {key: value for key, value in notes.items() if key.startswith(f"{GROUP}/")}
    generation = {"generation": metadata["generation"]} if "generation" in metadata else {}
    replicas = value_at(manifest, "spec", "replicas")
    return kept | {
        "metadata": {**essential(metadata), **generation, "annotations": ours},
        "spec": {} if replicas is None else {"replicas": replicas},
    }


def _status(status: JsonObject) -> JsonObject:
    kept = {key: status[key] for key in _OF_A_STATUS if key in status}
    if isinstance(conditions := kept.get("conditions"), list):
        kept["conditions"] = [each for each in conditions if isinstance(each, dict)][:_MOST_CONDITIONS]
    elif "conditions" in kept:
        del kept["conditions"]
    return kept


def service(manifest: JsonObject) -> JsonObject:
    """Of a Service what :func:`serve_core.context.services.read` reads."""
    metadata = essential(manifest["metadata"])
    label = value_at(metadata, "labels", DEPLOYMENT_LABEL)
    metadata["labels"] = {} if label is None else {DEPLOYMENT_LABEL: label}
    if (owner := controller(manifest)) is not None:
        kept = {key: owner[key] for key in ("kind", "name", "uid") if isinstance(owner.get(key), str)}
        metadata["ownerReferences"] = [{"controller": True, **kept}]
    ports = [{"targetPort": name} for name in named_ports(manifest)]
    return {"metadata": metadata, "spec": {"selector": selector(manifest), "ports": ports}}
