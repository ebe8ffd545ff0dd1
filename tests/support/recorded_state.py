"""What the reconciler records on a Deployment."""

from typing import Any

from serve_core.api.state import State
from serve_core.base.constants import CONDITION_STATE
from serve_core.base.json import JsonObject


def entry(generation: int | None = 1, **fields: Any) -> JsonObject:
    """The condition with these fields of the state."""
    state = State(generation, **fields)
    moments = dict.fromkeys(("lastUpdateTime", "lastTransitionTime"), "2026-01-01T11:00:00Z")
    return {"type": CONDITION_STATE, "status": "True", "reason": state.reason, "message": state.message} | moments


def with_state(deployment: JsonObject, generation: int | None = 1, **fields: Any) -> JsonObject:
    """``deployment`` with the condition, in place of an earlier one."""
    conditions = (deployment.get("status") or {}).get("conditions") or []
    others = [each for each in conditions if each["type"] != CONDITION_STATE]
    status = (deployment.get("status") or {}) | {"conditions": [*others, entry(generation, **fields)]}
    return deployment | {"status": status}
