"""How a class becomes the schema of a resource, in a CRD and for reading documents.

Attributes are in Python's spelling, documents and CRDs in camelCase. ``kubectl explain`` prints the descriptions.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, with_config
from pydantic.alias_generators import to_camel

_Class = TypeVar("_Class")

SET = {"x-kubernetes-list-type": "set"}
"""The schema of a list without duplicates."""


def doc(text: str, **more: Any) -> Any:
    """A field with a description; ``more`` are bounds and other arguments of pydantic's ``Field``."""
    return Field(description=text, **more)


def keyed(key: str) -> dict[str, Any]:
    """The schema of a list in which ``key`` is unique."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def schema_of(*validations: tuple[str, str], **more: Any) -> Callable[[type[_Class]], type[_Class]]:
    """Decorate a dataclass that is an object of a document: no unknown fields, names in camelCase.

    ``validations`` are CEL expressions that the API server evaluates, each with the message for what breaks it;
    ``more`` are other keys of the schema.
    """
    rules = [{"rule": rule, "message": message} for rule, message in validations]
    extra: Any = {"x-kubernetes-validations": rules, **more} if rules else more
    return with_config(ConfigDict(extra="forbid", alias_generator=to_camel, json_schema_extra=extra))
