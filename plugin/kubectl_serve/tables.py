"""Tables as kubectl prints them: columns with two spaces between, no lines."""

from collections.abc import Sequence


def render(rows: Sequence[Sequence[str]]) -> str:
    """``rows``, the first being the headings, as text with a line's end after each."""
    from tabulate import tabulate

    # The headings as a row like the others: as headings they would be given more room than they need.
    text = tabulate(rows, tablefmt="plain", disable_numparse=True)
    return "".join(line.rstrip() + "\n" for line in text.split("\n"))
