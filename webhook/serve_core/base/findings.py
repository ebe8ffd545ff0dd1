"""What the parts of the core find about one object, collected in one place."""

from dataclasses import dataclass, field

from serve_core.base.reasons import Diagnostic, Explanation


@dataclass(eq=False, repr=False)
class Findings:
    """Each part appends what it finds. The order within a list is the order in which users read it."""

    problems: list[Diagnostic] = field(default_factory=list)
    """Why the object is refused."""
    warnings: list[Diagnostic] = field(default_factory=list)
    """What the user should know although the object is accepted."""
    explanations: list[Explanation] = field(default_factory=list)
    """What was chosen for the user, each with its reason."""
