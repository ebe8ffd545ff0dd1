"""Kubernetes quantities as exact numbers."""

import re
from fractions import Fraction

_SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}
# k8s.io/apimachinery, pkg/api/resource/quantity.go; the exponent is bounded so that no text makes the arithmetic slow.
_QUANTITY = re.compile(
    r"([+-]?)([0-9]{1,64}(?:\.[0-9]{0,64})?|\.[0-9]{1,64})(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,2}))?", re.ASCII
)


def parse(value: object) -> Fraction:
    """The number of a quantity such as ``500m``, ``1.5Gi``, ``2e3`` or ``4``. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("it is not a quantity")
    written = str(value)
    match = _QUANTITY.fullmatch(written) if len(written) <= 132 else None
    if match is None:
        raise ValueError("it is not a quantity")
    sign, digits, suffix, exponent = match.groups()
    number = Fraction(digits.rstrip(".")) * (
        Fraction(10) ** int(exponent) if exponent is not None else _SUFFIXES[suffix or ""]
    )
    return -number if sign == "-" else number


def is_zero(value: object) -> bool:
    """Whether it is a quantity that requests nothing."""
    try:
        return parse(value) == 0
    except ValueError:
        return False


def is_amount(value: object) -> bool:
    """Whether it is a quantity that a container can request: not negative."""
    try:
        return parse(value) >= 0
    except ValueError:
        return False


def text(number: Fraction) -> str:
    """The readable quantity of a number: ``16Gi``, ``500m``, ``4``."""
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        scaled = number / _SUFFIXES[suffix]
        if scaled >= 1 and scaled.denominator == 1:
            return f"{scaled}{suffix}"
    if number.denominator == 1:
        return str(number)
    milli = number / _SUFFIXES["m"]
    return f"{milli}m" if milli.denominator == 1 else f"{float(number):g}"
