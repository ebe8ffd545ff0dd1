"""Rule ``label``: labels that objects must have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from serve_core.api.schema import SET, doc, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import Check, Scope, finding
from serve_core.policy.names import listed
from serve_core.policy.subject import Subject

_NOT_ALLOWED = finding(
    "LabelNotAllowed", "{by} requires label {key} to be {values}, and it is {value}.", "Set the label."
)


@schema_of()
@dataclass(frozen=True)
class LabelCheck(Check):
    """A label that objects must have."""

    reads = ("labels",)
    reasons = (_NOT_ALLOWED,)
    scope = Scope.ANY

    key: Annotated[str, Field(min_length=1, max_length=317)]
    values: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...],
        doc("Allowed values. Default: any.", max_length=256, json_schema_extra=SET),
    ] = ()

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        value = subject.labels.get(self.key)
        if value is None or (self.values and value not in self.values):
            wanted = f"one of {listed(self.values)}" if self.values else "set"
            shown = "missing" if value is None else quote(value)
            at = f"metadata.labels[{self.key}]"
            yield diagnostic(_NOT_ALLOWED, at, by=by, key=self.key, values=wanted, value=shown)
