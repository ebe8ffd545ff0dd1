"""The resource ``ModelRuntime``, version v1alpha1: its fields, from which ``scripts/crds`` makes the CRD's schema.

Only documents from outside are checked with these classes. The runtimes that come with kubectl-serve are not: importing
pydantic takes longer than rendering a Knative Service.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from serve_core.api.annotations import PROTOCOLS
from serve_core.api.schema import SET, doc, keyed, schema_of
from serve_core.base.constants import MERGED_BY_NAME
from serve_core.base.json import JsonObject, field_path
from serve_core.base.reasons import quote

_INT32 = {"format": "int32"}
_OPTION = r"^--?[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


def _some_known(protocols: tuple[str, ...]) -> tuple[str, ...]:
    unknown = sorted(set(protocols) - set(PROTOCOLS))
    if unknown or not protocols:
        raise ValueError(f"must be some of {', '.join(PROTOCOLS)}, not {', '.join(map(quote, unknown)) or 'empty'}")
    return protocols


def _with_names(container: Any) -> Any:
    for key in MERGED_BY_NAME:
        for element in container.get(key) or []:
            if not isinstance(element, dict) or not isinstance(element.get("name"), str):
                raise ValueError(f"must have a name in each element of {key}")
    return container


_PROTOCOL = {"enum": list(PROTOCOLS)}
_WholeNumber = Annotated[int, Field(strict=True, json_schema_extra=_INT32)]


@schema_of()
@dataclass(frozen=True)
class ServedFormat:
    """A format of models, with or without its version."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    # YAML reads an unquoted version as a number.
    version: Annotated[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$")] | None, BeforeValidator(str)
    ] = None


@schema_of()
@dataclass(frozen=True)
class Settings:
    """What users can set in the container so that policies still recognise this runtime. List nothing that decides
    what is served, or what code runs."""

    env: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}[*]?$")], ...] | None,
        doc("Names of variables. A name with * at its end stands for all with that prefix.", max_length=128),
    ] = None
    args: Annotated[
        tuple[Annotated[str, Field(pattern=r"^--?[A-Za-z0-9][A-Za-z0-9._-]{0,127}=?$")], ...] | None,
        doc(
            "Options that can follow the runtime's own arguments. An option with = at its end takes a value, after the "
            "= or as the next argument.",
            max_length=128,
        ),
    ] = None


@schema_of()
@dataclass(frozen=True)
class DeviceParallelism:
    """How the server is started for several devices: the argument is added where the container requests more than
    one."""

    argument: Annotated[
        str, Field(pattern=_OPTION), doc("Option that takes the number of devices, such as --tensor-parallel-size.")
    ]
    resources: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        doc("Extended resources that count whole devices, such as nvidia.com/gpu.", min_length=1, max_length=16),
    ]
    unless: Annotated[
        tuple[Annotated[str, Field(pattern=_OPTION)], ...] | None,
        doc("Options with which users spread the model in another way; with one, nothing is added.", max_length=16),
    ] = None


@with_config(ConfigDict(extra="allow"))
class Container(TypedDict):
    """The container, as in a pod. $(MODEL_NAME) and $(MODEL_PATH) are expanded in its args, its env and the path of an
    HTTP probe. /mnt/models, where it stands, follows the annotation mount."""

    image: Annotated[str, Field(min_length=1)]


@schema_of(minProperties=1)
@dataclass(frozen=True)
class When:
    """When the variant applies. With both fields, both must match."""

    resource: Annotated[
        str | None,
        doc(
            "An extended resource in the user's container, such as nvidia.com/gpu. In it, * stands for any characters.",
            min_length=1,
        ),
    ] = None
    protocol: Annotated[str | None, Field(json_schema_extra=_PROTOCOL)] = None

    def __post_init__(self) -> None:
        if self.resource is None and self.protocol is None:
            raise ValueError("must name a resource or a protocol")


@schema_of()
@dataclass(frozen=True)
class RuntimeVariant:
    """A change of the container, and when it applies."""

    when: When
    container: Annotated[dict[str, Any], AfterValidator(_with_names)]


@schema_of()
@dataclass(frozen=True)
class ScratchVolume:
    """An emptyDir volume."""

    name: Annotated[str, Field(min_length=1)]
    empty_dir: dict[str, Any]


@schema_of()
@dataclass(frozen=True)
class ModelRuntimeSpec:
    """What the model server serves, and the container that does it."""

    formats: Annotated[
        tuple[ServedFormat, ...],
        doc(
            "Formats that it serves. A format without a version stands for every version.", min_length=1, max_length=64
        ),
    ]
    protocols: Annotated[
        tuple[Annotated[str, Field(json_schema_extra=_PROTOCOL)], ...],
        AfterValidator(_some_known),
        doc("Inference protocols, the default first.", json_schema_extra={**SET, "minItems": 1}),
    ]
    container: Annotated[Container, AfterValidator(_with_names)]
    priority: Annotated[
        _WholeNumber | None, doc("If several runtimes serve a format, the highest priority is used.")
    ] = None
    single_file: Annotated[bool | None, doc("Whether it serves one file: the model's URI must then name that.")] = None
    progress_deadline_seconds: Annotated[
        _WholeNumber | None, doc("Maximum seconds until it is ready, including the download. Default: 600.", ge=1)
    ] = None
    settings: Settings | None = None
    entrypoint: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...] | None,
        doc(
            "The ENTRYPOINT of the image. It is written into the container where a user adds arguments to the "
            "runtime's, unless the container has a command.",
            max_length=16,
        ),
    ] = None
    parallelism: DeviceParallelism | None = None
    variants: Annotated[
        tuple[RuntimeVariant, ...] | None,
        doc("Changes of the container for a resource or a protocol, applied in this order.", max_length=16),
    ] = None
    volumes: Annotated[
        tuple[ScratchVolume, ...] | None,
        doc(
            "Volumes of the container's mounts with settings. Other mounts get a plain emptyDir.",
            max_length=16,
            json_schema_extra=keyed("name"),
        ),
    ] = None

    def __post_init__(self) -> None:
        for variant in self.variants or ():
            if variant.when.protocol not in (None, *self.protocols):
                asked = quote(variant.when.protocol)
                raise ValueError(f"has a variant for protocol {asked}, which must be one of spec.protocols")


_SPEC = TypeAdapter(ModelRuntimeSpec)
_MOST = 10
"""Faults that a message lists."""
_SENTENCES = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "string_type": "must be a string",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "dataclass_type": "must be an object",
    "string_pattern_mismatch": "must match {pattern}",
    "greater_than_equal": "must be at least {ge}",
    "too_short": "must not be empty",
    "value_error": "{error}",
}


def check(spec: JsonObject) -> None:
    """Raise ValueError with a sentence for each fault of the ``spec`` of a ModelRuntime."""
    try:
        _SPEC.validate_python(spec)
    except ValidationError as error:
        faults = list(dict.fromkeys(map(_sentence, error.errors(include_url=False))))
        more = [f"and {len(faults) - _MOST} more faults"] if len(faults) > _MOST else []
        raise ValueError("; ".join(faults[:_MOST] + more)) from None


def _sentence(fault: Mapping[str, Any]) -> str:
    path = ["spec", *fault["loc"]]
    if fault["type"] == "unexpected_keyword_argument":
        return f"{field_path(*path[:-1])} has no field {quote(path[-1])}"
    known = _SENTENCES.get(fault["type"])
    words = fault["msg"][:1].lower() + fault["msg"][1:] if known is None else known.format(**fault.get("ctx", {}))
    return f"{field_path(*path)} {words}"
