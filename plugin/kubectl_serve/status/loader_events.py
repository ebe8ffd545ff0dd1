"""The loader's events as text for users. Pure."""

from serve_core.api import loader_protocol
from serve_core.api.loader_protocol import LoaderOutput, count_text, size_text


def progress_text(output: LoaderOutput) -> str:
    """``45 % of 12.3 MiB, 11.0 MiB/s``; empty if the event has no progress."""
    if output.event == "plan" and output.size is not None:
        return size_text(output.size) + (f" in {count_text(output.files, 'file')}" if output.files is not None else "")
    if output.event != "progress" or output.size is None:
        return ""
    found = loader_protocol.share(output)
    share = f"{100 * found[0] // found[1]} % of {size_text(found[1])}" if found else size_text(output.size)
    return share + (f", {size_text(output.rate)}/s" if output.rate else "")


_BAR = 20
"""Characters between the brackets."""


def bar(output: LoaderOutput) -> str:
    """``[#########           ] ``, for a line that can be rewritten; empty if the share is unknown."""
    found = loader_protocol.share(output)
    if found is None:
        return ""
    filled = min(_BAR * found[0] // found[1], _BAR)
    return f"[{'#' * filled}{' ' * (_BAR - filled)}] "


def loaded_text(output: LoaderOutput) -> str:
    text = f"model loaded: {loader_protocol.loaded_text(output)}".removesuffix(": ")
    return ". ".join(filter(None, (text, loader_protocol.skipped_text(output))))


def line_of(output: LoaderOutput) -> str:
    """One line of the loader's log as text; empty for an unknown event."""
    if output.event == "plan":
        return f"downloading {progress_text(output)}".rstrip()
    if output.event == "progress":
        return progress_text(output) or "downloading"
    if output.event == "loaded":
        return loaded_text(output)
    text = ": ".join(filter(None, (output.code, output.message)))
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    hint = f" {output.hint}" if output.hint else ""
    if output.event == "retry":
        wait = f", next in {output.wait:.0f} s" if output.wait is not None else ""
        again = f" (attempt {output.attempt}{wait})" if output.attempt is not None else ""
        return f"trying again{again}: {text}{hint}"
    return f"failed: {text}{hint}" if output.event == "failed" else ""
