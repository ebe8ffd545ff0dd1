"""Documents judged by policies without a cluster: for ``kubectl serve policy test`` and for tests."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from serve_core.admission.decide import concerns, judge
from serve_core.audit.stored_objects import Auditor, order
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic
from serve_core.context import istio
from serve_core.context.cluster import ClusterContext, with_user_ranges
from serve_core.context.istio import IstioInstallation
from serve_core.policy.evaluate import PolicyVerdict, User, judge_policies
from serve_core.policy.parse import PolicyError, read_exception, read_policy, stored_policy, unknown_references
from serve_core.policy.v1alpha1 import API_VERSION, PolicyException, ServingPolicy
from serve_core.subjects.build import subject_of

_WORST_FIRST = ("Refused", "Deny", "Warn", "Audit")


@dataclass(frozen=True)
class DryRunObject:
    """One object and its verdict."""

    title: str
    namespace: str
    refused: tuple[Diagnostic, ...] = ()
    """Why admission refuses the Deployment before it asks any policy."""
    verdict: PolicyVerdict = field(default_factory=PolicyVerdict)

    @property
    def outcome(self) -> str:
        """The worst outcome of all rules: Refused, Deny, Warn, Audit or Pass."""
        found = {str(result.outcome) for result in self.verdict.results} | ({"Refused"} if self.refused else set())
        return next((outcome for outcome in _WORST_FIRST if outcome in found), "Pass")


@dataclass(frozen=True)
class DryRun:
    tried: tuple[DryRunObject, ...] = ()
    faults: tuple[tuple[str, Diagnostic], ...] = ()
    """Faults of the policies and exceptions themselves, each with the document's title."""
    warnings: tuple[tuple[str, Diagnostic], ...] = ()
    """Warnings about exceptions, each with the document's title."""
    skipped: int = 0
    """The number of documents that no policy judges."""


@dataclass(frozen=True)
class PolicyDocuments:
    """The parsed documents: policies, namespace labels, the mesh, and the objects to judge."""

    context: ClusterContext
    exceptions: tuple[PolicyException, ...]
    faults: tuple[tuple[str, Diagnostic], ...]
    """Faults of policies and exceptions, each with the document's title."""
    warnings: tuple[tuple[str, Diagnostic], ...]
    """Warnings about exceptions, each with the document's title."""
    objects: tuple[JsonObject, ...]


def run(
    documents: Iterable[Any],
    context: ClusterContext,
    now: datetime,
    *,
    namespace: str = "default",
    user: User | None = None,
    stored: bool = False,
    failed: Callable[[JsonObject, Exception], None] | None = None,
) -> DryRun:
    """Judge every object among ``documents`` by every policy among them, as admission would.

    ``namespace`` is the namespace of objects without one. Namespaces among the documents have the labels. ``stored``
    objects come from a cluster: they are judged as they are, and a broken policy refuses everything instead of being a
    fault. ``failed`` is called for each stored object that cannot be judged; the others are judged.
    """
    read = read_documents(documents, context, stored=stored)
    context = read.context
    if stored:
        judged = tuple(_stored(read.objects, Auditor(context, read.exceptions, now), failed))
        return DryRun(judged, read.faults, skipped=len(read.objects) - len(judged))
    tried: list[DryRunObject] = []
    for document in read.objects:
        metadata = _metadata(document)
        here = str(metadata.get("namespace") or namespace)
        located = {**document, "metadata": {**metadata, "namespace": here}}
        final, refused = _completed(located, context)
        if refused:
            tried.append(DryRunObject(f"deployment/{_name(document)}", here, refused))
            continue
        subject = subject_of(final, context, namespace_labels=context.namespace_labels.get(here, {}))
        if subject is not None:
            verdict = judge_policies(subject, context.policies, read.exceptions, now, user)
            tried.append(DryRunObject(subject.title, subject.namespace, verdict=verdict))
    return DryRun(tuple(tried), read.faults, read.warnings, skipped=len(read.objects) - len(tried))


def _stored(
    objects: Iterable[JsonObject], existing: Auditor, failed: Callable[[JsonObject, Exception], None] | None
) -> Iterator[DryRunObject]:
    for document in sorted(objects, key=order):
        try:
            judged = existing.judge(document)
        except Exception as error:
            if failed is None:
                raise
            failed(document, error)
            continue
        if judged is not None:
            yield DryRunObject(f"{judged.kind.lower()}/{judged.name}", judged.namespace, verdict=judged.verdict)


def read_documents(documents: Iterable[Any], context: ClusterContext, *, stored: bool = False) -> PolicyDocuments:
    """Sort documents. ``stored`` policies come from a cluster: a broken one is no fault but refuses everything."""
    policies: list[ServingPolicy] = []
    exceptions: list[PolicyException] = []
    labels: dict[str, Mapping[str, str]] = {}
    faults: list[tuple[str, Diagnostic]] = []
    objects: list[JsonObject] = []
    namespaces: list[JsonObject] = []
    for document in _flat(documents):
        kind = (str(document.get("apiVersion")), str(document.get("kind")))
        try:
            if kind == (API_VERSION, "ServingPolicy"):
                policies.append(stored_policy(document) if stored else read_policy(document))
            elif kind == (API_VERSION, "PolicyException"):
                exceptions.append(read_exception(document))
            elif kind == ("v1", "Namespace"):
                namespaces.append(document)
                labels[_name(document)] = _metadata(document).get("labels") or {}
            else:
                objects.append(document)
        except PolicyError as error:
            faults += [(f"{kind[1].lower()}/{_name(document)}", found) for found in error.problems]
    mesh = context.istio or _istio([*objects, *namespaces])
    ranges = with_user_ranges(namespaces)
    completed = replace(context, policies=tuple(policies), namespace_labels=labels, user_ranges=ranges, istio=mesh)
    warnings = tuple(
        (f"policyexception/{each.name}", warning)
        for each in exceptions
        for warning in unknown_references(each, policies)
    )
    return PolicyDocuments(completed, tuple(exceptions), tuple(faults), warnings, tuple(objects))


def _completed(document: JsonObject, context: ClusterContext) -> tuple[JsonObject, tuple[Diagnostic, ...]]:
    """The object after the mutating webhook, or why it is refused."""
    is_deployment = (document.get("apiVersion"), document.get("kind")) == ("apps/v1", "Deployment")
    if not is_deployment or not concerns(document):
        return document, ()
    completed = judge(document, context)
    return completed.deployment or document, completed.problems


def _istio(documents: list[JsonObject]) -> IstioInstallation | None:
    """Istio's installation, if its objects are among the documents."""

    def kind(name: str) -> list[JsonObject]:
        return [document for document in documents if document.get("kind") == name and _name(document)]

    key, _, value = istio.INJECTORS.partition("=")
    injectors = [
        document
        for document in kind("MutatingWebhookConfiguration")
        if (_metadata(document).get("labels") or {}).get(key) == value
    ]
    config_maps = [each for each in kind("ConfigMap") if _metadata(each).get("namespace") == istio.NAMESPACE]
    if not injectors:
        return None
    return istio.detect(injectors=injectors, config_maps=config_maps, nodes=kind("Node"), namespaces=kind("Namespace"))


def _flat(documents: Iterable[Any]) -> Iterator[JsonObject]:
    for document in documents:
        if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
            yield from _flat(document["items"])
        elif isinstance(document, dict):
            yield document


def _metadata(document: JsonObject) -> JsonObject:
    metadata = document.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _name(document: JsonObject) -> str:
    return str(_metadata(document).get("name") or "")
