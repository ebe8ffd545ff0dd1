"""Validating admission: policies judge the final state of every object that serves a model. Pure.

Exemptions depend on the user that the API server names, never on the content of an object.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from serve_core.base import bounds
from serve_core.base.constants import SERVER_USERNAME
from serve_core.base.json import JsonObject, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.policy.evaluate import User, judge_policies
from serve_core.policy.matching import is_about_namespace
from serve_core.policy.parse import PolicyError, read_exception, read_policy, unknown_references
from serve_core.policy.v1alpha1 import PolicyException
from serve_core.subjects.build import subject_of
from serve_webhook.admission.review import AdmissionRequest, AdmissionResponse, lines, shortened

KNATIVE_USERNAME = "system:serviceaccount:knative-serving:controller"
KSERVE_USERNAME = "system:serviceaccount:kserve:kserve-controller-manager"

_CREATED_BY = {
    "Deployment": (SERVER_USERNAME,),
    "Service": (SERVER_USERNAME, KSERVE_USERNAME),
    "Configuration": (KNATIVE_USERNAME,),
    "Revision": (KNATIVE_USERNAME,),
    "Route": (KNATIVE_USERNAME,),
    "DomainMapping": (SERVER_USERNAME,),
}
"""Controllers that create objects of a kind from other objects, which were judged themselves."""

_BOOKKEEPING = frozenset({"managedFields", "resourceVersion", "generation", "finalizers", "ownerReferences", "uid"})
"""Fields of the metadata that no policy judges."""


def validate(
    request: AdmissionRequest,
    context: ClusterContext,
    exceptions: Sequence[PolicyException],
    now: datetime,
    deployment: Callable[[str, str], JsonObject | None],
) -> AdmissionResponse:
    """Judge an object before it is stored. ``deployment`` finds a served Deployment by namespace and name."""
    if request.new is None:
        return AdmissionResponse()
    kind = str(request.new.get("kind"))
    if kind in ("ServingPolicy", "PolicyException"):
        fault = bounds.fault(request.new)
        return AdmissionResponse(problems=(str(fault),)) if fault else _validate_policy(request.new, kind, context)
    final = _scaled(request, deployment) if kind == "Scale" else request.new
    if final is None or request.user.username in _CREATED_BY.get(kind, ()):
        return AdmissionResponse()
    # Where no policy selects the namespace, the object is not parsed: that may be most namespaces of a cluster.
    namespace_labels = context.namespace_labels.get(request.namespace, {})
    policies = [
        policy
        for policy in context.policies
        if is_about_namespace(policy.spec.match, request.namespace, namespace_labels)
    ]
    if not policies:
        return AdmissionResponse()
    if request.old is not None and _without_bookkeeping(request.new) == _without_bookkeeping(request.old):
        return AdmissionResponse()
    subject = subject_of(
        final,
        context,
        namespace=request.namespace,
        namespace_labels=namespace_labels,
        former=request.old,
    )
    if subject is None:
        return AdmissionResponse()
    user = User(request.user.username, request.user.groups)
    verdict = judge_policies(subject, policies, exceptions, now, user)
    return AdmissionResponse(
        problems=lines(verdict.problems),
        warnings=shortened(verdict.warnings),
        code=403,
        reason="Forbidden",
    )


def _validate_policy(document: JsonObject, kind: str, context: ClusterContext) -> AdmissionResponse:
    """Refuse a policy or an exception that cannot be parsed."""
    try:
        if kind == "ServingPolicy":
            read_policy(document)
            return AdmissionResponse()
        warnings = unknown_references(read_exception(document), context.policies)
    except PolicyError as error:
        return AdmissionResponse(problems=lines(error.problems))
    return AdmissionResponse(warnings=shortened(warnings))


def _scaled(request: AdmissionRequest, deployment: Callable[[str, str], JsonObject | None]) -> JsonObject | None:
    """The Deployment with the replicas of a Scale."""
    found = deployment(request.namespace, request.name)
    if found is None:
        return None
    wanted = value_at(request.new, "spec", "replicas") or 0
    return {**found, "spec": {**(found.get("spec") or {}), "replicas": wanted}}


def _without_bookkeeping(document: JsonObject) -> JsonObject:
    """The object without bookkeeping: removing a finalizer is allowed, whatever the present policies say."""
    metadata = document.get("metadata")
    kept = {k: v for k, v in metadata.items() if k not in _BOOKKEEPING} if isinstance(metadata, dict) else metadata
    return {**document, "metadata": kept}
