"""The names of a model's files: which are refused, and why."""

import unicodedata
from collections.abc import Iterable

from model_loader.outcomes import Code, LoadError

_SEGMENT_BYTES = 255
_PATH_BYTES = 4000


def below(folder: str, path: str) -> str:
    """Return where `path` is when it is put into `folder`; an empty one is the model's own."""
    return f"{folder}/{path}" if folder else path


def safe_path(name: str) -> str:
    """Return `name` as the relative path of a file inside the model. Raises LoadError(Refused) when it is unsafe.

    Unsafe: absolute, empty, `.` or `..` segments, backslash, control characters, over-long, not UTF-8.
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
    """Raise LoadError(Refused) when two names differ only by case or Unicode form, or one is the other's folder."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        folded = name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise _refused(name, f"is the same as {_shown(seen[folded])} where case or Unicode form does not count")
        seen[folded] = name
        while (folded := folded.rpartition("/")[0]) and folded not in folders:
            folders[folded] = name
    for folded, name in folders.items():
        if folded in seen:
            raise _refused(seen[folded], f"is a file and also the folder of {_shown(name)}")


def _shown(name: str) -> str:
    text = ascii(name)
    return text if len(text) <= 120 else text[:117] + "..."


def _refused(name: str, why: str) -> LoadError:
    return LoadError(
        Code.REFUSED, f"the file name {_shown(name)} {why}", hint="Rename the file in the store.", file=_shown(name)
    )
