"""What the size of a model asks for: time to download it, and room on the node."""

from fractions import Fraction

from serve_core.syntax import quantity

LEAST = 2**30
"""Bytes. A smaller model is in time for any deadline and fits on any node: it is treated as one of unknown size."""

_SLOW = 10 * 2**20
"""Bytes a second that a download makes on a bad day."""
_HEADROOM = Fraction(11, 10)
"""Of the disk: what a file system needs beside the bytes."""
_GIB = 2**30


def seconds(size: int | None) -> int:
    """The seconds by which a model of ``size`` bytes lengthens the time until a revision is ready; 0 where it does not
    matter or nobody knows."""
    return 0 if size is None or size < LEAST else -(-size // _SLOW)


def storage(size: int | None) -> str | None:
    """The ephemeral storage, as a quantity, that a pod needs for a model of ``size`` bytes; ``None`` as above."""
    if size is None or size < LEAST:
        return None
    return quantity.text(Fraction(-(-size * _HEADROOM // _GIB) * _GIB))
