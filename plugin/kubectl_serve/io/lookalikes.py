"""Annotations that were meant for us and are not ours: what they are on is passed over, which should not go unsaid."""

from collections.abc import Iterator

from serve_core.api.annotations import USER
from serve_core.base.constants import GROUP
from serve_core.base.json import JsonObject, value_at

_ALIKE = 0.75
"""How much of a prefix has to be ours, from 0 to 1."""


def meant_for_us(manifest: JsonObject) -> Iterator[tuple[str, str]]:
    """Each key of an object, or of its pods, that has one of our names, with the key that was meant."""
    names = {annotation.name for annotation in USER}
    places = (("metadata",), ("spec", "template", "metadata"))
    for keys in (value_at(manifest, *place, kind) for place in places for kind in ("annotations", "labels")):
        for key in keys if isinstance(keys, dict) else ():
            prefix, separator, name = str(key).rpartition("/")
            if name in names and separator and prefix != GROUP and _is_alike(prefix):
                yield key, f"{GROUP}/{name}"


def unprefixed(manifest: JsonObject) -> Iterator[tuple[str, str]]:
    """Each of our names without its prefix, with the key that was meant.

    Alone such a word is anybody's, but for ``model``: it counts beside that, or beside a key of ours.
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
