"""How large an object may be that anything is made of: measured first, by a walk that stops where it is too much.

Whatever reads an object as a whole asks here before. What the core does then takes time and memory by these bounds, and
not by what somebody sends. A Deployment with everything in it has about a thousand values and 50 KiB.
"""

from collections.abc import Mapping
from typing import Any

from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, diagnostic

MOST_VALUES = 20_000
"""In one object, those in its lists and objects counted one by one."""
MOST_CHARACTERS = 512 * 1024
"""Of all names and texts of an object. Of these, annotations may be 256 KiB; etcd takes 1.5 MiB."""
DEEPEST = 64
"""Levels of nesting; the deepest Deployment of the API's schema has fewer than 20."""
MOST_ANNOTATIONS = 256 * 1024
"""Bytes of an object's annotations (k8s.io/apimachinery, pkg/api/validation: ``TotalAnnotationSizeLimitB``)."""
MOST_USES = 1_000
"""Things of one kind in an object that policies judge one by one, such as images or Secrets."""

_STRINGS = frozenset({str})


def fault(document: JsonObject) -> Diagnostic | None:
    """Why nothing is made of an object: it is larger than the bounds, or is what YAML allows and JSON does not.

    Managed fields do not count: nobody reads them.
    """
    values = characters = 0
    level: list[Any] = [_without_managed_fields(document)]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for node in level:
            values += len(node)
            if values > MOST_VALUES:
                return _too_large(f"it has more than {MOST_VALUES:,} values in it")
            if isinstance(node, dict):
                if not _STRINGS.issuperset(map(type, node)):
                    why = "a key in it is not a string; put it into quotes"
                    return diagnostic("InvalidObject", "metadata", why=why)
                characters += sum(map(len, node))
            for value in node.values() if isinstance(node, dict) else node:
                if isinstance(value, str):
                    characters += len(value)
                elif isinstance(value, (dict, list)):
                    inner.append(value)
                elif isinstance(value, int) and not -(2**63) <= value < 2**64:
                    return _too_large("a number in it has more than 64 bits")
            if characters > MOST_CHARACTERS:
                return _too_large(f"its names and texts have more than {MOST_CHARACTERS // 1024} KiB")
        if not inner:
            return None
        level = inner
    return diagnostic("InvalidObject", "metadata", why=f"it is nested more than {DEEPEST} levels deep")


def annotations_fault(annotations: Mapping[str, str]) -> Diagnostic | None:
    """Why the API server would refuse an object with these annotations: they are larger than it allows."""
    if sum(len((key + text).encode(errors="surrogatepass")) for key, text in annotations.items()) <= MOST_ANNOTATIONS:
        return None
    why = f"an object can have at most {MOST_ANNOTATIONS // 1024} KiB of annotations"
    return diagnostic("TooLarge", "metadata.annotations", why=why)


def too_many(what: str) -> Diagnostic:
    """That an object has more of one kind than policies judge."""
    return _too_large(f"it has more than {MOST_USES:,} {what}")


def _too_large(why: str) -> Diagnostic:
    return diagnostic("TooLarge", "metadata", why=why)


def _without_managed_fields(document: JsonObject) -> JsonObject:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or "managedFields" not in metadata:
        return document
    return {**document, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}
