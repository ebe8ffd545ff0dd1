"""Rule ``visibility``: where a model is reachable."""

from collections.abc import Iterator
from dataclasses import dataclass

from serve_core.api.schema import schema_of
from serve_core.base.reasons import Diagnostic
from serve_core.policy.check import Scope
from serve_core.policy.names import VALUE_NOT_ALLOWED, NamesCheck
from serve_core.policy.subject import Subject


@schema_of()
@dataclass(frozen=True)
class VisibilityCheck(NamesCheck):
    """Where models are reachable: public, cluster-local."""

    reads = ("visibility",)
    reasons = (VALUE_NOT_ALLOWED,)
    applies_to_pods = False
    scope = Scope.REACHABLE

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        yield from self.value_findings("visibility", subject.visibility, by)
