"""Policies tried on documents, without a cluster: what ``kubectl serve policy test`` and the tests do."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from serve_core.facts import PlatformFacts
from serve_core.json import JsonObject
from serve_core.policy.documents import (
    API_VERSION,
    PolicyError,
    PolicyException,
    ServingPolicy,
    read_exception,
    read_policy,
)
from serve_core.policy.evaluate import PolicyVerdict, User, judge_policies
from serve_core.policy.subjects import subject_of
from serve_core.reasons import Problem
from serve_core.verdict import is_served, judge


@dataclass(frozen=True)
class Tried:
    """One object and what became of it."""

    title: str
    namespace: str
    refused: tuple[Problem, ...] = ()
    """Why it is no Deployment that can be served at all; then no policy was asked."""
    verdict: PolicyVerdict = field(default_factory=PolicyVerdict)

    @property
    def denied(self) -> bool:
        return bool(self.refused) or self.verdict.denied


@dataclass(frozen=True)
class Trial:
    tried: tuple[Tried, ...] = ()
    faults: tuple[tuple[str, Problem], ...] = ()
    """What is wrong with the policies and exceptions themselves, each with the document's title."""
    skipped: int = 0
    """Documents that policies say nothing about."""


def run(
    documents: Iterable[Any],
    facts: PlatformFacts,
    now: datetime,
    *,
    namespace: str = "default",
    user: User | None = None,
) -> Trial:
    """Judge every object among ``documents`` by every policy among them, as admission would.

    ``namespace`` is that of objects that do not say one. Namespaces among the documents tell their labels.
    """
    policies: list[ServingPolicy] = []
    exceptions: list[PolicyException] = []
    labels: dict[str, Mapping[str, str]] = {}
    faults: list[tuple[str, Problem]] = []
    objects: list[JsonObject] = []
    for document in _flat(documents):
        kind = (str(document.get("apiVersion")), str(document.get("kind")))
        try:
            if kind == (API_VERSION, "ServingPolicy"):
                policies.append(read_policy(document))
            elif kind == (API_VERSION, "PolicyException"):
                exceptions.append(read_exception(document))
            elif kind == ("v1", "Namespace"):
                labels[_name(document)] = _metadata(document).get("labels") or {}
            else:
                objects.append(document)
        except PolicyError as error:
            faults += [(f"{kind[1].lower()}/{_name(document)}", found) for found in error.problems]
    facts = replace(facts, policies=tuple(policies), namespace_labels=labels)
    tried = [_try(document, facts, exceptions, now, namespace, user) for document in objects]
    found = tuple(one for one in tried if one is not None)
    return Trial(found, tuple(faults), len(tried) - len(found))


def _try(
    document: JsonObject,
    facts: PlatformFacts,
    exceptions: list[PolicyException],
    now: datetime,
    namespace: str,
    user: User | None,
) -> Tried | None:
    metadata = _metadata(document)
    if metadata and "namespace" not in metadata:
        document = {**document, "metadata": {**metadata, "namespace": namespace}}
    namespace = str(metadata.get("namespace") or namespace)
    if document.get("kind") == "Deployment" and isinstance(metadata.get("annotations"), dict) and is_served(document):
        completed = judge(document, facts)
        if completed.deployment is None:
            return Tried(f"deployment/{_name(document)}", namespace, completed.problems)
        document = completed.deployment
    subject = subject_of(document, facts, namespace_labels=facts.namespace_labels.get(namespace, {}))
    if subject is None:
        return None
    return Tried(subject.title, namespace, verdict=judge_policies(subject, facts.policies, exceptions, now, user))


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
