"""Annotations that policies set if the user wrote none: defaults, and the model of adopted Deployments."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from serve_core.admission.working_set import Admission
from serve_core.api import annotations, models, serving_spec
from serve_core.api.annotations import MODEL
from serve_core.base import overlay
from serve_core.base.constants import ADOPT_LABEL, PREFIX
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import Diagnostic, diagnostic, explanation
from serve_core.policy.matching import about_namespace, selects
from serve_core.syntax import uri_template

if TYPE_CHECKING:
    from serve_core.policy.v1alpha1 import ServingPolicy

_ANNOTATIONS = frozenset(overlay.path("metadata", "annotations", annotation.key) for annotation in annotations.USER)
_AT = f"metadata.labels[{ADOPT_LABEL}]"


def fill(admission: Admission) -> None:
    """Replace the annotations that policies gave earlier by those that they give now.

    A default that contradicts what the user wrote is left out.
    """
    earlier = {path: value for path, value in admission.recorded.items() if path in _ANNOTATIONS}
    overlay.take_back(admission.deployment, earlier)
    policies = tuple(_about(admission))
    if not admission.is_served:
        _adopt(admission, policies)
    if not admission.is_served:
        return
    for name, (value, policy) in sorted(_defaults(policies).items()):
        key, written = PREFIX + name, admission.workload.annotations
        if key not in written and not _contradicts(key, value, written):
            admission.fill({"metadata": {"annotations": {key: value}}})
            reason = explanation("DefaultByPolicy", key=key, value=value, policy=policy)
            admission.findings.explanations.append(reason)


def asks_for_adoption(deployment: JsonObject) -> bool:
    """Whether it has the label by which policies adopt."""
    labels = value_at(deployment, "metadata", "labels")
    return isinstance(labels, dict) and ADOPT_LABEL in labels


def _adopt(admission: Admission, policies: tuple["ServingPolicy", ...]) -> None:
    """Give the model annotation to a Deployment that has the label, by the first policy that adopts; in order of
    names."""
    workload, findings = admission.workload, admission.findings
    if not asks_for_adoption(admission.deployment):
        return
    label, namespace = workload.labels[ADOPT_LABEL], workload.namespace
    for policy in policies:
        if policy.spec.adopt is None:
            continue
        uri = uri_template.expand(policy.spec.adopt.model, label=label, name=workload.name, namespace=namespace)
        if isinstance(fault := models.parse(uri, _AT), Diagnostic):
            why = fault.message.rstrip(".")
            findings.problems.append(diagnostic("AdoptedModelInvalid", _AT, policy=policy.name, why=why))
        else:
            admission.fill({"metadata": {"annotations": {MODEL: uri}}})
            reason = explanation("AdoptedByPolicy", uri=uri, policy=policy.name, label=ADOPT_LABEL)
            findings.explanations.append(reason)
        return
    findings.warnings.append(diagnostic("NotAdopted", _AT, namespace=namespace))
    admission.not_adopted = True


def _contradicts(key: str, value: str, written: Mapping[str, str]) -> bool:
    return len(serving_spec.read({**written, key: value})[1]) > len(serving_spec.read(written)[1])


def _defaults(policies: tuple["ServingPolicy", ...]) -> Mapping[str, tuple[str, str]]:
    """Annotation by its short name to its default and the policy that has it; the first policy by name counts."""
    return {name: (value, policy.name) for policy in reversed(policies) for name, value in policy.spec.defaults.items()}


def _about(admission: Admission) -> Iterator["ServingPolicy"]:
    """The policies about the Deployment, by name."""
    workload, context = admission.workload, admission.context
    namespace_labels = context.namespace_labels.get(workload.namespace, {})
    for policy in about_namespace(context.policies, workload.namespace, namespace_labels):
        match = policy.spec.match
        if (not match.kinds or "Deployment" in match.kinds) and (
            match.object_selector is None or selects(match.object_selector, workload.labels)
        ):
            yield policy
