"""Progress on the screen: steps with times, and the loader's events; a terminal's last line is rewritten."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from kubectl_serve.cli.streams import Output, Streams
from kubectl_serve.status import loader_events, wait
from kubectl_serve.status.model import ModelSnapshot
from serve_core.api import loader_protocol
from serve_core.api.loader_protocol import LoaderOutput
from serve_core.base.escaping import inline
from serve_core.base.json import JsonObject

PLAIN_SECONDS = 10.0
"""Between two lines of progress where no line can be rewritten."""
_CLEAR = "\r\x1b[2K"


class LiveLine:
    """The last line of a terminal, rewritten in place."""

    def __init__(self, stream: Output, width: int) -> None:
        self._stream = stream
        self._width = width
        self._text = ""

    def show(self, text: str) -> None:
        """Replace the line by ``text``, cut to the terminal's width; an empty text clears it."""
        if self._text or text:
            shown = inline(text)
            self._stream.control(_CLEAR)
            self._stream.write(shown if len(shown) < self._width else shown[: self._width - 2] + "…")
            self._stream.flush()
        self._text = text

    def line(self, text: str) -> None:
        """Write a line that stays, with escapes."""
        self.data(inline(text))

    def data(self, line: str) -> None:
        """Write a line that stays, unchanged."""
        self.show("")
        self._stream.data(line + "\n")
        self._stream.flush()

    def keep(self) -> None:
        """Keep the line, and continue below it."""
        if self._text:
            self._stream.write("\n")
            self._stream.flush()
        self._text = ""


class Progress:
    """Prints each step of a served model once, with the seconds since the start, on standard error.

    Use as a context manager, so that a live line is closed.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._live = LiveLine(streams.stderr, streams.width)
        self._start = streams.now()
        self._printed: dict[str, str] = {}
        self._details_at = self._start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.show("")

    def __call__(self, snapshot: ModelSnapshot) -> None:
        found = wait.steps(snapshot)
        for step in found:
            if self._printed.get(step.key) != step.text:
                self._printed[step.key] = step.text
                self.write(step.text)
        last = found[-1] if found else None
        if last is None or not last.detail:
            self._live.show("")
        elif self._streams.live:
            self._live.show(self._line(f"{last.text}: {last.bar}{last.detail}"))
        elif self._streams.now() - self._details_at >= PLAIN_SECONDS:
            self._details_at = self._streams.now()
            self.write(f"{last.text}: {last.detail}")

    def write(self, text: str) -> None:
        self._live.line(self._line(text))

    def _line(self, text: str) -> str:
        return f"{self._streams.now() - self._start:6.1f}s  {text}"


class LoaderLines:
    """Prints the loader's events. On a terminal, progress is one line with a bar.

    Elsewhere, lines of progress are at least ``seconds`` apart, by ``clock``. Use as a context manager.
    """

    def __init__(
        self,
        stream: Output,
        width: int,
        *,
        live: bool,
        prefix: str = "",
        seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live = LiveLine(stream, width)
        self._moves = live
        self._prefix = prefix
        self._seconds = seconds
        self._clock = clock
        self._printed_at = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.keep()

    def __call__(self, line: str) -> None:
        """Show a line of the loader's log."""
        output = loader_protocol.parse(line)
        if output.event:
            self._show(output)
        else:
            self._live.data(self._prefix + line)

    def show_event(self, event: JsonObject) -> None:
        """Show an event of the loader."""
        self._show(loader_protocol.from_object(event))

    def _show(self, output: LoaderOutput) -> None:
        text = self._prefix + loader_events.line_of(output)
        if output.event != "progress":
            self._live.line(text)
        elif self._moves:
            self._live.show(loader_events.bar(output) + text)
        elif self._clock() - self._printed_at >= self._seconds:
            self._printed_at = self._clock()
            self._live.line(text)

    def clear(self) -> None:
        """Clear the line of progress."""
        self._live.show("")
