"""What the server asks of the Kubernetes API: resources, operations and the errors they end in.

The one implementation is in :mod:`serve_webhook.cluster`; everything else depends on this page only, so that no client
library is imported where it is not needed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from serve_core.base.constants import FIELD_MANAGER
from serve_core.base.json import JsonObject


class ApiError(Exception):
    """The API server did not do what it was asked to. ``message`` is its own sentence."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class UnavailableError(ApiError):
    """Nobody answered, or the answer was "not now" (5xx, 429, time-out): worth trying again."""


class NotFoundError(ApiError):
    """The object, or the whole resource, does not exist."""


class ConflictError(ApiError):
    """Somebody else was there first: another version, another field manager, another UID."""


class GoneError(ApiError):
    """The resource version is too old: list again."""


class ForbiddenError(ApiError):
    """RBAC does not allow it."""


class RejectedError(ApiError):
    """The object is invalid, or an admission webhook denied it: trying again does not help."""


class UnreadableError(ApiError):
    """It did it, and its answer is an object that cannot be read: nested too deeply, or too large, for instance."""


@dataclass(frozen=True)
class Resource:
    """One kind of object and where it lives."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [f"namespaces/{quote(namespace, safe='')}"] if namespace else []
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join([root, *parts])

    def identity(self, namespace: str = "", name: str = "") -> JsonObject:
        """The head that every applied object has."""
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata}


DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments")
KNATIVE_SERVICES = Resource("serving.knative.dev/v1", "Service", "services")
CONFIGURATIONS = Resource("serving.knative.dev/v1", "Configuration", "configurations")
REVISIONS = Resource("serving.knative.dev/v1", "Revision", "revisions")
ROUTES = Resource("serving.knative.dev/v1", "Route", "routes")
DOMAIN_MAPPINGS = Resource("serving.knative.dev/v1beta1", "DomainMapping", "domainmappings")
SERVICES = Resource("v1", "Service", "services")
AUTOSCALERS = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
PODS = Resource("v1", "Pod", "pods")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
SECRETS = Resource("v1", "Secret", "secrets")
EVENTS = Resource("events.k8s.io/v1", "Event", "events")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
POLICIES = Resource("kubectl-serve.dev/v1alpha1", "ServingPolicy", "servingpolicies")
POLICY_REPORTS = Resource("wgpolicyk8s.io/v1alpha2", "PolicyReport", "policyreports")
INFERENCE_SERVICES = Resource("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices")
SERVING_RUNTIMES = Resource("serving.kserve.io/v1alpha1", "ServingRuntime", "servingruntimes")
TRAINED_MODELS = Resource("serving.kserve.io/v1alpha1", "TrainedModel", "trainedmodels")
POLICY_EXCEPTIONS = Resource("kubectl-serve.dev/v1alpha1", "PolicyException", "policyexceptions")
MODEL_RUNTIMES = Resource("kubectl-serve.dev/v1alpha1", "ModelRuntime", "modelruntimes")
MUTATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"
)
VALIDATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"
)

DAEMON_SETS = Resource("apps/v1", "DaemonSet", "daemonsets")
NODES = Resource("v1", "Node", "nodes")
NAMESPACES = Resource("v1", "Namespace", "namespaces")
SERVICE_ENTRIES = Resource("networking.istio.io/v1", "ServiceEntry", "serviceentries")
PEER_AUTHENTICATIONS = Resource("security.istio.io/v1", "PeerAuthentication", "peerauthentications")
REQUEST_AUTHENTICATIONS = Resource("security.istio.io/v1", "RequestAuthentication", "requestauthentications")
AUTHORIZATION_POLICIES = Resource("security.istio.io/v1", "AuthorizationPolicy", "authorizationpolicies")
TELEMETRIES = Resource("telemetry.istio.io/v1", "Telemetry", "telemetries")

OWNED = (
    PEER_AUTHENTICATIONS,
    REQUEST_AUTHENTICATIONS,
    AUTHORIZATION_POLICIES,
    KNATIVE_SERVICES,
    DOMAIN_MAPPINGS,
    SERVICES,
    AUTOSCALERS,
    TELEMETRIES,
)
"""Every kind that a verdict may ask for beside its Deployment: watched, applied and removed by the reconciler."""


@dataclass(frozen=True)
class Unread:
    """An object that cannot be read. ``metadata``: as much of its metadata as can be, of the right types."""

    metadata: JsonObject
    why: str
    """A sentence without its first letter and its stop."""


@dataclass(frozen=True)
class WatchEvent:
    """``type`` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: JsonObject | Unread


@dataclass(frozen=True)
class Page:
    """Some of the objects of a list. ``version``: the resource version to watch from; the last page has it."""

    items: Sequence[JsonObject]
    version: str = ""
    unread: Sequence[Unread] = ()


class Api(Protocol):
    """Every operation raises an :class:`ApiError`."""

    async def get(self, resource: Resource, namespace: str, name: str) -> JsonObject: ...

    def pages(
        self, resource: Resource, namespace: str = "", selectors: Mapping[str, str] | None = None
    ) -> AsyncIterator[Page]:
        """All objects, of all namespaces as a rule, a few hundred kilobytes at a time. ``selectors``: labelSelector,
        fieldSelector."""
        ...

    def watch(
        self, resource: Resource, namespace: str, selectors: Mapping[str, str], version: str, seconds: int
    ) -> AsyncIterator[WatchEvent]:
        """The changes after ``version``, for ``seconds`` at most."""
        ...

    async def create(self, resource: Resource, manifest: JsonObject) -> JsonObject: ...

    async def replace(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """Put ``manifest`` in the object's place; its resource version must still be the live one."""
        ...

    async def apply(
        self,
        resource: Resource,
        manifest: JsonObject,
        *,
        subresource: str = "",
        force: bool = True,
        manager: str = FIELD_MANAGER,
    ) -> JsonObject:
        """Server-side apply."""
        ...

    async def merge(self, resource: Resource, namespace: str, name: str, patch: JsonObject) -> JsonObject:
        """JSON merge patch (RFC 7396)."""
        ...

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        """Delete the object if it still has this UID; its dependents follow in the background."""
        ...

    async def log(self, namespace: str, pod: str, container: str, *, lines: int, size: int) -> str:
        """The last ``lines`` lines of a container's log, ``size`` bytes at most."""
        ...


def key(manifest: JsonObject) -> tuple[str, str]:
    """Namespace (empty for cluster-scoped objects) and name."""
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def owned_resource(manifest: JsonObject) -> Resource:
    """The resource of an object that a verdict asks for. Raises LookupError for a kind that is not in :data:`OWNED`."""
    for resource in OWNED:
        if (resource.api_version, resource.kind) == (manifest["apiVersion"], manifest["kind"]):
            return resource
    raise LookupError(f"{manifest['kind']} of {manifest['apiVersion']} is not in OWNED")
