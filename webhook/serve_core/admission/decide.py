"""The one entry point of the core: what becomes of a Deployment, and why.

Admission, the reconciler, ``kubectl serve render`` and the tests all call it; the same input gives the same answer in
each.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from serve_core.admission import completion_record, deployment_mode, handover, policy_defaults
from serve_core.admission.completion import complete
from serve_core.admission.service import render
from serve_core.api import annotations, serving_spec
from serve_core.api.annotations import COMPLETED_WITH, FILLED, HANDOVER, KNATIVE, MODE, MODEL, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.base import bounds, overlay
from serve_core.base.constants import PREFIX, SERVED_LABEL
from serve_core.base.json import JsonObject, value_at
from serve_core.base.overlay import FieldRecord
from serve_core.base.reasons import Diagnostic, Explanation, capped, diagnostic, step
from serve_core.context.cluster import ClusterContext
from serve_core.istio import authorization, injection, telemetry
from serve_core.knative import domain_mapping, name_conflict

MOST_ANNOTATIONS = 256 * 1024
"""Bytes of an object's annotations (k8s.io/apimachinery, pkg/api/validation: ``TotalAnnotationSizeLimitB``)."""
_FILLED = frozenset(
    (
        overlay.path("metadata", "labels", SERVED_LABEL),
        *(overlay.path("metadata", "annotations", annotation.key) for annotation in annotations.USER),
    )
)
_FILLED_BELOW = (overlay.path("spec", "selector", ""), overlay.path("spec", "template", ""))
"""Where something is ever filled in."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of one Deployment."""

    problems: tuple[Diagnostic, ...] = ()
    """Why it is refused; empty when it is not."""
    warnings: tuple[Diagnostic, ...] = ()
    """What the user should know although it is accepted."""
    choices: tuple[Explanation, ...] = ()
    """What was chosen for the user, each with its reason."""
    deployment: JsonObject | None = None
    """The completed and parked Deployment, or the plain one given back; ``None`` when refused."""
    service: JsonObject | None = None
    """The Knative Service it becomes; ``None`` when refused, not served, or served by the Deployment itself."""
    extras: tuple[JsonObject, ...] = ()
    """Further objects that it needs and the Deployment owns."""
    name: str = ""
    """Of the Knative Service, or of the Service in mode ``deployment``; empty where there is neither."""

    @property
    def objects(self) -> tuple[JsonObject, ...]:
        """Everything beside the Deployment, in the order of its application: no model is reachable before its guards
        are there."""
        guards = tuple(extra for extra in self.extras if authorization.is_guard(extra))
        others = tuple(extra for extra in self.extras if not authorization.is_guard(extra))
        return (*guards, *((self.service,) if self.service else ()), *others)

    @property
    def refused(self) -> bool:
        return bool(self.problems)


def judge(deployment: JsonObject, context: ClusterContext, previous: JsonObject | None = None) -> Verdict:
    """Decide what becomes of ``deployment``: complete it, park it and render its Knative Service, or refuse it.

    ``previous`` is what the API server stores before an update: what was noted on it is kept, and what was running is
    handed over. A Deployment without the ``model`` annotation, and without a policy that adopts it, is given back as
    the user wrote it: what was filled in earlier is taken out again. The input is not changed. Bad input never raises:
    it is a problem of the verdict.
    """
    problems = _malformed(deployment)
    if problems:
        return Verdict(problems=problems)
    previous = _sound(previous)
    served = _own(deployment)
    _believe(served, previous, context)
    record = _record(served, previous)
    by_policy = policy_defaults.fill(served, record, context)
    spec, faults = serving_spec.read(_annotations(served))
    if by_policy.warnings:
        # Where no policy adopts any more, what was written for a model that policies gave is in nobody's way.
        faults = tuple(fault for fault in faults if fault.code != "OrphanAnnotation")
    if faults or by_policy.problems:
        return Verdict(problems=(*faults, *by_policy.problems))
    if spec is None:
        return replace(_given_back(served, record), warnings=by_policy.warnings)
    overlay.take_back(served, {path: value for path, value in record.items() if path not in by_policy.record})
    (served["metadata"].get("labels") or {}).pop(SERVED_LABEL, None)  # ours alone, whoever wrote it
    lost = (
        name_conflict.lost_by_name(served, context.services) if _is_running(previous) and spec.mode == KNATIVE else ()
    )
    kept, scale, for_service = name_conflict.keep_replicas(
        served, spec, handover.wanted_replicas(served), context.services
    )
    spec = replace(spec, scale=scale, size=completion_record.size(served, spec, previous))
    mesh = authorization.direct(injection.decide(served, spec, context.istio), spec, served)
    completion = complete(served, spec, context, mesh)
    choices = (*by_policy.choices, *for_service, *completion.choices, *mesh.choices)
    problems = (*lost, *completion.problems, *mesh.problems)
    if problems:
        return Verdict(problems=tuple(sorted(problems)), choices=choices)
    _remember(served, by_policy.record | kept | completion.record)
    served, named, in_the_way = name_conflict.settle_name(served, spec, context.services)
    if too_large := _too_large(served):
        return Verdict(problems=too_large, choices=choices)
    made = _made(served, spec, context)
    made = replace(
        made,
        choices=(*choices, *named, *made.choices),
        warnings=(*completion.warnings, *in_the_way, *made.warnings, *mesh.warnings),
    )
    if made.refused:
        return made
    if spec.mode == KNATIVE:
        handover.park(served, running=_is_running(previous))
    else:
        handover.unpark(served)
    return replace(made, deployment=served)


def given_by_policies(deployment: JsonObject, context: ClusterContext) -> tuple[Explanation, ...]:
    """The annotations that policies give to a stored Deployment, each with the policy that says so."""
    told = _own(deployment)
    return policy_defaults.fill(told, _record(told), context).choices


def renewed(deployment: JsonObject, context: ClusterContext) -> Verdict:
    """What would become of a stored Deployment if it were completed with the present runtimes and loader."""
    told = _own(deployment)
    told["metadata"]["annotations"] = {**_annotations(told), COMPLETED_WITH: completion_record.RENEW}
    return judge(told, context, deployment)


def render_stored(deployment: JsonObject, context: ClusterContext) -> Verdict:
    """Render the Knative Service of a Deployment as the API server stores it, without completing it anew.

    The reconciler's half of :func:`judge`: what was decided at admission stands until the next admission, so that
    a new loader image or runtime rolls out nobody's model by surprise.
    """
    problems = _malformed(deployment)
    if problems:
        return Verdict(problems=problems)
    spec, faults = serving_spec.read(_annotations(deployment))
    if faults or spec is None:
        return Verdict(problems=faults)
    if not _containers(deployment):
        at = "spec.template.spec.containers"
        return Verdict(problems=(diagnostic("InvalidObject", at, why="it was never completed"),))
    deployment, _, _ = name_conflict.settle_name(deployment, spec, context.services)
    return _made(deployment, spec, context)


def _made(deployment: JsonObject, spec: ServingSpec, context: ClusterContext) -> Verdict:
    """What a completed Deployment makes: a Knative Service, or what stands beside it, or the reasons why not."""
    guards = authorization.access_policies(deployment, spec, context)
    if spec.mode == annotations.DEPLOYMENT:
        extras, problems = deployment_mode.beside(deployment, spec)
        made = Verdict(problems=problems, extras=extras)
    else:
        service, problems, warnings = render(deployment, spec, context)
        made = Verdict(
            problems=problems, warnings=warnings, service=service, extras=domain_mapping.mapping(service, spec)
        )
    recorded, faults = telemetry.recorded(deployment, spec, context.istio)
    problems = (*made.problems, *guards.problems, *faults)
    warnings = (*name_conflict.past_knative(deployment, spec, context.services), *made.warnings, *guards.warnings)
    if problems:
        return Verdict(problems=tuple(sorted(problems)), warnings=warnings)
    extras = (*guards.objects, *made.extras, *recorded)
    return replace(made, warnings=warnings, extras=extras, name=name_conflict.service_name(deployment))


def is_served(deployment: JsonObject) -> bool:
    """Whether the Deployment asks to be served."""
    return MODEL in _annotations(deployment)


def concerns(deployment: JsonObject) -> bool:
    """Whether admission is called for it when it is made: it has an annotation of ours, or asks to be adopted.

    The same as the matchConditions.
    """
    notes = value_at(deployment, "metadata", "annotations")
    ours = isinstance(notes, dict) and any(isinstance(key, str) and key.startswith(PREFIX) for key in notes)
    return ours or policy_defaults.asks_for_adoption(deployment)


def _sound(previous: JsonObject | None) -> JsonObject | None:
    """What was stored before, where it has the shape of a Deployment: no API server sends anything else."""
    notes = value_at(previous, "metadata", "annotations")
    is_sound = (
        isinstance(value_at(previous, "metadata"), dict)
        and (notes is None or (isinstance(notes, dict) and all(isinstance(text, str) for text in notes.values())))
        and isinstance(value_at(previous, "spec"), dict | None)
    )
    return previous if is_sound else None


def _own(deployment: JsonObject) -> JsonObject:
    """A copy to be written to, as far down as is written to here; :mod:`filling` copies what it changes below."""
    made = {**deployment, "metadata": {**deployment["metadata"]}}
    places = ((made["metadata"], "annotations"), (made["metadata"], "labels"), (made, "spec"))
    for owner, key in places:
        if isinstance(owner.get(key), dict):
            owner[key] = {**owner[key]}
    return made


def _annotations(deployment: JsonObject) -> JsonObject:
    return deployment["metadata"].get("annotations") or {}


def _containers(deployment: JsonObject) -> list[Any]:
    return value_at(deployment, "spec", "template", "spec", "containers") or []


def _record(deployment: JsonObject, previous: JsonObject | None = None) -> FieldRecord:
    """What of ``deployment`` is still as it was filled. Where its note cannot be read, the one before it counts.

    The submitted note counts, for it can only remove what the user could leave out. It must count for a new Deployment
    too: for a copy of a completed one, and when the API server calls the webhook again after another one.
    """
    for each in (deployment, previous):
        text = None if each is None else _annotations(each).get(FILLED)
        record = {} if text is None else overlay.read(text, deployment)
        if record is not None:
            return {path: value for path, value in record.items() if path in _FILLED or path.startswith(_FILLED_BELOW)}
    return {}


def _remember(deployment: JsonObject, record: FieldRecord) -> None:
    deployment["metadata"].setdefault("annotations", {})[FILLED] = overlay.noted(record)


def _too_large(deployment: JsonObject) -> tuple[Diagnostic, ...]:
    notes = _annotations(deployment).items()
    if sum(len((key + text).encode(errors="surrogatepass")) for key, text in notes) <= MOST_ANNOTATIONS:
        return ()
    why = f"an object has at most {MOST_ANNOTATIONS // 1024} KiB of annotations"
    return (diagnostic("TooLarge", "metadata.annotations", why=why),)


def _believe(deployment: JsonObject, previous: JsonObject | None, context: ClusterContext) -> None:
    """Take back what a user wrote into annotations that only the server writes: what is stored counts.

    So it survives a write that replaces the whole object, such as ``kubectl replace``, too.
    """
    notes = _annotations(deployment)
    before = _annotations(previous) if previous is not None and is_served(previous) else {}
    record = completion_record.believed(notes.get(COMPLETED_WITH), before.get(COMPLETED_WITH), context)
    counts = {**before, COMPLETED_WITH: record}
    if handover.is_paused_by_us(deployment) and before.get(HANDOVER) != handover.TO_KNATIVE:
        del deployment["spec"]["paused"]
    protected = (COMPLETED_WITH, HANDOVER, *annotations.NOTED)
    kept = {key: value for key, value in notes.items() if key not in protected}
    kept |= {key: counts[key] for key in protected if counts.get(key) is not None}
    if kept or notes:
        deployment["metadata"]["annotations"] = kept


def _is_running(deployment: JsonObject | None) -> bool:
    """Whether it has pods of its own that may be serving."""
    if deployment is None:
        return False
    notes = _annotations(deployment)
    if MODEL in notes and notes.get(MODE) != annotations.DEPLOYMENT:
        return False
    return bool((deployment.get("spec") or {}).get("replicas", 1))


def _given_back(deployment: JsonObject, record: FieldRecord) -> Verdict:
    notes = _annotations(deployment)
    state = [annotation.key for annotation in annotations.STATE if annotation.key in notes]
    if not state and SERVED_LABEL not in (deployment["metadata"].get("labels") or {}):
        return Verdict(deployment=deployment)
    # The selector cannot be changed, and the template's labels have to go on satisfying it.
    selected = value_at(deployment, "spec", "selector", "matchLabels") or {}
    kept = ("/spec/selector/", *(overlay.path("spec", "template", "metadata", "labels", key) for key in selected))
    overlay.take_back(deployment, {path: value for path, value in record.items() if not path.startswith(kept)})
    containers = _containers(deployment)
    if not containers or any(isinstance(each, dict) and not each.get("image") for each in containers):
        return Verdict(problems=(diagnostic("NothingToGiveBack", path_of(MODEL)),))
    handover.unpark(deployment)
    for key in state:
        _annotations(deployment).pop(key, None)
    # The label stays with the note: the reconciler has yet to see the pods back and the Knative Service gone.
    metadata = deployment["metadata"]
    metadata.setdefault("annotations", {})[HANDOVER] = handover.FROM_KNATIVE
    metadata.setdefault("labels", {})[SERVED_LABEL] = "true"
    return Verdict(deployment=deployment)


def _malformed(deployment: Any) -> tuple[Diagnostic, ...]:
    """What is wrong with the object's shape: the API server checks it before admission, ``render`` meets it raw."""
    if not isinstance(deployment, dict):
        return (diagnostic("InvalidObject", "kind", why="it is not an object"),)
    if fault := bounds.fault(deployment):
        return (fault,)
    if deployment.get("apiVersion") != "apps/v1" or deployment.get("kind") != "Deployment":
        return (diagnostic("InvalidObject", "kind", why="it is not a Deployment of apps/v1"),)
    return tuple(sorted(capped(_misshapen(deployment))))


def _misshapen(deployment: JsonObject) -> Iterator[Diagnostic]:
    yield from (
        diagnostic("InvalidObject", ".".join(steps), why="it is not an object")
        for steps in (
            ("metadata",),
            ("metadata", "annotations"),
            ("metadata", "labels"),
            ("spec",),
            ("spec", "selector"),
            ("spec", "selector", "matchLabels"),
            ("spec", "template"),
            ("spec", "template", "metadata"),
            ("spec", "template", "metadata", "labels"),
            ("spec", "template", "metadata", "annotations"),
            ("spec", "template", "spec"),
        )
        if not isinstance(value_at(deployment, *steps), dict | None)
    )
    if not isinstance(value_at(deployment, "metadata", "namespace"), str | None):
        yield diagnostic("InvalidObject", "metadata.namespace", why="it is not a name")
    if not isinstance(value_at(deployment, "metadata", "name"), str):
        yield diagnostic("InvalidObject", "metadata.name", why="it has no name")
    for place in (("metadata",), ("spec", "template", "metadata")):
        for kind in ("annotations", "labels"):
            texts = value_at(deployment, *place, kind)
            for key, value in texts.items() if isinstance(texts, dict) else ():
                if not isinstance(value, str):
                    at = f"{'.'.join(place)}.{kind}[{step(key)}]"
                    yield diagnostic("InvalidObject", at, why="its value is not a string; put it into quotes")
    pod = value_at(deployment, "spec", "template", "spec")
    if isinstance(pod, dict):
        yield from _malformed_lists(pod, "spec.template.spec", ("containers", "initContainers", "volumes"))


def _malformed_lists(owner: JsonObject, path: str, keys: tuple[str, ...]) -> Iterator[Diagnostic]:
    for key in keys:
        elements = owner.get(key)
        if elements is None:
            continue
        if not isinstance(elements, list):
            yield diagnostic("InvalidObject", f"{path}.{key}", why="it is not a list")
            continue
        for index, element in enumerate(elements):
            at = f"{path}.{key}[{index}]"
            merge_key = {"volumeMounts": "name", "ports": "containerPort"}.get(key, "name")
            kind: type = int if merge_key == "containerPort" else str
            if not isinstance(element, dict):
                yield diagnostic("InvalidObject", at, why="it is not an object")
            elif not isinstance(element.get(merge_key), kind):
                yield diagnostic("InvalidObject", at, why=f"it has no {merge_key}")
            elif key in ("containers", "initContainers"):
                yield from _malformed_lists(element, at, ("env", "volumeMounts", "ports"))
