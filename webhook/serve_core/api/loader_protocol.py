"""The loader's words: the lines that it writes, and the message that it ends with.

Whoever may create pods can write them in its place. So they are read here once, into values of known types and bounds,
and what is not as the loader writes it counts as not said.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from serve_core.base.json import object_of
from serve_core.base.reasons import quote

LONGEST = 2**14
"""Characters of a line or a message; the loader ends with 1,024 at most."""
LONGEST_TEXT = 1000
"""Characters of one text in it."""
_MOST = 2**63 - 1

EVENTS = frozenset({"plan", "progress", "retry", "failed", "loaded"})
CODES = frozenset(
    {
        "Loaded", "Internal", "InvalidSource", "Unauthorized", "NotFound", "DigestMismatch", "Corrupted", "Refused",
        "NoSpace", "Unreachable", "ServerError", "Stalled", "Changed", "Interrupted", "CannotVerify", "NotSigned",
    }
)  # fmt: skip
"""What it can end with (``model_loader.outcomes``)."""

_DIGEST = re.compile(r"[a-z0-9]{1,20}:[0-9a-f]{1,128}")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class LoaderOutput:
    """What a loader has said at a time. Empty texts and ``None``: it has not said that."""

    event: str = ""
    """One of :data:`EVENTS`."""
    code: str = ""
    """One of :data:`CODES`."""
    message: str = ""
    hint: str = ""
    size: int | None = None
    """Bytes: of the model, or read so far."""
    total: int | None = None
    """Bytes."""
    rate: float | None = None
    """Bytes a second."""
    files: int | None = None
    seconds: float | None = None
    attempt: int | None = None
    wait: float | None = None
    """Seconds until the next attempt."""
    checked: int | None = None
    """Files that had a checksum of the store's own to be checked against."""
    signed: bool = False
    digest: str = ""
    runs_code: int | None = None
    """Files that may run code when they are loaded."""
    runs_code_first: str = ""
    """One of them."""


NOTHING = LoaderOutput()


def words(text: object) -> LoaderOutput:
    """A line of the loader's log, or its termination message."""
    return of(object_of(text)) if isinstance(text, str) and len(text) <= LONGEST else NOTHING


def of(said: Mapping[str, object]) -> LoaderOutput:
    """The same of what was parsed already."""
    event, code, digest = _text(said.get("event")), _text(said.get("code")), _text(said.get("digest"))
    return LoaderOutput(
        event=event if event in EVENTS else "",
        code=code if code in CODES else "",
        message=_text(said.get("message")),
        hint=_text(said.get("hint")),
        size=_count(said.get("bytes")),
        total=_count(said.get("total")),
        rate=_number(said.get("rate")),
        files=_count(said.get("files")),
        seconds=_number(said.get("seconds")),
        attempt=_count(said.get("attempt")),
        wait=_number(said.get("wait")),
        checked=_count(said.get("checked")),
        signed=said.get("signed") is True,
        digest=digest if _DIGEST.fullmatch(digest) else "",
        runs_code=_count(said.get("runs_code")),
        runs_code_first=_text(said.get("runs_code_first")),
    )


def _text(value: object) -> str:
    return value[:LONGEST_TEXT] if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _MOST:
        return None
    return float(value) if math.isfinite(value) else None


def size_text(size: float) -> str:
    """Bytes in the unit that is best to read."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def count_text(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def share(said: LoaderOutput) -> tuple[int, int] | None:
    """Bytes read and bytes in all, as a line of the log has them; ``None`` where it does not."""
    done, total = (0, said.size) if said.event == "plan" else (said.size, said.total)
    return (min(done, total), total) if done is not None and total else None


def code_text(said: LoaderOutput) -> str:
    """Which files of a model may run code when they are loaded, as a sentence; empty where there is none."""
    if not said.runs_code or not said.runs_code_first:
        return ""
    first = quote(said.runs_code_first)
    if said.runs_code == 1:
        return f"{first} can run code when it is loaded."
    return f"{said.runs_code} files can run code when they are loaded, for example {first}."


def loaded_text(said: LoaderOutput) -> str:
    """What a loader that has ended well brought; empty where it does not say.

    Bytes, files, seconds, how many files had a checksum of the store's own to be checked against, whether a signature
    was verified, and the digest.
    """
    if said.size is None or said.seconds is None:
        return ""
    files = f" in {count_text(said.files, 'file')}" if said.files is not None else ""
    digest = f", {said.digest}" if said.digest else ""
    checked = f", {said.checked} checked against the store's own checksum" if said.checked else ""
    signed = ", its signature verified" if said.signed else ""
    return f"{size_text(said.size)}{files} in {said.seconds:.1f} s{checked}{signed}{digest}"
