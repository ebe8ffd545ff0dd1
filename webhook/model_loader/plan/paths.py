"""The names of a model's files: which ones the loader refuses, and why."""

import itertools
from collections.abc import Iterable

from model_loader.outcomes import Code, LoadError

_SEGMENT_BYTES = 255
_PATH_BYTES = 4000


def below(folder: str, path: str) -> str:
    """Return the location of `path` inside `folder`; an empty `folder` is the model's own."""
    return f"{folder}/{path}" if folder else path


def safe_path(name: str) -> str:
    """Return `name` as the relative path of a file inside the model. Raises LoadError(Refused) if it is unsafe.

    Unsafe: absolute, empty, `.` or `..` segments, backslashes, control characters, too long, not UTF-8.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise _refused(name, "is not UTF-8") from None
    segments = name.split("/")
    if name.startswith("/"):
        raise _refused(name, "is absolute")
    if any(segment in ("", ".", "..") for segment in segments):
        raise _refused(name, "has an empty, '.' or '..' segment")
    if "\\" in name:
        raise _refused(name, "has a backslash")
    if not name.isprintable():
        raise _refused(name, "has an unprintable character")
    if len(encoded) > _PATH_BYTES or any(len(segment.encode()) > _SEGMENT_BYTES for segment in segments):
        raise _refused(name, "is too long")
    return name


def check_clashes(names: Iterable[str]) -> None:
    """Raise LoadError(Refused) if two names differ only by case or Unicode form, or one is the other's folder."""
    given = list(names)
    # Sorted, so that the content of a folder follows directly after a file with the folder's name.
    keys = sorted(map(_folded, given))
    for before, after in itertools.pairwise(keys):
        if after.startswith(before) and after[len(before) :][:1] in ("", "\0"):
            file, name = sorted((name for name in given if _folded(name) in (before, after)), key=_folded)[:2]
            if after == before:
                raise _refused(name, f"differs from {_shown(file)} only by case or Unicode form")
            raise _refused(file, f"is a file and also the folder of {_shown(name)}")


def _folded(name: str) -> str:
    if name.isascii():
        return name.lower().replace("/", "\0")
    import unicodedata  # noqa: PLC0415  # start-up time that ASCII names save

    return unicodedata.normalize("NFC", name).casefold().replace("/", "\0")


def _shown(name: str) -> str:
    text = ascii(name)
    return text if len(text) <= 120 else text[:117] + "..."


def _refused(name: str, why: str) -> LoadError:
    return LoadError(
        Code.REFUSED, f"the file name {_shown(name)} {why}", hint="Rename the file in the store.", file=_shown(name)
    )
