"""Annotations that look like those of kubectl-serve. Their objects are ignored, so the user should know."""

from collections.abc import Iterator

from serve_core.api.annotations import USER
from serve_core.base.constants import GROUP
from serve_core.base.json import JsonObject, value_at

_ALIKE = 0.75
"""Minimum similarity of a prefix, from 0 to 1."""


def meant_for_us(manifest: JsonObject) -> Iterator[tuple[str, str]]:
    """Each key of an object or of its pods that has a similar prefix and a known name, with the right key."""
    names = {annotation.name for annotation in USER}
    places = (("metadata",), ("spec", "template", "metadata"))
    for keys in (value_at(manifest, *place, kind) for place in places for kind in ("annotations", "labels")):
        for key in keys if isinstance(keys, dict) else ():
            prefix, separator, name = str(key).rpartition("/")
            if name in names and separator and prefix != GROUP and _is_alike(prefix):
                yield key, f"{GROUP}/{name}"


def unprefixed(manifest: JsonObject) -> Iterator[tuple[str, str]]:
    """Each known name without a prefix, with the right key.

    Other tools use such words as well, except ``model``: a word counts beside that, or beside a key of kubectl-serve.
    """
    notes = value_at(manifest, "metadata", "annotations")
    keys = [str(key) for key in notes] if isinstance(notes, dict) else []
    if "model" in keys or any(key.startswith(f"{GROUP}/") for key in keys):
        names = {annotation.name for annotation in USER}
        yield from ((key, f"{GROUP}/{key}") for key in keys if key in names)


def _is_alike(prefix: str) -> bool:
    import difflib

    text = prefix.lower()
    return "kubectl-serve" in text or difflib.SequenceMatcher(None, text, GROUP).ratio() >= _ALIKE
