"""The model's own host name: the DomainMapping beside its Knative Service."""

from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject
from serve_core.knative.limits import NETWORKING


def mapping(service: JsonObject, spec: ServingSpec) -> tuple[JsonObject, ...]:
    """The DomainMapping (serving.knative.dev/v1beta1) that maps ``domain`` to a Knative Service, if there is a domain.

    Knative also needs a ClusterDomainClaim. It creates the claim itself if ``config-network`` sets
    ``autocreate-cluster-domain-claims``. Otherwise an administrator decides which namespace can have which host, and
    the reconciler reports what is missing. The Knative Service's annotations about networking, such as the ingress
    class, apply to the mapping too.
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
