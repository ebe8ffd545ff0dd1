"""The code blocks of the documentation, and the commands in them."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("shell", "console", "")
"""Languages of blocks with commands. A console has their output too, and an indented block has no language."""

_BLOCK = re.compile(
    r"^(?:<!-- (?P<kind>not run|fails): (?P<note>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}[^\n-].*\n)+")
_INLINE = re.compile(r"`(kubectl[ -]serve [^`]+)`")
_HEREDOC = re.compile(r"<<'?(\w+)'?\n.*?^\1$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    title: str
    """The file that a reader makes of it."""
    text: str
    kind: str = ""
    """``not run`` or ``fails``, from the comment above it."""
    note: str = ""
    """Why it is not run, or the code of the message with which it fails."""

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a block of commands, without redirections and here-documents."""
        found = []
        text = _HEREDOC.sub("", self.text).replace("\\\n", " ")
        for line in text.splitlines():
            if self.language == "shell" or line.startswith(("kubectl", "$ ")):
                found += list(words_of(line.removeprefix("$ ")))
        return found


def words_of(line: str) -> Iterator[list[str]]:
    """The words of each command of a line of a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    command: list[str] = []
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif set(word) <= set("<>"):
            skip = True
        elif set(word) <= set("|&;"):
            if command:
                yield command
            command = []
        else:
            command.append(word)
    if command:
        yield command


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, then its indented ones."""
    text = page.read_text()
    found = [
        Block(
            page,
            match["language"],
            match["title"] or "",
            textwrap.dedent(match["text"]),
            match["kind"] or "",
            match["note"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]
    rest = _BLOCK.sub("", text)
    return found + [Block(page, "", "", textwrap.dedent(match[0])) for match in _INDENTED.finditer(rest)]


def inline_commands(page: Path) -> list[str]:
    """What stands in backticks in a sentence and begins with ``kubectl serve``."""
    return [" ".join(found.split()) for found in _INLINE.findall(_BLOCK.sub("", page.read_text()))]
