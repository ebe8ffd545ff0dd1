"""How many replicas an object can have, in Kubernetes' and Knative's terms."""

import re
from collections.abc import Mapping
from typing import Any

from serve_core.base.json import JsonObject, list_of, value_at
from serve_core.subjects.shapes import count_of

AUTOSCALING = "autoscaling.knative.dev/"
_CLASSES = ("kpa.autoscaling.knative.dev", "hpa.autoscaling.knative.dev")
"""Knative's autoscalers, its default first."""
_STARTED = ("min-scale", "minScale", "initial-scale", "initialScale", "activation-scale", "activationScale")
"""Annotations for replicas that Knative starts whatever the load is, in each spelling."""
UNLIMITED = 2**31 - 1
"""More replicas than any Deployment can have."""


def knative_maximum(notes: Mapping[str, str], bound: int | None) -> int | None:
    """The maximum of replicas that Knative starts of a revision whose upper bound is ``bound``.

    Knative 1.23, ``pkg/reconciler/autoscaling/kpa``: the initial scale of a revision is not limited by the upper
    bound. An autoscaler of another class has bounds of its own.
    """
    if bound is None or notes.get(f"{AUTOSCALING}class", _CLASSES[0]) not in _CLASSES:
        return None
    found = [bound]
    for key in (f"{AUTOSCALING}{name}" for name in _STARTED):
        if key in notes:
            if not re.fullmatch(r"[0-9]{1,9}", notes[key], re.ASCII):
                return None
            found.append(int(notes[key]))
    return max(found)


def annotated_number(notes: Mapping[str, str], *names: str) -> int | None:
    """The largest number in any spelling of the annotation; ``None`` if one of them is not a positive number."""
    found = [notes[AUTOSCALING + name] for name in names if AUTOSCALING + name in notes]
    numbers = [int(text) for text in found if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII)]
    return None if not numbers or len(numbers) != len(found) or 0 in numbers else max(numbers)


def running_revisions(traffic: Any) -> int:
    """How many revisions the traffic of a Knative Service reaches; each can run. A tag has a URL of its own."""
    reached = [each for each in list_of(traffic) if value_at(each, "percent") or value_at(each, "tag")]
    return max(len({str(value_at(each, "revisionName") or "") for each in reached}), 1)


def surge(strategy: JsonObject, replicas: int) -> int:
    """How many pods a rolling update can run in addition to ``replicas`` (k8s.io/kubernetes, ``deployment/util``)."""
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return 0
    written = value_at(strategy, "rollingUpdate", "maxSurge")
    if written is None:
        written = "25%"
    if percent := re.fullmatch(r"([0-9]{1,9})%", str(written), re.ASCII):
        return -(-replicas * int(percent[1]) // 100)
    return count_of(written, UNLIMITED)
