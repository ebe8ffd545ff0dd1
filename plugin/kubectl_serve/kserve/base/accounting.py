"""Which fields of an object the conversion used, reported or refused: none of them is lost silently. Pure.

A conversion reads its input through :class:`Field`, a place in the object. A leaf (a value, or an empty object or list)
counts as used in two cases: the conversion reads it (:meth:`Field.text`, :meth:`Field.number`, :meth:`Field.use`), or
the field itself stands in the result. :meth:`Ledger.settled` replaces such fields by their values, so a field that was
copied and removed later does not count. :meth:`Ledger.report` makes a note of each field that is left.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from serve_core.base.json import JsonObject
from serve_core.base.reasons import step

Steps = tuple[str | int, ...]

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
"""A key that needs no brackets in a path."""
_NO_EQUIVALENT = "has no equivalent."


@dataclass(frozen=True, order=True)
class Note:
    """A field without equivalent, or with another meaning than before."""

    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}"


class Ledger:
    """What became of the leaves of one object."""

    def __init__(self, document: JsonObject) -> None:
        self.notes: list[Note] = []
        self.faults: list[Note] = []
        """Fields that have another type than the conversion reads. With one of them, there is no result."""
        self.refused = False
        """Whether a field that cannot be left out has no equivalent. A note says which."""
        self._settled: set[Steps] = set()
        self._root = Field(self, (), document)

    @property
    def root(self) -> "Field":
        return self._root

    def settled(self, made: Any) -> Any:
        """The result with the value of each field in it; the leaves of these fields count as used."""
        if isinstance(made, Field):
            return copy.deepcopy(made.use())
        if isinstance(made, dict):
            return {key: self.settled(value) for key, value in made.items()}
        if isinstance(made, list):
            return [self.settled(value) for value in made]
        return made

    def report(self) -> None:
        """Make a note of each field of which nothing was used, reported or refused."""
        self._report(self._root)

    def mark(self, field: "Field") -> None:
        self._settled.update(each.steps for each in field.leaves())

    def _report(self, field: "Field") -> None:
        open_leaves = [each for each in field.leaves() if each.steps not in self._settled]
        if not open_leaves:
            return
        if field.steps and len(open_leaves) == sum(1 for _ in field.leaves()):
            field.note(_NO_EQUIVALENT)
            return
        for each in field.children():
            self._report(each)


class Field:
    """A place in an object, present or not. ``value`` is what is written there; reading it marks nothing."""

    __slots__ = ("_ledger", "steps", "value")

    def __init__(self, ledger: Ledger, steps: Steps, value: Any) -> None:
        self._ledger, self.steps, self.value = ledger, steps, value

    def __bool__(self) -> bool:
        """Whether the field is present. Kubernetes takes ``null`` for absent."""
        return self.value is not None

    @property
    def path(self) -> str:
        """The path as messages write it, such as ``spec.predictor.containers[0].name``."""
        written = (
            f".{each}" if isinstance(each, str) and _PLAIN.fullmatch(each) else f"[{step(each)}]" for each in self.steps
        )
        return "".join(written).removeprefix(".")

    def at(self, *keys: str) -> "Field":
        """The field below an object's keys; absent if there is none."""
        found = self
        for key in keys:
            value = found.value.get(key) if isinstance(found.value, dict) else None
            found = Field(self._ledger, (*found.steps, key), value)
        return found

    def children(self) -> Iterator["Field"]:
        """The present fields directly below it."""
        pairs: Any = ()
        if isinstance(self.value, dict):
            pairs = self.value.items()
        elif isinstance(self.value, list):
            pairs = enumerate(self.value)
        for key, value in pairs:
            if value is not None:
                yield Field(self._ledger, (*self.steps, key), value)

    def leaves(self) -> Iterator["Field"]:
        """The values, empty objects and empty lists at or below it."""
        if isinstance(self.value, dict | list) and self.value:
            for each in self.children():
                yield from each.leaves()
        elif self:
            yield self

    def entries(self) -> dict[str, "Field"]:
        """The present fields of an object, by key."""
        return {str(each.steps[-1]): each for each in self.children()} if self._is(dict, "an object") else {}

    def elements(self) -> list["Field"]:
        """The elements of a list."""
        return list(self.children()) if self._is(list, "a list") else []

    def objects(self) -> list["Field"]:
        """The elements of a list of objects."""
        return [each for each in self.elements() if each._is(dict, "an object")]

    def is_text(self) -> bool:
        """Whether it is a string, without reading it."""
        return self._is(str, "a string; put it into quotes")

    def text(self) -> str | None:
        """Read a string."""
        return str(self.use()) if self.is_text() else None

    def number(self) -> int | None:
        """Read a whole number."""
        return int(self.use()) if self._is(int, "a whole number") else None

    def use(self) -> Any:
        """The value; everything in it counts as used: because the result says the same, or has it as a default."""
        self._ledger.mark(self)
        return self.value

    def note(self, sentence: str) -> None:
        """Report the field and everything in it, if it is present."""
        if self:
            self._ledger.mark(self)
            self.remark(sentence)

    def remark(self, sentence: str) -> None:
        """Add a note on a field that is used, or on fields in it that are."""
        self._ledger.notes.append(Note(self.path, sentence))

    def refuse(self, sentence: str) -> None:
        """Report the field, if it is present, as the reason why there is no result."""
        if self:
            self.note(sentence)
            self._ledger.refused = True

    def _is(self, kind: type, what: str) -> bool:
        if self.value is None or (isinstance(self.value, kind) and not (kind is int and isinstance(self.value, bool))):
            return self.value is not None
        fault = Note(self.path, f"is not {what}.")
        if fault not in self._ledger.faults:
            self._ledger.faults.append(fault)
        return False
