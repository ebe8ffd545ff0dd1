"""JSON documents as plain Python values."""

import json
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object: a Kubernetes object or a part of one."""


def value_at(node: Any, *steps: str) -> Any:
    """What stands at a path of an object; ``None`` where there is no such path."""
    for step in steps:
        node = node.get(step) if isinstance(node, dict) else None
    return node


def copied(value: Any) -> Any:
    """A copy whose objects and lists are its own; several times as fast as ``copy.deepcopy``."""
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [copied(inner) for inner in value]
    return value


def canonical(value: object) -> str:
    """One text for each JSON value, whatever the order of its names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def escape(text: str) -> str:
    """A name as a JSON Pointer's step (RFC 6901)."""
    return text.replace("~", "~0").replace("/", "~1")


def unescape(text: str) -> str:
    """The name that a JSON Pointer's step stands for."""
    return text.replace("~1", "/").replace("~0", "~")
