"""Rule ``auth``: who may call a model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from serve_core.api.schema import SET, doc, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import unreadable
from serve_core.policy.field_types import Uri
from serve_core.policy.names import SIDECAR_NOT_KEPT, VALUE_NOT_ALLOWED, NamesCheck, allowed
from serve_core.policy.subject import Subject
from serve_core.syntax.public_url import is_public


@schema_of()
@dataclass(frozen=True)
class AuthCheck(NamesCheck):
    """How callers authenticate: none, mtls, jwt."""

    reads = ("auth", "issuers", "past_sidecar")
    reasons = (VALUE_NOT_ALLOWED, SIDECAR_NOT_KEPT)
    applies_to_pods = False

    issuers: Annotated[
        tuple[Uri, ...],
        doc(
            "Allowed issuers of tokens and URLs of their keys: https://HOST/PATH, including everything below. "
            "Default: any.",
            max_length=256,
            json_schema_extra=SET,
        ),
    ] = ()

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        if subject.kind != "Pod":  # a pod does not say who may call; the object that it was made of does
            yield from self.sidecar_findings("auth", subject.auth, subject, by)
        for use in subject.issuers if self.issuers else ():
            if not any(f"{use.name}/".startswith(f"{place.rstrip('/')}/") for place in self.issuers):
                hint = allowed(self.issuers, "")
                yield diagnostic(VALUE_NOT_ALLOWED, use.path, by=by, what="issuer", value=quote(use.name), allowed=hint)

    def faults(self) -> Iterable[tuple[str, str]]:
        return unreadable([("issuers", text) for text in self.issuers], _check_issuer)


def _check_issuer(text: str) -> None:
    if not is_public(text):
        raise ValueError("it is not https:// with a public host name")
