"""Reading parts of objects whose shape nothing has checked."""

from collections.abc import Iterator
from typing import Any

from serve_core.base.json import JsonObject, list_of

Parts = dict[str, Any]
"""What is known of an object: attributes of a ``Subject`` by name. ``mesh`` holds the object's pod templates, each with
its path, and the path of the field that decides about the mesh."""


def strings(node: Any) -> dict[str, str]:
    """An object with its values as strings, such as labels; empty where ``node`` is none."""
    return {str(key): str(value) for key, value in node.items()} if isinstance(node, dict) else {}


def count_of(value: object, otherwise: int) -> int:
    """``value`` if it is a whole number of at least 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def containers(pod: JsonObject, path: str) -> Iterator[tuple[JsonObject, str, bool]]:
    """Every container of a pod, its path, and whether it runs beside the others and not before them."""
    for container, at in elements(pod.get("initContainers"), f"{path}.initContainers"):
        yield container, at, container.get("restartPolicy") == "Always"
    for key in ("containers", "ephemeralContainers"):
        for container, at in elements(pod.get(key), f"{path}.{key}"):
            yield container, at, True


def elements(node: Any, path: str) -> Iterator[tuple[JsonObject, str]]:
    """The objects of a list, each with its path."""
    for index, element in enumerate(list_of(node)):
        if isinstance(element, dict):
            yield element, f"{path}[{index}]"
