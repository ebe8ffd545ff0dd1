"""The admission policies that limit the server's own writes, evaluated as an API server does."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from cel_expr_python import cel

from serve_core.base.constants import SERVER_USERNAME
from serve_core.base.json import JsonObject
from support.paths import ROOT

FILE = ROOT / "manifests/base/15-server-bounds.yaml"
_NAMES = ("object", "oldObject", "request", "variables")


def documents(kind: str) -> dict[str, JsonObject]:
    """The policies or their bindings, by name."""
    found = yaml.safe_load_all(FILE.read_text())
    return {each["metadata"]["name"]: each for each in found if each["kind"] == kind}


POLICIES = documents("ValidatingAdmissionPolicy")


@dataclass(frozen=True)
class Write:
    """A write request. ``resource``: with its subresource, as in a rule."""

    operation: str
    group: str
    resource: str
    namespace: str
    name: str
    new: JsonObject | None = None
    old: JsonObject | None = None
    user: str = SERVER_USERNAME

    @property
    def request(self) -> JsonObject:
        resource, _, subresource = self.resource.partition("/")
        return {
            "operation": self.operation,
            "name": self.name,
            "namespace": self.namespace,
            "resource": {"group": self.group, "resource": resource},
            "subResource": subresource,
            "userInfo": {"username": self.user},
        }


def about(group: str, resource: str, namespace: str, operation: str) -> Iterator[str]:
    """The policies that match such a request."""
    for name, policy in POLICIES.items():
        constraints = policy["spec"]["matchConstraints"]
        of_namespace = constraints.get("namespaceSelector", {}).get("matchLabels", {})
        if of_namespace not in ({}, {"kubernetes.io/metadata.name": namespace}):
            continue
        if any(
            group in rule["apiGroups"] and resource in rule["resources"] and operation in rule["operations"]
            for rule in constraints["resourceRules"]
        ):
            yield name


def refusals(write: Write) -> list[str]:
    """The denials of a write; empty if all policies allow it."""
    names = about(write.group, write.resource, write.namespace, write.operation)
    return [message for name in names for message in _judged(POLICIES[name]["spec"], write)]


def _judged(spec: JsonObject, write: Write) -> Iterator[str]:
    data: dict[str, Any] = {"object": write.new, "oldObject": write.old, "request": write.request, "variables": {}}
    if not all(_evaluated(condition["expression"], data).plain_value() for condition in spec["matchConditions"]):
        return
    for variable in spec.get("variables", []):
        value = _evaluated(variable["expression"], data)
        if value.type() != cel.Type.ERROR:  # otherwise it fails at its first use
            data["variables"][variable["name"]] = value.plain_value()
    for validation in spec["validations"]:
        value = _evaluated(validation["expression"], data)
        if value.plain_value() is not True:  # an error denies: failurePolicy is Fail
            yield validation["message"]


def _evaluated(expression: str, data: dict[str, Any]) -> Any:
    return _compiled(expression).eval(data=data)


@cache
def _compiled(expression: str) -> Any:
    return cel.NewEnv(variables=dict.fromkeys(_NAMES, cel.Type.DYN)).compile(expression)
