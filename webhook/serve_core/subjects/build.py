"""Makes the subject of an object."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from serve_core.api import annotations
from serve_core.base import bounds
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject, object_at
from serve_core.context.cluster import ClusterContext
from serve_core.policy.subject import Subject, Use
from serve_core.subjects.deployments import deployment_parts
from serve_core.subjects.exposure import in_mesh, node_ports, past_sidecar
from serve_core.subjects.knative import domain_mapping_parts, revision_parts, route_parts, service_parts
from serve_core.subjects.kserve import inference_service_parts, serving_runtime_parts, trained_model_parts
from serve_core.subjects.pods import has_loader, pod_parts
from serve_core.subjects.shapes import strings
from serve_core.workload import loader_stores

_MAKERS = {
    ("apps", "Deployment"): deployment_parts,
    ("serving.knative.dev", "Service"): service_parts,
    ("serving.knative.dev", "Configuration"): service_parts,
    ("serving.knative.dev", "Revision"): revision_parts,
    ("serving.knative.dev", "Route"): route_parts,
    ("serving.knative.dev", "DomainMapping"): domain_mapping_parts,
    ("serving.kserve.io", "InferenceService"): inference_service_parts,
    ("serving.kserve.io", "ServingRuntime"): serving_runtime_parts,
    ("serving.kserve.io", "TrainedModel"): trained_model_parts,
    ("v1", "Pod"): pod_parts,
}

_IS_SERVED: Mapping[str, Callable[[JsonObject, ClusterContext], bool]] = {
    "Deployment": lambda document, _: annotations.MODEL in object_at(document, "metadata", "annotations"),
    "Pod": lambda document, context: (
        DEPLOYMENT_LABEL in object_at(document, "metadata", "labels")
        or has_loader(object_at(document, "spec"), context)
    ),
}
"""For kinds of which policies judge only some objects: whether an object is one of them."""


def subject_of(
    document: JsonObject,
    context: ClusterContext,
    *,
    namespace: str = "",
    namespace_labels: Mapping[str, str] | None = None,
    former: JsonObject | None = None,
) -> Subject | None:
    """The subject of an object, or ``None`` if policies do not judge it.

    ``namespace`` is that of the request, for an object without one. ``former`` is the object before the request.
    """
    if not isinstance(document.get("metadata"), dict):
        return None
    group = str(document.get("apiVersion")).partition("/")[0]
    kind = document.get("kind")
    maker, is_served = _MAKERS.get((group, str(kind))), _IS_SERVED.get(str(kind))
    if maker is None or (is_served is not None and not is_served(document, context)):
        return None
    metadata = document["metadata"]
    namespace = str(metadata.get("namespace") or namespace)
    name = str(metadata.get("name") or metadata.get("generateName") or "")
    bare = Subject(
        kind=kind,  # type: ignore[arg-type]  # the table of makers has no other
        namespace=namespace,
        name=name,
        # Of a generated name only the prefix is known yet, and no exception applies to a prefix.
        workload=str(metadata.get("name") or ""),
        document=_without_state(document),
        labels=object_at(metadata, "labels"),
        former_labels=object_at(former, "metadata", "labels"),
        namespace_labels=dict(namespace_labels or {}),
        stores=loader_stores.known(context, namespace, namespace_labels or {}),
    )
    if fault := bounds.fault(document):
        return replace(bare, document={}, fault=fault)
    made = maker(document, context)
    for what in ("origins", "images", "containers", "secrets"):
        if len(made.get(what, ())) > bounds.MAX_USES:
            return replace(bare, document={}, fault=bounds.too_many(what))
    if "mesh" in made:
        templates, at = made["mesh"]
        made["mesh"] = in_mesh([template for template, _ in templates], at, namespace, context)
        made["past_sidecar"] = past_sidecar(templates, context, injected=kind == "Pod")
        if kind != "Pod" and (opened := next(node_ports(templates), "")):
            made["visibility"] = Use("public", opened)
    return replace(bare, labels=strings(bare.labels), **made)


def _without_state(document: JsonObject) -> JsonObject:
    """The object without status and managed fields."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "managedFields"}
    return {key: value for key, value in document.items() if key != "status"} | {"metadata": metadata}
