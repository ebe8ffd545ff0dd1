"""Placeholders in KServe's manifests: expressions of Go's ``text/template`` that name an object's metadata. Pure.

Source: KServe 0.20, ``ReplacePlaceholders`` in ``pkg/controller/v1beta1/inferenceservice/utils/utils.go``: the metadata
of the InferenceService is the data of the template. A label or an annotation that is missing is empty text.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from serve_core.base.json import JsonObject, object_at, value_at

EXPRESSION = re.compile(r"\{\{-?([^{}]*?)-?\}\}")
"""An expression, with the spaces around it."""
_METADATA = re.compile(
    r"\.(Name|Namespace)|\.(Labels|Annotations)\.(\w+)|index \.(Labels|Annotations) [`\"]([^`\"]+)[`\"]"
)


class UnknownPlaceholderError(ValueError):
    """An expression is none of metadata. The message is the expression."""


@dataclass(frozen=True)
class Placeholder:
    """One value of an object's metadata."""

    field: str
    """``Name``, ``Namespace``, ``Labels`` or ``Annotations``."""
    key: str = ""
    """Of the label or the annotation."""

    @property
    def is_name(self) -> bool:
        return self.field == "Name"

    @property
    def variable(self) -> str:
        """A variable's name for it: ``LABEL_MODELCLASS``."""
        words = f"{self.field.removesuffix('s')}_{self.key}" if self.key else self.field
        return re.sub(r"\W", "_", words, flags=re.ASCII).upper()

    @property
    def expression(self) -> str:
        return "{{" + (f"index .{self.field} `{self.key}`" if self.key else f".{self.field}") + "}}"

    def __str__(self) -> str:
        return f"{self.field.removesuffix('s').lower()} {self.key}".strip()

    def value(self, metadata: JsonObject) -> str:
        """What it stands for in an object with this metadata."""
        if self.key:
            return str(object_at(metadata, self.field.lower()).get(self.key) or "")
        return str(value_at(metadata, self.field.lower()) or "")


def has_any(value: Any) -> bool:
    """Whether a text of a JSON value has an expression, known or not."""
    return any("{{" in text for text in _texts(value))


def find(text: str) -> list[Placeholder]:
    """The placeholders of a text. Raises UnknownPlaceholderError."""
    return [_read(match[1].strip()) for match in EXPRESSION.finditer(text)]


def replace(value: Any, by: Callable[[Placeholder], str]) -> Any:
    """A JSON value with other text in place of its placeholders. Raises UnknownPlaceholderError."""
    if isinstance(value, str):
        return EXPRESSION.sub(lambda match: by(_read(match[1].strip())), value)
    if isinstance(value, list):
        return [replace(each, by) for each in value]
    if isinstance(value, dict):
        return {key: replace(each, by) for key, each in value.items()}
    return value


def _read(expression: str) -> Placeholder:
    match = _METADATA.fullmatch(expression)
    if match is None:
        raise UnknownPlaceholderError(expression)
    plain, field, key, indexed, index_key = match.groups()
    return Placeholder(plain or field or indexed, key or index_key or "")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
