"""A predictor whose image contains its model, as objects that kubectl-serve does not change. Pure.

KServe makes a Knative Service of it; without Knative, a Deployment, a Service and an autoscaler. Source: KServe 0.20,
``pkg/controller/v1beta1/inferenceservice/reconcilers`` (``knative``, ``deployment``, ``service``, ``hpa``).
"""

from dataclasses import replace
from typing import Any

from kubectl_serve.kserve.base.accounting import Note
from kubectl_serve.kserve.base.converted import Converted
from kubectl_serve.kserve.base.names import GROUP
from serve_core.admission import deployment_mode, service, shape
from serve_core.api import serving_spec
from serve_core.api.annotations import DEPLOYMENT, MODEL
from serve_core.api.serving_spec import ServingSpec
from serve_core.api.state import State
from serve_core.base.constants import PREFIX
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext
from serve_core.knative.fields import KEEP_DEPLOYMENT
from serve_core.workload import serving_port

_NO_MODEL = "s3://bucket/model"
"""In place of a model, which the reading of annotations expects. It is in no result."""
_WAY_OUT = (KEEP_DEPLOYMENT, f"convert it with the annotation {GROUP}/deploymentMode: Standard")
"""How to serve without Knative: as written for a Deployment with a model, and for the input."""
_SELECTED = "inferenceservice"
"""The label by which a Deployment selects its pods."""


def convert(deployment: JsonObject, notes: tuple[Note, ...], context: ClusterContext) -> Converted:
    """The objects for a draft without a model, unless Knative would refuse a field of them. ``deployment``: the draft,
    which is not changed."""
    if problems := shape.faults(deployment):
        return Converted(None, notes, problems)
    workload = Workload(deployment)
    spec, problems = serving_spec.read({**workload.annotations, MODEL: _NO_MODEL})
    if spec is None or problems:
        return Converted(None, notes, problems)
    findings = Findings()
    make = _without_knative if spec.mode == DEPLOYMENT else _with_knative
    made = make(workload, spec, context, findings)
    warnings = [Note(each.path, f"{each.message} {each.hint}".rstrip()) for each in findings.warnings]
    # A field that Knative refuses is not in the Knative Service. One that needs a feature flag is.
    is_whole = all(each.code == "FeatureDisabled" for each in findings.problems)
    problems = tuple(replace(each, hint=each.hint.replace(*_WAY_OUT)) for each in sorted(findings.problems))
    return Converted(None, (*notes, *warnings), problems, tuple(made) if is_whole else ())


def _with_knative(
    workload: Workload, spec: ServingSpec, context: ClusterContext, findings: Findings
) -> list[JsonObject]:
    made, _ = service.render(workload, spec, State(), context, findings)
    template = made["spec"]["template"]
    for container, written in zip(template["spec"]["containers"], workload.containers, strict=True):
        if "startupProbe" not in written:
            container.pop("startupProbe", None)  # the one that kubectl-serve adds
    template["metadata"] = _without_ours(template["metadata"])
    template = {key: value for key, value in template.items() if value}
    annotations = {"annotations": workload.annotations}  # also those that GitOps tools read on what they apply
    return [{**made, "metadata": _without_ours(made["metadata"] | annotations), "spec": {"template": template}}]


def _without_knative(
    workload: Workload, spec: ServingSpec, context: ClusterContext, findings: Findings
) -> list[JsonObject]:
    labels = {_SELECTED: workload.name, **workload.template_labels}
    selector = {"matchLabels": {_SELECTED: labels[_SELECTED]}}
    metadata = {**workload.template.get("metadata", {}), "labels": labels}
    fields = {key: value for key, value in workload.spec.items() if key != "template"}
    deployment = {
        **workload.manifest,
        "metadata": _without_ours(workload.metadata),
        "spec": {**fields, "selector": selector, "template": {**workload.template, "metadata": metadata}},
    }
    serving = serving_port.of_pod(workload.containers, context.servers, spec.port)
    beside = deployment_mode.render(Workload(deployment), spec, serving, findings)
    return [deployment, *({**each, "metadata": _without_ours(each["metadata"])} for each in beside)]


def _without_ours(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata without kubectl-serve's labels and annotations."""
    texts = {
        key: {name: value for name, value in metadata.get(key, {}).items() if not name.startswith(PREFIX)}
        for key in ("labels", "annotations")
    }
    return {key: value for key, value in (metadata | texts).items() if value or key not in texts}
