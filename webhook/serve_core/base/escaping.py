"""Untrusted text for a terminal: invisible characters become escapes.

ESC and the C1 controls are commands to a terminal, direction marks reverse a line, and half of a surrogate pair cannot
be encoded.
"""

import unicodedata
from collections.abc import Callable

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, formats, half pairs, and separators of lines and paragraphs."""
_JOINERS = "\u200c\u200d"
"""Used in Persian words and in emoji."""


class _Table(dict[int, str]):
    """A table for ``str.translate`` that computes each entry on first use."""

    def __init__(self, kept: str, escape: Callable[[str], str]) -> None:
        super().__init__({ord(character): character for character in kept + _JOINERS})
        self._escape = escape

    def __missing__(self, code: int) -> str:
        character = chr(code)
        text = self._escape(character) if unicodedata.category(character) in _INVISIBLE else character
        if len(self) < 0x2000:
            self[code] = text
        return text


def _python(character: str) -> str:
    return ascii(character)[1:-1]


def _json(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\u{0xD800 + (code - 0x10000 >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _yaml(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_LINES = _Table("\n\t", _python)
_INLINE = _Table("", _python)
_IN_JSON = _Table("\n", _json)
_IN_YAML = _Table("\n", _yaml)


def visible(text: str) -> str:
    """``text`` for a screen; line breaks and tabs stay."""
    return text if text.isprintable() else text.translate(_LINES)


def inline(text: str) -> str:
    """``text`` for one line; line breaks become escapes too."""
    return text if text.isprintable() else text.translate(_INLINE)


def is_visible(text: str) -> bool:
    """Whether :func:`visible` does not change the text."""
    return text.isprintable() or text.translate(_LINES) == text


def in_json(document: str) -> str:
    """An equal JSON document, with JSON's escapes."""
    return document if document.isprintable() else document.translate(_IN_JSON)


def in_yaml(document: str) -> str:
    """An equal YAML document; invisible characters must occur only in double-quoted strings."""
    return document if document.isprintable() else document.translate(_IN_YAML)
