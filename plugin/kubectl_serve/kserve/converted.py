"""What a conversion gives."""

from dataclasses import dataclass

from kubectl_serve.kserve.accounting import Note
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic


@dataclass(frozen=True)
class Converted:
    deployment: JsonObject | None
    """``None`` if there is nothing to serve; a note says why."""
    notes: tuple[Note, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    """Why the webhook would refuse the Deployment."""
