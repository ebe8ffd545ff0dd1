"""Tables as in kubectl: columns with two spaces between them, without lines."""

from collections.abc import Sequence
from datetime import datetime

from serve_core.base.escaping import inline

NONE = "<none>"
UNKNOWN = "<unknown>"


def render(rows: Sequence[Sequence[str]]) -> str:
    """``rows`` as lines of text; the first row has the headings."""
    from tabulate import tabulate

    # The headings are passed as a row: as headings, tabulate would make them wider than needed.
    text = tabulate([[inline(cell) for cell in row] for row in rows], tablefmt="plain", disable_numparse=True)
    return "".join(line.rstrip() + "\n" for line in text.split("\n"))


def age_text(timestamp: str, now: float) -> str:
    """An age in kubectl's form. Source: k8s.io/apimachinery, pkg/util/duration/duration.go."""
    try:
        seconds = max(int(now - datetime.fromisoformat(timestamp).timestamp()), 0)
    except ValueError:
        return UNKNOWN
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    rules = (
        (seconds < 120, f"{seconds}s"),
        (minutes < 10, _two(minutes, "m", seconds % 60, "s")),
        (minutes < 180, f"{minutes}m"),
        (hours < 8, _two(hours, "h", minutes % 60, "m")),
        (hours < 48, f"{hours}h"),
        (days < 8, _two(days, "d", hours % 24, "h")),
        (days < 730, f"{days}d"),
    )
    return next((text for applies, text in rules if applies), f"{days // 365}y")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}" + (f"{small}{small_unit}" if small else "")


def distinct(texts: Sequence[str], width: int) -> list[str]:
    """``texts`` in at most ``width`` characters each: common parts are cut first, then the beginning."""
    parts = [text.split("/") for text in texts]
    room = min(map(len, parts), default=1) - 1 if len(set(texts)) > 1 else 0
    begin = next((at for at in range(room) if len({each[at] for each in parts}) > 1), room)
    end = next((at for at in range(room - begin) if len({each[-1 - at] for each in parts}) > 1), room - begin)
    shown = []
    for text, each in zip(texts, parts, strict=True):
        cut = text
        if len(cut) > width and begin:
            cut = "/".join(["…", *each[begin:]])
        if len(cut) > width and end:
            cut = "/".join([*(["…"] if begin else []), *each[begin:-end], "…"])
        shown.append(shortened(cut, width))
    return shown


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters: its end, which distinguishes models, and its scheme if there is
    room."""
    if len(text) <= width:
        return text
    scheme = text.partition("://")[0] + "://" if "://" in text and width >= 24 else ""
    return scheme + "…" + text[len(text) - (width - 1 - len(scheme)) :]
