"""The loader protocol: the JSON lines in the loader's log, and its termination message.

Every user who can create pods can fake them. So this module parses them into values of known types and bounds, and
ignores anything that the loader does not write.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from serve_core.base.json import object_of
from serve_core.base.reasons import quote

MAX_LENGTH = 2**14
"""Characters of a line or a message; the loader's termination messages have at most 1,024."""
MAX_TEXT = 1000
"""Characters of one string in it."""
_MOST = 2**63 - 1

EVENTS = frozenset({"plan", "progress", "retry", "failed", "loaded"})
CODES = frozenset(
    {
        "Loaded", "Internal", "InvalidSource", "Unauthorized", "NotFound", "DigestMismatch", "Corrupted", "Refused",
        "NoSpace", "Unreachable", "ServerError", "Stalled", "Changed", "Interrupted", "CannotVerify", "NotSigned",
        "NoFilesMatch",
    }
)  # fmt: skip
"""The loader's results (``model_loader.outcomes``)."""

_DIGEST = re.compile(r"[a-z0-9]{1,20}:[0-9a-f]{1,128}")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class LoaderOutput:
    """One message of a loader. Fields that it does not contain are empty or ``None``."""

    event: str = ""
    """One of :data:`EVENTS`."""
    code: str = ""
    """One of :data:`CODES`."""
    message: str = ""
    hint: str = ""
    size: int | None = None
    """Bytes of the model, or bytes read so far."""
    total: int | None = None
    """Bytes."""
    rate: float | None = None
    """Bytes per second."""
    files: int | None = None
    seconds: float | None = None
    attempt: int | None = None
    wait: float | None = None
    """Seconds until the next attempt."""
    checked: int | None = None
    """Files that were verified with a checksum of the store."""
    signed: bool = False
    digest: str = ""
    runs_code: int | None = None
    """Files that can run code when they are loaded."""
    runs_code_first: str = ""
    """The name of one of them."""
    skipped: int | None = None
    """Files that are not loaded, because other files have the same weights."""
    skipped_size: int | None = None
    """Their bytes."""
    skipped_first: str = ""
    """The name of one of them."""
    resolved: str = ""
    """What names that can change stood for, such as the version of an alias."""


NOTHING = LoaderOutput()


def parse(text: object) -> LoaderOutput:
    """Parse a line of the loader's log, or its termination message."""
    return from_object(object_of(text)) if isinstance(text, str) and len(text) <= MAX_LENGTH else NOTHING


def from_object(document: Mapping[str, object]) -> LoaderOutput:
    """Like :func:`parse`, for parsed JSON."""
    event, code, digest = _text(document.get("event")), _text(document.get("code")), _text(document.get("digest"))
    return LoaderOutput(
        event=event if event in EVENTS else "",
        code=code if code in CODES else "",
        message=_text(document.get("message")),
        hint=_text(document.get("hint")),
        size=_count(document.get("bytes")),
        total=_count(document.get("total")),
        rate=_number(document.get("rate")),
        files=_count(document.get("files")),
        seconds=_number(document.get("seconds")),
        attempt=_count(document.get("attempt")),
        wait=_number(document.get("wait")),
        checked=_count(document.get("checked")),
        signed=document.get("signed") is True,
        digest=digest if _DIGEST.fullmatch(digest) else "",
        runs_code=_count(document.get("runs_code")),
        runs_code_first=_text(document.get("runs_code_first")),
        skipped=_count(document.get("skipped")),
        skipped_size=_count(document.get("skipped_bytes")),
        skipped_first=_text(document.get("skipped_first")),
        resolved=_text(document.get("resolved")),
    )


def _text(value: object) -> str:
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _MOST:
        return None
    return float(value) if math.isfinite(value) else None


def size_text(size: float) -> str:
    """Bytes in a readable unit."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def count_text(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def share(output: LoaderOutput) -> tuple[int, int] | None:
    """Bytes read and bytes in total; ``None`` if a line does not have both."""
    done, total = (0, output.size) if output.event == "plan" else (output.size, output.total)
    return (min(done, total), total) if done is not None and total else None


def code_text(output: LoaderOutput) -> str:
    """A sentence about the files that can run code when they are loaded; empty if there are none."""
    if not output.runs_code or not output.runs_code_first:
        return ""
    first = quote(output.runs_code_first)
    if output.runs_code == 1:
        return f"{first} can run code when it is loaded."
    return f"{output.runs_code} files can run code when they are loaded, for example {first}."


def skipped_text(output: LoaderOutput) -> str:
    """A sentence about the files that are not loaded, because other files have the same weights; empty if all are."""
    if not output.skipped or not output.skipped_first:
        return ""
    files, size = count_text(output.skipped, "file"), size_text(output.skipped_size or 0)
    first = quote(output.skipped_first)
    return (
        f"{files} with copies of the weights ({size}) skipped, for example {first}: "
        f'kubectl-serve.dev/files "*" loads all.'
    )


def loaded_text(output: LoaderOutput) -> str:
    """A summary of a successful load; empty if the message has no size or time.

    Bytes, files, seconds, how many files were verified with a checksum of the store, whether a signature was verified,
    what names that can change stood for, and the digest.
    """
    if output.size is None or output.seconds is None:
        return ""
    files = f" in {count_text(output.files, 'file')}" if output.files is not None else ""
    digest = f", {output.digest}" if output.digest else ""
    checked = f", {output.checked} checked against the store's own checksum" if output.checked else ""
    signed = ", its signature verified" if output.signed else ""
    resolved = f", {quote(output.resolved)}" if output.resolved else ""
    return f"{size_text(output.size)}{files} in {output.seconds:.1f} s{checked}{signed}{resolved}{digest}"
