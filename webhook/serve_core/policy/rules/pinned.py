"""Rule ``pinned``: models that cannot change under their names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import model_uri
from model_uri import ModelURI, URIError
from serve_core.api.schema import SET, doc, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import Check, finding
from serve_core.policy.provenance import (
    SOURCE_NOT_FIXED,
    SOURCE_UNKNOWN,
    not_fixed_findings,
    unknown_findings,
)
from serve_core.policy.subject import Subject

_NOT_PINNED = finding(
    "ModelNotPinned",
    "{by} requires a pinned model, and {source} can change.",
    "Add kubectl-serve.dev/digest (`kubectl serve digest` computes it){revision}.",
)


@schema_of()
@dataclass(frozen=True)
class PinnedCheck(Check):
    """The model cannot change under its name: by a digest, or by a URI that names one version."""

    reads = ("origins", "stores")
    reasons = (_NOT_PINNED, SOURCE_UNKNOWN, SOURCE_NOT_FIXED)

    by: Annotated[
        tuple[Literal["digest", "revision"], ...],
        doc(
            "Accepted ways: the annotation digest (digest), a commit or digest in the URI (revision).",
            min_length=1,
            json_schema_extra=SET,
        ),
    ] = ("digest", "revision")

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        unknown = unknown_findings(subject, by)
        yield from unknown
        seen: set[str] = set()
        for origin in () if unknown else subject.origins:
            by_digest = "digest" in self.by and origin.digest
            immutable = _immutable(origin.text) if "revision" in self.by else None
            if by_digest or origin.text in seen:
                continue
            if immutable is None:
                seen.add(origin.text)
                revision = ", or name a commit or digest in the URI" if "revision" in self.by else ""
                shown = quote(model_uri.without_secrets(origin.text))
                yield diagnostic(_NOT_PINNED, origin.path, by=by, source=shown, revision=revision)
            elif not immutable.digest:
                # The loader compares a digest with what it downloads; only the hub knows what a commit is.
                yield from not_fixed_findings(origin, subject, by)


def _immutable(text: str) -> ModelURI | None:
    """The URI, if what it names cannot change."""
    try:
        uri = model_uri.parse(text)
    except URIError:
        return None
    return uri if uri.is_immutable else None
