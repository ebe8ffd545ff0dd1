"""The one evaluator: what the policies say of a subject, at admission, in the audit and offline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from serve_core.api.matching import is_about_namespace, selects
from serve_core.api.policies import Kind, Match, PolicyException, Rule, ServingPolicy, utc_text
from serve_core.base.reasons import MOST_PROBLEMS, Diagnostic, diagnostic
from serve_core.policy.rules import findings
from serve_core.policy.subjects import Subject
from serve_core.syntax.glob import matches

NOT_FOR_PODS = frozenset({"runtimes", "protocols", "scale", "auth", "visibility", "mode"})
"""Kinds of rules that find nothing in a pod: it does not say what they are about."""

_LEADING: frozenset[Kind] = frozenset({"Route", "DomainMapping"})
"""Kinds that serve nothing themselves and lead to what does: of these, only where they can be reached counts."""

_WITHOUT_LABELS: frozenset[Kind] = frozenset({"Pod", "ServingRuntime", "TrainedModel", *_LEADING})
"""Kinds that are a part of what serves, and need no labels unless a policy names the kind."""

_FOR_ANYTHING = ("label", "expression")
"""Kinds of rules that are about any object, whatever it does."""


class RuleOutcome(StrEnum):
    """What one rule says of one subject."""

    PASS = "Pass"  # noqa: S105 - no password
    DENY = "Deny"
    WARN = "Warn"
    AUDIT = "Audit"
    EXCEPTED = "Excepted"
    EXEMPT = "Exempt"


@dataclass(frozen=True)
class User:
    """Who asks, as the API server names them."""

    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
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
        """By which exception the findings do not count."""
        if self.exception is None:
            return None
        spec = self.exception.spec
        return diagnostic(
            "Excepted",
            self.findings[0].path,
            by=self.by,
            until=utc_text(spec.expires),
            exception=self.exception.name,
            reason=spec.reason.rstrip("."),
            ticket=spec.ticket,
        )


@dataclass(frozen=True)
class PolicyVerdict:
    """What all rules that are about a subject say of it, in the order of their policies' names."""

    results: tuple[Result, ...] = ()

    @property
    def denied(self) -> bool:
        return any(result.outcome is RuleOutcome.DENY for result in self.results)

    @property
    def problems(self) -> tuple[Diagnostic, ...]:
        """Why the subject is refused."""
        return self._of(RuleOutcome.DENY)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """What its user is told although it is not refused."""
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
    """Judge ``subject`` by all policies. ``user`` is who asks; the audit asks for nobody, and exempts nobody."""
    results: list[Result] = []
    for policy in sorted(policies, key=lambda policy: policy.name):
        if not is_about(policy.spec.match, subject):
            continue
        if policy.fault:
            fault = diagnostic("PolicyUnreadable", "metadata.name", policy=policy.name, why=policy.fault)
            results.append(Result(policy.name, "*", RuleOutcome.DENY, (fault,)))
            continue
        exempt = user is not None and _exempts(policy, user)
        for rule in policy.spec.rules:
            if _says_something(rule, policy.spec.match, subject.kind, subject.made):
                # Of all rules together no more are found than are said, but one of each that finds something.
                found = sum(len(result.findings) for result in results)
                most = max(MOST_PROBLEMS + 1 - found, 1)
                results.append(_judge(rule, policy, subject, exceptions, now, exempt, most))
    return PolicyVerdict(tuple(results))


def may_refuse(policy: ServingPolicy, kind: Kind) -> bool:
    """Whether the policy can refuse any object of that kind."""
    match = policy.spec.match
    about = not match.kinds or kind in match.kinds
    return bool(policy.fault) or any(
        about
        and (rule.action or policy.spec.action) == "Deny"
        and _says_something(rule, match, kind)
        and (kind != "Pod" or rule.about[0] not in NOT_FOR_PODS)
        for rule in policy.spec.rules
    )


def _says_something(rule: Rule, match: Match, kind: Kind, made: bool = False) -> bool:
    """A pod bears neither the labels nor the annotations of what it was made from, which was judged by them."""
    about = rule.about[0]
    if made and (about in NOT_FOR_PODS or about in _FOR_ANYTHING):
        return False
    if about in _FOR_ANYTHING:
        return kind in match.kinds or kind not in _WITHOUT_LABELS
    return about == "visibility" or kind not in _LEADING


def _judge(
    rule: Rule,
    policy: ServingPolicy,
    subject: Subject,
    exceptions: Sequence[PolicyException],
    now: datetime,
    exempt: bool,
    most: int,
) -> Result:
    if exempt:
        return Result(policy.name, rule.name, RuleOutcome.EXEMPT)
    found = findings(rule, subject, f"{policy.name}/{rule.name}", most)
    if not found:
        return Result(policy.name, rule.name, RuleOutcome.PASS)
    exception = _exception(policy.name, rule.name, subject, exceptions, now)
    if exception is not None:
        return Result(policy.name, rule.name, RuleOutcome.EXCEPTED, found, exception)
    return Result(policy.name, rule.name, RuleOutcome(rule.action or policy.spec.action), found)


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
    """The narrowest exception that counts now."""
    fitting = [
        exception
        for exception in exceptions
        if exception.spec.policy == policy
        and rule in exception.spec.rules
        and exception.spec.match.namespace == subject.namespace
        and matches(subject.workload, exception.spec.match.name)
        and exception.counts(now)
    ]
    # A plain name is narrower than a pattern, a longer pattern than a shorter one; then the first by name.
    return min(
        fitting,
        key=lambda e: ("*" in e.spec.match.name, -len(e.spec.match.name), len(e.spec.rules), e.name),
        default=None,
    )
