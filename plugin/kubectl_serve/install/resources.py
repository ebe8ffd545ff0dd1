"""The resources of the manifests that ``install`` applies."""

from kubectl_serve.errors import ServeError
from serve_core.base.json import JsonObject
from serve_kube.resources import (
    CONFIG_MAPS,
    CSI_DRIVERS,
    DAEMON_SETS,
    DEFINITIONS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    LEASES,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    SECRETS,
    SERVICES,
    VALIDATING_WEBHOOKS,
    Resource,
)

INSTALLED = (
    NAMESPACES,
    SERVICES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DAEMON_SETS,
    CSI_DRIVERS,
    DEFINITIONS,
    Resource("v1", "ServiceAccount", "serviceaccounts"),
    SECRETS,
    Resource("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False),
    Resource("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    Resource("rbac.authorization.k8s.io/v1", "Role", "roles"),
    Resource("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    DISRUPTION_BUDGETS,
    Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    LEASES,
    Resource("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", namespaced=False),
    MUTATING_WEBHOOKS,
    VALIDATING_WEBHOOKS,
    Resource(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        namespaced=False,
    ),
    Resource(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        namespaced=False,
    ),
)
"""All resources that the manifests can have."""


def resource_of(manifest: JsonObject) -> Resource:
    """The resource of a manifest. Raises ServeError for a kind that is not in :data:`INSTALLED`."""
    for resource in INSTALLED:
        if (resource.api_version, resource.kind) == (manifest["apiVersion"], manifest["kind"]):
            return resource
    raise ServeError(f"the manifests contain an unexpected {manifest['kind']}.", "Install kubectl-serve again.")
