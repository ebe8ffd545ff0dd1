"""Names with ``*``."""

import re
from functools import lru_cache


def matches(name: str, pattern: str) -> bool:
    """Whether ``name`` matches ``pattern``, where each ``*`` matches any characters."""
    return name == pattern if "*" not in pattern else _glob(pattern)(name)


def may_begin(pattern: str, prefix: str) -> bool:
    """Whether a name that begins with ``prefix`` can match ``pattern``."""
    head, star, _ = pattern.partition("*")
    return head.startswith(prefix) or bool(star and prefix.startswith(head))


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> "_Glob":
    return _Glob(pattern)


class _Glob:
    """Searches for the parts from left to right: linear, unlike a regular expression, which backtracks."""

    def __init__(self, pattern: str) -> None:
        self._first, *self._middle, self._last = re.split(r"\*+", pattern)

    def __call__(self, name: str) -> bool:
        if not name.startswith(self._first) or not name.endswith(self._last):
            return False
        at, end = len(self._first), len(name) - len(self._last)
        for part in self._middle:
            at = name.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return at <= end
