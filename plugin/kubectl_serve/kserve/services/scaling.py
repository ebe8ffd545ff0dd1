"""Scaling of a predictor: bounds, metric and target. Pure.

Source: KServe 0.20, ``pkg/controller/v1alpha1/utils/utils.go`` (Knative) and
``pkg/controller/v1beta1/inferenceservice/reconcilers/hpa`` (without Knative).
"""

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import GROUP
from serve_core.admission.deployment_mode import CPU_TARGET
from serve_core.api.annotations import METRIC, SCALE, TARGET, WINDOW
from serve_core.knative.limits import AUTOSCALING

_CLASS = f"{GROUP}/autoscalerClass"
_HPA = "hpa.autoscaling.knative.dev"
_BY_REQUESTS, _BY_RESOURCES = ("concurrency", "rps"), ("cpu", "memory")
_NO_AUTOSCALER = ("external", "none")
_OWN_AUTOSCALER = (
    f"has no equivalent: in mode deployment, replicas are added at {CPU_TARGET} % of the CPU request. For another "
    f"target, remove {SCALE}, and create an autoscaler for the Deployment."
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
    measured = metric.text() or (left["metric"].value if "metric" in left else None)
    if metric:
        _override(left, "metric", metric)
    if target:
        _override(left, "target", target)
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
    number = target.number()
    if number is not None:
        draft.asked[TARGET] = str(number)
    elif "target" in left:
        draft.asked[TARGET] = str(left.pop("target").text())
    if "window" in left:
        draft.asked[WINDOW] = str(left.pop("window").text())
    predictor.at("autoScaling").note("has no equivalent: Knative scales by concurrency or rps, or by CPU or memory.")


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
        chosen.note(f"has no equivalent; for KEDA, remove {SCALE}, and create a ScaledObject for the Deployment.")
    metric, target, kind = (predictor.at(key) for key in ("scaleMetric", "scaleTarget", "scaleMetricType"))
    is_default = metric.value in (None, "cpu") and target.value in (None, CPU_TARGET)
    for each in (metric, target):
        if is_default:
            each.use()
        else:
            each.note(_OWN_AUTOSCALER)
    if is_default and kind.value == "Utilization":
        kind.use()
    predictor.at("autoScaling").note(_OWN_AUTOSCALER)
