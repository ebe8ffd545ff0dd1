"""Versions of programs, as far as a feature depends on them: major and minor."""

import re

Version = tuple[int, int]


def parse(text: object) -> Version | None:
    """The major and minor version of ``v1.35.4`` or ``1.35``; ``None`` for any other text."""
    match = re.match(r"v?([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", str(text), re.ASCII)
    return (int(match[1]), int(match[2])) if match else None
