"""Conditions in CEL, with bounds on their cost.

CEL's own implementation stops an expression at 10,000 iterations and 32 levels of nesting and matches regular
expressions in linear time; the length of the expression and the size of what it sees are bounded here.
"""

import json
import re
from functools import cached_property, lru_cache
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


class Values:
    """The variables of expressions, checked once for all expressions."""

    def __init__(self, **variables: Any) -> None:
        self._variables = variables

    @cached_property
    def fault(self) -> str:
        """Why no expression can be evaluated on them; empty where it can."""
        document = json.dumps(self._variables, separators=(",", ":"))
        if len(document) > LARGEST:
            return f"the object is larger than {LARGEST // 1024} KiB"
        # CEL's binding for Python ends a string at a NUL: no rule would see what follows.
        return "the object has a NUL character" if "\\u0000" in document.replace("\\\\", "") else ""

    @property
    def variables(self) -> dict[str, Any]:
        """By name. Raises :class:`ExpressionError`."""
        if self.fault:
            raise ExpressionError(self.fault)
        return self._variables


def holds(text: str, values: Values) -> bool:
    """Evaluate the expression on the variables ``object`` and ``subject``. Raises :class:`ExpressionError`."""
    variables = values.variables
    try:
        value = _compiled(text).eval(data=variables).value()
    except RuntimeError as error:
        raise ExpressionError(_first_line(error)) from None
    if isinstance(value, bool):
        return value
    raise ExpressionError(_first_line(value) if isinstance(value, str) else "it is neither true nor false")


def _first_line(error: object) -> str:
    """CEL's own sentence, without its codes."""
    text = re.sub(r"^(?:[A-Z_]+: )+|(?: \[[A-Z_]+\])$", "", str(error).split("\n", 1)[0])
    return text.removeprefix("<input>:")[:200].rstrip(".")
