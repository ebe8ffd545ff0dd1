"""What the size of a model requires: download time, and ephemeral storage."""

from fractions import Fraction

from serve_core.syntax import quantity

MIN_SIZE = 2**30
"""Bytes. A smaller model meets every deadline and fits on every node: its size is treated as unknown."""

_SLOW = 10 * 2**20
"""Bytes per second of a slow download."""
_HEADROOM = Fraction(11, 10)
"""Factor for the overhead of the file system."""
_GIB = 2**30


def seconds(size: int | None) -> int:
    """The download seconds that a model of ``size`` bytes adds to a revision's deadline; 0 if small or unknown."""
    return 0 if size is None or size < MIN_SIZE else -(-size // _SLOW)


def storage(size: int | None) -> str | None:
    """The ephemeral storage, as a quantity, for a model of ``size`` bytes; ``None`` if small or unknown."""
    if size is None or size < MIN_SIZE:
        return None
    return quantity.text(Fraction(-(-size * _HEADROOM // _GIB) * _GIB))
