"""Conditions in an object's status."""

from serve_core.base.json import JsonObject, value_at


def find_condition(manifest: JsonObject | None, kind: str) -> JsonObject:
    """The condition of type ``kind``; empty if it is missing."""
    conditions = value_at(manifest, "status", "conditions") or []
    found: JsonObject = next((each for each in conditions if each.get("type") == kind), {})
    return found
