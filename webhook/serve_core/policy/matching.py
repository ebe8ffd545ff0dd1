"""Which namespaces and labels a policy matches."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from serve_core.base.constants import NEVER_JUDGED
from serve_core.syntax.glob import matches

if TYPE_CHECKING:
    from serve_core.policy.v1alpha1 import Match, Selector, ServingPolicy


def about_namespace(
    policies: Iterable["ServingPolicy"], namespace: str, labels: Mapping[str, str]
) -> Iterator["ServingPolicy"]:
    """The policies that apply to a namespace with these labels, by name: where only one can apply, it is the first."""
    for policy in sorted(policies, key=lambda policy: policy.name):
        if is_about_namespace(policy.spec.match, namespace, labels):
            yield policy


def is_about_namespace(match: "Match", namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether a policy with this match applies to a namespace with these labels."""
    if namespace in NEVER_JUDGED:
        return False
    if match.namespaces and not any(matches(namespace, pattern) for pattern in match.namespaces):
        return False
    if any(matches(namespace, pattern) for pattern in match.exclude_namespaces):
        return False
    return match.namespace_selector is None or selects(match.namespace_selector, labels)


def selects(selector: "Selector", labels: Mapping[str, str]) -> bool:
    """Whether the selector matches these labels, as Kubernetes' label selectors do."""
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    for requirement in selector.match_expressions:
        value = labels.get(requirement.key)
        holds = {
            "In": value is not None and value in requirement.values,
            "NotIn": value is None or value not in requirement.values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[requirement.operator]
        if not holds:
            return False
    return True
