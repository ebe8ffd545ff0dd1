"""JSON Patch (RFC 6902) between two documents, with few and small operations."""

from typing import Any

from serve_core.base.json import JsonObject, escape


def json_patch(before: JsonObject, after: JsonObject) -> list[JsonObject]:
    """The operations that change ``before`` into ``after``; none if they are equal.

    Lists are changed element by element, never replaced, so that other webhooks' elements survive.
    """
    operations: list[JsonObject] = []
    _object(before, after, "", operations)
    return operations


def _value(before: Any, after: Any, path: str, operations: list[JsonObject]) -> None:
    if before is after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        _object(before, after, path, operations)
    elif isinstance(before, list) and isinstance(after, list):
        _list(before, after, path, operations)
    elif before != after or type(before) is not type(after):
        operations.append({"op": "replace", "path": path, "value": after})


def _object(before: JsonObject, after: JsonObject, path: str, operations: list[JsonObject]) -> None:
    operations += [{"op": "remove", "path": f"{path}/{escape(key)}"} for key in before if key not in after]
    for key, value in after.items():
        if key not in before:
            operations.append({"op": "add", "path": f"{path}/{escape(key)}", "value": value})
        elif before[key] is not value:  # most of a changed document is shared with the original
            _value(before[key], value, f"{path}/{escape(key)}", operations)


def _list(before: list[Any], after: list[Any], path: str, operations: list[JsonObject]) -> None:
    """Match elements from both ends, by name if they have one, and change those between in place."""
    shorter, start, end = min(len(before), len(after)), 0, 0
    while start < shorter and _same(before[start], after[start]):
        _value(before[start], after[start], f"{path}/{start}", operations)
        start += 1
    while end < shorter - start and _same(before[-1 - end], after[-1 - end]):
        end += 1
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    # What stays at the end is patched while its old positions still hold.
    for offset in range(end):
        at = len(before) - end + offset
        _value(before[at], after[len(after) - end + offset], f"{path}/{at}", operations)
    operations += [{"op": "remove", "path": f"{path}/{start + index}"} for index in reversed(range(len(old)))]
    operations += [{"op": "add", "path": f"{path}/{start + index}", "value": value} for index, value in enumerate(new)]


def _same(one: Any, other: Any) -> bool:
    """Whether two elements have the same identity; their content can differ."""
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        for key in ("name", "mountPath", "containerPort"):
            if key in one or key in other:
                return bool(one.get(key) == other.get(key))
    return bool(one == other)
