"""Rule ``mesh``: which sidecar the pods have."""

from collections.abc import Iterator
from dataclasses import dataclass

from serve_core.api.schema import schema_of
from serve_core.base.reasons import Diagnostic
from serve_core.policy.names import SIDECAR_NOT_KEPT, VALUE_NOT_ALLOWED, NamesCheck
from serve_core.policy.subject import Subject


@schema_of()
@dataclass(frozen=True)
class MeshCheck(NamesCheck):
    """Sidecars: istio, none."""

    reads = ("mesh", "past_sidecar")
    reasons = (VALUE_NOT_ALLOWED, SIDECAR_NOT_KEPT)

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        yield from self.sidecar_findings("mesh", subject.mesh, subject, by)
