"""Canonical host names and addresses: what resolves to the same host has the same text."""

import ipaddress
import re

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII)
_STRICT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.ASCII)
_MAX_LENGTH = 253


def canonical(text: str) -> str:
    """Return the canonical form of a host, for comparing and connecting. Raises ValueError for anything else.

    Lower case, without a final dot. An IPv4 address has four decimal numbers, for every form that inet_aton accepts
    (`127.1`, `0x7f000001`, `2130706433`). An IPv6 address is shortened and has no brackets; if it contains an IPv4
    address, the result is that one. Names in other alphabets must be in ASCII (`xn--`).
    """
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    host = text.lower().removesuffix(".")
    if len(host) > _MAX_LENGTH or not _NAME.fullmatch(host):
        raise ValueError("not a host name or an address")
    return _ipv4(host) if _NUMBER.fullmatch(host.rpartition(".")[2]) else host


def is_strict(host: str) -> bool:
    """Whether a canonical host is an address, or a name without underscores."""
    return ":" in host or _STRICT.fullmatch(host) is not None


def is_address(host: str) -> bool:
    """Whether a canonical host is an address."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def bracketed(host: str) -> str:
    """Return a canonical host as a URL has it."""
    return f"[{host}]" if ":" in host else host


def _ipv6(text: str) -> str:
    if "%" in text:
        raise ValueError("an address with a scope")
    address = ipaddress.IPv6Address(text)
    return str(address.ipv4_mapped or address)


def _ipv4(text: str) -> str:
    """Parse numbers as inet_aton does: octal with a leading 0, hexadecimal with 0x; the last one fills the rest."""
    parts = text.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) and len(part) <= 12 for part in parts):
        raise ValueError("not an address")
    numbers = [_number(part) for part in parts]
    *first, last = numbers
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        raise ValueError("not an address")
    value = last + sum(number << 8 * (3 - index) for index, number in enumerate(first))
    return str(ipaddress.IPv4Address(value))


def _number(text: str) -> int:
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8) if len(text) > 1 and text.startswith("0") else int(text)
