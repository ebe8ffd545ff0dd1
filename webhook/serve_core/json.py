"""JSON documents as plain Python values."""

from typing import Any

JsonObject = dict[str, Any]
"""A JSON object: a Kubernetes object or a part of one."""


def escape(text: str) -> str:
    """A name as a JSON Pointer's step (RFC 6901)."""
    return text.replace("~", "~0").replace("/", "~1")


def unescape(text: str) -> str:
    """The name that a JSON Pointer's step stands for."""
    return text.replace("~1", "/").replace("~0", "~")
