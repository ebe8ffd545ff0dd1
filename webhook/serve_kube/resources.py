"""The resources that the plugin and the server use. Objects are plain JSON."""

from dataclasses import dataclass
from urllib.parse import quote

from serve_core.base.constants import GROUP
from serve_core.base.json import JsonObject


@dataclass(frozen=True)
class Resource:
    """One kind of object, and its place in the API."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def title(self) -> str:
        """The name in kubectl's messages: ``deployment.apps``, ``pod``."""
        group = self.api_version.rpartition("/")[0]
        return self.kind.lower() + (f".{group}" if group else "")

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The path below the API server's address. Without a namespace: all namespaces, or a cluster-scoped object."""
        parts = ["/apis" if "/" in self.api_version else "/api", self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [quote(part, safe="") for part in (self.plural, name, subresource) if part]
        return "/".join(parts)

    def identity(self, namespace: str = "", name: str = "") -> JsonObject:
        """``apiVersion``, ``kind`` and ``metadata`` of an object: what every applied object begins with."""
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata}


def key(manifest: JsonObject) -> tuple[str, str]:
    """The namespace (empty for cluster-scoped objects) and the name of an object."""
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments")
STATEFUL_SETS = Resource("apps/v1", "StatefulSet", "statefulsets")
DAEMON_SETS = Resource("apps/v1", "DaemonSet", "daemonsets")
SERVICES = Resource("v1", "Service", "services")
PODS = Resource("v1", "Pod", "pods")
NODES = Resource("v1", "Node", "nodes", namespaced=False)
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
SECRETS = Resource("v1", "Secret", "secrets")
EVENTS = Resource("events.k8s.io/v1", "Event", "events")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
AUTOSCALERS = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
SCALED_OBJECTS = Resource("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
DISRUPTION_BUDGETS = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
CSI_DRIVERS = Resource("storage.k8s.io/v1", "CSIDriver", "csidrivers", namespaced=False)
DEFINITIONS = Resource(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
MUTATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io/v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    namespaced=False,
)
VALIDATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io/v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    namespaced=False,
)
SUBJECT_ACCESS_REVIEWS = Resource(
    "authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False
)
SELF_SUBJECT_ACCESS_REVIEWS = Resource(
    "authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False
)

KNATIVE_SERVICES = Resource("serving.knative.dev/v1", "Service", "services")
CONFIGURATIONS = Resource("serving.knative.dev/v1", "Configuration", "configurations")
REVISIONS = Resource("serving.knative.dev/v1", "Revision", "revisions")
ROUTES = Resource("serving.knative.dev/v1", "Route", "routes")
DOMAIN_MAPPINGS = Resource("serving.knative.dev/v1beta1", "DomainMapping", "domainmappings")
INGRESSES = Resource("networking.internal.knative.dev/v1alpha1", "Ingress", "ingresses")

PEER_AUTHENTICATIONS = Resource("security.istio.io/v1", "PeerAuthentication", "peerauthentications")
REQUEST_AUTHENTICATIONS = Resource("security.istio.io/v1", "RequestAuthentication", "requestauthentications")
AUTHORIZATION_POLICIES = Resource("security.istio.io/v1", "AuthorizationPolicy", "authorizationpolicies")
TELEMETRIES = Resource("telemetry.istio.io/v1", "Telemetry", "telemetries")
SERVICE_ENTRIES = Resource("networking.istio.io/v1", "ServiceEntry", "serviceentries")

INFERENCE_SERVICES = Resource("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices")
SERVING_RUNTIMES = Resource("serving.kserve.io/v1alpha1", "ServingRuntime", "servingruntimes")
TRAINED_MODELS = Resource("serving.kserve.io/v1alpha1", "TrainedModel", "trainedmodels")

POLICIES = Resource(f"{GROUP}/v1alpha1", "ServingPolicy", "servingpolicies", namespaced=False)
POLICY_EXCEPTIONS = Resource(f"{GROUP}/v1alpha1", "PolicyException", "policyexceptions")
MODEL_RUNTIMES = Resource(f"{GROUP}/v1alpha1", "ModelRuntime", "modelruntimes", namespaced=False)
POLICY_REPORTS = Resource("wgpolicyk8s.io/v1alpha2", "PolicyReport", "policyreports")

OWNED = (
    PEER_AUTHENTICATIONS,
    REQUEST_AUTHENTICATIONS,
    AUTHORIZATION_POLICIES,
    KNATIVE_SERVICES,
    DOMAIN_MAPPINGS,
    SERVICES,
    AUTOSCALERS,
    TELEMETRIES,
    STATEFUL_SETS,
    DAEMON_SETS,
)
"""Every kind that a Deployment can become, besides its pods. The reconciler watches, applies and removes them."""


def owned_resource(manifest: JsonObject) -> Resource:
    """The resource in :data:`OWNED` of an object. Raises LookupError for another kind."""
    for resource in OWNED:
        if (resource.api_version, resource.kind) == (manifest["apiVersion"], manifest["kind"]):
            return resource
    raise LookupError(f"{manifest['kind']} of {manifest['apiVersion']} is not in OWNED")
