"""Standard streams, clock and environment, passed in: tests see whole screens and decide what time it is."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO


@dataclass(frozen=True)
class Streams:
    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    environment: Mapping[str, str] = field(default_factory=dict)
    now: Callable[[], float] = time.time
    """Seconds since the epoch."""
    width: int = 80
    """Columns of the terminal; 80 where there is none."""

    @classmethod
    def of_process(cls) -> "Streams":
        return cls(sys.stdin, sys.stdout, sys.stderr, os.environ, width=shutil.get_terminal_size((80, 24)).columns)

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
        label = "\x1b[31merror:\x1b[0m" if self.colour else "error:"
        self.stdout.flush()
        self.note(f"{label} {sentence}")
        if hint:
            self.note(f"hint: {hint}")
