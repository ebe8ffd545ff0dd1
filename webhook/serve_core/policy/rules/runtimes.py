"""Rule ``runtimes``: which model servers serve."""

from collections.abc import Iterator
from dataclasses import dataclass

from serve_core.api.schema import schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import finding
from serve_core.policy.names import NamesCheck, allowed
from serve_core.policy.subject import Subject
from serve_core.syntax.glob import matches

_NOT_ALLOWED = finding("RuntimeNotAllowed", "{by} does not allow runtime {runtime}.", "{allowed}")


@schema_of()
@dataclass(frozen=True)
class RuntimesCheck(NamesCheck):
    """Model servers: the name of a runtime, or custom."""

    reads = ("runtime",)
    reasons = (_NOT_ALLOWED,)
    applies_to_pods = False

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        use = subject.runtime
        if use is None:
            return
        # Denying a runtime also denies what is based on it; allowing it allows the runtime alone.
        denied = [name for name in (use.name, *use.based_on) if any(matches(name, pattern) for pattern in self.deny)]
        if denied or not self.permits(use.name):
            mend = f" It counts as custom because {use.why}: remove that." if use.why else ""
            hint = allowed(self.allow, "Use another runtime.") + mend
            name = quote((denied or [use.name])[0])
            yield diagnostic(_NOT_ALLOWED, use.path, by=by, runtime=name, allowed=hint)
