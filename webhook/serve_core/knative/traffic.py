"""Traffic between revisions: all to the latest, a share for a canary, or all to a pinned revision.

"Latest" is Knative's latest *ready* revision: a revision that never becomes ready gets no traffic.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_core.api.serving_spec import ServingSpec
from serve_core.api.state import State
from serve_core.base.json import JsonObject, value_at
from serve_core.knative.limits import AUTOSCALING, KPA

MIN_SCALE = f"{AUTOSCALING}min-scale"
NONE = "0"
SCALING: Mapping[str, str] = {
    MIN_SCALE: NONE,
    f"{AUTOSCALING}window": "6s",
    f"{AUTOSCALING}scale-to-zero-pod-retention-period": "0s",
}
"""The annotations that a revision without traffic gets. It scales to zero soon, with the shortest window that Knative
accepts, instead of after the window of a model that is asked now and then. queue-proxy then answers for 30 s more."""
LATEST_TAG = "latest"
PREVIOUS_TAG = "previous"
"""A tag gives a revision its own URL: ``TAG-NAME.NAMESPACE.…``."""

MAX_NAME = 63 - len(f"{PREVIOUS_TAG}-")
"""Characters of a Knative Service's name: a tag's host name begins with the tag and the name, and a part of a host name
has 63 characters at most (RFC 1035). Knative checks each (``pkg/reconciler/route/domains``)."""


def targets(spec: ServingSpec, state: State, template: Mapping[str, str]) -> list[JsonObject]:
    """The ``traffic`` of the Knative Service; empty for Knative's default, all to the latest.

    ``template``: the annotations of the Deployment's pod template. Only Knative's own autoscaler scales to zero. With
    another one, a revision without traffic gets no tag.
    """
    found = _targets(spec, state)
    if template.get(f"{AUTOSCALING}class", KPA) == KPA:
        return found
    return [each for each in found if each["percent"]]


def _targets(spec: ServingSpec, state: State) -> list[JsonObject]:
    latest: JsonObject = {"latestRevision": True}
    if spec.pin is not None:
        return [{"revisionName": spec.pin, "percent": 100}, {**latest, "percent": 0, "tag": LATEST_TAG}]
    if spec.canary is not None and state.stable:
        return [
            {**latest, "percent": spec.canary, "tag": LATEST_TAG},
            {"revisionName": state.stable, "percent": 100 - spec.canary, "tag": PREVIOUS_TAG},
        ]
    if state.previous:
        return [{**latest, "percent": 100}, {"revisionName": state.previous, "percent": 0, "tag": PREVIOUS_TAG}]
    return []


def scaling(
    service: JsonObject, traffic: Sequence[JsonObject], *, is_ready: bool
) -> dict[str, Mapping[str, str | None]]:
    """The annotations of :data:`SCALING` of each revision in the traffic of a Knative Service; ``None`` for Knative's
    default.

    A tag alone makes Knative keep a revision's minimum. So a revision without traffic loses it: it starts when it is
    asked. One with traffic gets the values of the Service's template. ``traffic``: as it will be next; without targets,
    only the latest revision has traffic, and has its values. ``is_ready``: whether Knative has moved the traffic; until
    then, no revision loses its minimum. While a newer revision starts, the one that serves as the latest keeps its own
    values, which the changed template does not have.
    """
    status = service.get("status") or {}
    template = value_at(service, "spec", "template", "metadata", "annotations") or {}
    own = {key: template.get(key) for key in SCALING}
    has_traffic: dict[str, bool] = {}
    for each in (*traffic, *(status.get("traffic") or [])) if traffic else ():
        if name := each.get("revisionName") or status.get("latestReadyRevisionName"):
            has_traffic[name] = has_traffic.get(name, False) or bool(each.get("percent"))
    ready = status.get("latestReadyRevisionName") or ""
    if ready != (status.get("latestCreatedRevisionName") or ready):
        has_traffic.pop(ready, None)
    return {name: own if has else SCALING for name, has in has_traffic.items() if has or is_ready}


def starting(service: JsonObject, wanted: JsonObject) -> list[str]:
    """The revisions that have a tag in a Knative Service, and are to get traffic and a minimum in the wanted one."""
    if value_at(wanted, "spec", "template", "metadata", "annotations", MIN_SCALE) in (None, NONE):
        return []
    shares: Counter[str] = Counter()
    for each in value_at(service, "status", "traffic") or []:
        shares[each.get("revisionName", "")] += each.get("percent") or 0
    named = [
        each["revisionName"]
        for each in wanted["spec"].get("traffic") or []
        if "revisionName" in each and each["percent"]
    ]
    return [name for name in named if name in shares and not shares[name]]


def leaving(spec: ServingSpec, state: State, service: JsonObject, *, is_new: bool) -> State:
    """The state for a change of the live Knative Service ``service``. ``is_new``: whether it makes a new revision.

    Where the promoted revision is about to lose its traffic to the latest one, it becomes the previous one in the same
    change. A tag that moved later would make Knative's Route unready once more, after the new revision answers.
    """
    if spec.pin is not None or spec.canary is not None or not state.promoted:
        return state
    if not is_new and value_at(service, "status", "latestReadyRevisionName") in (None, state.promoted):
        return state
    return replace(state, promoted="", previous=state.promoted)


def settled(spec: ServingSpec, state: State, status: Mapping[str, Any]) -> State:
    """The state when the Knative Service is ready with this ``status``.

    Without a canary or a pin, the latest revision has all the traffic: it is promoted, and the revision promoted before
    becomes the previous one. A canary without a revision beside it is promoted as well.
    """
    latest = status.get("latestReadyRevisionName")
    shares = spec.canary is not None and state.stable
    if spec.pin is not None or shares or not latest or latest == state.promoted:
        return state
    # Without a new revision after all, there is no other one.
    return replace(state, promoted=latest, previous="" if state.stable == latest else state.stable)
