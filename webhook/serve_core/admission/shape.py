"""The shape that a Deployment must have before the core reads it.

The API server checks most of it before it calls a webhook; ``kubectl serve render`` reads files that nothing has
checked.
"""

from collections.abc import Iterator
from typing import Any

from serve_core.base import bounds
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import Diagnostic, capped, diagnostic, step


def faults(deployment: Any) -> tuple[Diagnostic, ...]:
    """What is wrong with the shape of an object that should be a Deployment; empty where it can be read."""
    if not isinstance(deployment, dict):
        return (diagnostic("InvalidObject", "kind", why="it is not an object"),)
    if fault := bounds.fault(deployment):
        return (fault,)
    if deployment.get("apiVersion") != "apps/v1" or deployment.get("kind") != "Deployment":
        return (diagnostic("InvalidObject", "kind", why="it is not a Deployment of apps/v1"),)
    return tuple(sorted(capped(_misshapen(deployment))))


def readable(previous: JsonObject | None) -> JsonObject | None:
    """The stored object before an update, if it has the shape of a Deployment. No API server sends another."""
    notes = value_at(previous, "metadata", "annotations")
    is_sound = (
        isinstance(value_at(previous, "metadata"), dict)
        and (notes is None or (isinstance(notes, dict) and all(isinstance(text, str) for text in notes.values())))
        and isinstance(value_at(previous, "spec"), dict | None)
    )
    return previous if is_sound else None


def _misshapen(deployment: JsonObject) -> Iterator[Diagnostic]:
    yield from (
        diagnostic("InvalidObject", ".".join(steps), why="it is not an object")
        for steps in (
            ("metadata",),
            ("metadata", "annotations"),
            ("metadata", "labels"),
            ("spec",),
            ("spec", "selector"),
            ("spec", "selector", "matchLabels"),
            ("spec", "template"),
            ("spec", "template", "metadata"),
            ("spec", "template", "metadata", "labels"),
            ("spec", "template", "metadata", "annotations"),
            ("spec", "template", "spec"),
        )
        if not isinstance(value_at(deployment, *steps), dict | None)
    )
    if not isinstance(value_at(deployment, "metadata", "namespace"), str | None):
        yield diagnostic("InvalidObject", "metadata.namespace", why="it is not a name")
    if not isinstance(value_at(deployment, "metadata", "name"), str):
        yield diagnostic("InvalidObject", "metadata.name", why="it has no name")
    for place in (("metadata",), ("spec", "template", "metadata")):
        for kind in ("annotations", "labels"):
            texts = value_at(deployment, *place, kind)
            for key, value in texts.items() if isinstance(texts, dict) else ():
                if not isinstance(value, str):
                    at = f"{'.'.join(place)}.{kind}[{step(key)}]"
                    yield diagnostic("InvalidObject", at, why="its value is not a string; put it into quotes")
    pod = value_at(deployment, "spec", "template", "spec")
    if isinstance(pod, dict):
        yield from _malformed_lists(pod, "spec.template.spec", ("containers", "initContainers", "volumes"))


def _malformed_lists(owner: JsonObject, path: str, keys: tuple[str, ...]) -> Iterator[Diagnostic]:
    for key in keys:
        elements = owner.get(key)
        if elements is None:
            continue
        if not isinstance(elements, list):
            yield diagnostic("InvalidObject", f"{path}.{key}", why="it is not a list")
            continue
        for index, element in enumerate(elements):
            at = f"{path}.{key}[{index}]"
            merge_key = {"volumeMounts": "name", "ports": "containerPort"}.get(key, "name")
            kind: type = int if merge_key == "containerPort" else str
            if not isinstance(element, dict):
                yield diagnostic("InvalidObject", at, why="it is not an object")
            elif not isinstance(element.get(merge_key), kind):
                yield diagnostic("InvalidObject", at, why=f"it has no {merge_key}")
            elif key in ("containers", "initContainers"):
                yield from _malformed_lists(element, at, ("env", "volumeMounts", "ports"))
