"""Model servers: what each can serve, and the container that does it."""

from dataclasses import dataclass

from serve_core.json import JsonObject


@dataclass(frozen=True)
class Runtime:
    name: str
    formats: tuple[tuple[str, str | None], ...]
    """What it serves: (format, version); without a version, every one."""
    protocols: tuple[str, ...]
    container: JsonObject
    """The container as a Kubernetes object. ``$(MODEL_NAME)`` and ``$(MODEL_PATH)`` in ``args`` and ``env`` are expanded by the kubelet."""
    priority: int = 0
