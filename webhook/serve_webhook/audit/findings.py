"""Results of many judged objects in little memory: all counted, the worst of each namespace kept. Pure.

Any user can create thousands of pods, and each may break every rule.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from serve_core.audit.stored_objects import AuditedObject
from serve_core.policy.evaluate import PolicyVerdict, RuleOutcome, RuleResult
from serve_kube.resources import DEPLOYMENTS

MAX_RESULTS = 1000
"""Results of one namespace that are kept; the others are only counted. Its report has the worst of them."""

BROKEN = (RuleOutcome.DENY, RuleOutcome.WARN, RuleOutcome.AUDIT)
REPORTED = (*BROKEN, RuleOutcome.EXCEPTED)
"""The worst first."""

CountKey = tuple[str, str, RuleOutcome]
"""Policy, rule and outcome."""
ObjectKey = tuple[str, str, str]
"""API version, kind and name."""


class AuditFindings:
    """How many objects of each namespace have which result, and the results themselves of some."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[CountKey]] = defaultdict(Counter)
        """By namespace."""
        self._results: dict[str, dict[ObjectKey, tuple[RuleResult, ...]]] = defaultdict(dict)
        """Reported results by namespace and object."""
        self._room: dict[str, int] = {}
        """How many more results of each namespace can be kept."""
        self._deployments: dict[tuple[str, str], tuple[CountKey, ...]] = {}
        self._interned: dict[CountKey, CountKey] = {}
        """One instance of each key, which all counters share."""

    def add(self, judged: AuditedObject) -> None:
        keys = ((result.policy, result.rule, result.outcome) for result in judged.verdict.results)
        counted = tuple(self._interned.setdefault(each, each) for each in keys)
        self._counts[judged.namespace].update(counted)
        if judged.kind == DEPLOYMENTS.kind:
            self._deployments[judged.namespace, judged.name] = counted
        reported = tuple(result for result in judged.verdict.results if result.outcome in REPORTED)
        room = self._room.get(judged.namespace, MAX_RESULTS)
        if reported and room:
            worst = tuple(sorted(reported, key=severity)[:room])
            self._room[judged.namespace] = room - len(worst)
            self._results[judged.namespace][judged.api_version, judged.kind, judged.name] = worst

    def remove(self, namespace: str, name: str) -> None:
        """Remove the results of a Deployment."""
        self._counts[namespace].subtract(self._deployments.pop((namespace, name), ()))
        self._counts[namespace] = +self._counts[namespace]
        removed = self._results[namespace].pop((DEPLOYMENTS.api_version, DEPLOYMENTS.kind, name), ())
        if removed:
            self._room[namespace] += len(removed)

    def namespaces(self) -> list[str]:
        return [namespace for namespace, counts in self._counts.items() if counts]

    def counts(self, namespace: str) -> Mapping[CountKey, int]:
        return self._counts.get(namespace, {})

    def results(self, namespace: str) -> Iterator[tuple[ObjectKey, RuleResult]]:
        for object_key, results in self._results.get(namespace, {}).items():
            yield from ((object_key, result) for result in results)

    def violations(self) -> Counter[CountKey]:
        """How many objects break each rule."""
        total: Counter[CountKey] = Counter()
        for counts in self._counts.values():
            total.update({key: number for key, number in counts.items() if key[2] in BROKEN})
        return total


def broken(verdict: PolicyVerdict) -> list[RuleResult]:
    """The broken rules, whatever their action."""
    return [result for result in verdict.results if result.outcome in BROKEN]


def severity(result: RuleResult) -> tuple[int, str]:
    """Sorts the worst result first."""
    return REPORTED.index(result.outcome), result.by
