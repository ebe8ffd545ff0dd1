"""What a conversion gives."""

from dataclasses import dataclass

from kubectl_serve.kserve.base.accounting import Note
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic


@dataclass(frozen=True)
class Converted:
    deployment: JsonObject | None
    """With a model. ``None`` if there is nothing to serve; a note says why."""
    notes: tuple[Note, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    """Why the webhook would refuse the Deployment, or one with the ModelRuntime."""
    others: tuple[JsonObject, ...] = ()
    """Further objects: a ModelRuntime, what the Deployment needs, or what serves without kubectl-serve."""
    is_for_others: bool = False
    """Whether the object only says something about others, and becomes none of its own."""

    @property
    def is_refused(self) -> bool:
        return bool(self.problems) or not (self.deployment or self.others or self.is_for_others)
