"""Standard streams, clock and environment. They are passed in, so that tests control them."""

import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from serve_core.base.escaping import visible


class Output:
    """A text stream. All text of the cluster, of a model or of a file reaches the screen through it.

    Invisible characters are written as escapes: they can be commands to the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()

    def write(self, text: str, colour: str = "") -> None:
        """Write a message, with escapes also into a pipe: its reader is often a terminal.

        ``colour``: an ANSI colour number, used on a terminal.
        """
        self._stream.write(f"\x1b[{colour}m{visible(text)}\x1b[0m" if colour else visible(text))

    def data(self, text: str) -> None:
        """Write requested data unchanged, such as a log; on a terminal with escapes."""
        self._stream.write(visible(text) if self._is_terminal else text)

    def control(self, sequence: str) -> None:
        """Write a terminal command of this program."""
        self._stream.write(sequence)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._is_terminal

    def fileno(self) -> int:
        return self._stream.fileno()


@dataclass(frozen=True)
class Streams:
    stdin: TextIO
    stdout: Output
    stderr: Output
    environment: Mapping[str, str] = field(default_factory=dict)
    now: Callable[[], float] = time.time
    """Seconds since the epoch."""
    width: int = 80
    """Columns of the terminal; 80 where there is none."""

    @classmethod
    def of_process(cls) -> "Streams":
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # Some locales cannot encode every character.
                stream.reconfigure(errors="backslashreplace")
        width = shutil.get_terminal_size((80, 24)).columns
        return cls(sys.stdin, Output(sys.stdout), Output(sys.stderr), os.environ, width=width)

    @property
    def live(self) -> bool:
        """Whether a line on standard error can be rewritten in place."""
        return self.stderr.isatty() and self.environment.get("TERM") != "dumb"

    @property
    def colour(self) -> bool:
        return self.live and not self.environment.get("NO_COLOR")

    def out(self, line: str = "") -> None:
        self.stdout.write(line + "\n")

    def note(self, line: str = "") -> None:
        """Write a message to standard error: standard output has only the requested data."""
        self.stderr.write(line + "\n")
        self.stderr.flush()

    def error(self, sentence: str, hint: str = "") -> None:
        """Write an error in the form of all commands."""
        self.stdout.flush()
        self.stderr.write("error:", "31" if self.colour else "")
        self.note(f" {_below(sentence)}")
        if hint:
            self.note(f"hint: {_below(hint)}")


def _below(text: str) -> str:
    """Indent further lines, so that no line of a message looks like another message."""
    return text.replace("\n", "\n  ")
