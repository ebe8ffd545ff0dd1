"""Rule ``formats``: what the models are."""

from collections.abc import Iterator
from dataclasses import dataclass

from serve_core.api.annotations import CUSTOM, FORMAT, path_of
from serve_core.api.schema import schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import finding
from serve_core.policy.names import NamesCheck, allowed, listed
from serve_core.policy.subject import Subject

_NOT_ALLOWED = finding("FormatNotAllowed", "{by} does not allow models of format {format}.", "{allowed}")
_UNTOLD = finding(
    "FormatMissing", "{by} requires the model's format, which is unknown.", "Add kubectl-serve.dev/format."
)
_UNSURE = finding(
    "FormatUnsure",
    "{by} cannot determine the format of the served model: {why}.",
    "Remove that, or set kubectl-serve.dev/runtime to custom and add kubectl-serve.dev/format.",
)
_NOT_SERVED = finding(
    "FormatNotServed",
    "{by} cannot determine the format of the served model: runtime {runtime} serves {served}, not {format}.",
    "Set kubectl-serve.dev/format to a format that the runtime serves, or use a runtime for {format}.",
)


@schema_of()
@dataclass(frozen=True)
class FormatsCheck(NamesCheck):
    """Formats of models."""

    reads = ("origins", "formats", "runtime")
    reasons = (_NOT_ALLOWED, _UNTOLD, _UNSURE, _NOT_SERVED)

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        if not subject.origins and not subject.formats:
            return
        yield from _unproven(subject, by)
        if not subject.formats and subject.kind != "Pod":
            yield diagnostic(_UNTOLD, path_of(FORMAT), by=by)
        for use in subject.formats:
            if not self.permits(use.name):
                hint = allowed(self.allow, "Use another format.")
                yield diagnostic(_NOT_ALLOWED, use.path, by=by, format=quote(use.name), allowed=hint)


def _unproven(subject: Subject, by: str) -> Iterator[Diagnostic]:
    """Formats that the runtime does not prove: it serves its own formats, whatever the file's name is."""
    runtime = subject.runtime
    if runtime is None:
        return
    if runtime.why:
        yield diagnostic(_UNSURE, runtime.path, by=by, why=runtime.why)
    elif runtime.name != CUSTOM:
        for origin in subject.origins:
            if origin.unknown:
                yield diagnostic(_UNSURE, origin.path, by=by, why=origin.unknown)
        named = [use.name for use in subject.formats]
        if named and runtime.formats and not set(named) & set(runtime.formats):
            words = {"format": quote(named[0]), "runtime": runtime.name, "served": listed(runtime.formats)}
            yield diagnostic(_NOT_SERVED, subject.formats[0].path, by=by, **words)
