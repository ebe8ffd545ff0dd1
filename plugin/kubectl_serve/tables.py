"""Tables as kubectl prints them: columns with two spaces between, no lines."""

from collections.abc import Sequence


def render(rows: Sequence[Sequence[str]]) -> str:
    """``rows``, the first being the headings, as text with a line's end after each."""
    from tabulate import tabulate

    text = tabulate(rows[1:], headers=rows[0], tablefmt="plain", disable_numparse=True)
    return "".join(line.rstrip() + "\n" for line in text.split("\n"))
