"""Which revision gets how much of the traffic: the newest, a canary beside the promoted one, or a pinned one.

"Latest" means the latest *ready* revision throughout, as in Knative: one that never becomes ready gets no traffic.
"""

from collections.abc import Mapping
from typing import Any

from serve_core.api.annotations import PREVIOUS, PROMOTED
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.json import JsonObject

LATEST_TAG = "latest"
PREVIOUS_TAG = "previous"
"""Tags make a revision reachable under a URL of its own: ``TAG-NAME.NAMESPACE.…``."""


def targets(spec: ServingSpec, notes: Mapping[str, str]) -> list[JsonObject]:
    """The ``traffic`` of the Knative Service; empty where Knative's default, all to the latest, is meant.

    ``notes`` are the Deployment's annotations: they say what was promoted last and what before that.
    """
    latest: JsonObject = {"latestRevision": True}
    if spec.pin is not None:
        return [{"revisionName": spec.pin, "percent": 100}, {**latest, "percent": 0, "tag": LATEST_TAG}]
    promoted, previous = notes.get(PROMOTED), notes.get(PREVIOUS)
    if spec.canary is not None and promoted:
        return [
            {**latest, "percent": spec.canary, "tag": LATEST_TAG},
            {"revisionName": promoted, "percent": 100 - spec.canary, "tag": PREVIOUS_TAG},
        ]
    if previous:
        return [{**latest, "percent": 100}, {"revisionName": previous, "percent": 0, "tag": PREVIOUS_TAG}]
    return []


def settled(spec: ServingSpec, notes: Mapping[str, str], status: Mapping[str, Any]) -> dict[str, str]:
    """What to note on the Deployment now that the Knative Service is ready with this ``status``.

    Without a canary or a pin the latest ready revision has all the traffic: it is promoted, and what was promoted
    before is the previous one. So it is where there is a canary and nothing that it could be one beside.
    """
    promoted = notes.get(PROMOTED, "")
    kept = {key: notes[key] for key in (PROMOTED, PREVIOUS) if key in notes}
    latest = status.get("latestReadyRevisionName")
    shares = spec.canary is not None and promoted
    if spec.pin is not None or shares or not latest or latest == promoted:
        return kept
    return {PROMOTED: latest} | ({PREVIOUS: promoted} if promoted else {})
