"""The resources ``ServingPolicy`` and ``PolicyException``: their fields, and how a document becomes one.

The CRDs' schemas are made from these classes by ``scripts/crds``; what a schema cannot say is checked in
:func:`read_policy` and :func:`read_exception`, which the server asks before either is stored.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic.alias_generators import to_camel

from model_uri import Store, parse_place
from serve_core.api import annotations, expressions, models, serving_spec
from serve_core.base.constants import GROUP, NAMESPACE
from serve_core.base.json import JsonObject, field_path
from serve_core.base.reasons import Diagnostic, capped, diagnostic, quote, step
from serve_core.syntax import image_reference, public_url, quantity, uri_template

API_VERSION = f"{GROUP}/v1alpha1"

Action = Literal["Deny", "Warn", "Audit"]
Kind = Literal[
    "Deployment", "ServingRuntime", "InferenceService", "TrainedModel",
    "Service", "Configuration", "Revision", "Route", "DomainMapping", "Pod",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What policies judge, in the order in which one is made of another: annotated Deployments, KServe's ServingRuntime
(a namespace's), InferenceService and TrainedModel, Knative's Service, Configuration, Revision, Route and DomainMapping,
and pods with our loader."""

_DNS = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_GLOB = r"^[a-z0-9*]([-a-z0-9.*]{0,251}[a-z0-9*])?$"
_strict = with_config(ConfigDict(extra="forbid", alias_generator=to_camel))


def _doc(text: str, **more: Any) -> Any:
    return Field(description=text, **more)


_SET = {"x-kubernetes-list-type": "set"}
_Text = Annotated[str, Field(min_length=1, max_length=253)]
_Name = Annotated[str, Field(min_length=1, max_length=253, pattern=_DNS)]
_Glob = Annotated[str, Field(min_length=1, max_length=253, pattern=_GLOB)]
_Uri = Annotated[str, Field(min_length=1, max_length=512)]
_Quantity = Annotated[
    str | int,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([numkMGTPE]|[KMGTPE]i)|[eE][+-]?[0-9]{1,2})?$",
        }
    ),
]


@_strict
@dataclass(frozen=True)
class Requirement:
    """One requirement on labels, as in Kubernetes' label selectors."""

    key: Annotated[str, Field(min_length=1, max_length=317)]
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=64)] = ()


@_strict
@dataclass(frozen=True)
class Selector:
    """A label selector; all of it has to match."""

    match_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)] = field(
        default_factory=dict
    )
    match_expressions: Annotated[tuple[Requirement, ...], Field(max_length=64)] = ()


@_strict
@dataclass(frozen=True)
class Match:
    """What the policy is about; everything where nothing is said."""

    namespaces: Annotated[
        tuple[_Glob, ...],
        _doc("Namespaces by name; * stands for any characters.", max_length=256, json_schema_extra=_SET),
    ] = ()
    exclude_namespaces: Annotated[
        tuple[_Glob, ...],
        _doc("Namespaces that it is not about, by name.", max_length=256, json_schema_extra=_SET),
    ] = ()
    namespace_selector: Annotated[
        Selector | None,
        _doc("Namespaces by label. Names are safer: whoever may label a namespace may take it out of a policy."),
    ] = None
    object_selector: Annotated[
        Selector | None,
        _doc(
            "Objects by label. Users set these labels themselves: use it to tell kinds of models apart, not to trust."
        ),
    ] = None
    kinds: Annotated[
        tuple[Kind, ...],
        _doc("Kinds of objects. Default: all of them.", max_length=len(KINDS), json_schema_extra=_SET),
    ] = ()


@_strict
@dataclass(frozen=True)
class Exempt:
    """Who goes past the policy, as the API server names the requesting user. The audit exempts nobody."""

    users: Annotated[
        tuple[_Text, ...],
        _doc("User names, for example system:serviceaccount:NAMESPACE:NAME.", max_length=64, json_schema_extra=_SET),
    ] = ()
    groups: Annotated[tuple[_Text, ...], _doc("Groups.", max_length=64, json_schema_extra=_SET)] = ()


@_strict
@dataclass(frozen=True)
class StoreAt:
    """Where a place leads, and whom it trusts, whatever the user's Secret says."""

    place: Annotated[str, _doc("A place, such as s3://BUCKET/PATH or hf://ORGANISATION.", min_length=1, max_length=512)]
    endpoint: Annotated[
        str,
        _doc(
            "URL of the store, such as https://minio.example.com; of Azure's, https://ACCOUNT.blob.core.windows.net. "
            "Empty: the scheme's own public one. *: wherever the user's Secret says.",
            max_length=512,
        ),
    ] = ""
    ca: Annotated[
        str, _doc("Authorities to trust beside the public ones, as certificates in PEM.", max_length=32768)
    ] = ""

    @cached_property
    def store(self) -> Store:
        """The same as the loader has it. Raises URIError."""
        return Store(self.place, self.endpoint, self.ca)


@_strict
@dataclass(frozen=True)
class Places:
    """Where models may come from: s3://BUCKET/PATH, https://*.HOST/PATH, pvc://*, ... with all that is below a path."""

    allow: Annotated[
        tuple[_Uri, ...], _doc("Only from here. Empty: from everywhere.", max_length=256, json_schema_extra=_SET)
    ] = ()
    deny: Annotated[
        tuple[_Uri, ...],
        _doc("Never from here, by whatever name; wins over allow.", max_length=256, json_schema_extra=_SET),
    ] = ()
    stores: Annotated[
        tuple[StoreAt, ...],
        _doc(
            "Where places lead. What is allowed and not named here leads to its scheme's own public store.",
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["place"]},
        ),
    ] = ()


@_strict
@dataclass(frozen=True)
class Pinned:
    """The model cannot change under its name: by a digest, or by a URI that names a version for ever."""

    by: Annotated[
        tuple[Literal["digest", "revision"], ...],
        _doc(
            "What counts: the annotation digest, a commit or digest in the URI.", min_length=1, json_schema_extra=_SET
        ),
    ] = ("digest", "revision")


@_strict
@dataclass(frozen=True)
class Signed:
    """The loader verifies the model's signature: the annotation signature-key."""

    keys: Annotated[
        tuple[_Text, ...],
        _doc(
            "ConfigMaps with the public key, by name; * stands for any characters. Empty: any.",
            max_length=256,
            json_schema_extra=_SET,
        ),
    ] = ()


@_strict
@dataclass(frozen=True)
class Names:
    """Allowed and denied names."""

    allow: Annotated[tuple[_Text, ...], _doc("Only these. Empty: all.", max_length=256, json_schema_extra=_SET)] = ()
    deny: Annotated[
        tuple[_Text, ...], _doc("Never these; wins over allow.", max_length=256, json_schema_extra=_SET)
    ] = ()


@_strict
@dataclass(frozen=True)
class Auth(Names):
    """Allowed and denied ways to authenticate, and whose tokens count."""

    issuers: Annotated[
        tuple[_Uri, ...],
        _doc(
            "Where tokens and the keys that verify them may be from: https://HOST/PATH, with all that is below. "
            "Empty: everywhere.",
            max_length=256,
            json_schema_extra=_SET,
        ),
    ] = ()


@_strict
@dataclass(frozen=True)
class Images:
    """Images of all containers, and of volumes. The loader's own image is always allowed."""

    allow: Annotated[
        tuple[_Uri, ...],
        _doc("Registries with or without a path, for example ghcr.io/kserve.", max_length=256, json_schema_extra=_SET),
    ] = ()
    deny: Annotated[tuple[_Uri, ...], _doc("Wins over allow.", max_length=256, json_schema_extra=_SET)] = ()
    digest: Annotated[bool, _doc("Whether each image has to be named by its digest.")] = False


@_strict
@dataclass(frozen=True)
class Resources:
    """Bounds on resources, by name; * stands for any characters, and bounds all that it stands for together.

    What counts is a container's limit, or its request where there is no limit.
    """

    per_replica: Annotated[dict[str, _Quantity], _doc("Most of a resource for one replica.", max_length=32)] = field(
        default_factory=dict
    )
    total: Annotated[
        dict[str, _Quantity],
        _doc(
            "Most of a resource for all that can run at once: the most replicas, with what a rolling update or other "
            "revisions run beside them.",
            max_length=32,
        ),
    ] = field(default_factory=dict)


@_strict
@dataclass(frozen=True)
class ScaleBounds:
    """Bounds on the number of replicas."""

    most: Annotated[int | None, _doc("The most replicas that may be asked for.", ge=1, le=1_000_000)] = None
    least: Annotated[int | None, _doc("The fewest replicas that have to be asked for.", ge=0, le=1_000_000)] = None
    to_zero: Annotated[
        Literal["Required", "Forbidden"] | None, _doc("Whether it must, or must not, scale to zero.")
    ] = None


@_strict
@dataclass(frozen=True)
class Container:
    """What may not be in a container."""

    variables: Annotated[
        tuple[_Text, ...],
        _doc("Environment variables by name; * stands for any characters.", max_length=256, json_schema_extra=_SET),
    ] = ()
    arguments: Annotated[
        tuple[_Text, ...],
        _doc(
            "Arguments, for example --trust-remote-code: in commands, arguments and values of variables.",
            max_length=256,
            json_schema_extra=_SET,
        ),
    ] = ()


@_strict
@dataclass(frozen=True)
class Label:
    """A label that has to be there."""

    key: Annotated[str, Field(min_length=1, max_length=317)]
    values: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...],
        _doc("Allowed values. Empty: any.", max_length=256, json_schema_extra=_SET),
    ] = ()


@_strict
@dataclass(frozen=True)
class Expression:
    """A CEL expression over object, the object as it is, and subject, what the rules see of it."""

    cel: Annotated[str, _doc("Has to be true.", min_length=1, max_length=expressions.LONGEST)]
    message: Annotated[str, _doc("What is wrong when it is not.", min_length=1, max_length=512)]


@_strict
@dataclass(frozen=True)
class Rule:
    """One rule: a name and exactly one thing that it is about."""

    name: Annotated[str, _doc("Unique in its policy.", min_length=1, max_length=63, pattern=_DNS)]
    action: Annotated[Action | None, _doc("Instead of the policy's.")] = None
    hint: Annotated[str | None, _doc("What to do about a finding, instead of the usual hint.", max_length=512)] = None
    sources: Places | None = None
    pinned: Pinned | None = None
    signed: Signed | None = None
    formats: Annotated[Names | None, _doc("Formats of models.")] = None
    runtimes: Annotated[Names | None, _doc("Model servers, by the runtime's name or custom.")] = None
    protocols: Annotated[Names | None, _doc("Protocols that are asked for.")] = None
    images: Images | None = None
    resources: Resources | None = None
    scale: ScaleBounds | None = None
    mesh: Annotated[Names | None, _doc("Sidecars: auto, istio, none.")] = None
    auth: Annotated[Auth | None, _doc("Who may call: none, mtls, jwt.")] = None
    visibility: Annotated[Names | None, _doc("Where it is reachable: public, cluster-local.")] = None
    mode: Annotated[Names | None, _doc("What runs the model: knative, deployment.")] = None
    service_accounts: Annotated[Names | None, _doc("Service accounts of the pods.")] = None
    secrets: Annotated[Names | None, _doc("Secrets that the pods use, by name.")] = None
    containers: Container | None = None
    label: Label | None = None
    expression: Expression | None = None

    @property
    def about(self) -> tuple[str, Any]:
        """The one field that is set, and its value."""
        found = [(name, getattr(self, name)) for name in ABOUT if getattr(self, name) is not None]
        return found[0]


ABOUT = tuple(f.name for f in fields(Rule) if f.name not in ("name", "action", "hint"))
"""What a rule can be about."""


@_strict
@dataclass(frozen=True)
class Adopt:
    """Deployments with the label kubectl-serve.dev/adopt are served, as if they had the annotation model."""

    model: Annotated[
        str,
        _doc(
            "The model's URI. {label} stands for the label's value, {name} and {namespace} for the Deployment's.",
            min_length=1,
            max_length=512,
        ),
    ]


@_strict
@dataclass(frozen=True)
class PolicySpec:
    """What the policy says."""

    match: Match = Match()
    exempt: Exempt = Exempt()
    action: Annotated[
        Action, _doc("Deny refuses, Warn lets through with a warning, Audit only reports. Default: Deny.")
    ] = "Deny"
    failure_policy: Annotated[
        Literal["Fail", "Ignore"],
        _doc(
            "While no replica of kubectl-serve answers: whether pods with the loader, and what is made of Knative and "
            "KServe by hand, are refused (Fail, the default) or let through (Ignore). The audit finds what got through."
        ),
    ] = "Fail"
    defaults: Annotated[
        dict[str, Annotated[str, Field(max_length=2048)]],
        _doc(
            "Annotations that are filled in where the user wrote none, by their name after the prefix.", max_length=32
        ),
    ] = field(default_factory=dict)
    adopt: Annotated[
        Adopt | None, _doc("Serve the Deployments that bear the label kubectl-serve.dev/adopt and no model.")
    ] = None
    rules: Annotated[
        tuple[Rule, ...],
        _doc(
            "All of them count.",
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = ()


@_strict
@dataclass(frozen=True)
class ExceptionMatch:
    """What is excepted."""

    namespace: Annotated[str, _doc("One namespace.", min_length=1, max_length=63, pattern=_DNS)]
    name: Annotated[
        _Glob,
        _doc(
            "The name of the Deployment, or of what was made by hand (with all that it becomes, and the host names "
            "that lead to it); * stands for any characters."
        ),
    ] = "*"


@_strict
@dataclass(frozen=True)
class ExceptionSpec:
    """What does not count, for what, until when and why."""

    policy: Annotated[_Name, _doc("The policy's name.")]
    rules: Annotated[
        tuple[_Name, ...], _doc("Names of its rules.", min_length=1, max_length=64, json_schema_extra=_SET)
    ]
    match: ExceptionMatch
    expires: Annotated[datetime, _doc("When it stops to count, with its time zone.")]
    reason: Annotated[str, _doc("Why.", min_length=1, max_length=512)]
    ticket: Annotated[str, _doc("Where it was decided.", min_length=1, max_length=253)]


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


class PolicyError(ValueError):
    """A document that is no policy; ``problems`` has all its faults."""

    def __init__(self, problems: Iterable[Diagnostic]) -> None:
        self.problems = tuple(sorted(capped(problems)))
        super().__init__("; ".join(str(found) for found in self.problems))


_Spec = TypeVar("_Spec")
_POLICY = TypeAdapter(PolicySpec)
_EXCEPTION = TypeAdapter(ExceptionSpec)
_STORES = TypeAdapter(tuple[StoreAt, ...])


def read_policy(document: JsonObject) -> ServingPolicy:
    """Read a ``ServingPolicy``. Raises :class:`PolicyError`."""
    name, spec = _read(document, "ServingPolicy", _POLICY)
    problems = capped(_faults(spec))
    if problems:
        raise PolicyError(problems)
    return ServingPolicy(name, spec)


def read_stores(written: object) -> tuple[Store, ...]:
    """Read stores as settings have them. Raises ValueError."""
    return tuple(each.store for each in _STORES.validate_python(written))


def read_exception(document: JsonObject) -> PolicyException:
    """Read a ``PolicyException``. Raises :class:`PolicyError`, also where it stands outside our own namespace."""
    name, spec = _read(document, "PolicyException", _EXCEPTION)
    problems = []
    namespace = document["metadata"].get("namespace")
    if namespace != NAMESPACE:
        problems.append(diagnostic("ExceptionElsewhere", "metadata.namespace", namespace=NAMESPACE))
    if spec.expires.tzinfo is None:
        problems.append(_invalid("spec.expires", "it has no time zone, such as Z", "policyexception"))
    if problems:
        raise PolicyError(problems)
    return PolicyException(name, spec)


def of_nothing(exception: PolicyException, policies: Iterable[ServingPolicy]) -> tuple[Diagnostic, ...]:
    """A warning for what an exception names and there is not: it may come later, or be spelt wrong."""
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
    """Like :func:`read_policy` for what the API server has stored: one that cannot be read refuses everything."""
    try:
        return read_policy(document)
    except PolicyError as error:
        name = document.get("metadata", {}).get("name") if isinstance(document.get("metadata"), dict) else None
        return ServingPolicy(str(name), PolicySpec(), fault=error.problems[0].message.rstrip("."))


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
    """What no schema can say."""
    yield from _default_faults(spec.defaults)
    if spec.adopt is not None:
        yield from _adopt_faults(spec.adopt)
    names = [rule.name for rule in spec.rules]
    for index, rule in enumerate(spec.rules):
        at = field_path("spec", "rules", index)
        if names.count(rule.name) > 1:
            yield _invalid(f"{at}.name", f"two rules are called {rule.name}")
        about = [name for name in ABOUT if getattr(rule, name) is not None]
        if len(about) != 1:
            yield _invalid(at, f"a rule is about exactly one thing, not about {' and '.join(about) or 'nothing'}")
        for name in about:
            yield from _rule_faults(getattr(rule, name), f"{at}.{to_camel(name)}")


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
    if uri_template.has_strangers(adopt.model):
        yield _invalid(at, f"only {', '.join(uri_template.PLACEHOLDERS)} can stand in braces")
        return
    example = uri_template.filled_in(adopt.model, label="label", name="name", namespace="namespace")
    if isinstance(found := models.parse(example, at), Diagnostic):
        yield _invalid(at, found.message.rstrip("."))


def _rule_faults(about: Any, at: str) -> Iterable[Diagnostic]:
    checks: list[tuple[str, Any, Callable[[Any], object]]] = []
    if isinstance(about, Places):
        checks += [(key, text, parse_place) for key in ("allow", "deny") for text in getattr(about, key)]
        checks += [("stores", each, _store) for each in about.stores]
    elif isinstance(about, Images):
        checks += [
            (key, text, image_reference.parse_repository) for key in ("allow", "deny") for text in getattr(about, key)
        ]
    elif isinstance(about, Auth):
        checks += [("issuers", text, _check_issuer) for text in about.issuers]
    elif isinstance(about, Resources):
        both = (("perReplica", about.per_replica), ("total", about.total))
        checks += [(f"{key}.{name}", value, quantity.parse) for key, found in both for name, value in found.items()]
    elif isinstance(about, Expression):
        checks.append(("cel", about.cel, expressions.check))
    for key, value, check in checks:
        try:
            check(value)
        except ValueError as error:
            shown = value.place if isinstance(value, StoreAt) else value
            yield _invalid(f"{at}.{key}", f"{quote(shown)}: {error}")


def _store(written: StoreAt) -> Store:
    return written.store


def _check_issuer(text: str) -> None:
    if not public_url.is_public(text):
        raise ValueError("it is not https:// with a public host name")


def utc_text(moment: datetime) -> str:
    """A time as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
