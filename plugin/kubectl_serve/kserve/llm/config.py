"""LLMInferenceServices with what their LLMInferenceServiceConfigs give, and KServe's expressions in them. Pure.

Source: KServe 0.20, ``pkg/controller/v1alpha2/llmisvc/config_merge.go``: a strategic merge, in which the service comes
last; then the expressions of Go's ``text/template`` are evaluated.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_serve.kserve.base.placeholders import EXPRESSION
from serve_core.base.json import JsonObject, object_at, objects_in, value_at

WELL_KNOWN = "kserve-config-llm-"
"""Prefix of the configs that come with KServe. It applies them by itself; they say what vLLM needs."""
NAMESPACE = "default"
"""The namespace of a service that names none, where an expression needs one."""
_MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "imagePullSecrets": "name",
    "volumeMounts": "mountPath", "ports": "containerPort",
}  # fmt: skip
"""Lists that Kubernetes merges by a key. It replaces all others."""
_CHILD = re.compile(r"ChildName (?:\.ObjectMeta)?\.Name [`\"]([^`\"]*)[`\"]")
_CHILD_LENGTH = 63
_MODEL_NAME, _NAME, _NAMESPACE = (
    ".Spec.Model.Name",
    (".ObjectMeta.Name", ".Name"),
    (".ObjectMeta.Namespace", ".Namespace"),
)


@dataclass(frozen=True)
class Evaluated:
    """A JSON value without expressions."""

    value: Any
    unknown: tuple[str, ...] = ()
    """Expressions that only KServe's controller can evaluate; they still stand in the value."""
    children: tuple[str, ...] = ()
    """Names of objects that KServe's controller makes for the service."""
    assumes_namespace: bool = False
    """Whether it names the namespace of a service without one."""


def merged(spec: JsonObject, configs: Mapping[str, JsonObject]) -> JsonObject:
    """The ``spec`` of a service over those of the configs that it refers to, as far as there are any."""
    result: JsonObject = {}
    for reference in objects_in(spec.get("baseRefs")):
        found = configs.get(str(reference.get("name")))
        if found is not None:
            result = _over(result, object_at(found, "spec"))
    made: JsonObject = _over(result, spec)
    return made


def evaluated(value: Any, service: JsonObject) -> Evaluated:
    """``value`` with the expressions about a service's name, namespace and model name replaced."""
    name = str(value_at(service, "metadata", "name") or "")
    known = {_MODEL_NAME: str(value_at(service, "spec", "model", "name") or name)}
    known |= dict.fromkeys(_NAME, name)
    namespace = value_at(service, "metadata", "namespace")
    known |= dict.fromkeys(_NAMESPACE, str(namespace or NAMESPACE))
    unknown: list[str] = []
    children: list[str] = []
    assumed: list[str] = []

    def of(match: re.Match[str]) -> str:
        expression = match[1].strip()
        child = _CHILD.fullmatch(expression)
        if child is not None and len(name + child[1]) <= _CHILD_LENGTH:
            children.append(name + child[1])
            return name + child[1]
        if expression not in known:
            unknown.append(match[0])
        elif expression in _NAMESPACE and not namespace:
            assumed.append(match[0])
        return known.get(expression, match[0])

    def inside(node: Any) -> Any:
        if isinstance(node, str):
            return EXPRESSION.sub(of, node)
        if isinstance(node, list):
            return [inside(each) for each in node]
        return {key: inside(each) for key, each in node.items()} if isinstance(node, dict) else node

    result = inside(value)
    return Evaluated(result, tuple(dict.fromkeys(unknown)), tuple(dict.fromkeys(children)), bool(assumed))


def _over(base: Any, patch: Any, key: str = "") -> Any:
    """A strategic merge of ``patch`` over ``base``."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{name: _over(base.get(name), value, name) for name, value in patch.items()}}
    if isinstance(base, list) and isinstance(patch, list) and key in _MERGE_KEYS:
        return list(_by_key(base, patch, _MERGE_KEYS[key]))
    return base if patch is None else patch


def _by_key(base: list[Any], patch: list[Any], key: str) -> Iterator[Any]:
    values = [value_at(each, key) for each in patch]
    for each in base:
        there = [new for new, value in zip(patch, values, strict=True) if value == value_at(each, key)]
        yield _over(each, there[0]) if there else each
    present = [value_at(each, key) for each in base]
    yield from (each for each, value in zip(patch, values, strict=True) if value not in present)
