"""Reads policies and exceptions. It checks what a schema cannot express; admission refuses what has a fault."""

import json
from collections.abc import Iterable
from functools import cache
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from serve_core.api import annotations, models, serving_spec
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject, field_path
from serve_core.base.reasons import Diagnostic, capped, diagnostic, step
from serve_core.policy.v1alpha1 import API_VERSION, Adopt, ExceptionSpec, PolicyException, PolicySpec, ServingPolicy
from serve_core.syntax import uri_template


class PolicyError(ValueError):
    """A document that is no valid policy; ``problems`` has all its faults."""

    def __init__(self, problems: Iterable[Diagnostic]) -> None:
        self.problems = tuple(sorted(capped(problems)))
        super().__init__("; ".join(str(found) for found in self.problems))


_Spec = TypeVar("_Spec")


def read_policy(document: JsonObject) -> ServingPolicy:
    """Read a ``ServingPolicy``. Raises :class:`PolicyError`."""
    name, spec = _read(document, "ServingPolicy", _policy_spec())
    problems = capped(_faults(spec))
    if problems:
        raise PolicyError(problems)
    return ServingPolicy(name, spec)


def read_exception(document: JsonObject) -> PolicyException:
    """Read a ``PolicyException``. Raises :class:`PolicyError`, also outside of the server's namespace."""
    name, spec = _read(document, "PolicyException", _exception_spec())
    problems = []
    namespace = document["metadata"].get("namespace")
    if namespace != NAMESPACE:
        problems.append(diagnostic("ExceptionElsewhere", "metadata.namespace", namespace=NAMESPACE))
    if spec.expires.tzinfo is None:
        problems.append(_invalid("spec.expires", "it has no time zone, such as Z", "policyexception"))
    if problems:
        raise PolicyError(problems)
    return PolicyException(name, spec)


def unknown_references(exception: PolicyException, policies: Iterable[ServingPolicy]) -> tuple[Diagnostic, ...]:
    """Warnings about policies and rules that an exception names and that do not exist, yet or because of a typo."""
    policy = next((each for each in policies if each.name == exception.spec.policy), None)
    if policy is None:
        return (diagnostic("ExceptionOfNothing", "spec.policy", what=f"ServingPolicy {exception.spec.policy}"),)
    if policy.fault:
        return ()  # its rules cannot be read
    known = {rule.name for rule in policy.spec.rules}
    return tuple(
        diagnostic(
            "ExceptionOfNothing", field_path("spec", "rules", index), what=f"rule {name} of policy {policy.name}"
        )
        for index, name in enumerate(exception.spec.rules)
        if name not in known
    )


def stored_policy(document: JsonObject) -> ServingPolicy:
    """Read a policy that the API server has stored. One that cannot be read refuses everything."""
    try:
        return read_policy(document)
    except PolicyError as error:
        name = document.get("metadata", {}).get("name") if isinstance(document.get("metadata"), dict) else None
        return ServingPolicy(str(name), PolicySpec(), fault=error.problems[0].message.rstrip("."))


@cache
def _policy_spec() -> TypeAdapter[PolicySpec]:
    return TypeAdapter(PolicySpec)  # at the first use: a server without policies starts faster


@cache
def _exception_spec() -> TypeAdapter[ExceptionSpec]:
    return TypeAdapter(ExceptionSpec)


def _read(document: JsonObject, kind: str, adapter: TypeAdapter[_Spec]) -> tuple[str, _Spec]:
    lower = kind.lower()
    if document.get("apiVersion") != API_VERSION or document.get("kind") != kind:
        raise PolicyError([_invalid("kind", f"it is not a {kind} of {API_VERSION}", lower)])
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        raise PolicyError([_invalid("metadata.name", "it has no name", lower)])
    try:
        return name, adapter.validate_json(json.dumps(document.get("spec")), strict=True)
    except ValidationError as error:
        raise PolicyError(
            _invalid(field_path("spec", *fault["loc"]), _sentence(fault["type"], fault["msg"]), lower)
            for fault in error.errors(include_url=False)
        ) from None


_SENTENCES = {
    "missing": "it is missing",
    "unexpected_keyword_argument": "there is no such field",
    "too_short": "it is empty",
    "tuple_type": "it is not a list",
    "dataclass_type": "it is not an object",
    "string_type": "it is not a string",
}


def _sentence(kind: str, message: str) -> str:
    return _SENTENCES.get(kind, message[:1].lower() + message[1:].rstrip("."))


def _invalid(path: str, why: str, kind: str = "servingpolicy") -> Diagnostic:
    return diagnostic("InvalidPolicy", path, why=why, kind=kind)


def _faults(spec: PolicySpec) -> Iterable[Diagnostic]:
    """What a schema cannot express."""
    yield from _default_faults(spec.defaults)
    if spec.adopt is not None:
        yield from _adopt_faults(spec.adopt)
    names = [rule.name for rule in spec.rules]
    for index, rule in enumerate(spec.rules):
        at = field_path("spec", "rules", index)
        if names.count(rule.name) > 1:
            yield _invalid(f"{at}.name", f"two rules are called {rule.name}")
        checks = rule.checks
        if len(checks) != 1:
            yield _invalid(at, f"a rule is about exactly one thing, not about {' and '.join(checks) or 'nothing'}")
        for name, check in checks.items():
            for key, why in check.faults():
                yield _invalid(f"{at}.{to_camel(name)}.{key}", why)


def _default_faults(defaults: dict[str, str]) -> Iterable[Diagnostic]:
    for name, value in defaults.items():
        at = f"spec.defaults.{step(name)}"
        known = next((known for known in annotations.USER if known.name == name), None)
        if known is None or known.key == annotations.MODEL:
            yield _invalid(at, "it is not an annotation that a policy can fill in")
        else:
            model = {annotations.MODEL: "https://example.com/model.joblib"}
            for fault in serving_spec.read({**model, known.key: value})[1]:
                if fault.code == "InvalidAnnotation":
                    yield _invalid(at, fault.message.rstrip("."))


def _adopt_faults(adopt: Adopt) -> Iterable[Diagnostic]:
    at = "spec.adopt.model"
    if uri_template.has_unknown_placeholders(adopt.model):
        yield _invalid(at, f"only {', '.join(uri_template.PLACEHOLDERS)} can stand in braces")
        return
    example = uri_template.expand(adopt.model, label="label", name="name", namespace="namespace")
    if isinstance(found := models.parse(example, at), Diagnostic):
        yield _invalid(at, found.message.rstrip("."))
