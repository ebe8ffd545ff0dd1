"""The arguments of a container, as options that the conversion takes out and words that stay. Pure."""

from dataclasses import dataclass
from typing import Any

from kubectl_serve.kserve.base.accounting import Field
from serve_core.workload.command_line import flag_name, is_flag

_TAKES_SEVERAL = ("--served-model-name",)
"""Options to which all words up to the next option belong."""


@dataclass(frozen=True)
class Option:
    """An option, its first value, and their places."""

    value: str
    words: tuple[Field, ...]

    def note(self, sentence: str) -> None:
        self.use()
        self.words[0].remark(sentence)

    def use(self) -> None:
        for each in self.words:
            each.use()


class Arguments:
    def __init__(self, args: Field) -> None:
        self.words: list[Any] = list(args.elements())
        """Fields, and texts that the conversion adds."""

    def find(self, *names: str) -> Option | None:
        """The last option of one of these names, in either form: ``--name=value``, or ``--name`` and the next word.
        Several servers read ``_`` as ``-``."""
        found = [option for index in range(len(self.words)) if (option := self._option(index, names)) is not None]
        return found[-1] if found else None

    def take(self, *names: str) -> Option | None:
        """Remove all of these options, and return the last: earlier ones had no effect."""
        taken = self.find(*names)
        while (option := self.find(*names)) is not None:
            self.words = [word for word in self.words if not any(word is each for each in option.words)]
            option.use()
            if taken is not None and option.value != taken.value:
                option.words[0].remark("has no effect: a later argument replaces it.")
        return taken

    def _option(self, index: int, names: tuple[str, ...]) -> Option | None:
        word = self.words[index]
        if not isinstance(word, Field) or not isinstance(word.value, str):
            return None
        name, equals, value = word.value.partition("=")
        if flag_name(name) not in map(flag_name, names):
            return None
        if equals:
            return Option(value, (word,))
        values = []
        for each in self.words[index + 1 :]:
            if not isinstance(each, Field) or not isinstance(each.value, str) or is_flag(each.value):
                break
            values.append(each)
            if name not in _TAKES_SEVERAL:
                break
        return Option(str(values[0].value), (word, *values)) if values else None
