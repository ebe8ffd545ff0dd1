"""Annotations that policies fill in where the user wrote none: defaults, and the model of what they adopt."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from serve_core.api import annotations, models, serving_spec
from serve_core.api.annotations import MODEL
from serve_core.base import overlay
from serve_core.base.constants import ADOPT_LABEL, PREFIX
from serve_core.base.json import JsonObject, value_at
from serve_core.base.overlay import FieldRecord
from serve_core.base.reasons import Diagnostic, Explanation, diagnostic, explanation
from serve_core.context.cluster import ClusterContext
from serve_core.policy.matching import is_about_namespace, selects
from serve_core.syntax import uri_template

if TYPE_CHECKING:
    from serve_core.policy.v1alpha1 import ServingPolicy

_ANNOTATIONS = frozenset(overlay.path("metadata", "annotations", annotation.key) for annotation in annotations.USER)
_AT = f"metadata.labels[{ADOPT_LABEL}]"


@dataclass(frozen=True)
class Filled:
    """What policies filled in, and why."""

    record: FieldRecord
    choices: tuple[Explanation, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    problems: tuple[Diagnostic, ...] = ()


def fill(deployment: JsonObject, record: FieldRecord, context: ClusterContext) -> Filled:
    """Exchange in ``deployment`` the annotations that ``record`` remembers for those that policies give now.

    A default that contradicts what the user wrote gives way.
    """
    overlay.take_back(deployment, {path: value for path, value in record.items() if path in _ANNOTATIONS})
    policies = tuple(_about(deployment, context))
    adopted = Filled({}) if MODEL in _notes(deployment) else _adopt(deployment, policies)
    if MODEL not in _notes(deployment):
        return adopted
    filled = dict(adopted.record)
    choices = list(adopted.choices)
    for name, (value, policy) in sorted(_wanted(policies).items()):
        key, notes = PREFIX + name, _notes(deployment)
        if key not in notes and len(serving_spec.read({**notes, key: value})[1]) <= len(serving_spec.read(notes)[1]):
            filled |= overlay.fill(deployment, {"metadata": {"annotations": {key: value}}})
            choices.append(explanation("DefaultByPolicy", key=key, value=value, policy=policy))
    return replace(adopted, record=filled, choices=tuple(choices))


def asks_for_adoption(deployment: JsonObject) -> bool:
    """Whether it bears the label by which policies adopt."""
    labels = value_at(deployment, "metadata", "labels")
    return isinstance(labels, dict) and ADOPT_LABEL in labels


def _adopt(deployment: JsonObject, policies: tuple["ServingPolicy", ...]) -> Filled:
    """Give the model annotation to a Deployment that bears the label; the first policy by name says which."""
    if not asks_for_adoption(deployment):
        return Filled({})
    metadata = deployment["metadata"]
    namespace, label = str(metadata.get("namespace", "")), str(metadata["labels"][ADOPT_LABEL])
    for policy in policies:
        if policy.spec.adopt is None:
            continue
        uri = uri_template.filled_in(policy.spec.adopt.model, label=label, name=metadata["name"], namespace=namespace)
        if isinstance(fault := models.parse(uri, _AT), Diagnostic):
            why = fault.message.rstrip(".")
            return Filled({}, problems=(diagnostic("AdoptedModelInvalid", _AT, policy=policy.name, why=why),))
        filled = overlay.fill(deployment, {"metadata": {"annotations": {MODEL: uri}}})
        return Filled(filled, (explanation("AdoptedByPolicy", uri=uri, policy=policy.name, label=ADOPT_LABEL),))
    return Filled({}, warnings=(diagnostic("NotAdopted", _AT, namespace=namespace),))


def _wanted(policies: tuple["ServingPolicy", ...]) -> Mapping[str, tuple[str, str]]:
    """Annotation by its short name to its default and the policy that says so; the first policy by name wins."""
    return {name: (value, policy.name) for policy in reversed(policies) for name, value in policy.spec.defaults.items()}


def _about(deployment: JsonObject, context: ClusterContext) -> Iterator["ServingPolicy"]:
    """The policies that are about the Deployment, by name."""
    metadata = deployment["metadata"]
    namespace = str(metadata.get("namespace", ""))
    namespace_labels = context.namespace_labels.get(namespace, {})
    for policy in sorted(context.policies, key=lambda policy: policy.name):
        match = policy.spec.match
        if (
            (not match.kinds or "Deployment" in match.kinds)
            and is_about_namespace(match, namespace, namespace_labels)
            and (match.object_selector is None or selects(match.object_selector, metadata.get("labels") or {}))
        ):
            yield policy


def _notes(deployment: JsonObject) -> JsonObject:
    return deployment["metadata"].get("annotations") or {}
