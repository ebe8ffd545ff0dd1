"""The loader's events as text for users. Pure."""

from serve_core.api import loader_protocol
from serve_core.api.loader_protocol import LoaderOutput, count_text, size_text


def progress_text(said: LoaderOutput) -> str:
    """``45 % of 12.3 MiB, 11.0 MiB/s``; empty if the event has no progress."""
    if said.event == "plan" and said.size is not None:
        return size_text(said.size) + (f" in {count_text(said.files, 'file')}" if said.files is not None else "")
    if said.event != "progress" or said.size is None:
        return ""
    found = loader_protocol.share(said)
    share = f"{100 * found[0] // found[1]} % of {size_text(found[1])}" if found else size_text(said.size)
    return share + (f", {size_text(said.rate)}/s" if said.rate else "")


_BAR = 20
"""Characters between the brackets."""


def bar(said: LoaderOutput) -> str:
    """``[#########           ] ``, for a line that can be rewritten; empty if the share is unknown."""
    found = loader_protocol.share(said)
    if found is None:
        return ""
    filled = min(_BAR * found[0] // found[1], _BAR)
    return f"[{'#' * filled}{' ' * (_BAR - filled)}] "


def loaded_text(said: LoaderOutput) -> str:
    return f"model loaded: {loader_protocol.loaded_text(said)}".removesuffix(": ")


def line_of(said: LoaderOutput) -> str:
    """One line of the loader's log as text; empty for an unknown event."""
    if said.event == "plan":
        return f"downloading {progress_text(said)}".rstrip()
    if said.event == "progress":
        return progress_text(said) or "downloading"
    if said.event == "loaded":
        return loaded_text(said)
    text = ": ".join(filter(None, (said.code, said.message)))
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    hint = f" {said.hint}" if said.hint else ""
    if said.event == "retry":
        wait = f", next in {said.wait:.0f} s" if said.wait is not None else ""
        again = f" (attempt {said.attempt}{wait})" if said.attempt is not None else ""
        return f"trying again{again}: {text}{hint}"
    return f"failed: {text}{hint}" if said.event == "failed" else ""
