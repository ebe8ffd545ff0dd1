"""Scaling of a predictor: bounds, metric and target. Pure.

Source: KServe 0.20, ``pkg/controller/v1alpha1/utils/utils.go`` (Knative) and
``pkg/controller/v1beta1/inferenceservice/reconcilers/hpa`` (without Knative).
"""

import re

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import GROUP
from serve_core.admission.deployment_mode import CPU_TARGET
from serve_core.api.annotations import METRIC, SCALE, TARGET, WINDOW
from serve_core.knative.limits import AUTOSCALING

_CLASS = f"{GROUP}/autoscalerClass"
_HPA = "hpa.autoscaling.knative.dev"
_BY_RESOURCES = ("cpu", "memory")
_PER_SECOND = "rps"
_MEBIBYTES = re.compile(r"([1-9][0-9]{0,5})([MG])i", re.ASCII)
_NO_AUTOSCALER = ("external", "none")
_ONE_RESOURCE = (
    "has no equivalent: Knative scales by concurrency or rps, or by one metric: cpu with averageUtilization, or memory "
    "with averageValue in Mi or Gi."
)
_OWN_AUTOSCALER = (
    f"has no equivalent: in mode deployment, replicas are added at {CPU_TARGET} % of the CPU request. For another "
    f"target, remove {SCALE} or the HorizontalPodAutoscaler, and create an autoscaler for the Deployment."
)


def read(document: Field, autoscaling: dict[str, Field], draft: Draft) -> None:
    """``autoscaling``: Knative's annotations for its autoscaler, by name."""
    predictor, kserves = document.at("spec", "predictor"), document.at("metadata", "annotations", _CLASS)
    if draft.without_knative:
        for each in autoscaling.values():
            each.note("has no effect in mode deployment: only Knative reads it.")
        _without_knative(predictor, predictor.at("annotations", _CLASS) or kserves, draft)
        return
    if kserves.value in ("hpa", "kpa"):
        kserves.use()  # KServe reads it without Knative only
    left = dict(autoscaling)
    _bounds(predictor, left, draft)
    _metric(predictor, left, draft)
    draft.template_annotations |= {f"{AUTOSCALING}{name}": each for name, each in left.items()}


def _bounds(predictor: Field, left: dict[str, Field], draft: Draft) -> None:
    low = _first(predictor.at("minReplicas"), left.pop("min-scale", None))
    high = _first(predictor.at("maxReplicas"), left.pop("max-scale", None))
    minimum = "1" if low is None else low  # KServe's default
    maximum = "" if high in (None, "0") else high
    draft.asked[SCALE] = minimum if maximum == minimum else f"{minimum}..{maximum}"


def _first(field: Field, annotation: Field | None) -> str | None:
    """The value of a field, or of Knative's annotation for the same."""
    number = field.number()
    if annotation is None:
        return None if number is None else str(number)
    if number is None:
        return annotation.text()
    if annotation.value == str(number):
        annotation.use()
    else:
        annotation.note(f"is overridden by {field.path}.")
    return str(number)


def _metric(predictor: Field, left: dict[str, Field], draft: Draft) -> None:
    metric, target = predictor.at("scaleMetric"), predictor.at("scaleTarget")
    by_autoscaling = None if metric or target else _of_autoscaling(predictor.at("autoScaling"), left, draft)
    if by_autoscaling:
        metric = by_autoscaling
    else:
        predictor.at("autoScaling").note(_ONE_RESOURCE)
    measured = metric.text() or (left["metric"].value if "metric" in left else None)
    if metric:
        _override(left, "metric", metric)
    if target:
        _override(left, "target", target)
    if metric.value == "qps":
        measured = _PER_SECOND
        metric.remark(f"is {_PER_SECOND} here, the name of requests per second.")
    by_resource = measured in _BY_RESOURCES or ("class" in left and left["class"].value == _HPA)
    if not by_resource:
        if measured is not None:
            draft.asked[METRIC] = str(measured)
            _used(left.pop("metric", None))
    elif metric:
        draft.template_annotations[f"{AUTOSCALING}metric"] = metric
    if by_resource and "class" not in left:
        draft.template_annotations[f"{AUTOSCALING}class"] = _HPA
        metric.note("needs Knative's extension that scales with a HorizontalPodAutoscaler.")
    if (number := target.number()) is not None:
        draft.asked[TARGET] = str(number)
    elif "target" in left:
        draft.asked[TARGET] = str(left.pop("target").text())
    if "window" in left:
        draft.asked[WINDOW] = str(left.pop("window").text())


def _of_autoscaling(scaling: Field, left: dict[str, Field], draft: Draft) -> Field | None:
    """The one metric of the field ``autoScaling``, which replaces Knative's annotations; its target is asked for."""
    found = _resource(scaling)
    if found is None:
        return None
    metric, target = found
    draft.asked[TARGET] = str(target)
    _override(left, "target", metric)
    if "class" in left and left["class"].value != _HPA:
        _override(left, "class", metric)
    return metric


def _resource(scaling: Field) -> tuple[Field, int] | None:
    """The resource of the only metric, and its target as Knative reads it: a percentage of the CPU request, or the
    average memory in MiB. ``None`` for other metrics."""
    found = scaling.at("metrics").objects()
    if len(found) != 1 or found[0].at("type").value != "Resource":
        return None
    name, target = found[0].at("resource", "name"), found[0].at("resource", "target")
    kind, percent, average = (target.at(key) for key in ("type", "averageUtilization", "averageValue"))
    number: int | None = None
    if name.value == "cpu" and kind.value in (None, "Utilization"):
        number = percent.number()
    elif name.value == "memory" and kind.value == "AverageValue":
        size = _MEBIBYTES.fullmatch(str(average.value))
        if size is not None:
            average.use()
            number = int(size[1]) * (1024 if size[2] == "G" else 1)
    if number is None:
        return None
    for each in (found[0].at("type"), name, kind):
        each.use()
    return name, number


def _override(left: dict[str, Field], name: str, field: Field) -> None:
    annotation = left.pop(name, None)
    if annotation is not None:
        annotation.note(f"is overridden by {field.path}.")


def _used(field: Field | None) -> None:
    if field is not None:
        field.use()


def _without_knative(predictor: Field, chosen: Field, draft: Draft) -> None:
    minimum, maximum = predictor.at("minReplicas").number(), predictor.at("maxReplicas")
    least = max(minimum or 1, 1)  # KServe's minimum without Knative
    if chosen.value in _NO_AUTOSCALER:
        chosen.use()
        draft.spec["replicas"] = least
        maximum.note("has no effect without an autoscaler.")
    else:
        most = max(maximum.number() or 0, least)
        draft.asked[SCALE] = str(least) if least == most else f"{least}..{most}"
    if chosen.value == "hpa":
        chosen.use()
    elif chosen.value == "keda":
        chosen.note(
            f"has no equivalent; for KEDA, remove {SCALE} or the HorizontalPodAutoscaler, and create a ScaledObject "
            "for the Deployment."
        )
    metric, target, kind = (predictor.at(key) for key in ("scaleMetric", "scaleTarget", "scaleMetricType"))
    is_default = metric.value in (None, "cpu") and target.value in (None, CPU_TARGET)
    for each in (metric, target):
        if is_default:
            each.use()
        else:
            each.note(_OWN_AUTOSCALER)
    if is_default and kind.value == "Utilization":
        kind.use()
    scaling = predictor.at("autoScaling")
    resource = _resource(scaling)
    if resource is None or (resource[0].value, resource[1]) != ("cpu", CPU_TARGET):
        scaling.note(_OWN_AUTOSCALER)
