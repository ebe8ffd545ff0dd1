"""Traffic between revisions: all to the latest, a share for a canary, or all to a pinned revision.

"Latest" is Knative's latest *ready* revision: a revision that never becomes ready gets no traffic.
"""

from collections.abc import Mapping
from typing import Any

from serve_core.api.annotations import PREVIOUS, PROMOTED
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.json import JsonObject

LATEST_TAG = "latest"
PREVIOUS_TAG = "previous"
"""A tag gives a revision its own URL: ``TAG-NAME.NAMESPACE.…``."""

MAX_NAME = 63 - len(f"{PREVIOUS_TAG}-")
"""Characters of a Knative Service's name: a tag's host name begins with the tag and the name, and a part of a host name
has 63 characters at most (RFC 1035). Knative checks each (``pkg/reconciler/route/domains``)."""


def targets(spec: ServingSpec, notes: Mapping[str, str]) -> list[JsonObject]:
    """The ``traffic`` of the Knative Service; empty for Knative's default, all to the latest.

    ``notes`` are the Deployment's annotations, which have the promoted revision and the one promoted before it.
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
    """The annotations to set on the Deployment when the Knative Service is ready with this ``status``.

    Without a canary or a pin, the latest revision has all the traffic: it is promoted, and the revision promoted before
    becomes the previous one. A canary without a promoted revision is promoted as well.
    """
    promoted = notes.get(PROMOTED, "")
    kept = {key: notes[key] for key in (PROMOTED, PREVIOUS) if key in notes}
    latest = status.get("latestReadyRevisionName")
    shares = spec.canary is not None and promoted
    if spec.pin is not None or shares or not latest or latest == promoted:
        return kept
    return {PROMOTED: latest} | ({PREVIOUS: promoted} if promoted else {})
