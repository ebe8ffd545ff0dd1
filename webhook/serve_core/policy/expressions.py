"""CEL: a condition that no rule covers, bounded in what it may cost.

CEL's own implementation stops an expression at 10,000 iterations and 32 levels of nesting and matches regular
expressions in linear time; the length of the expression and the size of what it sees are bounded here.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

LONGEST = 2048
"""Characters of an expression."""
LARGEST = 512 * 1024
"""Bytes of the object, as JSON, that expressions are evaluated on."""


class ExpressionError(ValueError):
    """The expression cannot be compiled or evaluated; the message is a sentence without its full stop."""


@lru_cache(maxsize=256)
def _compiled(text: str) -> Any:
    from cel_expr_python import cel  # only policies with expressions pay for it  # noqa: PLC0415

    if len(text) > LONGEST:
        raise ExpressionError(f"the expression is longer than {LONGEST} characters")
    environment = cel.NewEnv(variables={"object": cel.Type.DYN, "subject": cel.Type.DYN})
    try:
        expression = environment.compile(text)
    except RuntimeError as error:
        raise ExpressionError(_first_line(error)) from None
    if expression.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
        raise ExpressionError("it is neither true nor false")
    return expression


def check(text: str) -> None:
    """Raise :class:`ExpressionError` unless ``text`` is an expression that is true or false."""
    _compiled(text)


def holds(text: str, values: Mapping[str, Any]) -> bool:
    """Evaluate the expression on the variables ``object`` and ``subject``. Raises :class:`ExpressionError`."""
    _check_size(values)
    try:
        value = _compiled(text).eval(data=dict(values)).value()
    except RuntimeError as error:
        raise ExpressionError(_first_line(error)) from None
    if isinstance(value, bool):
        return value
    raise ExpressionError(_first_line(value) if isinstance(value, str) else "it is neither true nor false")


def _check_size(values: Mapping[str, Any]) -> None:
    """CEL's binding for Python ends a string at a NUL: what follows it would be judged by nobody."""
    document = json.dumps(values, separators=(",", ":"))
    if len(document) > LARGEST:
        raise ExpressionError(f"the object is larger than {LARGEST // 1024} KiB")
    if "\\u0000" in document.replace("\\\\", ""):
        raise ExpressionError("the object has a NUL character")


def _first_line(error: object) -> str:
    """CEL's own sentence, without its codes."""
    text = re.sub(r"^(?:[A-Z_]+: )+|(?: \[[A-Z_]+\])$", "", str(error).split("\n", 1)[0])
    return text.removeprefix("<input>:")[:200].rstrip(".")
