"""What the commands ask of a cluster: the resources they know and the requests they make. Objects are plain JSON."""

from argparse import Namespace
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from kubectl_serve.cli.streams import Streams
from serve_core.base.json import JsonObject


@dataclass(frozen=True)
class Resource:
    api_version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def title(self) -> str:
        """As kubectl names it in its messages: ``deployment.apps``, ``pod``."""
        group = self.api_version.rpartition("/")[0]
        return self.kind.lower() + (f".{group}" if group else "")

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """The path below the API server's address; ``namespace`` None means all of them."""
        root = "/api" if self.api_version == "v1" else "/apis"
        parts = [root, self.api_version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [quote(part, safe="") for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
SERVICES = Resource("v1", "services", "Service")
PODS = Resource("v1", "pods", "Pod")
NODES = Resource("v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)
CONFIG_MAPS = Resource("v1", "configmaps", "ConfigMap")
EVENTS = Resource("events.k8s.io/v1", "events", "Event")
KNATIVE_SERVICES = Resource("serving.knative.dev/v1", "services", "Service")
REVISIONS = Resource("serving.knative.dev/v1", "revisions", "Revision")
CONFIGURATIONS = Resource("serving.knative.dev/v1", "configurations", "Configuration")
INGRESSES = Resource("networking.internal.knative.dev/v1alpha1", "ingresses", "Ingress")
POLICIES = Resource("kubectl-serve.dev/v1alpha1", "servingpolicies", "ServingPolicy", namespaced=False)
POLICY_EXCEPTIONS = Resource("kubectl-serve.dev/v1alpha1", "policyexceptions", "PolicyException")
MODEL_RUNTIMES = Resource("kubectl-serve.dev/v1alpha1", "modelruntimes", "ModelRuntime", namespaced=False)
INFERENCE_SERVICES = Resource("serving.kserve.io/v1beta1", "inferenceservices", "InferenceService")
SERVING_RUNTIMES = Resource("serving.kserve.io/v1alpha1", "servingruntimes", "ServingRuntime")
TRAINED_MODELS = Resource("serving.kserve.io/v1alpha1", "trainedmodels", "TrainedModel")
DEFINITIONS = Resource(
    "apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
ROUTES = Resource("serving.knative.dev/v1", "routes", "Route")
DOMAIN_MAPPINGS = Resource("serving.knative.dev/v1beta1", "domainmappings", "DomainMapping")
AUTOSCALERS = Resource("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
DAEMON_SETS = Resource("apps/v1", "daemonsets", "DaemonSet")
SECRETS = Resource("v1", "secrets", "Secret")
MUTATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io/v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
VALIDATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io/v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
)
PEER_AUTHENTICATIONS = Resource("security.istio.io/v1", "peerauthentications", "PeerAuthentication")
REQUEST_AUTHENTICATIONS = Resource("security.istio.io/v1", "requestauthentications", "RequestAuthentication")
AUTHORIZATION_POLICIES = Resource("security.istio.io/v1", "authorizationpolicies", "AuthorizationPolicy")
TELEMETRIES = Resource("telemetry.istio.io/v1", "telemetries", "Telemetry")
SERVICE_ENTRIES = Resource("networking.istio.io/v1", "serviceentries", "ServiceEntry")
SUBJECT_ACCESS_REVIEWS = Resource(
    "authorization.k8s.io/v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
SELF_SUBJECT_ACCESS_REVIEWS = Resource(
    "authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)

ALL_MADE = (
    KNATIVE_SERVICES,
    DOMAIN_MAPPINGS,
    SERVICES,
    AUTOSCALERS,
    PEER_AUTHENTICATIONS,
    REQUEST_AUTHENTICATIONS,
    AUTHORIZATION_POLICIES,
    TELEMETRIES,
)
"""Every kind of object that a Deployment may become, beside its pods."""

ALL_INSTALLED = (
    NAMESPACES,
    SERVICES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DEFINITIONS,
    Resource("v1", "serviceaccounts", "ServiceAccount"),
    SECRETS,
    Resource("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", namespaced=False),
    Resource("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Resource("rbac.authorization.k8s.io/v1", "roles", "Role"),
    Resource("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    Resource("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Resource("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    Resource("coordination.k8s.io/v1", "leases", "Lease"),
    Resource("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", namespaced=False),
    MUTATING_WEBHOOKS,
    VALIDATING_WEBHOOKS,
    Resource(
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        namespaced=False,
    ),
    Resource(
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        namespaced=False,
    ),
)
"""Every kind of object that the manifests may hold."""


@dataclass(frozen=True)
class WatchEvent:
    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    object: JsonObject


class Api(Protocol):
    """A cluster. Every method raises an :class:`kubectl_serve.errors.ApiError` when the API server says no."""

    namespace: str
    """The context's namespace."""

    async def version(self) -> JsonObject:
        """What the API server says of itself, with ``gitVersion``."""
        ...

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject: ...

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], str]:
        """All objects, and the resource version to watch from."""
        ...

    def pages(self, resource: Resource, namespace: str | None) -> AsyncIterator[Sequence[JsonObject]]:
        """All objects, some hundreds at a time."""
        ...

    def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        """What happens after ``version``, until the server ends the watch. Raises GoneError if that is too long ago."""
        ...

    async def create(self, resource: Resource, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject: ...

    async def apply(
        self, resource: Resource, manifest: JsonObject, *, manager: str, dry_run: bool = False, force: bool = True
    ) -> JsonObject:
        """Server-side apply. With ``force`` it takes over the fields in question; without, they are a ConflictError."""
        ...

    async def merge(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: JsonObject,
        *,
        dry_run: bool = False,
        strategic: bool = False,
    ) -> JsonObject:
        """JSON Merge Patch (RFC 7386): what is null goes. With ``strategic``, Kubernetes' own, which merges lists."""
        ...

    async def delete(self, resource: Resource, namespace: str | None, name: str, *, dry_run: bool = False) -> None: ...

    def logs(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        previous: bool = False,
        tail: int | None = None,
    ) -> AsyncIterator[str]:
        """Lines of a container's log, without their ends."""
        ...

    async def forward(self, namespace: str, pod: str, port: int, reader: StreamReader, writer: StreamWriter) -> None:
        """Carry one connection to a pod's port through the API server, until either side ends it."""
        ...


Connect = Callable[[Namespace, Streams], AbstractAsyncContextManager[Api]]
"""Opens the cluster that the flags name."""


def namespace_of(args: Namespace, cluster: Api) -> str:
    """The namespace that the flags or the context name."""
    return args.namespace or cluster.namespace
