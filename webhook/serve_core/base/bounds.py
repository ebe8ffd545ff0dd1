"""Limits on the size of an object, checked by a walk that stops at the limit.

Code that reads a whole object checks it here first. So the core's time and memory depend on these limits, not on what
a client sends. They also limit what one model costs the API server, which keeps and merges the owner of each field in
each object that is made of the model: 5,000 variables took 8 s of its CPU, and 16,000 labels 25 s. A large Deployment
has about a thousand values and 50 KiB.
"""

from collections.abc import Mapping
from typing import Any

from serve_core.base.json import JsonObject, object_at
from serve_core.base.reasons import Diagnostic, diagnostic

MAX_VALUES = 5_000
"""Values in one object, at all levels."""
MAX_LABELS = 250
"""Labels of an object, and of its pod template. Knative copies them to each object of a model."""
MAX_CHARACTERS = 512 * 1024
"""Characters of all keys and strings of an object. The API server allows 256 KiB of annotations, etcd 1.5 MiB."""
MAX_DEPTH = 64
"""Levels of nesting. A Deployment of the API's schema has fewer than 20."""
MAX_ANNOTATION_BYTES = 256 * 1024
"""Bytes of an object's annotations (k8s.io/apimachinery, pkg/api/validation: ``TotalAnnotationSizeLimitB``)."""
MAX_USES = 1_000
"""Things of one kind in an object that policies check one by one, such as images or Secrets."""

_STRINGS = frozenset({str})


def fault(document: JsonObject) -> Diagnostic | None:
    """Why an object is refused unread: it exceeds a limit, or has something that YAML allows and JSON does not.

    Managed fields do not count: the core never reads them.
    """
    for steps in (("metadata",), ("spec", "template", "metadata")):
        if len(object_at(document, *steps, "labels")) > MAX_LABELS:
            return _too_large(f"it has more than {MAX_LABELS} labels")
    return _fault_of_values(document)


def _fault_of_values(document: JsonObject) -> Diagnostic | None:
    values = characters = 0
    level: list[Any] = [_without_managed_fields(document)]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for node in level:
            values += len(node)
            if values > MAX_VALUES:
                return _too_large(f"it has more than {MAX_VALUES:,} values in it")
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
            if characters > MAX_CHARACTERS:
                return _too_large(f"its names and texts have more than {MAX_CHARACTERS // 1024} KiB")
        if not inner:
            return None
        level = inner
    return diagnostic("InvalidObject", "metadata", why=f"it is nested more than {MAX_DEPTH} levels deep")


def annotations_fault(annotations: Mapping[str, str]) -> Diagnostic | None:
    """Why the API server would refuse an object with these annotations: they are larger than it allows."""
    size = sum(len((key + text).encode(errors="surrogatepass")) for key, text in annotations.items())
    if size <= MAX_ANNOTATION_BYTES:
        return None
    why = f"an object can have at most {MAX_ANNOTATION_BYTES // 1024} KiB of annotations"
    return diagnostic("TooLarge", "metadata.annotations", why=why)


def too_many(what: str) -> Diagnostic:
    """The refusal of an object that has more things of one kind than policies check."""
    return _too_large(f"it has more than {MAX_USES:,} {what}")


def _too_large(why: str) -> Diagnostic:
    return diagnostic("TooLarge", "metadata", why=why)


def _without_managed_fields(document: JsonObject) -> JsonObject:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or "managedFields" not in metadata:
        return document
    return {**document, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}
