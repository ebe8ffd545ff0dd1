"""The one evaluator: judges a subject by policies, at admission, in the audit and offline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import islice

from serve_core.base.reasons import MAX_PROBLEMS, Diagnostic, diagnostic
from serve_core.policy.check import Scope
from serve_core.policy.matching import is_about_namespace, selects
from serve_core.policy.rules import Rule
from serve_core.policy.subject import Subject, SubjectKind
from serve_core.policy.v1alpha1 import Match, PolicyException, ServingPolicy
from serve_core.syntax.glob import matches

_LEADING: frozenset[SubjectKind] = frozenset({"Route", "DomainMapping"})
"""Kinds that only lead to a model. Only their visibility is judged."""

_WITHOUT_LABELS: frozenset[SubjectKind] = frozenset({"Pod", "ServingRuntime", "TrainedModel", *_LEADING})
"""Kinds that are parts of other objects. Labels and expressions are judged only if a policy names the kind."""


class RuleOutcome(StrEnum):
    """The outcome of one rule for one subject."""

    PASS = "Pass"  # noqa: S105 - no password
    DENY = "Deny"
    WARN = "Warn"
    AUDIT = "Audit"
    EXCEPTED = "Excepted"
    EXEMPT = "Exempt"


@dataclass(frozen=True)
class User:
    """The requesting user, as the API server names it."""

    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class RuleResult:
    """The outcome of one rule for one subject, with what it found."""

    policy: str
    rule: str
    outcome: RuleOutcome
    findings: tuple[Diagnostic, ...] = ()
    exception: PolicyException | None = None

    @property
    def by(self) -> str:
        return f"{self.policy}/{self.rule}"

    @property
    def excuse(self) -> Diagnostic | None:
        """A warning that names the exception which applies to the findings."""
        if self.exception is None:
            return None
        spec = self.exception.spec
        return diagnostic(
            "Excepted",
            self.findings[0].path,
            by=self.by,
            until=self.exception.end,
            exception=self.exception.name,
            reason=spec.reason.rstrip("."),
            ticket=spec.ticket,
        )


@dataclass(frozen=True)
class PolicyVerdict:
    """The results of all rules about a subject, in the order of their policies' names."""

    results: tuple[RuleResult, ...] = ()

    @property
    def denied(self) -> bool:
        return any(result.outcome is RuleOutcome.DENY for result in self.results)

    @property
    def problems(self) -> tuple[Diagnostic, ...]:
        """Why the subject is refused."""
        return self._of(RuleOutcome.DENY)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """Findings and exceptions that do not refuse the subject, for its user."""
        excuses = [result.excuse for result in self.results if result.excuse is not None]
        return (*self._of(RuleOutcome.WARN), *excuses)

    def _of(self, outcome: RuleOutcome) -> tuple[Diagnostic, ...]:
        return tuple(found for result in self.results if result.outcome is outcome for found in result.findings)


def judge_policies(
    subject: Subject,
    policies: Iterable[ServingPolicy],
    exceptions: Sequence[PolicyException],
    now: datetime,
    user: User | None = None,
) -> PolicyVerdict:
    """Judge ``subject`` by all policies. ``user`` is the requesting user; the audit has none, and exempts none."""
    results: list[RuleResult] = []
    for policy in sorted(policies, key=lambda policy: policy.name):
        if not is_about(policy.spec.match, subject):
            continue
        if policy.fault:
            fault = diagnostic("PolicyUnreadable", "metadata.name", policy=policy.name, why=policy.fault)
            results.append(RuleResult(policy.name, "*", RuleOutcome.DENY, (fault,)))
            continue
        exempt = user is not None and _exempts(policy, user)
        for rule in policy.spec.rules:
            if _is_judged_by(rule, policy.spec.match, subject.kind, subject.made):
                # Together the rules find no more than a message lists, but each with a finding has one.
                found = sum(len(result.findings) for result in results)
                most = max(MAX_PROBLEMS + 1 - found, 1)
                results.append(_judge(rule, policy, subject, exceptions, now, exempt, most))
    return PolicyVerdict(tuple(results))


def may_refuse(policy: ServingPolicy, kind: SubjectKind) -> bool:
    """Whether the policy can refuse any object of that kind."""
    match = policy.spec.match
    about = not match.kinds or kind in match.kinds
    return bool(policy.fault) or any(
        about
        and (rule.action or policy.spec.action) == "Deny"
        and _is_judged_by(rule, match, kind)
        and (kind != "Pod" or rule.check.applies_to_pods)
        for rule in policy.spec.rules
    )


def _is_judged_by(rule: Rule, match: Match, kind: SubjectKind, made: bool = False) -> bool:
    """Whether a rule judges subjects of a kind. What is ``made`` of another object has neither its labels nor its
    annotations; the other object is judged by these."""
    check = rule.check
    if made and (not check.applies_to_pods or check.scope is Scope.ANY):
        return False
    if check.scope is Scope.ANY:
        return kind in match.kinds or kind not in _WITHOUT_LABELS
    return check.scope is Scope.REACHABLE or kind not in _LEADING


def _judge(
    rule: Rule,
    policy: ServingPolicy,
    subject: Subject,
    exceptions: Sequence[PolicyException],
    now: datetime,
    exempt: bool,
    most: int,
) -> RuleResult:
    if exempt:
        return RuleResult(policy.name, rule.name, RuleOutcome.EXEMPT)
    found = findings(rule, subject, f"{policy.name}/{rule.name}", most)
    if not found:
        return RuleResult(policy.name, rule.name, RuleOutcome.PASS)
    exception = _exception(policy.name, rule.name, subject, exceptions, now)
    if exception is not None:
        return RuleResult(policy.name, rule.name, RuleOutcome.EXCEPTED, found, exception)
    return RuleResult(policy.name, rule.name, RuleOutcome(rule.action or policy.spec.action), found)


def findings(rule: Rule, subject: Subject, by: str, most: int = MAX_PROBLEMS + 1) -> tuple[Diagnostic, ...]:
    """What ``rule`` finds wrong, at most ``most`` findings. ``by`` names the policy and the rule in the messages."""
    if subject.fault is not None:
        return (subject.fault,)
    found = tuple(dict.fromkeys(islice(rule.check.findings(subject, by), most)))
    if rule.hint is not None:
        found = tuple(replace(finding, hint=rule.hint) for finding in found)
    return tuple(sorted(found))


def is_about(match: Match, subject: Subject) -> bool:
    """Whether a policy with this match judges the subject."""
    if match.kinds and subject.kind not in match.kinds:
        return False
    if not is_about_namespace(match, subject.namespace, subject.namespace_labels):
        return False
    selector = match.object_selector
    return selector is None or selects(selector, subject.labels) or selects(selector, subject.former_labels)


def _exempts(policy: ServingPolicy, user: User) -> bool:
    exempt = policy.spec.exempt
    return user.name in exempt.users or not set(exempt.groups).isdisjoint(user.groups)


def _exception(
    policy: str, rule: str, subject: Subject, exceptions: Sequence[PolicyException], now: datetime
) -> PolicyException | None:
    """The narrowest exception that applies now."""
    fitting = [
        exception
        for exception in exceptions
        if exception.spec.policy == policy
        and rule in exception.spec.rules
        and exception.spec.match.namespace == subject.namespace
        and matches(subject.workload, exception.spec.match.name)
        and exception.counts(now)
    ]
    # A name is narrower than a pattern, and a longer pattern than a shorter one. The name decides a tie.
    return min(
        fitting,
        key=lambda e: ("*" in e.spec.match.name, -len(e.spec.match.name), len(e.spec.rules), e.name),
        default=None,
    )
