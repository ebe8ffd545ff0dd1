"""Knative's objects."""

from typing import Any

from serve_core.api.annotations import KNATIVE
from serve_core.base.json import JsonObject, object_at, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.policy.subject import ReplicaBounds, Use
from serve_core.subjects.exposure import visibility_of
from serve_core.subjects.pod_spec import pod_spec_parts
from serve_core.subjects.pods import workload_of
from serve_core.subjects.replicas import AUTOSCALING, annotated_number, knative_maximum, running_revisions
from serve_core.subjects.servers import formats_of, runtime_of
from serve_core.subjects.shapes import Parts, strings


def service_parts(document: JsonObject, context: ClusterContext) -> Parts:
    """A Knative Service or Configuration that a user makes."""
    template = object_at(document, "spec", "template")
    made = _made_by_user(template.get("spec"), "spec.template.spec", context)
    return made | knative_parts(document["metadata"], template, traffic=value_at(document, "spec", "traffic"))


def revision_parts(document: JsonObject, context: ClusterContext) -> Parts:
    """A Revision, which exceptions name by what it was made of."""
    made = _made_by_user(document.get("spec"), "spec", context)
    made |= knative_parts(document["metadata"], document, "")
    return made | {"workload": workload_of(document["metadata"])}


def _made_by_user(pod: Any, path: str, context: ClusterContext) -> Parts:
    """What a Knative object runs that no Deployment was completed for."""
    spec = pod if isinstance(pod, dict) else {}
    made = pod_spec_parts(spec, path, context)
    runtime = runtime_of(spec, path, context)
    if made["origins"] or runtime.based_on:
        made["formats"] = tuple(formats_of({}, made["origins"]))
        made["runtime"] = runtime
    made["mode"] = Use(KNATIVE, "kind")
    made["auth"] = Use("none", "kind")
    return made


def knative_parts(metadata: Any, template: JsonObject, path: str = "spec.template", traffic: Any = None) -> Parts:
    """Scale, visibility and mesh of a Knative object with its revision template at ``path``."""
    at = f"{path}.metadata".removeprefix(".")
    own = object_at(template, "metadata")
    notes = strings(own.get("annotations"))
    most = knative_maximum(notes, annotated_number(notes, "max-scale", "maxScale"))
    return {
        "scale": ReplicaBounds(
            annotated_number(notes, "min-scale", "minScale") or 0,
            most,
            (running_revisions(traffic) - 1) * (most or 0),
            maximum_path=f"{at}.annotations[{AUTOSCALING}max-scale]",
            minimum_path=f"{at}.annotations[{AUTOSCALING}min-scale]",
        ),
        "visibility": visibility_of(metadata),
        "mesh": ([(template, path)], at),
    }


def route_parts(document: JsonObject, _context: ClusterContext) -> Parts:
    """A Route that a user makes can lead to any Configuration or Revision, whatever their visibility."""
    return {"visibility": visibility_of(document["metadata"])}


def domain_mapping_parts(document: JsonObject, _context: ClusterContext) -> Parts:
    """A DomainMapping is public, whatever its labels and the visibility of what it leads to (Knative 1.23,
    ``pkg/reconciler/domainmapping/resources/ingress.go``)."""
    made: Parts = {"visibility": Use("public", "kind")}
    leads_to = value_at(document, "spec", "ref", "name")
    return made | ({"workload": str(leads_to)} if leads_to else {})
