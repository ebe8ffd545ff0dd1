"""Standard streams, clock and environment, passed in: tests see whole screens and decide what time it is."""

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
    """A stream to write text on: the one place where text of the cluster, of a model or of a file reaches a screen.

    What is no visible character is written as an escape: it may be a command to the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()

    def write(self, text: str, colour: str = "") -> None:
        """Write a text of ours, whatever it repeats. Also into a pipe: behind it is often a terminal.

        ``colour``: the number of one, on a terminal that shows them.
        """
        self._stream.write(f"\x1b[{colour}m{visible(text)}\x1b[0m" if colour else visible(text))

    def data(self, text: str) -> None:
        """Write what was asked for as it is, such as a log; on a terminal it is no command either."""
        self._stream.write(visible(text) if self._is_terminal else text)

    def control(self, sequence: str) -> None:
        """Write a command to the terminal, one of our own."""
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
                # Not every locale can write every character.
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
        """Everything that is not the data asked for goes to standard error."""
        self.stderr.write(line + "\n")
        self.stderr.flush()

    def error(self, sentence: str, hint: str = "") -> None:
        """An error as all commands say it."""
        self.stdout.flush()
        self.stderr.write("error:", "31" if self.colour else "")
        self.note(f" {_below(sentence)}")
        if hint:
            self.note(f"hint: {_below(hint)}")


def _below(text: str) -> str:
    """No line of a message may look like another message."""
    return text.replace("\n", "\n  ")
