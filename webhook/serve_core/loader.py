"""The loader's words: the lines that it writes, and the message that it ends with."""

import json
from collections.abc import Mapping

from serve_core.json import JsonObject
from serve_core.reasons import quote

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def words(text: object) -> JsonObject:
    """A line of the loader's log, or its termination message, as an object; empty if it is something else."""
    try:
        found = json.loads(str(text))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def size_text(size: float) -> str:
    """Bytes in the unit that is best to read."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def count_text(count: object, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def share(line: Mapping[str, object]) -> tuple[int, int] | None:
    """Bytes read and bytes in all, as a line of the log tells them; ``None`` where it does not."""
    done, total = line.get("bytes"), line.get("total")
    if line.get("event") == "plan":
        done, total = 0, done
    return (done, total) if isinstance(done, int) and isinstance(total, int) and total > 0 else None


def code_text(said: Mapping[str, object]) -> str:
    """Which files of a model may run code when they are loaded, as a sentence; empty where there is none."""
    count, first = said.get("runs_code"), said.get("runs_code_first")
    if not isinstance(count, int) or not isinstance(first, str) or count < 1:
        return ""
    if count == 1:
        return f"{quote(first)} may run code when it is loaded."
    return f"{count} files may run code when they are loaded, among them {quote(first)}."


def loaded_text(said: Mapping[str, object]) -> str:
    """What a loader that has ended well brought; empty where it does not say.

    Bytes, files, seconds, how many files had a checksum of the store's own to be checked against, whether a signature
    was verified, and the digest.
    """
    size, seconds = said.get("bytes"), said.get("seconds")
    if not isinstance(size, int) or not isinstance(seconds, int | float):
        return ""
    files = f" in {count_text(said['files'], 'file')}" if isinstance(said.get("files"), int) else ""
    digest = f", {said['digest']}" if said.get("digest") else ""
    checked = f", {said['checked']} checked against the store's own checksum" if said.get("checked") else ""
    signed = ", its signature verified" if said.get("signed") is True else ""
    return f"{size_text(size)}{files} in {seconds:.1f} s{checked}{signed}{digest}"
