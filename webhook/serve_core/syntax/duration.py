"""Durations as Go writes them, such as ``90s`` or ``1m30s``: the notation of Kubernetes and Knative.

Source of the grammar: https://pkg.go.dev/time#ParseDuration.
"""

import re

_PART = re.compile(r"(?=\.?[0-9])([0-9]{0,64})(?:\.([0-9]{0,64}))?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_MICROSECOND = 10**3
SECOND = 10**9
_NANOSECONDS = {
    "ns": 1, "us": _MICROSECOND, "µs": _MICROSECOND, "μs": _MICROSECOND, "ms": 10**6,
    "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND,
}  # fmt: skip
_LONGEST = 2**63 - 1
"""Nanoseconds in Go's ``time.Duration``."""


def parse(text: str) -> int:
    """The nanoseconds of a duration. Raises ValueError."""
    unsigned = text[1:] if text[:1] in ("-", "+") else text
    if unsigned == "0":
        return 0
    total, position = 0, 0
    while part := _PART.match(unsigned, position):
        whole, fraction, unit = part.groups(default="")
        nanoseconds = _NANOSECONDS[unit]
        total += int(whole or 0) * nanoseconds + int(fraction or 0) * nanoseconds // 10 ** len(fraction)
        position = part.end()
    if not unsigned or position < len(unsigned) or total > _LONGEST:
        raise ValueError("it is not a duration")
    return -total if text.startswith("-") else total


def whole_seconds(text: str) -> int:
    """The seconds of a duration that has no fraction of a second. Raises ValueError."""
    seconds, rest = divmod(parse(text), SECOND)
    if rest:
        raise ValueError("it is not a number of whole seconds")
    return seconds
