"""Values that Knative refuses, ignores or reserves: annotations with their bounds, names and ports.

Source: Knative Serving 1.23, ``pkg/apis/autoscaling/annotation_validation.go``, ``pkg/apis/serving/k8s_validation.go``
and ``pkg/apis/serving/v1/revision_validation.go``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serve_core.base.json import JsonObject
from serve_core.base.reasons import quote, step
from serve_core.knative.fields import FieldMapping
from serve_core.syntax import duration, image_reference, mount_path, quantity
from serve_core.syntax.duration import SECOND

DEFAULT_PORT = 8080
"""The port of a container that declares none."""
AUTOSCALING = "autoscaling.knative.dev/"
NETWORKING = "networking.knative.dev/"
ROLLOUT_DURATION = "serving.knative.dev/rollout-duration"
PROGRESS_DEADLINE = "serving.knative.dev/progress-deadline"
VISIBILITY_LABEL = f"{NETWORKING}visibility"

_QUEUE = "queue.sidecar.serving.knative.dev/"
KPA, _HPA = "kpa.autoscaling.knative.dev", "hpa.autoscaling.knative.dev"
_HOUR = 3600
_MOST = 2**31 - 1

_RESERVED_CONTAINER = "queue-proxy"
_RESERVED_ENV = frozenset({"K_SERVICE", "K_CONFIGURATION", "K_REVISION"})
_RESERVED_PATHS = frozenset({"/", "/dev", "/dev/log"})
_RESERVED_PORTS = frozenset({8008, 8012, 8013, 8022, 9090, 9091})

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)", re.ASCII)
_LONGEST = 253
"""Characters of an annotation's value; longer ones are refused unread. Numbers, durations and classes are shorter."""


@dataclass(frozen=True)
class _Allowed:
    text: str
    """The allowed values, for the hint."""
    check: Callable[[str], bool]


def _number(least: float, most: float | None = None, also: float | None = None) -> _Allowed:
    def check(text: str) -> bool:
        if not _NUMBER.fullmatch(text):
            return False
        value = float(text)
        return value == also or (value >= least and (most is None or value <= most))

    return _Allowed(
        f"a number of at least {least:g}" if most is None else f"a number from {least:g} to {most:g}", check
    )


def _whole(least: int) -> _Allowed:
    return _Allowed(
        f"a whole number of at least {least}",
        lambda text: bool(re.fullmatch(r"\+?[0-9]{1,10}", text, re.ASCII)) and least <= int(text) <= _MOST,
    )


def _duration(least: int, most: int | None, *, whole: bool = True) -> _Allowed:
    def check(text: str) -> bool:
        try:
            value = duration.parse(text)
        except ValueError:
            return False
        within = least * SECOND <= value and (most is None or value <= most * SECOND)
        return within and not (whole and value % SECOND)

    bounds = f"from {least}s to {most}s" if most is not None else f"of at least {least}s"
    return _Allowed(f"a duration {bounds}, such as 90s" + (", in whole seconds" if whole else ""), check)


_INITIAL_SCALE = f"{AUTOSCALING}initial-scale"
_CLASS = _Allowed(
    f"{KPA}, {_HPA}, or the class of another autoscaler",
    lambda text: not text.endswith("autoscaling.knative.dev") or text in (KPA, _HPA),
)
_RESOURCE = _Allowed("a quantity, such as 100m or 64Mi", quantity.is_amount)

_TEMPLATE: Mapping[str, _Allowed] = {
    f"{AUTOSCALING}class": _CLASS,
    f"{AUTOSCALING}min-scale": _whole(0),
    f"{AUTOSCALING}max-scale": _whole(0),
    _INITIAL_SCALE: _whole(0),
    f"{AUTOSCALING}activation-scale": _whole(2),
    f"{AUTOSCALING}metric": _Allowed("concurrency or rps", bool),
    f"{AUTOSCALING}metric-aggregation-algorithm": _Allowed(
        "linear or weighted-exponential",
        lambda text: text in ("", "linear", "weighted-exponential", "weightedExponential"),
    ),
    f"{AUTOSCALING}target": _number(0.01),
    f"{AUTOSCALING}target-utilization-percentage": _number(1, 100),
    f"{AUTOSCALING}target-burst-capacity": _number(0, also=-1),
    f"{AUTOSCALING}window": _duration(6, _HOUR),
    f"{AUTOSCALING}scale-down-delay": _duration(0, _HOUR),
    f"{AUTOSCALING}scale-to-zero-pod-retention-period": _duration(0, _HOUR, whole=False),
    f"{AUTOSCALING}panic-window-percentage": _number(1, 100),
    f"{AUTOSCALING}panic-threshold-percentage": _number(110, 1000),
    PROGRESS_DEADLINE: _duration(0, None),
    f"{_QUEUE}resource-percentage": _number(0.1, 100),
    **{
        f"{_QUEUE}{name}-resource-{bound}": _RESOURCE
        for name in ("cpu", "memory", "ephemeral-storage")
        for bound in ("request", "limit")
    },
}
"""The annotations that Knative reads on a template, and the values that it accepts."""

_OLD_SPELLINGS = {re.sub(r"-([a-z])", lambda match: match[1].upper(), key): key for key in _TEMPLATE if "-" in key}
"""Knative also reads the older camel-case spelling of each key."""

_SERVICE: Mapping[str, _Allowed] = {ROLLOUT_DURATION: _duration(0, None)}

_NETWORKING = frozenset(
    NETWORKING + name
    for name in (
        "ingress.class", "ingress-class", "certificate.class", "certificate-class", "disableAutoTLS",
        "disable-auto-tls", "disable-external-domain-tls", "httpOption", "http-protocol",
    )
)  # fmt: skip


def is_for_the_service(key: str) -> bool:
    """Whether Knative reads an annotation on the Service itself."""
    return key == ROLLOUT_DURATION or key.startswith(NETWORKING)


def check_template_annotations(
    annotations: Mapping[str, str], mapping: FieldMapping, *, allows_zero: bool = False
) -> None:
    """Refuse template annotations that Knative would refuse, and keys of Knative's domains that it would ignore.

    ``allows_zero``: whether the cluster allows an initial scale of 0 (ConfigMap ``config-autoscaler``).
    """
    for key, value in annotations.items():
        at = f"spec.template.metadata.annotations[{step(key)}]"
        if key in _TEMPLATE:
            _check(_TEMPLATE[key], value, at, mapping)
        elif key in _OLD_SPELLINGS:
            mapping.refuse(at, "this is an old spelling", f"Write {_OLD_SPELLINGS[key]}.")
        elif key.startswith((AUTOSCALING, _QUEUE)):
            mapping.refuse(at, "Knative does not know this annotation and would ignore it", "Correct or remove it.")
        elif key in _SERVICE:
            mapping.refuse(at, "Knative reads this annotation only on the Service", "Move it to metadata.annotations.")
        elif key.startswith(NETWORKING) and key not in _NETWORKING:
            mapping.refuse(at, "Knative does not know this annotation", "Correct or remove it.")
        elif key.startswith(NETWORKING):
            mapping.ignore(at, "Knative reads this annotation only on the Service; move it to metadata.annotations")
    _check_class(annotations, mapping)
    _check_scale(annotations, mapping)
    if not allows_zero and re.fullmatch(r"\+?0+", annotations.get(_INITIAL_SCALE, "")):
        at = f"spec.template.metadata.annotations[{_INITIAL_SCALE}]"
        how = "set allow-zero-initial-scale to true in ConfigMap knative-serving/config-autoscaler"
        mapping.refuse(at, "the cluster does not allow 0", f"Write 1, or ask a cluster administrator to {how}.")


def check_service_metadata(annotations: Mapping[str, str], labels: Mapping[str, str], mapping: FieldMapping) -> None:
    """Refuse annotations and labels of the Deployment that Knative would refuse on its Service."""
    for key, value in annotations.items():
        at = f"metadata.annotations[{step(key)}]"
        if key in _SERVICE:
            _check(_SERVICE[key], value, at, mapping)
        elif key.startswith(AUTOSCALING):
            why = "Knative reads this annotation only on the template"
            mapping.refuse(at, why, "Move it to spec.template.metadata.annotations.")
    visibility = labels.get(VISIBILITY_LABEL)
    if visibility not in (None, "cluster-local"):
        why = f"Knative has no visibility {quote(visibility)}"
        mapping.refuse(f"metadata.labels[{VISIBILITY_LABEL}]", why, "Set it to cluster-local, or remove it.")


def _check(allowed: _Allowed, value: Any, at: str, mapping: FieldMapping) -> None:
    if not isinstance(value, str) or len(value) > _LONGEST or not allowed.check(value):
        mapping.refuse(at, f"{quote(value)} is not allowed", f"Write {allowed.text}.")


def _check_class(annotations: Mapping[str, str], mapping: FieldMapping) -> None:
    metric = annotations.get(f"{AUTOSCALING}metric")
    if metric and annotations.get(f"{AUTOSCALING}class", KPA) == KPA and metric not in ("concurrency", "rps"):
        at = f"spec.template.metadata.annotations[{AUTOSCALING}metric]"
        mapping.refuse(at, f"{quote(metric)} is not allowed", "Write concurrency or rps.")


def _check_scale(annotations: Mapping[str, str], mapping: FieldMapping) -> None:
    numbers = {}
    for name in ("min-scale", "max-scale", "activation-scale"):
        key = AUTOSCALING + name
        if key in annotations and len(annotations[key]) <= _LONGEST and _TEMPLATE[key].check(annotations[key]):
            numbers[name] = int(annotations[key])
    least, most, first = numbers.get("min-scale", 0), numbers.get("max-scale", 0), numbers.get("activation-scale")
    if most and most < least:
        at = f"spec.template.metadata.annotations[{AUTOSCALING}max-scale]"
        mapping.refuse(at, "it is less than min-scale", "Raise it, or lower min-scale.")
    if first is not None and (first < least or 0 < most < first):
        at = f"spec.template.metadata.annotations[{AUTOSCALING}activation-scale]"
        mapping.refuse(at, "it is not between min-scale and max-scale", "Correct it.")


def check_container(container: JsonObject, path: str, *, is_server: bool, mapping: FieldMapping) -> None:
    """Refuse images that Knative cannot read, and names, variables, ports and paths that it reserves."""
    image = container.get("image")
    if isinstance(image, str) and image and not image_reference.is_readable_by_knative(image):
        way_out = "Write it as REGISTRY/NAME:TAG; NAME needs at least two characters, and no capital letters."
        mapping.refuse(f"{path}.image", f"Knative cannot read the image {quote(image)}", way_out)
    if container.get("name") == _RESERVED_CONTAINER:
        mapping.refuse(f"{path}.name", "Knative's own container has this name", "Choose another name.")
    for variable in container.get("env") or []:
        name = variable.get("name")
        if name in _RESERVED_ENV or (is_server and name == "PORT"):
            way_out = "Remove it; declare the port in ports." if name == "PORT" else "Choose another name."
            mapping.refuse(f"{path}.env[{name}]", f"Knative sets {name} itself", way_out)
    for index, port in enumerate(container.get("ports") or []):
        if port.get("containerPort") in _RESERVED_PORTS:
            at = f"{path}.ports[{index}].containerPort"
            mapping.refuse(at, "Knative's own container listens on this port", "Choose another port, such as 8080.")
    seen = set()
    for index, mount in enumerate(container.get("volumeMounts") or []):
        where, at = str(mount.get("mountPath")), f"{path}.volumeMounts[{index}].mountPath"
        clean = mount_path.normalized(where) if where.startswith("/") else where
        if clean in _RESERVED_PATHS:
            mapping.refuse(at, "this path is reserved", "Choose another path.")
        elif not where.startswith("/"):
            mapping.refuse(at, "the path is not absolute", "Begin it with a slash.")
        elif clean in seen:
            mapping.refuse(at, "another volume is mounted there", "Choose another path.")
        seen.add(clean)
