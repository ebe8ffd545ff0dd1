"""Rule ``signed``: models whose signature the loader verifies."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from model_uri import without_secrets
from serve_core.api.schema import SET, doc, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import Check, finding
from serve_core.policy.field_types import Text
from serve_core.policy.names import listed
from serve_core.policy.provenance import SOURCE_UNKNOWN, unknown_findings
from serve_core.policy.subject import Subject
from serve_core.syntax.glob import matches

_NOT_SIGNED = finding(
    "ModelNotSigned",
    "{by} requires that the loader verifies the signature of {source} with an allowed key.",
    "Set kubectl-serve.dev/signature-key to {keys}.",
)


@schema_of()
@dataclass(frozen=True)
class SignedCheck(Check):
    """The loader verifies the model's signature, as the annotation signature-key defines."""

    reads = ("origins",)
    reasons = (_NOT_SIGNED, SOURCE_UNKNOWN)

    keys: Annotated[
        tuple[Text, ...],
        doc(
            "ConfigMaps with the public key, by name; * stands for any characters. Default: any.",
            max_length=256,
            json_schema_extra=SET,
        ),
    ] = ()

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        unknown = unknown_findings(subject, by)
        yield from unknown
        keys = "the name of a ConfigMap with a public key"
        if self.keys:
            keys = self.keys[0] if len(self.keys) == 1 else f"one of {listed(self.keys)}"
        seen: set[str] = set()
        for origin in () if unknown else subject.origins:
            right = bool(origin.key) and (not self.keys or any(matches(origin.key, pattern) for pattern in self.keys))
            if not right and origin.text not in seen:
                seen.add(origin.text)
                shown = quote(without_secrets(origin.text))
                yield diagnostic(_NOT_SIGNED, origin.path, by=by, source=shown, keys=keys)
