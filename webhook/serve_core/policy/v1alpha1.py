"""The resources ``ServingPolicy`` and ``PolicyException``, version v1alpha1: their fields.

``scripts/crds`` makes the CRDs' schemas from these classes. :mod:`serve_core.policy.parse` reads documents, and checks
what a schema cannot say.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field

from serve_core.api.schema import SET, doc, keyed, schema_of
from serve_core.base.constants import GROUP
from serve_core.policy.field_types import DNS, Action, Glob, Name, Text
from serve_core.policy.rules import Rule
from serve_core.policy.subject import SUBJECT_KINDS, SubjectKind

API_VERSION = f"{GROUP}/v1alpha1"


@schema_of(
    (
        "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values)",
        "In and NotIn need values, Exists and DoesNotExist take none",
    )
)
@dataclass(frozen=True)
class Requirement:
    """One requirement on labels, as in Kubernetes' label selectors."""

    key: Annotated[str, Field(min_length=1, max_length=317)]
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=64)] = ()


@schema_of()
@dataclass(frozen=True)
class Selector:
    """A label selector. All of its requirements must match."""

    match_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)] = field(
        default_factory=dict
    )
    match_expressions: Annotated[tuple[Requirement, ...], Field(max_length=64)] = ()


@schema_of()
@dataclass(frozen=True)
class Match:
    """Which objects the policy judges. Default: all of them."""

    namespaces: Annotated[
        tuple[Glob, ...],
        doc("Namespaces by name; * stands for any characters.", max_length=256, json_schema_extra=SET),
    ] = ()
    exclude_namespaces: Annotated[
        tuple[Glob, ...],
        doc("Namespaces by name that the policy does not judge.", max_length=256, json_schema_extra=SET),
    ] = ()
    namespace_selector: Annotated[
        Selector | None,
        doc("Namespaces by label. Names are safer: users who can label a namespace can remove it from the policy."),
    ] = None
    object_selector: Annotated[
        Selector | None,
        doc(
            "Objects by label. Users control these labels: use them to distinguish models, not as a security boundary."
        ),
    ] = None
    kinds: Annotated[
        tuple[SubjectKind, ...],
        doc("Kinds of objects. Default: all of them.", max_length=len(SUBJECT_KINDS), json_schema_extra=SET),
    ] = ()


@schema_of()
@dataclass(frozen=True)
class Exempt:
    """Exemptions, by the requesting user as the API server reports it. The audit exempts no one."""

    users: Annotated[
        tuple[Text, ...],
        doc("User names, for example system:serviceaccount:NAMESPACE:NAME.", max_length=64, json_schema_extra=SET),
    ] = ()
    groups: Annotated[tuple[Text, ...], doc("Groups.", max_length=64, json_schema_extra=SET)] = ()


@schema_of()
@dataclass(frozen=True)
class Adopt:
    """Serves Deployments with the label kubectl-serve.dev/adopt as if they had the annotation model."""

    model: Annotated[
        str,
        doc(
            "The model's URI. {label} stands for the label's value, {name} and {namespace} for the Deployment's.",
            min_length=1,
            max_length=512,
        ),
    ]


@schema_of(("has(self.rules) || has(self.defaults) || has(self.adopt)", "a policy has rules, defaults, or adopts"))
@dataclass(frozen=True)
class PolicySpec:
    """The policy: which objects it judges, by which rules, and what a finding does."""

    match: Match = Match()
    exempt: Exempt = Exempt()
    action: Annotated[
        Action, doc("Deny refuses the object, Warn returns a warning, Audit only reports. Default: Deny.")
    ] = "Deny"
    failure_policy: Annotated[
        Literal["Fail", "Ignore"],
        doc(
            "What happens while no replica of kubectl-serve answers, to pods with the loader and to objects of Knative "
            "and KServe that users create: refused (Fail, the default) or admitted (Ignore). The audit reports these."
        ),
    ] = "Fail"
    defaults: Annotated[
        dict[str, Annotated[str, Field(max_length=2048)]],
        doc(
            "Default annotations, by their name without the prefix. A user's own annotation takes precedence.",
            max_length=32,
        ),
    ] = field(default_factory=dict)
    adopt: Annotated[
        Adopt | None, doc("Serve Deployments with the label kubectl-serve.dev/adopt and without a model.")
    ] = None
    rules: Annotated[
        tuple[Rule, ...],
        doc(
            "Every rule is checked.",
            max_length=64,
            json_schema_extra=keyed("name"),
        ),
    ] = ()


@schema_of()
@dataclass(frozen=True)
class ExceptionMatch:
    """Which objects the exception is for."""

    namespace: Annotated[str, doc("One namespace.", min_length=1, max_length=63, pattern=DNS)]
    name: Annotated[
        Glob,
        doc(
            "The name of the Deployment, or of the object that a user created, including everything that is made of "
            "it and the host names that lead to it; * stands for any characters."
        ),
    ] = "*"


@schema_of()
@dataclass(frozen=True)
class ExceptionSpec:
    """The rules that do not apply, for which objects, until when and why."""

    policy: Annotated[Name, doc("The policy's name.")]
    rules: Annotated[tuple[Name, ...], doc("Names of its rules.", min_length=1, max_length=64, json_schema_extra=SET)]
    match: ExceptionMatch
    expires: Annotated[datetime, doc("When the exception ends, with its time zone.")]
    reason: Annotated[str, doc("Why the exception is needed.", min_length=1, max_length=512)]
    ticket: Annotated[str, doc("The ticket with the decision.", min_length=1, max_length=253)]


@dataclass(frozen=True)
class ServingPolicy:
    """A policy that was read, or what is wrong with it."""

    name: str
    spec: PolicySpec
    fault: str = ""
    """Why the document could not be read. Such a policy refuses everything, so no object passes unjudged."""


@dataclass(frozen=True)
class PolicyException:
    """An exception that was read."""

    name: str
    spec: ExceptionSpec

    def counts(self, now: datetime) -> bool:
        return now < self.spec.expires

    @property
    def end(self) -> str:
        """When it expires, as Kubernetes writes a time."""
        return self.spec.expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
