"""Rule ``serviceAccounts``: which service accounts pods use."""

from collections.abc import Iterator
from dataclasses import dataclass

from serve_core.api.schema import schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import finding
from serve_core.policy.names import NamesCheck, allowed
from serve_core.policy.subject import Subject

_NOT_ALLOWED = finding("ServiceAccountNotAllowed", "{by} does not allow service account {name}.", "{allowed}")


@schema_of()
@dataclass(frozen=True)
class ServiceAccountsCheck(NamesCheck):
    """Service accounts of pods."""

    reads = ("service_accounts",)
    reasons = (_NOT_ALLOWED,)

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        for use in subject.service_accounts:
            if not self.permits(use.name):
                hint = allowed(self.allow, "Use another service account.")
                yield diagnostic(_NOT_ALLOWED, use.path, by=by, name=quote(use.name), allowed=hint)
