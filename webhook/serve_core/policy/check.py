"""The base of all rules: fields that a policy's author writes, and their comparison with a subject."""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, ClassVar

from serve_core.base.reasons import Diagnostic, Kind, Reason, quote
from serve_core.policy.subject import Subject


class Scope(Enum):
    """Which objects a check is about."""

    SERVING = "what runs a model or adds one"
    REACHABLE = "also what only leads to a model: Route and DomainMapping"
    ANY = "objects as such; parts of others, such as pods, only where the policy names their kind"


class Check:
    """What one rule checks. A subclass is a frozen dataclass with the decorator
    :func:`serve_core.api.schema.schema_of`: its fields and its docstring are the rule's part of the CRD."""

    reads: ClassVar[tuple[str, ...]] = ()
    """The attributes of :class:`Subject` that :meth:`findings` reads, ``kind`` aside."""
    reasons: ClassVar[tuple[Reason, ...]] = ()
    """Every reason that :meth:`findings` gives."""
    applies_to_pods: ClassVar[bool] = True
    """Whether it can find something in a pod. Pods do not have what a rule about an annotation reads."""
    scope: ClassVar[Scope] = Scope.SERVING

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        """What is wrong with ``subject``, found lazily. ``by`` names the policy and the rule in the messages.

        What cannot be compared is a finding: no object passes because something was unreadable.
        """
        raise NotImplementedError

    def faults(self) -> Iterable[tuple[str, str]]:
        """Faults of the fields that a schema cannot express: each field with a sentence."""
        return ()


def finding(code: str, sentence: str, hint: str) -> Reason:
    """A reason that a check gives. ``{by}`` in the sentence is the policy and the rule."""
    return Reason(code, Kind.POLICY, sentence, hint)


def unreadable(values: Iterable[tuple[str, Any]], read: Callable[[Any], object]) -> Iterator[tuple[str, str]]:
    """The faults of fields, each with its value, that ``read`` refuses by a ValueError."""
    for field, value in values:
        try:
            read(value)
        except ValueError as error:
            yield field, f"{quote(value)}: {error}"
