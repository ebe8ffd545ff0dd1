"""Who manages which fields of an object that we apply, and how what others have added to its spec becomes ours. Pure.

A server-side apply leaves alone what somebody else has added, such as shares of the traffic or another port, and is
refused where the two contradict each other. The Deployment is the one definition: a spec of ours is nobody else's.
"""

from serve_core.json import JsonObject
from serve_core.names import FIELD_MANAGER

_SPEC = "f:spec"


def seizure(live: JsonObject) -> JsonObject | None:
    """The merge patch that makes us the manager of all of an object's spec; ``None`` where nobody else manages a part.

    The next apply then takes off what it does not say. Client-go's ``csaupgrade`` hands fields over in the same way.
    """
    metadata = live["metadata"]
    entries: list[JsonObject] = metadata.get("managedFields") or []
    theirs = [entry for entry in entries if _SPEC in entry.get("fieldsV1", {}) and entry["manager"] != FIELD_MANAGER]
    if not theirs:
        return None
    ours: JsonObject = next(filter(_is_our_apply, entries), {"manager": FIELD_MANAGER, "operation": "Apply"})
    fields: JsonObject = ours.get("fieldsV1", {})
    kept = [entry for entry in entries if entry not in theirs and entry != ours]
    for entry in theirs:
        others = {key: value for key, value in entry["fieldsV1"].items() if key != _SPEC}
        kept += [entry | {"fieldsV1": others}] if others else []
        fields = _united(fields, {_SPEC: entry["fieldsV1"][_SPEC]})
    ours = ours | {"apiVersion": live["apiVersion"], "fieldsType": "FieldsV1", "fieldsV1": fields}
    version = {key: metadata[key] for key in ("uid", "resourceVersion")}
    return {"metadata": {**version, "managedFields": [*kept, ours]}}


def _is_our_apply(entry: JsonObject) -> bool:
    return (entry["manager"], entry["operation"]) == (FIELD_MANAGER, "Apply")


def _united(one: JsonObject, two: JsonObject) -> JsonObject:
    return one | {key: _united(one.get(key, {}), value) for key, value in two.items()}
