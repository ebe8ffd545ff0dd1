"""JSON documents as plain Python values."""

import json
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object: a Kubernetes object or a part of one."""


def object_of(text: object) -> JsonObject:
    """The JSON object in a text; empty if the text is anything else."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def value_at(node: Any, *steps: str) -> Any:
    """The value at a path of an object; ``None`` if there is no such path."""
    for step in steps:
        node = node.get(step) if isinstance(node, dict) else None
    return node


def object_at(node: Any, *steps: str) -> JsonObject:
    """The object at a path; empty if there is none."""
    found = value_at(node, *steps)
    return found if isinstance(found, dict) else {}


def list_of(node: Any) -> list[Any]:
    """``node`` if it is a list, otherwise an empty one."""
    return node if isinstance(node, list) else []


def objects_in(node: Any) -> list[JsonObject]:
    """The objects of ``node`` if it is a list, otherwise an empty list."""
    return [each for each in list_of(node) if isinstance(each, dict)]


def field_path(*steps: str | int) -> str:
    """A path as Kubernetes writes it: ``spec.rules[0].name``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def canonical(value: object) -> str:
    """The canonical text of a JSON value: equal values have equal texts."""
    return _CANONICAL.encode(value)


def escape(text: str) -> str:
    """A name as a step of a JSON Pointer (RFC 6901)."""
    return text.replace("~", "~0").replace("/", "~1")


def unescape(text: str) -> str:
    """The name that a step of a JSON Pointer encodes."""
    return text.replace("~1", "/").replace("~0", "~")
