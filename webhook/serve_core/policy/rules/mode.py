"""Rule ``mode``: what runs the model."""

from collections.abc import Iterator
from dataclasses import dataclass

from serve_core.api.schema import schema_of
from serve_core.base.reasons import Diagnostic
from serve_core.policy.names import VALUE_NOT_ALLOWED, NamesCheck
from serve_core.policy.subject import Subject


@schema_of()
@dataclass(frozen=True)
class ModeCheck(NamesCheck):
    """What runs models: knative, deployment."""

    reads = ("mode",)
    reasons = (VALUE_NOT_ALLOWED,)
    applies_to_pods = False

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        yield from self.value_findings("mode", subject.mode, by)
