"""``mode: deployment``: what stands beside a completed Deployment that is left running, without Knative."""

from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.knative.limits import DEFAULT_PORT
from serve_core.knative.name_conflict import service_name
from serve_core.syntax.object_name import is_service_name
from serve_core.workload.model_server import server_container

CPU_TARGET = 80
"""Percent of the CPU request at which the autoscaler adds replicas, as ``kubectl autoscale`` has it."""


def beside(deployment: JsonObject, spec: ServingSpec) -> tuple[tuple[JsonObject, ...], tuple[Diagnostic, ...]]:
    """The Service in front of a completed Deployment and, where ``scale`` is given, its autoscaler."""
    metadata = deployment["metadata"]
    name = metadata["name"]
    if not is_service_name(name):
        return (), (diagnostic("InvalidServiceName", "metadata.name", name=quote(name)),)
    own = {"name": name, "labels": {DEPLOYMENT_LABEL: name}}
    if "namespace" in metadata:
        own["namespace"] = metadata["namespace"]
    container = server_container(deployment["spec"]["template"]["spec"]["containers"]) or {}
    port: JsonObject = next(iter(container.get("ports") or []), {})
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": own | {"name": service_name(deployment)},
        "spec": {
            "selector": dict((deployment["spec"].get("selector") or {}).get("matchLabels") or {}),
            "ports": [{"name": "http", "port": 80, "targetPort": port.get("containerPort", DEFAULT_PORT)}],
        },
    }
    if spec.scale is None:
        return (service,), ()
    autoscaler = {
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
    return (service, autoscaler), ()
