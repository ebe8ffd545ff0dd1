"""Field types that the resources and the rules share, and how a class becomes a part of a CRD's schema.

Attributes are in Python's spelling; documents and CRDs have them in camelCase. ``kubectl explain`` prints
the descriptions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from pydantic.alias_generators import to_camel

from model_uri import Store

_Class = TypeVar("_Class")

DNS = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_GLOB = r"^[a-z0-9*]([-a-z0-9.*]{0,251}[a-z0-9*])?$"
SET = {"x-kubernetes-list-type": "set"}
"""The schema of a list without duplicates."""

Action = Literal["Deny", "Warn", "Audit"]
"""What a finding does."""
Text = Annotated[str, Field(min_length=1, max_length=253)]
Name = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS)]
Glob = Annotated[str, Field(min_length=1, max_length=253, pattern=_GLOB)]
Uri = Annotated[str, Field(min_length=1, max_length=512)]
Quantity = Annotated[
    str | int,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([numkMGTPE]|[KMGTPE]i)|[eE][+-]?[0-9]{1,2})?$",
        }
    ),
]


def doc(text: str, **more: Any) -> Any:
    """A field with a description; ``more`` are bounds and other arguments of pydantic's ``Field``."""
    return Field(description=text, **more)


def keyed(key: str) -> dict[str, Any]:
    """The schema of a list in which ``key`` is unique."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def schema_of(*validations: tuple[str, str]) -> Callable[[type[_Class]], type[_Class]]:
    """Decorate a dataclass that is an object of a document: no unknown fields, names in camelCase.

    ``validations`` are CEL expressions that the API server evaluates, each with the message for what breaks it.
    """
    rules = [{"rule": rule, "message": message} for rule, message in validations]
    extra: Any = {"x-kubernetes-validations": rules} if rules else None
    return with_config(ConfigDict(extra="forbid", alias_generator=to_camel, json_schema_extra=extra))


@schema_of()
@dataclass(frozen=True)
class StoreAt:
    """Where a place leads, and whom it trusts, whatever the user's Secret says."""

    place: Annotated[str, doc("A place, such as s3://BUCKET/PATH or hf://ORGANISATION.", min_length=1, max_length=512)]
    endpoint: Annotated[
        str,
        doc(
            "URL of the store, such as https://minio.example.com; of Azure's, https://ACCOUNT.blob.core.windows.net. "
            "Empty: the scheme's own public one. *: wherever the user's Secret says.",
            max_length=512,
        ),
    ] = ""
    ca: Annotated[
        str, doc("Authorities to trust beside the public ones, as certificates in PEM.", max_length=32768)
    ] = ""

    @cached_property
    def store(self) -> Store:
        """The same in the form that the loader reads. Raises URIError."""
        return Store(self.place, self.endpoint, self.ca)


_STORES = TypeAdapter(tuple[StoreAt, ...])


def read_stores(written: object) -> tuple[Store, ...]:
    """Read the stores of the server's settings. Raises ValueError."""
    return tuple(each.store for each in _STORES.validate_python(written))
