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
    """A label selector; all of it has to match."""

    match_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)] = field(
        default_factory=dict
    )
    match_expressions: Annotated[tuple[Requirement, ...], Field(max_length=64)] = ()


@schema_of()
@dataclass(frozen=True)
class Match:
    """What the policy is about; everything where nothing is said."""

    namespaces: Annotated[
        tuple[Glob, ...],
        doc("Namespaces by name; * stands for any characters.", max_length=256, json_schema_extra=SET),
    ] = ()
    exclude_namespaces: Annotated[
        tuple[Glob, ...],
        doc("Namespaces that it is not about, by name.", max_length=256, json_schema_extra=SET),
    ] = ()
    namespace_selector: Annotated[
        Selector | None,
        doc("Namespaces by label. Names are safer: whoever may label a namespace may take it out of a policy."),
    ] = None
    object_selector: Annotated[
        Selector | None,
        doc("Objects by label. Users set these labels themselves: use it to tell kinds of models apart, not to trust."),
    ] = None
    kinds: Annotated[
        tuple[SubjectKind, ...],
        doc("Kinds of objects. Default: all of them.", max_length=len(SUBJECT_KINDS), json_schema_extra=SET),
    ] = ()


@schema_of()
@dataclass(frozen=True)
class Exempt:
    """Who goes past the policy, as the API server names the requesting user. The audit exempts nobody."""

    users: Annotated[
        tuple[Text, ...],
        doc("User names, for example system:serviceaccount:NAMESPACE:NAME.", max_length=64, json_schema_extra=SET),
    ] = ()
    groups: Annotated[tuple[Text, ...], doc("Groups.", max_length=64, json_schema_extra=SET)] = ()


@schema_of()
@dataclass(frozen=True)
class Adopt:
    """Deployments with the label kubectl-serve.dev/adopt are served, as if they had the annotation model."""

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
    """What the policy says."""

    match: Match = Match()
    exempt: Exempt = Exempt()
    action: Annotated[
        Action, doc("Deny refuses, Warn lets through with a warning, Audit only reports. Default: Deny.")
    ] = "Deny"
    failure_policy: Annotated[
        Literal["Fail", "Ignore"],
        doc(
            "While no replica of kubectl-serve answers: whether pods with the loader, and what is made of Knative and "
            "KServe by hand, are refused (Fail, the default) or let through (Ignore). The audit finds what got through."
        ),
    ] = "Fail"
    defaults: Annotated[
        dict[str, Annotated[str, Field(max_length=2048)]],
        doc("Annotations that are filled in where the user wrote none, by their name after the prefix.", max_length=32),
    ] = field(default_factory=dict)
    adopt: Annotated[
        Adopt | None, doc("Serve the Deployments that bear the label kubectl-serve.dev/adopt and no model.")
    ] = None
    rules: Annotated[
        tuple[Rule, ...],
        doc(
            "All of them count.",
            max_length=64,
            json_schema_extra=keyed("name"),
        ),
    ] = ()


@schema_of()
@dataclass(frozen=True)
class ExceptionMatch:
    """What is excepted."""

    namespace: Annotated[str, doc("One namespace.", min_length=1, max_length=63, pattern=DNS)]
    name: Annotated[
        Glob,
        doc(
            "The name of the Deployment, or of what was made by hand (with all that it becomes, and the host names "
            "that lead to it); * stands for any characters."
        ),
    ] = "*"


@schema_of()
@dataclass(frozen=True)
class ExceptionSpec:
    """What does not count, for what, until when and why."""

    policy: Annotated[Name, doc("The policy's name.")]
    rules: Annotated[tuple[Name, ...], doc("Names of its rules.", min_length=1, max_length=64, json_schema_extra=SET)]
    match: ExceptionMatch
    expires: Annotated[datetime, doc("When it stops to count, with its time zone.")]
    reason: Annotated[str, doc("Why.", min_length=1, max_length=512)]
    ticket: Annotated[str, doc("Where it was decided.", min_length=1, max_length=253)]


@dataclass(frozen=True)
class ServingPolicy:
    name: str
    spec: PolicySpec
    fault: str = ""
    """Why the document could not be read: such a policy refuses everything, so that nothing passes unjudged."""


@dataclass(frozen=True)
class PolicyException:
    name: str
    spec: ExceptionSpec

    def counts(self, now: datetime) -> bool:
        return now < self.spec.expires

    @property
    def end(self) -> str:
        """When it expires, as Kubernetes writes a time."""
        return self.spec.expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
