"""Telling on standard error what a command waits for: lines with times, the last one live where that is possible."""

from types import TracebackType
from typing import Self

from kubectl_serve import view
from kubectl_serve.streams import Streams
from kubectl_serve.view import Picture

_PLAIN_SECONDS = 10.0
"""Where no line can be rewritten, a step's details are told this often."""
_CLEAR = "\r\x1b[2K"


class Progress:
    """Each step once, with the seconds since the start. Use as a context manager, so that a live line is closed."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._start = streams.now()
        self._told: dict[str, str] = {}
        self._live = ""
        self._details_at = self._start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show_live("")

    def __call__(self, picture: Picture) -> None:
        found = view.steps(picture)
        for step in found:
            if self._told.get(step.key) != step.text:
                self._told[step.key] = step.text
                self.tell(step.text)
        if found and found[-1].detail:
            self._detail(f"{found[-1].text}: {found[-1].detail}")
        else:
            self._show_live("")

    def tell(self, text: str) -> None:
        self._show_live("")
        self._streams.note(self._line(text))

    def _detail(self, text: str) -> None:
        if self._streams.live:
            self._show_live(self._line(text))
        elif self._streams.now() - self._details_at >= _PLAIN_SECONDS:
            self._details_at = self._streams.now()
            self.tell(text)

    def _line(self, text: str) -> str:
        return f"{self._streams.now() - self._start:6.1f}s  {text}"

    def _show_live(self, text: str) -> None:
        if self._live or text:
            cut = text if len(text) < self._streams.width else text[: self._streams.width - 2] + "…"
            self._streams.stderr.write(_CLEAR + cut)
            self._streams.stderr.flush()
        self._live = text
