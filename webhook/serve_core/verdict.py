"""The one entry point of the core: what becomes of a Deployment, and why.

Admission, the reconciler, ``kubectl serve render`` and the tests all call :func:`judge`; the same input gives
the same answer in each.
"""

from dataclasses import dataclass

from serve_core.facts import PlatformFacts
from serve_core.json import JsonObject
from serve_core.reasons import Choice, Problem


@dataclass(frozen=True)
class Verdict:
    """What becomes of one Deployment."""

    problems: tuple[Problem, ...] = ()
    """Why it is refused; empty when it is not."""
    warnings: tuple[Problem, ...] = ()
    """What the user should know although it is accepted."""
    choices: tuple[Choice, ...] = ()
    """What was chosen for the user, each with its reason."""
    deployment: JsonObject | None = None
    """The completed and parked Deployment, or the plain one given back; ``None`` when refused."""
    service: JsonObject | None = None
    """The Knative Service it becomes; ``None`` when refused or not served."""

    @property
    def refused(self) -> bool:
        return bool(self.problems)


def judge(deployment: JsonObject, facts: PlatformFacts) -> Verdict:
    """Decide what becomes of ``deployment``: complete it, park it and render its Knative Service, or refuse it.

    A Deployment without the ``model`` annotation is given back as the user wrote it: what was filled in earlier
    is taken out again. The input is not changed. Bad input never raises: it is a problem of the verdict.
    """
    raise NotImplementedError


def render_stored(deployment: JsonObject, facts: PlatformFacts) -> Verdict:
    """Render the Knative Service of a Deployment as the API server stores it, without completing it anew.

    The reconciler's half of :func:`judge`: what was decided at admission stands until the next admission, so that
    a new loader image or runtime rolls out nobody's model by surprise.
    """
    raise NotImplementedError
