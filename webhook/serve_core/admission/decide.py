"""The one entry point of the core: what becomes of a Deployment, and why.

Admission, the reconciler, ``kubectl serve render`` and the tests all call it; the same input gives the same answer in
each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from serve_core.admission import policy_defaults, shape, steps
from serve_core.admission.completion import completion_record
from serve_core.admission.working_set import Admission
from serve_core.api import state
from serve_core.api.annotations import COMPLETED_WITH, MODEL
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import Diagnostic, Explanation
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext
from serve_core.istio import authorization
from serve_core.knative import name_conflict
from serve_core.knative.features import FeatureNeed


class Stage(NamedTuple):
    """Steps that all run, so that a refusal has all their problems. After a problem, no later stage runs."""

    steps: tuple[Callable[[Admission], None], ...]
    explains: bool = True
    """Whether a refusal has the explanations so far."""
    warns: bool = False
    """Whether a refusal has warnings."""


_RENDER = (
    steps.warn_of_services,
    steps.warn_of_neighbours,
    steps.render_knative_service,
    steps.render_plain_service,
    steps.render_access_policies,
    steps.render_telemetry,
    steps.render_prefetch,
)

READ = (
    Stage(
        (
            steps.restore_server_annotations,
            steps.read_field_record,
            steps.apply_policy_defaults,
            steps.read_annotations,
        ),
        explains=False,
    ),
)
"""What :func:`judge` does first."""

SERVED = (
    Stage(
        (
            steps.take_back_earlier_fields,
            steps.refuse_reserved_names,
            steps.refuse_named_ports,
            steps.keep_replicas,
            steps.size_model,
            steps.complete_template,
            steps.report_mesh,
            steps.bypass_activator,
        )
    ),
    Stage((steps.record_fields, steps.choose_name, steps.limit_annotations)),
    Stage((steps.report_name, steps.limit_name, steps.require_port, *_RENDER, steps.warn_of_mesh), warns=True),
    Stage((steps.park, steps.unpark)),
)
"""What it then does with a Deployment that has a model."""

NOT_SERVED = (Stage((steps.give_back,), warns=True),)
"""What it then does with any other."""

STORED = (
    Stage((steps.require_completion,)),
    Stage((steps.choose_name, steps.explain_loader, *_RENDER), warns=True),
)
"""What :func:`render_stored` does with a Deployment that has a model."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of one Deployment."""

    problems: tuple[Diagnostic, ...] = ()
    """Why it is refused; empty when it is not."""
    warnings: tuple[Diagnostic, ...] = ()
    """What the user should know although it is accepted."""
    explanations: tuple[Explanation, ...] = ()
    """What was chosen for the user, each with its reason."""
    deployment: JsonObject | None = None
    """The completed and parked Deployment, or the plain one given back; ``None`` when refused."""
    service: JsonObject | None = None
    """The Knative Service it becomes; ``None`` when refused, not served, or served by the Deployment itself."""
    extras: tuple[JsonObject, ...] = ()
    """Further objects that it needs and the Deployment owns."""
    name: str = ""
    """Of the Knative Service, or of the Service in mode ``deployment``; empty where there is neither."""
    feature_needs: frozenset[FeatureNeed] = frozenset()
    """Knative's feature flags that the Knative Service needs, also where it is refused because one is not set."""

    @property
    def objects(self) -> tuple[JsonObject, ...]:
        """Everything beside the Deployment, in the order of its application: the access policies exist before anyone
        can reach the model."""
        first = tuple(extra for extra in self.extras if authorization.is_access_policy(extra))
        others = tuple(extra for extra in self.extras if not authorization.is_access_policy(extra))
        return (*first, *((self.service,) if self.service else ()), *others)

    @property
    def refused(self) -> bool:
        return bool(self.problems)


def judge(deployment: JsonObject, context: ClusterContext, previous: JsonObject | None = None) -> Verdict:
    """Decide what becomes of ``deployment``: complete it, park it and render its Knative Service, or refuse it.

    ``previous`` is what the API server stores before an update: admission keeps what was noted on it, and hands over
    what was running. A Deployment without the ``model`` annotation, and without a policy that adopts it, is given back
    as the user wrote it, without the fields that an earlier admission set. The input is not changed. Bad input never
    raises: it is a problem of the verdict.
    """
    if problems := shape.faults(deployment):
        return Verdict(problems=problems)
    admission = Admission.of(deployment, context, previous)
    stage = _run(READ, admission) or _run(SERVED if admission.is_served else NOT_SERVED, admission)
    return _verdict(admission, stage, admission.deployment)


def render_stored(deployment: JsonObject, context: ClusterContext) -> Verdict:
    """Render the Knative Service of a Deployment as the API server stores it, without completing it again.

    The reconciler's half of :func:`judge`: what admission decided stays until the next admission, so that a new loader
    image or runtime does not roll out models by surprise. The verdict has no Deployment.
    """
    if problems := shape.faults(deployment):
        return Verdict(problems=problems)
    admission = Admission.of(deployment, context)
    admission.state = state.read(deployment)
    steps.read_annotations(admission)
    if admission.findings.problems or not admission.is_served:
        return Verdict(problems=tuple(admission.findings.problems))
    return _verdict(admission, _run(STORED, admission))


def given_by_policies(deployment: JsonObject, context: ClusterContext) -> tuple[Explanation, ...]:
    """The annotations that policies give to a stored Deployment, each with the policy that has it."""
    admission = Admission.of(deployment, context)
    steps.read_field_record(admission)
    steps.apply_policy_defaults(admission)
    return tuple(admission.findings.explanations)


def renewed(deployment: JsonObject, context: ClusterContext) -> Verdict:
    """What would become of a stored Deployment if it were completed with the present runtimes and loader."""
    notes = {**Workload(deployment).annotations, COMPLETED_WITH: completion_record.RENEW}
    return judge({**deployment, "metadata": {**deployment["metadata"], "annotations": notes}}, context, deployment)


def is_served(deployment: JsonObject) -> bool:
    """Whether the Deployment asks to be served."""
    return MODEL in Workload(deployment).annotations


def concerns(deployment: JsonObject) -> bool:
    """Whether the API server calls admission when the Deployment is created: it has an annotation of kubectl-serve, or
    asks for adoption. The same as the matchConditions."""
    notes = value_at(deployment, "metadata", "annotations")
    ours = isinstance(notes, dict) and any(isinstance(key, str) and key.startswith(PREFIX) for key in notes)
    return ours or policy_defaults.asks_for_adoption(deployment)


def _run(stages: tuple[Stage, ...], admission: Admission) -> Stage | None:
    """Run stages in their order; the one that found problems, if one did."""
    for stage in stages:
        for step in stage.steps:
            step(admission)
        if admission.findings.problems:
            return stage
    return None


def _verdict(admission: Admission, refused_by: Stage | None, deployment: JsonObject | None = None) -> Verdict:
    findings = admission.findings
    warnings, explanations = tuple(findings.warnings), tuple(findings.explanations)
    if refused_by is not None:
        return Verdict(
            tuple(sorted(findings.problems)),
            warnings if refused_by.warns else (),
            explanations if refused_by.explains else (),
            feature_needs=admission.feature_needs,
        )
    return Verdict(
        warnings=warnings,
        explanations=explanations,
        deployment=deployment,
        service=admission.service,
        extras=(*admission.access_policies, *admission.extras),
        name=name_conflict.service_name(admission.deployment) if admission.is_served else "",
        feature_needs=admission.feature_needs,
    )
