"""Annotations that policies fill in where the user wrote none."""

from collections.abc import Iterator, Mapping

from serve_core import annotations, filling
from serve_core.facts import PlatformFacts
from serve_core.filling import Record
from serve_core.json import JsonObject
from serve_core.names import PREFIX
from serve_core.policy.matching import is_about_namespace, selects
from serve_core.reasons import Choice, choice

_ANNOTATIONS = frozenset(filling.path("metadata", "annotations", annotation.key) for annotation in annotations.USER)


def fill(deployment: JsonObject, record: Record, facts: PlatformFacts) -> tuple[Record, tuple[Choice, ...]]:
    """Exchange the defaults that ``record`` remembers for those that hold now; return what was filled, and why.

    A default that contradicts what the user wrote gives way.
    """
    filling.take_back(deployment, {path: value for path, value in record.items() if path in _ANNOTATIONS})
    notes = deployment["metadata"].get("annotations") or {}
    if annotations.MODEL not in notes:
        return {}, ()
    filled: Record = {}
    choices = []
    for name, (value, policy) in sorted(_wanted(deployment, facts).items()):
        key = PREFIX + name
        notes = deployment["metadata"]["annotations"]
        if key not in notes and len(annotations.read({**notes, key: value})[1]) <= len(annotations.read(notes)[1]):
            filled |= filling.fill(deployment, {"metadata": {"annotations": {key: value}}})
            choices.append(choice("DefaultByPolicy", key=key, value=value, policy=policy))
    return filled, tuple(choices)


def _wanted(deployment: JsonObject, facts: PlatformFacts) -> Mapping[str, tuple[str, str]]:
    """Annotation by its short name to its default and the policy that says so; the first policy by name wins."""
    return dict(reversed(list(_all(deployment, facts))))


def _all(deployment: JsonObject, facts: PlatformFacts) -> Iterator[tuple[str, tuple[str, str]]]:
    metadata = deployment["metadata"]
    namespace = str(metadata.get("namespace", ""))
    namespace_labels = facts.namespace_labels.get(namespace, {})
    for policy in sorted(facts.policies, key=lambda policy: policy.name):
        match = policy.spec.match
        if (
            (not match.kinds or "Deployment" in match.kinds)
            and is_about_namespace(match, namespace, namespace_labels)
            and (match.object_selector is None or selects(match.object_selector, metadata.get("labels") or {}))
        ):
            for name, value in policy.spec.defaults.items():
                yield name, (value, policy.name)
