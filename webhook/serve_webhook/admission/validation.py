"""The validating half of admission: policies judge the final state of whatever serves a model. Pure.

Who goes past is told by the user that the API server names, never by what an object says of itself.
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

_MADE_BY = {
    "Deployment": (SERVER_USERNAME,),
    "Service": (SERVER_USERNAME, KSERVE_USERNAME),
    "Configuration": (KNATIVE_USERNAME,),
    "Revision": (KNATIVE_USERNAME,),
    "Route": (KNATIVE_USERNAME,),
    "DomainMapping": (SERVER_USERNAME,),
}
"""Who makes objects of a kind out of others that were judged themselves."""

_BOOKKEEPING = frozenset({"managedFields", "resourceVersion", "generation", "finalizers", "ownerReferences", "uid"})
"""Of an object's metadata: nothing that a policy can be about."""


def validate(
    request: AdmissionRequest,
    context: ClusterContext,
    exceptions: Sequence[PolicyException],
    now: datetime,
    deployment: Callable[[str, str], JsonObject | None],
) -> AdmissionResponse:
    """Judge what is about to be stored. ``deployment`` finds a served one by namespace and name."""
    if request.new is None:
        return AdmissionResponse()
    kind = str(request.new.get("kind"))
    if kind in ("ServingPolicy", "PolicyException"):
        fault = bounds.fault(request.new)
        return AdmissionResponse(problems=(str(fault),)) if fault else _document(request.new, kind, context)
    final = _scaled(request, deployment) if kind == "Scale" else request.new
    if final is None or request.user.username in _MADE_BY.get(kind, ()):
        return AdmissionResponse()
    # Most namespaces of a cluster may be no policy's: there, nothing needs to be known of the object.
    namespace_labels = context.namespace_labels.get(request.namespace, {})
    policies = [
        policy
        for policy in context.policies
        if is_about_namespace(policy.spec.match, request.namespace, namespace_labels)
    ]
    if not policies:
        return AdmissionResponse()
    if request.old is not None and _essence(request.new) == _essence(request.old):
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


def _document(document: JsonObject, kind: str, context: ClusterContext) -> AdmissionResponse:
    """A policy or an exception that cannot be read is never stored."""
    try:
        if kind == "ServingPolicy":
            read_policy(document)
            return AdmissionResponse()
        warnings = unknown_references(read_exception(document), context.policies)
    except PolicyError as error:
        return AdmissionResponse(problems=lines(error.problems))
    return AdmissionResponse(warnings=shortened(warnings))


def _scaled(request: AdmissionRequest, deployment: Callable[[str, str], JsonObject | None]) -> JsonObject | None:
    """The Deployment with the replicas that a Scale asks for."""
    found = deployment(request.namespace, request.name)
    if found is None:
        return None
    wanted = value_at(request.new, "spec", "replicas") or 0
    return {**found, "spec": {**(found.get("spec") or {}), "replicas": wanted}}


def _essence(document: JsonObject) -> JsonObject:
    """The object without the API server's notes: finalizers may go, whatever the policies say by now."""
    metadata = document.get("metadata")
    kept = {k: v for k, v in metadata.items() if k not in _BOOKKEEPING} if isinstance(metadata, dict) else metadata
    return {**document, "metadata": kept}
