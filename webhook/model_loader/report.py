"""The loader's reports: JSON lines on stdout during the load, and one JSON object as the termination message."""

import json
import threading
from collections.abc import Mapping
from typing import NamedTuple, TextIO

from model_loader.outcomes import OUTCOMES, Code, LoadError

TERMINATION_BYTES = 1024


class Skipped(NamedTuple):
    """Files that are not loaded, because other files have the same weights: number, bytes, and the first one's path."""

    files: int = 0
    size: int = 0
    first: str = ""

    @property
    def fields(self) -> dict[str, object]:
        """The fields of a report; none without such files."""
        return {"skipped": self.files, "skipped_bytes": self.size, "skipped_first": self.first} if self.files else {}


class Report:
    """Writes the events of one load to `out`; safe to use from several threads."""

    def __init__(self, out: TextIO) -> None:
        self.done: dict[str, int] = {}
        """The latest progress: bytes and total bytes, by these names."""
        self._out = out
        self._lock = threading.Lock()

    def event(self, event: str, fields: Mapping[str, object]) -> None:
        """Write one line: {"event": event, ...fields}."""
        line = json.dumps({"event": event, **fields}, separators=(",", ":"))
        with self._lock:
            self._out.write(line + "\n")
            self._out.flush()

    def plan(self, files: int, size: int, skipped: Skipped) -> None:
        """Report the plan: number of files, bytes, and what is not loaded."""
        self.event("plan", {"files": files, "bytes": size, **skipped.fields})

    def progress(self, done: int, total: int, files: int, seconds: float, rate: float) -> None:
        """Report progress: bytes, total bytes, finished files, seconds, and the present rate in bytes per second."""
        fields = {"bytes": done, "total": total, "files": files, "seconds": round(seconds, 1), "rate": int(rate)}
        self.done = {"bytes": done, "total": total}
        self.event("progress", fields)

    def retry(self, failure: LoadError, attempt: int, wait: float) -> None:
        """Report a failure that the loader retries after `wait` seconds."""
        fields: dict[str, object] = {"code": failure.code, "message": failure.message, "hint": failure.hint}
        if failure.file:
            fields["file"] = failure.file
        self.event("retry", {**fields, "attempt": attempt, "wait": round(wait, 2)})


def outcome(
    code: Code,
    message: str,
    *,
    hint: str = "",
    file: str = "",
    size: int = 0,
    files: int = 0,
    seconds: float = 0.0,
    digest: str = "",
) -> dict[str, object]:
    """Return the fields of the termination message."""
    fields: dict[str, object] = {
        "code": code,
        "message": message,
        "hint": hint,
        "retryable": OUTCOMES[code].retryable,
        "bytes": size,
        "files": files,
        "seconds": round(seconds, 3),
    }
    if file:
        fields["file"] = file
    if digest:
        fields["digest"] = digest
    return fields


def termination_message(fields: Mapping[str, object]) -> str:
    """Return `fields` as JSON of at most TERMINATION_BYTES; shortens long texts."""
    fields = dict(fields)
    text = json.dumps(fields, separators=(",", ":"))
    for key in ("file", "resolved", "runs_code_first", "skipped_first", "message", "hint"):
        over = len(text) - TERMINATION_BYTES
        value = str(fields.get(key, ""))
        if over > 0 and len(value) > 16:
            # A character takes up to 12 bytes in JSON escapes: halve the text until it fits.
            while len(text) > TERMINATION_BYTES and len(value) > 16:
                value = value[: len(value) // 2]
                fields[key] = value + "…"
                text = json.dumps(fields, separators=(",", ":"))
    return text
