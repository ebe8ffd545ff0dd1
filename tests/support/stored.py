"""Stored objects of other users, as bytes: readable and unreadable ones."""

import json
from typing import Any

from serve_core.base.json import JsonObject

DEEP = b'{"f:a":' * 2000 + b"{}" + b"}" * 2000


def stored(name: str = "evil", namespace: str = "default", version: str = "7", **more: Any) -> JsonObject:
    labels = {"kubectl-serve.dev/deployment": "iris"}
    metadata = {"name": name, "namespace": namespace, "uid": "u-1", "resourceVersion": version, "labels": labels}
    return {"metadata": metadata, **more}


def text(document: JsonObject) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def with_value(value: bytes, *path: str) -> bytes:
    """A stored object with ``value`` at a path."""
    document: JsonObject = stored(spec={})
    node = document
    for step in path[:-1]:
        node = node.setdefault(step, {})
    node[path[-1]] = "<here>"
    return text(document).replace(b'"<here>"', value)


UNREADABLE = {
    "a spec as deep as the decoder of the API server allows": with_value(b"[" * 9990 + b"]" * 9990, "spec", "a"),
    "a spec just too deep": with_value(b"[" * 120 + b"]" * 120, "spec", "a"),
    "free fields of a container": with_value(DEEP, "spec", "template", "spec", "containers"),
    "a status too deep": with_value(DEEP, "status", "annotations"),
    "an integer of 5,000 digits": with_value(b"9" * 5000, "spec", "a"),
    "a number that is infinite": with_value(b"1e999", "spec", "a"),
    "not a number": with_value(b"NaN", "spec", "a"),
    "half of a surrogate pair": with_value(rb'"\ud800"', "spec", "a"),
    "half of a surrogate pair as a name": with_value(rb'{"\udfff":1}', "spec", "a"),
    "bytes that are no UTF-8": with_value(b'"\xff\xfe"', "spec", "a"),
    "millions of values": with_value(b"[" + b"1," * 1_000_000 + b"1]", "spec", "a"),
    "values in managed fields and in the spec": with_value(b"[" + b"{}," * 100_000 + b"{}]", "spec", "ports"),
    "one huge string": with_value(b'"' + b"x" * 9_000_000 + b'"', "spec", "a"),
    "a broken string": with_value(b'"\\q"', "spec", "a"),
    "labels that are numbers": with_value(b'{"a":1}', "metadata", "labels"),
    "labels that are a list": with_value(b"[]", "metadata", "labels"),
    "annotations of objects": with_value(b'{"a":{}}', "metadata", "annotations"),
    "a name that is a number": with_value(b"1", "metadata", "name"),
    "no name": with_value(b"null", "metadata", "name"),
    "a version that is a word": with_value(b'"latest"', "metadata", "resourceVersion"),
    "no version": with_value(b"null", "metadata", "resourceVersion"),
    "a version of 5,000 digits": with_value(b'"' + b"9" * 5000 + b'"', "metadata", "resourceVersion"),
    "owners that are names": with_value(b'["iris"]', "metadata", "ownerReferences"),
    "metadata that are a list": b'{"metadata":[]}',
    "no metadata": b'{"spec":{}}',
    "nothing": b"{}",
}
"""Unreadable objects by their fault."""

READABLE = {
    "managed fields 2,000 deep": with_value(b'[{"manager":"a","fieldsV1":' + DEEP + b"}]", "metadata", "managedFields"),
    "managed fields 9,000 deep": with_value(b"[" * 9000 + b"]" * 9000, "metadata", "managedFields"),
    "managed fields of a million values": with_value(b"[" + b"1," * 1_000_000 + b"1]", "metadata", "managedFields"),
    "managed fields with anything": with_value(b'[{"a":NaN,"b":"\\ud800","c":1e999}]', "metadata", "managedFields"),
    "brackets and quotes in strings": with_value(rb'"]}\\\"[{\\"', "spec", "a"),
    "a string that looks like managed fields": with_value(rb'"\"managedFields\":[{"', "spec", "a"),
    "a spec that is null": with_value(b"null", "spec"),
    "a spec of the wrong type": with_value(b"7", "spec"),
}
"""Readable objects with unusual content."""
