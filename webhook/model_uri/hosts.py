"""Host names and addresses in one spelling: what resolves to the same is the same text."""

import ipaddress
import re

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII)
_STRICT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.ASCII)
_MAX_LENGTH = 253


def canonical(text: str) -> str:
    """Return a host as it is compared and connected to. Raises ValueError where it is none.

    Lower case, without the dot at the end; an IPv4 address as four decimal numbers, whichever way inet_aton would take
    it (`127.1`, `0x7f000001`, `2130706433`); an IPv6 address shortened and without its brackets, one that holds an IPv4
    address as that. Names of other alphabets are written in ASCII (`xn--`).
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
    """Return a canonical host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _ipv6(text: str) -> str:
    if "%" in text:
        raise ValueError("an address with a scope")
    address = ipaddress.IPv6Address(text)
    return str(address.ipv4_mapped or address)


def _ipv4(text: str) -> str:
    """Read numbers as inet_aton does: octal with a leading 0, hexadecimal with 0x, the last one fills what is left."""
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
