"""A host name of the model's own: the DomainMapping beside its Knative Service."""

from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject
from serve_core.knative.limits import NETWORKING


def mapping(service: JsonObject, spec: ServingSpec) -> tuple[JsonObject, ...]:
    """The DomainMapping (serving.knative.dev/v1beta1) that leads ``domain`` to a Knative Service, if it is asked for.

    Knative also wants a ClusterDomainClaim. It makes that itself where ``config-network`` says
    ``autocreate-cluster-domain-claims``; elsewhere which namespace may have which host is an administrator's decision,
    and the reconciler says what is missing. What the Knative Service's annotations say about networking, such as the
    ingress class, holds for the mapping too.
    """
    if spec.domain is None:
        return ()
    metadata = service["metadata"]
    made: JsonObject = {
        "apiVersion": "serving.knative.dev/v1beta1",
        "kind": "DomainMapping",
        "metadata": {"name": spec.domain, "labels": {DEPLOYMENT_LABEL: metadata["labels"][DEPLOYMENT_LABEL]}},
        "spec": {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": metadata["name"]}},
    }
    if "namespace" in metadata:
        made["metadata"]["namespace"] = metadata["namespace"]
    annotations = metadata.get("annotations") or {}
    if networking := {key: value for key, value in annotations.items() if key.startswith(NETWORKING)}:
        made["metadata"]["annotations"] = networking
    if spec.tls is not None:
        made["spec"]["tls"] = {"secretName": spec.tls}
    return (made,)
