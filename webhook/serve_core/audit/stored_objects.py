"""Stored objects, judged by the policies: for the audit, and for ``kubectl serve policy audit``.

At admission, the requesting user shows whether an object is made of another one that was judged. A stored object does
not show this, and anybody can write names, labels and owners. So the audit compares what the two objects do, and
reports everything that one does beyond the other.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from serve_core.base.json import JsonObject, value_at
from serve_core.base.ownership import controller
from serve_core.context.cluster import ClusterContext
from serve_core.policy.evaluate import PolicyVerdict, RuleResult, judge_policies
from serve_core.policy.subject import SUBJECT_KINDS, Origin, Subject, SubjectKind, Use
from serve_core.policy.v1alpha1 import PolicyException
from serve_core.subjects.build import subject_of

_MADE_OF = {"Service": "Deployment", "Configuration": "Service", "Route": "Service"}
"""Kinds that are made of another kind, under its name."""

_ROUTING_STATE = "serving.knative.dev/routingState"
"""Label of a Revision that Knative's autoscaler reads: ``reserve`` has no traffic and no pods."""

_ENDED = ("Succeeded", "Failed")
"""Phases of pods that have ended."""

MAX_REPORTED = 20_000
"""Reported findings of one namespace that are kept. Beyond that, a pod can repeat the findings of its workload."""
MAX_COMPARED = 4 * 2**20
"""Approximate bytes that are kept of one namespace's objects, to be compared with what is made of them."""

_OF_EACH = 2048
"""Bytes that count for an object in addition to its texts."""

_Finding = int
"""Hash of a rule, its outcome, and a finding's code and message."""


@dataclass(frozen=True)
class AuditedObject:
    """An object and the verdict of the policies."""

    api_version: str
    kind: SubjectKind
    namespace: str
    name: str
    verdict: PolicyVerdict


class Auditor:
    """Judges stored objects, one after another in the order of ``SUBJECT_KINDS``, and keeps little of each.

    In a namespace with more than it can keep, it reports what is made of other objects in addition to them.
    """

    def __init__(self, context: ClusterContext, exceptions: Sequence[PolicyException], now: datetime) -> None:
        self._context = context
        self._exceptions = exceptions
        self._now = now
        self._wholes: dict[tuple[str, str, str], Subject] = {}
        self._configurations: set[str] = set()
        self._reported: dict[tuple[str, str], set[_Finding]] = defaultdict(set)
        self._reported_count: Counter[str] = Counter()
        """Findings by namespace."""
        self._compared: Counter[str] = Counter()
        """Bytes of ``_wholes``, by namespace."""

    def judge(self, document: JsonObject) -> AuditedObject | None:
        """Judge an object; ``None`` where no policy judges it, or where everything is reported already.

        - A Knative Service that does no more than the Deployment of its name is left out, and a Configuration or Route
          that does no more than the Service of its name.
        - Of a Revision with a Configuration only the pods are judged: the rest was judged with the Configuration. An
          older one can have other pods and traffic; without traffic it is left out.
        - Of such a Revision, of a pod and of a DomainMapping those findings are reported that the workload which they
          name does not have as well.
        """
        made = self._has_configuration(document)
        if _has_ended(document) or (made and _is_in_reserve(document)):
            return None
        namespace = str(document["metadata"].get("namespace") or "")
        subject = subject_of(
            document, self._context, namespace_labels=self._context.namespace_labels.get(namespace, {})
        )
        if subject is None:
            return None
        subject = replace(subject, made=made)
        twin = self._wholes.get((_MADE_OF.get(subject.kind, ""), subject.namespace, subject.name))
        self._remember(document, subject)
        if twin is not None and _does_no_more(subject, twin):
            return None
        verdict = judge_policies(subject, self._context.policies, self._exceptions, self._now)
        reported = self._reported.get((subject.namespace, subject.workload), set())
        if made or subject.kind in ("Pod", "DomainMapping"):
            news = tuple(result for result in verdict.results if not _hashes(result) or _hashes(result) - reported)
            if len(news) < len(verdict.results) and not any(map(_hashes, news)):
                return None
            verdict = PolicyVerdict(news)
        self._remember_findings(subject, set[_Finding]().union(*map(_hashes, verdict.results)) - reported)
        return AuditedObject(str(document["apiVersion"]), subject.kind, subject.namespace, subject.name, verdict)

    def _remember_findings(self, subject: Subject, news: set[_Finding]) -> None:
        if news and self._reported_count[subject.namespace] < MAX_REPORTED:
            self._reported[subject.namespace, subject.workload] |= news
            self._reported_count[subject.namespace] += len(news)

    def _has_configuration(self, document: JsonObject) -> bool:
        """Whether it is a Revision whose controller is a Configuration that was judged."""
        uid = value_at(controller(document), "uid")
        return document.get("kind") == "Revision" and uid in self._configurations

    def _remember(self, document: JsonObject, subject: Subject) -> None:
        if subject.kind in _MADE_OF.values():
            # Objects are large: only what is compared is kept.
            size = _OF_EACH + sum(len(text) for container in subject.containers for text in container.texts)
            if self._compared[subject.namespace] + size <= MAX_COMPARED:
                self._compared[subject.namespace] += size
                self._wholes[subject.kind, subject.namespace, subject.name] = replace(subject, document={})
        elif subject.kind == "Configuration":
            self._configurations.add(str(document["metadata"].get("uid")))


def order(document: JsonObject) -> int:
    """The sort key for objects of several kinds."""
    kind = document.get("kind")
    return SUBJECT_KINDS.index(kind) if kind in SUBJECT_KINDS else len(SUBJECT_KINDS)


def _has_ended(document: JsonObject) -> bool:
    return document.get("kind") == "Pod" and value_at(document, "status", "phase") in _ENDED


def _is_in_reserve(document: JsonObject) -> bool:
    return bool(value_at(document, "metadata", "labels", _ROUTING_STATE) == "reserve")


def _hashes(result: RuleResult) -> set[_Finding]:
    return {hash((result.by, result.outcome, found.code, found.message)) for found in result.findings}


def _does_no_more(made: Subject, whole: Subject) -> bool:
    if made.kind == "Route":
        return _name_of(made.visibility) == _name_of(whole.visibility)
    same = all(
        getattr(made, name) == getattr(whole, name) for name in ("scale", "service_accounts", "containers", "pods")
    )
    subset = all(
        {use.name for use in getattr(made, name)} <= {use.name for use in getattr(whole, name)}
        for name in ("secrets", "formats", "past_sidecar")
    )
    values = all(
        _name_of(getattr(made, name)) == _name_of(getattr(whole, name)) for name in ("visibility", "mesh", "runtime")
    )
    return (
        same
        and subset
        and values
        and {use.image for use in made.images} <= {use.image for use in whole.images}
        and {_checked(origin) for origin in made.origins} <= {_checked(origin) for origin in whole.origins}
    )


def _checked(origin: Origin) -> tuple[str, bool, str, str]:
    return origin.text, origin.digest, origin.key, origin.unknown


def _name_of(use: Use | None) -> str:
    return use.name if use is not None else ""
