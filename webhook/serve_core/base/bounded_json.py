"""JSON from other clients, parsed with limits: what they write must not end a process or mean two things.

Used for objects that the API server stores (:mod:`serve_core.base.bounded_reading`) and for admission reviews.
"""

import json
import math
from typing import Any, NoReturn

MAX_LEVELS = 100
"""Of nesting; a Deployment with everything in it has about 20. The API server's decoder allows 10,000."""
MAX_DIGITS = 20
"""Of an integer with its sign: 64 bits have no more, and thousands of digits take quadratic time to parse."""

_TOO_DEEP = f"it is nested more than {MAX_LEVELS} levels deep"


class JsonError(ValueError):
    """The text cannot be used. The message is a clause that says why."""


def parse(text: bytes, *, strict: bool = False) -> Any:
    """The value of a JSON text (RFC 8259). Stricter than Python: no NaN, infinity or half of a surrogate pair.

    ``strict``: no duplicate names and no integers of more than 64 bits either, which other parsers read differently.
    Raises JsonError. Callers remove what they do not use, then call :func:`check_levels`.
    """
    hooks: dict[str, Any] = {"object_pairs_hook": _unique, "parse_int": _bounded_integer} if strict else {}
    try:
        value = json.loads(text.decode(), parse_constant=_no_constant, parse_float=_finite, **hooks)
    except JsonError:
        raise
    except RecursionError:
        raise JsonError(_TOO_DEEP) from None
    except ValueError:  # syntax, encoding, or an integer of thousands of digits
        raise JsonError("it is not JSON") from None
    if b"\\u" in text:  # half of a pair needs an escape: as UTF-8, it is an encoding error
        _check_surrogates(value)
    return value


def check_levels(value: Any) -> None:
    """Raises JsonError where a parsed value is nested too deeply. Without recursion."""
    level = [value]
    for _ in range(MAX_LEVELS + 1):
        inner: list[Any] = []
        for each in level:
            # Exact types, as the parsers return: isinstance takes twice as long.
            kind = type(each)
            if kind is dict:
                inner += each.values()
            elif kind is list:
                inner += each
        if not inner:
            return
        level = inner
    raise JsonError(_TOO_DEEP)


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise JsonError("a string has half of a surrogate pair") from None
    except RecursionError:
        raise JsonError(_TOO_DEEP) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise JsonError("a name occurs twice in one object")
    return members


def _bounded_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise JsonError("a number is too large")
    return int(text)


def _no_constant(_: str) -> NoReturn:
    raise JsonError("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise JsonError("a number is too large")
    return number
