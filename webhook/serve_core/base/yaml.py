"""Untrusted YAML: the safe loader, with a limit on the number of values that aliases expand to.

A few lines of aliases to aliases ("billion laughs") are a small file, and take endless time to walk through.
"""

from typing import Any

import yaml

from serve_core.base.json import JsonObject

MAX_ALIASED = 100_000
"""Values that all aliases of a text can expand to; a Deployment with all fields has a thousand."""


def load(text: str | bytes) -> object:
    """The one document of ``text``. Raises ``yaml.YAMLError``, ValueError or RecursionError."""
    check_aliases(text)
    return yaml.safe_load(text)


def load_object(text: str) -> JsonObject | None:
    """The one document of ``text``; ``None`` if it is invalid or not an object."""
    try:
        found = load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def check_aliases(text: str | bytes) -> None:
    """Raise ``yaml.YAMLError`` if aliases expand to too many values, or contain themselves.

    This runs before the document is built, because merge keys (``<<``) expand while it is built.
    """
    if isinstance(text, bytes):
        text = text.decode()
    if "&" not in text or "*" not in text:
        return
    sizes: dict[str | None, int] = {}
    within: list[tuple[str | None, int]] = []
    seen = aliased = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in within):
                raise _fault(event, "an alias refers to itself")
            size = sizes.get(event.anchor, 0)
            seen, aliased = seen + size, aliased + size
            if aliased > MAX_ALIASED:
                raise _fault(event, f"its aliases expand to more than {MAX_ALIASED:,} values")
        elif isinstance(event, yaml.CollectionStartEvent):
            within.append((event.anchor, seen))
            seen += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = within.pop()
            sizes[anchor] = seen - before
        elif isinstance(event, yaml.ScalarEvent):
            seen += 1
            sizes[event.anchor] = 1


def _fault(event: Any, problem: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
