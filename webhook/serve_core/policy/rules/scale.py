"""Rule ``scale``: how many replicas there may be."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from serve_core.api.schema import doc, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import Check, finding
from serve_core.policy.subject import Subject, rescale

_NOT_ALLOWED = finding("ScaleNotAllowed", "{by} requires {wanted}, and the scale is {scale}.", "{way_out}")


@schema_of()
@dataclass(frozen=True)
class ScaleCheck(Check):
    """Bounds on minimum and maximum replicas."""

    reads = ("scale",)
    reasons = (_NOT_ALLOWED,)
    applies_to_pods = False

    most: Annotated[int | None, doc("The highest maximum that is allowed.", ge=1, le=1_000_000)] = None
    least: Annotated[int | None, doc("The lowest minimum that is allowed.", ge=0, le=1_000_000)] = None
    to_zero: Annotated[
        Literal["Required", "Forbidden"] | None, doc("Whether the model must, or must not, scale to zero.")
    ] = None

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        scale = subject.scale
        if scale is None:
            return
        wants = []
        if self.most is not None and (scale.maximum is None or scale.maximum > self.most):
            wants.append((f"at most {self.most} replicas", scale.maximum_path))
        if self.least is not None and scale.minimum < self.least:
            wants.append((f"at least {self.least} replicas", scale.minimum_path))
        if self.to_zero == "Required" and scale.minimum > 0:
            wants.append(("scale to zero", scale.minimum_path))
        if self.to_zero == "Forbidden" and scale.minimum == 0:
            wants.append(("at least 1 replica", scale.minimum_path))
        for wanted, path in dict.fromkeys(wants):
            words = {"wanted": wanted, "scale": quote(scale), "way_out": rescale(path)}
            yield diagnostic(_NOT_ALLOWED, path, by=by, **words)
