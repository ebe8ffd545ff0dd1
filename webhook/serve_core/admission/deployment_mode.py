"""Mode ``deployment``: the objects beside a completed Deployment that runs its own pods, without Knative."""

from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject
from serve_core.base.reasons import diagnostic, quote
from serve_core.base.workload import Workload
from serve_core.knative.limits import DEFAULT_PORT
from serve_core.knative.name_conflict import service_name
from serve_core.syntax.object_name import is_service_name
from serve_core.workload.serving_port import ServingPort

CPU_TARGET = 80
"""Percent of the CPU request at which the autoscaler adds replicas, the default of ``kubectl autoscale``."""


def render(workload: Workload, spec: ServingSpec, serving: ServingPort, findings: Findings) -> list[JsonObject]:
    """The Service in front of a completed Deployment and, with ``scale``, its autoscaler."""
    name = workload.name
    if not is_service_name(name):
        findings.problems.append(diagnostic("InvalidServiceName", "metadata.name", name=quote(name)))
        return []
    own: JsonObject = {"name": name, "labels": {DEPLOYMENT_LABEL: name}}
    if workload.namespace:
        own["namespace"] = workload.namespace
    service: JsonObject = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": own | {"name": service_name(workload.manifest)},
        "spec": {
            "selector": dict(workload.match_labels),
            "ports": [{"name": "http", "port": 80, "targetPort": serving.number or DEFAULT_PORT}],
        },
    }
    if spec.scale is None:
        return [service]
    autoscaler: JsonObject = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": own,
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": spec.scale.minimum,
            "maxReplicas": spec.scale.maximum,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_TARGET}},
                }
            ],
        },
    }
    return [service, autoscaler]
