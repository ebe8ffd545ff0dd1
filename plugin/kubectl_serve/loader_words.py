"""What the loader tells of its work, for a person. Pure."""

import json

from serve_core import loader
from serve_core.json import JsonObject
from serve_core.loader import count_text, size_text


def progress_text(line: JsonObject) -> str:
    """``45 % of 12.3 MiB, 11.0 MiB/s``; empty if the line says nothing of it."""
    done, total, rate = line.get("bytes"), line.get("total"), line.get("rate")
    if line.get("event") == "plan" and isinstance(done, int):
        return f"{size_text(done)} in {count_text(line.get('files'), 'file')}"
    if line.get("event") != "progress" or not isinstance(done, int):
        return ""
    share = f"{100 * done // total} % of {size_text(total)}" if isinstance(total, int) and total else size_text(done)
    return share + (f", {size_text(rate)}/s" if isinstance(rate, int | float) and rate else "")


_BAR = 20
"""Characters between the brackets."""


def bar(line: JsonObject) -> str:
    """``[#########           ] ``, for a line that can be rewritten; empty where the share is not known."""
    found = loader.share(line)
    if found is None:
        return ""
    filled = min(_BAR * found[0] // found[1], _BAR)
    return f"[{'#' * filled}{' ' * (_BAR - filled)}] "


def loaded_text(words: JsonObject) -> str:
    return f"model loaded: {loader.loaded_text(words)}".removesuffix(": ")


def line_of(words: JsonObject) -> str:
    """One line of the loader's log for a person."""
    event = words.get("event")
    if event == "plan":
        return f"downloading {progress_text(words)}"
    if event == "progress":
        return progress_text(words) or "downloading"
    if event == "loaded":
        return loaded_text(words)
    said = ": ".join(str(words[key]) for key in ("code", "message") if words.get(key))
    said = said if said.endswith((".", "!", "?")) else f"{said}."
    hint = f" {words['hint']}" if words.get("hint") else ""
    if event == "retry":
        wait = words.get("wait")
        again = f" (attempt {words.get('attempt')}" + (
            f", next in {wait:.0f} s)" if isinstance(wait, int | float) else ")"
        )
        return f"trying again{again}: {said}{hint}"
    return f"failed: {said}{hint}" if event == "failed" else json.dumps(words)
