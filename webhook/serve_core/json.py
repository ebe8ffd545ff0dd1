"""JSON documents as plain Python values."""

from typing import Any

JsonObject = dict[str, Any]
"""A JSON object: a Kubernetes object or a part of one."""
