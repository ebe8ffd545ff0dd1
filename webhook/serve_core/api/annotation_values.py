"""Values of annotations: their types, and a parser for each.

A parser takes the text of the annotation and raises :class:`InvalidValueError` for text that the annotation does not
allow.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import model_uri
from model_uri import ModelURI, URIError
from model_uri.file_patterns import FilePatterns, parse_patterns
from serve_core.syntax import duration as durations
from serve_core.syntax import mount_path, quantity
from serve_core.syntax.object_name import LABEL, SUBDOMAIN
from serve_core.syntax.public_url import is_public

T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """Minimum and maximum replicas; ``None`` is no maximum."""

    minimum: int = 0
    maximum: int | None = None


@dataclass(frozen=True)
class Format:
    name: str
    version: str | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"


@dataclass(frozen=True)
class Caller:
    """Workloads in the mesh: all in a namespace, or those of one service account."""

    namespace: str
    service_account: str | None = None


@dataclass(frozen=True)
class Telemetry:
    """What Istio records; ``trace`` is a percentage of the requests."""

    access_log: bool
    trace: int | None


@dataclass(frozen=True)
class Cache:
    """Where a downloaded model stays for other pods: on a claim, on the node, or nowhere."""

    claim: ModelURI | None = None
    """The claim, or the folder of a claim."""
    on_node: bool = False


NO_CACHE = Cache()


@dataclass(frozen=True)
class Nodes:
    """On how many nodes a model is loaded in advance; ``None`` is all."""

    count: int | None = None

    def __str__(self) -> str:
        return "all" if self.count is None else str(self.count)


class InvalidValueError(ValueError):
    """The annotation does not allow this value. The message, if any, says why."""


def pattern(expression: str) -> Callable[[str], str]:
    compiled = re.compile(expression)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise InvalidValueError
        return text

    return parse


class OneOf:
    """A parser that allows only the values of a list; completion offers them."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def __call__(self, text: str) -> str:
        if text not in self.allowed:
            raise InvalidValueError
        return text


def cache(text: str) -> Cache:
    """Parse ``none``, ``node``, or the URI of a claim or of a folder on it."""
    if text in ("none", "node"):
        return Cache(on_node=text == "node")
    try:
        found = model_uri.parse(text)
    except URIError as error:
        raise InvalidValueError(f"{error}") from None
    if found.scheme != "pvc" or "$" in found.path:  # Kubernetes expands it in arguments, and not in mounts
        raise InvalidValueError
    return Cache(claim=found)


def prefetch(text: str) -> Nodes:
    """Parse a number of nodes, or ``all``."""
    return Nodes() if text == "all" else Nodes(integer(1, 1000)(text))


def switch(text: str) -> bool:
    """Parse ``true`` or ``false``."""
    return OneOf("true", "false")(text) == "true"


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not minimum <= int(text) <= maximum:
            raise InvalidValueError
        return int(text)

    return parse


def duration(minimum: int, maximum: int) -> Callable[[str], int]:
    """Whole seconds between the bounds."""

    def parse(text: str) -> int:
        seconds = _checked(durations.whole_seconds, text)
        if not minimum <= seconds <= maximum:
            raise InvalidValueError
        return seconds

    return parse


def _checked(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError:
        raise InvalidValueError from None


def scale(text: str) -> Scale:
    match = re.fullmatch(r"([0-9]{1,6})(\.\.([0-9]{1,6})?)?", text, re.ASCII)
    if match is None:
        raise InvalidValueError
    minimum = int(match[1])
    if match[2] is None:
        maximum: int | None = minimum
    else:
        maximum = int(match[3]) if match[3] else None
    if maximum is not None and maximum < minimum:
        raise InvalidValueError(f"{minimum} is more than {maximum}")
    if maximum == 0:
        raise InvalidValueError
    return Scale(minimum, maximum)


def file_patterns(text: str) -> FilePatterns:
    try:
        return parse_patterns(text)
    except ValueError as error:
        raise InvalidValueError(str(error)) from None


def model_format(text: str) -> Format:
    match = re.fullmatch(r"([a-z][a-z0-9-]{0,62})(?::([A-Za-z0-9][A-Za-z0-9.-]{0,62}))?", text, re.ASCII)
    if match is None:
        raise InvalidValueError
    return Format(match[1], match[2])


def percent(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]?)%", text, re.ASCII)
    if match is None:
        raise InvalidValueError
    return int(match[1])


def target(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) or float(text) < 0.01:
        raise InvalidValueError
    return text


def size(text: str) -> int:
    size = _checked(quantity.parse, text)
    if not 1 <= size <= 2**50:
        raise InvalidValueError
    return math.ceil(size)


def model_mount(text: str) -> str:
    """A path at which a model can be mounted."""
    fault = mount_path.fault(text)
    if fault is not None:
        raise InvalidValueError(fault)
    return text


CLAIM_TEXT = r"[A-Za-z0-9][A-Za-z0-9._~:/@+-]{0,252}"
"""Pattern of an audience or a claim's value. No comma, and no ``*``: Istio matches any text with it."""


def issuer(text: str) -> str:
    """The issuer of tokens. A URL must be https; :func:`serving_spec.read` checks whether Istio can fetch its keys."""
    issuer = pattern(r"[A-Za-z0-9][A-Za-z0-9._~:/@%-]{0,252}")(text)
    if "://" in issuer and not issuer.startswith("https://"):
        raise InvalidValueError
    return issuer


def key_set(text: str) -> str:
    if not is_public(text):
        raise InvalidValueError
    return text


def items(expression: str) -> Callable[[str], tuple[str, ...]]:
    item = pattern(expression)

    def parse(text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item(part.strip()) for part in text.split(",")))

    return parse


def claims(text: str) -> tuple[tuple[str, str], ...]:
    pairs = items(rf"[A-Za-z_][A-Za-z0-9_-]{{0,62}}={CLAIM_TEXT}")(text)
    return tuple((name, value) for name, _, value in (pair.partition("=") for pair in pairs))


def telemetry(text: str) -> Telemetry:
    parts = items(r"access-log|trace=([1-9][0-9]?|100)%")(text)
    traces = [int(part.removeprefix("trace=").rstrip("%")) for part in parts if part != "access-log"]
    if len(traces) > 1:
        raise InvalidValueError
    return Telemetry("access-log" in parts, traces[0] if traces else None)


def callers(text: str) -> tuple[Caller, ...]:
    pairs = items(rf"{LABEL}(/{SUBDOMAIN})?")(text)
    return tuple(
        Caller(namespace, account or None) for namespace, _, account in (pair.partition("/") for pair in pairs)
    )
