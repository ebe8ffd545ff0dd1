"""Rule ``expression``: a condition in CEL that no other rule covers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from serve_core.api.schema import doc, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic
from serve_core.policy import expressions
from serve_core.policy.check import Check, Scope, finding, unreadable
from serve_core.policy.subject import Subject

_FALSE = finding("ExpressionFalse", "{by} is not met: {message}.", "Correct the object, or request an exception.")
_FAILED = finding("ExpressionFailed", "{by} cannot be evaluated: {why}.", "Ask the author of the policy.")


@schema_of()
@dataclass(frozen=True)
class ExpressionCheck(Check):
    """A CEL expression with the variables object, the whole object, and subject, what rules see of it."""

    reads = ("values",)
    reasons = (_FALSE, _FAILED)
    scope = Scope.ANY

    cel: Annotated[str, doc("Must be true.", min_length=1, max_length=expressions.LONGEST)]
    message: Annotated[str, doc("The message if it is false.", min_length=1, max_length=512)]

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        try:
            holds = expressions.holds(self.cel, subject.values)
        except ValueError as error:
            yield diagnostic(_FAILED, "metadata.name", by=by, why=error)
            return
        if not holds:
            yield diagnostic(_FALSE, "metadata.name", by=by, message=self.message.rstrip("."))

    def faults(self) -> Iterable[tuple[str, str]]:
        return unreadable([("cel", self.cel)], expressions.check)
