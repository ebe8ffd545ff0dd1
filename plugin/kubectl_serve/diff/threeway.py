"""The strategic merge patch of ``kubectl apply``, from three versions of an object. Pure.

Only for Deployments: it has the lists of their schema that the API server merges by key. Sources: Kubernetes 1.35,
 ``apimachinery/pkg/util/strategicpatch`` and the ``patchStrategy`` tags of ``api/apps/v1`` and ``api/core/v1``.
"""

import json
from typing import Any

from serve_core.base.json import JsonObject, value_at

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""kubectl's annotation with the last applied object: fields that are missing since are removed."""

_KEYS = {
    "containers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists whose elements are merged, with their merge key. All other lists are replaced."""
_UNIONS = ("strategy", "volumes")
"""Objects or elements whose keys replace the present ones (``retainKeys``), such as the kind of a volume."""


def last_applied(live: JsonObject) -> JsonObject:
    """The last applied object; empty if the object was not written by ``kubectl apply``."""
    try:
        found = json.loads((live["metadata"].get("annotations") or {}).get(LAST_APPLIED, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def patch(manifest: JsonObject, live: JsonObject) -> JsonObject:
    """The strategic merge patch from ``live`` to ``manifest``; fields that were applied last and are missing are
    removed."""
    metadata = manifest["metadata"]
    # kubectl writes its own annotation, so its patch always has annotations.
    wanted = manifest | {"metadata": metadata | {"annotations": metadata.get("annotations") or {}}}
    return _merged(last_applied(live), wanted, live)


def _merged(before: Any, wanted: JsonObject, live: Any) -> JsonObject:
    made: JsonObject = {}
    for key, value in wanted.items():
        old, present = value_at(before, key), value_at(live, key)
        if isinstance(value, dict):
            made[key] = _merged(old, value, present) | (_retained(value, present) if key in _UNIONS else {})
        elif key in _KEYS and _has_keys(value, _KEYS[key]):
            made |= _merged_list(key, old, value, present)
        else:
            made[key] = value
    gone = (key for key in before if key not in wanted) if isinstance(before, dict) else ()
    return made | dict.fromkeys(gone)


def _merged_list(name: str, before: Any, wanted: list[JsonObject], live: Any) -> JsonObject:
    key = _KEYS[name]
    old, present = _by_key(before, key), _by_key(live, key)
    elements = []
    for element in wanted:
        at = element[key]
        made = _merged(old.get(at), element, present.get(at))
        elements.append(made | (_retained(element, present.get(at)) if name in _UNIONS else {}))
    kept = _by_key(wanted, key)
    elements += [{"$patch": "delete", key: at} for at in old if at not in kept]
    return {name: elements, f"$setElementOrder/{name}": [{key: at} for at in kept]}


def _retained(wanted: JsonObject, live: Any) -> JsonObject:
    """The directive to remove all other keys, if anything changes: otherwise, defaults may stay."""
    return {} if live is None or _is_within(wanted, live) else {"$retainKeys": list(wanted)}


def _is_within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and _is_within(value, whole[key]) for key, value in part.items())
    return bool(part == whole)


def _has_keys(elements: Any, key: str) -> bool:
    return isinstance(elements, list) and all(
        isinstance(each, dict) and isinstance(each.get(key), (str, int)) for each in elements
    )


def _by_key(elements: Any, key: str) -> dict[Any, JsonObject]:
    return {each[key]: each for each in elements} if _has_keys(elements, key) else {}
