"""Checks that allow and deny names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from serve_core.api.schema import SET, doc
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import Check, finding
from serve_core.policy.field_types import Text
from serve_core.policy.subject import Subject, Use
from serve_core.syntax.glob import matches

_MAX_LISTED = 12
"""The maximum of names that a hint lists."""

VALUE_NOT_ALLOWED = finding("ValueNotAllowed", "{by} does not allow {what} {value}.", "{allowed}")
SIDECAR_NOT_KEPT = finding(
    "SidecarNotKept",
    "{by} relies on Istio's sidecar, and {what} can bypass it.",
    "Remove it, or request an exception.",
)


@dataclass(frozen=True)
class NamesCheck(Check):
    """Allowed and denied names, as patterns in which ``*`` stands for any characters."""

    allow: Annotated[tuple[Text, ...], doc("Only these. Default: all.", max_length=256, json_schema_extra=SET)] = ()
    deny: Annotated[
        tuple[Text, ...], doc("Never these. Takes precedence over allow.", max_length=256, json_schema_extra=SET)
    ] = ()

    def permits(self, name: str) -> bool:
        if any(matches(name, pattern) for pattern in self.deny):
            return False
        return not self.allow or any(matches(name, pattern) for pattern in self.allow)

    def value_findings(self, what: str, use: Use | None, by: str) -> Iterator[Diagnostic]:
        """Findings about a value that a subject has once, or does not show."""
        if use is not None and not self.permits(use.name):
            hint = allowed(self.allow, f"Use another {what}.")
            yield diagnostic(VALUE_NOT_ALLOWED, use.path, by=by, what=what, value=quote(use.name), allowed=hint)

    def sidecar_findings(self, what: str, use: Use | None, subject: Subject, by: str) -> Iterator[Diagnostic]:
        """Findings about a value that Istio's sidecar enforces. A required sidecar must not be bypassed."""
        found = tuple(self.value_findings(what, use, by))
        yield from found
        if not found and not self.permits("none"):
            for bypass in subject.past_sidecar:
                yield diagnostic(SIDECAR_NOT_KEPT, bypass.path, by=by, what=bypass.name)


def allowed(names: tuple[str, ...], otherwise: str) -> str:
    """A hint that lists ``names``, or ``otherwise`` where there are none."""
    return f"Allowed: {listed(names)}." if names else otherwise


def listed(names: tuple[str, ...]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
