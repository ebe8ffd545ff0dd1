"""What a container's command line and variables say: the words, a flag's value, a path or a repository that they name.

Images have entrypoints of their own, and shells have variables: this reads what is written, and runs nothing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from serve_core.base.json import JsonObject, list_of, value_at

_MAX_CHARACTERS = 32 * 1024
"""Of one container's words, of its variables, and of the words with replaced variables. The API server stores up to
1.5 MiB."""
_MAX_IN_A_WORD = 8
_LONGEST_VALUE = 512
_WORD = re.compile(r"(?:\$\([A-Za-z_]\w*\)|[^\s'\";|&()])+", re.ASCII)
_VARIABLE = re.compile(r"\$(?:\(([A-Za-z_]\w*)\)|\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
_FILE_NAME = re.compile(r"[\w.-]+", re.ASCII)
_PORT = re.compile(r"(?:[^\s/]*:)?([0-9]{1,5})/?", re.ASCII)
_NUMBER = re.compile(r"-[0-9.]+", re.ASCII)


@dataclass(frozen=True)
class CommandLine:
    """One container's ``command`` and ``args``, taken apart as a shell would, and its written variables."""

    words: tuple[str, ...]
    """Variables are replaced where their value is written in the container."""
    variables: Mapping[str, str]
    directory: str = ""
    """The working directory."""

    def flag(self, *names: str) -> str | None:
        """The value of the last of these flags: the next word, or what follows ``=``. ``None`` where there is none."""
        found = None
        for index, word in enumerate(self.words):
            name, equals, value = word.partition("=")
            if name in names:
                found = value if equals else self.words[index + 1] if index + 1 < len(self.words) else found
        return found

    def names_path(self, path: str) -> bool:
        """Whether something written is ``path``, is below it, or contains it as a whole path."""
        # Behind file:// a path may stand as well; behind any other word or slash it is the end of a longer one.
        path = path.rstrip("/")
        return any(_stands_in(text, path, after="/") or _stands_in(text, f"file://{path}", "/") for text in self._texts)

    def names_model(self, folder: str, file: str | None) -> bool:
        """Whether something written is the ``folder`` of the model, or is in it. A model that is the single ``file``
        must be named by its own name, or by its folder."""
        if file is None or not _FILE_NAME.fullmatch(file) or self.names_path(f"{folder}/{file}"):
            return self.names_path(folder)
        return any(_stands_in(text, folder) or _stands_in(text, f"{folder}/") for text in self._texts)

    def names_repository(self, repository: str, *, exact: bool = False) -> bool:
        """Whether something written is ``org/name`` of a hub, with or without a revision behind ``@`` or ``:``.

        ``exact``: in the same case, which the hub itself ignores.
        """
        if exact:
            return any(_stands_in(text, repository) for text in self._texts)
        return any(_stands_in(text.lower(), repository.lower()) for text in self._texts)

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return (*self.words, *self.variables.values(), self.directory)


def read(container: JsonObject) -> CommandLine:
    """Read a container of any shape. Values that are not texts are skipped."""
    values = _variables(container)
    words: list[str] = []
    room = _MAX_CHARACTERS
    for text in _bounded((*list_of(container.get("command")), *list_of(container.get("args")))):
        for word in _WORD.findall(text):
            if word == "\\":  # the line goes on
                continue
            if "$" in word and room > 0:
                word = _expanded(word, values)  # noqa: PLW2901
                room -= len(word)
            words.append(word)
    directory = container.get("workingDir")
    return CommandLine(tuple(words), values, directory if isinstance(directory, str) else "")


def is_flag(word: object) -> bool:
    """Whether a word is a flag, and not a value such as ``-`` or ``-1``."""
    return isinstance(word, str) and len(word) > 1 and word.startswith("-") and not _NUMBER.fullmatch(word)


def flag_name(word: str) -> str:
    """A flag without its value. Several servers read ``_`` as ``-``."""
    return word.partition("=")[0].replace("_", "-")


def port_of(text: str | None) -> int | None:
    """``8000``, ``0.0.0.0:8000`` or ``:8000`` as a port; ``None`` for anything else."""
    match = _PORT.fullmatch(text) if text is not None and len(text) <= _LONGEST_VALUE else None
    number = int(match[1]) if match else 0
    return number if 0 < number < 65536 else None


def _stands_in(text: str, part: str, after: str = "") -> bool:
    """Whether ``part`` stands in ``text`` and is not the middle of a longer name. ``after``: what may follow it too."""
    at = text.find(part)
    while at >= 0:
        end = at + len(part)
        before, behind = text[at - 1 : at] if at else "", text[end : end + 1]
        if not _continues(before) and (behind in ("", after) or not _continues(behind)):
            return True
        at = text.find(part, at + 1)
    return False


def _continues(character: str) -> bool:
    """Whether a name goes on with it."""
    return character.isalnum() or character in ("_", ".", "/", "-")


def _variables(container: JsonObject) -> dict[str, str]:
    written = {}
    for each in list_of(container.get("env")):
        name, value = value_at(each, "name"), value_at(each, "value")
        if isinstance(name, str) and isinstance(value, str):
            written[name] = value
    return dict(zip(written, _bounded(written.values()), strict=False))


def _bounded(texts: Iterable[object]) -> Iterable[str]:
    room = _MAX_CHARACTERS
    for text in texts:
        if room <= 0:
            return
        if isinstance(text, str):
            yield text[:room]
            room -= len(text)


def _expanded(word: str, values: Mapping[str, str]) -> str:
    """Once, as the kubelet does: a value that holds ``$(NAME)`` is not expanded again."""

    def value(match: re.Match[str]) -> str:
        return values.get(next(filter(None, match.groups())), match[0])[:_LONGEST_VALUE]

    return _VARIABLE.sub(value, word, _MAX_IN_A_WORD)
