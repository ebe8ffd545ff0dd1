"""The catalogue of everything that kubectl-serve says to a user: refusals, warnings, choices and condition reasons.

Each has a code, a sentence and, where there is something to do, a hint. The documentation is checked against this module.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    REFUSAL = "refusal"
    WARNING = "warning"
    CHOICE = "choice"
    CONDITION = "condition"


@dataclass(frozen=True)
class Reason:
    code: str
    kind: Kind
    sentence: str
    hint: str = ""


@dataclass(frozen=True, order=True)
class Problem:
    """A refusal or a warning about one place of an object."""

    path: str
    code: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.path}: {self.message}" + (f" {self.hint}" if self.hint else "")


@dataclass(frozen=True, order=True)
class Choice:
    """What was chosen for the user, and why."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
