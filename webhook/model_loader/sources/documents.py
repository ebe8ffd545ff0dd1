"""JSON and XML of stores, with bounds: a document can take twenty times its size as Python objects."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_VALUES = 2_000_000
"""Maximum number of values in one document. A list of the maximum number of files has about ten for each."""


def from_json(body: bytes) -> dict[str, Any]:
    """Return the object that `body` writes. Raises ValueError."""
    _check(body, b",", b"[", b"{")
    try:
        found = json.loads(body)
    except RecursionError:
        raise ValueError("it is too deep") from None
    if not isinstance(found, dict):
        raise ValueError("it is not an object")  # the server's fault, not the caller's
    return found


def mapping(value: object) -> dict[str, Any]:
    """Return a value of a document that must be an object. Raises TypeError."""
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


def from_xml(body: bytes) -> "Element":
    """Return the root element. Raises ValueError."""
    from xml.etree import ElementTree  # noqa: PLC0415  # start-up time that stores without XML save

    _check(body, b"<", b"=")
    try:
        return ElementTree.fromstring(body)  # noqa: S314  # expat limits entity expansion since 2.4.1
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None


def _check(body: bytes, *marks: bytes) -> None:
    if sum(map(body.count, marks)) > _MAX_VALUES:
        raise ValueError("it has too many values")
