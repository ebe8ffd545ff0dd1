"""Pods with the loader, and pods of served Deployments."""

from typing import Any

from serve_core.base.constants import DEPLOYMENT_LABEL, PREFETCH_LABEL
from serve_core.base.json import JsonObject, list_of, object_at, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.subjects.origins import cached, is_called_loader, loader_names
from serve_core.subjects.pod_spec import pod_spec_parts
from serve_core.subjects.servers import formats_of
from serve_core.subjects.shapes import Parts, containers, strings

_OWNER_LABELS = (
    DEPLOYMENT_LABEL,
    *(f"serving.knative.dev/{kind}" for kind in ("service", "configuration", "revision")),
    PREFETCH_LABEL,
)


def pod_parts(document: JsonObject, context: ClusterContext) -> Parts:
    """A pod: only what its containers and volumes show."""
    spec = object_at(document, "spec")
    made = pod_spec_parts(_without_sidecars(spec, context), "spec", context, whole=spec)
    made["formats"] = tuple(formats_of({}, made["origins"]))
    made["mesh"] = ([(document, "")], "metadata")
    return made | {"workload": workload_of(document["metadata"])}


def workload_of(metadata: JsonObject) -> str:
    """The outermost object that the labels of a pod or a Revision name, or its own name."""
    labels = strings(metadata.get("labels"))
    return next((labels[key] for key in _OWNER_LABELS if labels.get(key)), str(metadata.get("name") or ""))


def _without_sidecars(pod: JsonObject, context: ClusterContext) -> JsonObject:
    """The pod without the containers that the platform adds, recognized by their images: anyone can use a name."""

    def own(key: str) -> list[Any]:
        return [
            each if str(value_at(each, "image")) not in context.sidecar_images else None
            for each in list_of(pod.get(key))
        ]

    return {**pod, "containers": own("containers"), "initContainers": own("initContainers")}


def has_loader(pod: JsonObject, context: ClusterContext) -> bool:
    """Whether a pod's spec has a container with the loader's name or image, or a volume of the node cache."""
    names = loader_names(context)
    return bool(cached(pod, "")) or any(is_called_loader(container, names) for container, _, _ in containers(pod, ""))
