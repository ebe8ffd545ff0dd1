"""Patterns that select files of a model: ``kubectl-serve.dev/files``, and the loader's ``--files``.

The semantics are those of ``allow_patterns`` and ``ignore_patterns`` of ``huggingface_hub`` (``filter_repo_objects``).
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

MAX_PATTERNS = 64
MAX_LENGTH = 512
"""Maximum characters of one pattern."""
ALL = "*"
"""Selects every file."""


@dataclass(frozen=True)
class FilePatterns:
    """A file is selected if one of ``included`` matches its path and none of ``excluded`` does.

    ``*`` matches any characters, also ``/``; ``?`` one character; ``[ab]`` one of these.
    """

    included: tuple[str, ...]
    """Empty: every file."""
    excluded: tuple[str, ...] = ()

    def select(self, path: str) -> bool:
        """Return whether the file at ``path``, relative to the model's folder, is selected."""
        return (not self.included or _any(path, self.included)) and not _any(path, self.excluded)

    def __str__(self) -> str:
        """The text that :func:`parse_patterns` reads as these patterns."""
        return " ".join((*self.included, *(f"!{pattern}" for pattern in self.excluded)))


def parse_patterns(text: str) -> FilePatterns:
    """Parse patterns with white space between them; ``!`` before a pattern excludes.

    The text becomes an argument of the loader, so it cannot begin with ``-``, or contain ``$``, which Kubernetes
    expands. Raises ValueError with the reason.
    """
    words = text.split()
    if not words:
        raise ValueError("it has no pattern")
    if len(words) > MAX_PATTERNS:
        raise ValueError(f"it has more than {MAX_PATTERNS} patterns")
    for word in words:
        if why := _fault(word.removeprefix("!")):
            raise ValueError(why)
    included = tuple(dict.fromkeys(word for word in words if not word.startswith("!")))
    excluded = tuple(dict.fromkeys(word[1:] for word in words if word.startswith("!")))
    return FilePatterns(included, excluded)


def _fault(pattern: str) -> str:
    """Return why this is not a pattern; empty if it is one."""
    shown = pattern if len(pattern) <= 64 and pattern.isprintable() else "a pattern"
    if not pattern or len(pattern) > MAX_LENGTH:
        return f"a pattern is {'empty' if not pattern else f'longer than {MAX_LENGTH} characters'}"
    if not pattern.isprintable():
        return "a pattern has an unprintable character"
    if "," in pattern:
        return "patterns are separated by spaces, not commas; ? stands for a comma in a name"
    for mark in ("$", "\\"):
        if mark in pattern:
            return f"{shown} has a {mark}; ? stands for any character"
    if pattern.startswith("-"):
        return f"{shown} begins with -; ? stands for any character"
    if pattern.startswith(("/", "./")) or ".." in pattern.split("/"):
        return f"{shown} is not relative to the model's folder"
    return ""


def _any(path: str, patterns: tuple[str, ...]) -> bool:
    # As in huggingface_hub, a pattern with / at its end is a folder with all that is below it.
    return any(fnmatchcase(path, f"{each}*" if each.endswith("/") else each) for each in patterns)
