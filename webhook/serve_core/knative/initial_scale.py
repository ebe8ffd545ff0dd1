"""Models that are registered and not started: replicas of a new revision, as ConfigMap ``config-autoscaler`` sets them.

Source: Knative Serving 1.23, ``pkg/autoscaler/config/config.go``, ``pkg/reconciler/autoscaling/resources/target.go``
and ``pkg/reconciler/autoscaling/kpa/kpa.go`` (``activeThreshold``).
"""

from collections.abc import Mapping

from serve_core.knative.limits import AUTOSCALING, KPA

_ALLOWS_ZERO = "allow-zero-initial-scale"
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
"""What Go's ``strconv.ParseBool`` reads as true."""


def allows_zero(autoscaler: Mapping[str, str]) -> bool:
    """Whether a model can be registered without a start. ``autoscaler``: the data of the ConfigMap."""
    return autoscaler.get(_ALLOWS_ZERO, "") in _TRUE


def is_zero(template: Mapping[str, str], autoscaler: Mapping[str, str]) -> bool:
    """Whether Knative reports a new revision as ready without a pod. ``template``: the revision's annotations.

    Another autoscaler than Knative's own needs a pod.
    """
    if template.get(f"{AUTOSCALING}class", KPA) != KPA or not allows_zero(autoscaler):
        return False
    initial = template.get(f"{AUTOSCALING}initial-scale", autoscaler.get("initial-scale", "1"))
    minimum = template.get(f"{AUTOSCALING}min-scale", autoscaler.get("min-scale", "0"))
    return all(_number(text) == 0 for text in (initial, minimum))


def _number(text: str) -> int | None:
    """The number, or ``None`` for what Knative does not read as one."""
    try:
        return int(text)
    except ValueError:
        return None
