"""The path of ``mlflow://server/MODEL/VERSION``: a registered model's version or alias, or a logged model.

MLflow writes ``models:/MODEL/VERSION``, ``models:/MODEL@ALIAS`` and ``models:/m-ID``. Here an alias is a segment that
begins with ``@``, so that no path inside a model can be read as a version.
"""

import re

_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_ALIAS = re.compile(r"@[A-Za-z0-9_-]{1,255}", re.ASCII)
_LOGGED = re.compile(r"m-[0-9a-f]{32}", re.ASCII)
"""The ID of a logged model, which MLflow has since its version 3."""


def is_logged(segments: tuple[str, ...]) -> bool:
    """Return whether the path names a logged model."""
    return bool(segments) and _LOGGED.fullmatch(segments[0]) is not None


def split(segments: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the segments that name the model, and the path of a file or folder inside it."""
    length = 1 if is_logged(segments) else 2
    return segments[:length], segments[length:]


def with_alias(raw: str) -> str:
    """Return an encoded path with a slash before the alias."""
    name, slash, rest = raw.partition("/")
    return f"{name[:1]}{name[1:].replace('@', '/@', 1)}{slash}{rest}"


def with_slash(rest: str) -> str:
    """Return ``MODEL@ALIAS``, a text without a server, so that its @ is not taken for the end of a password."""
    name, at, alias = rest.partition("@")
    return f"{name}/@{alias}" if at and name and ":" not in name else rest


def joined(encoded: tuple[str, ...]) -> str:
    """Return the path for encoded segments."""
    alias = encoded[1:2] and encoded[1].startswith("%40")
    path = "".join(f"/{segment}" for segment in encoded)
    return path.replace("/%40", "@", 1) if alias and not encoded[0].startswith("%40") else path


def fault(authority: str, segments: tuple[str, ...]) -> str:
    """Return why a path names no model that can be loaded, and what to write; empty if it does."""
    if is_logged(segments):
        return ""
    name, *behind = segments or ("",)
    if name and not behind and (_VERSION.fullmatch(name) or _ALIAS.fullmatch(name)):
        version = name if name.startswith("@") else f"/{name}"
        return f"it names no tracking server; write mlflow://SERVER/{authority}{version}"
    forms = f"write mlflow://{authority}/MODEL/VERSION or mlflow://{authority}/MODEL@ALIAS"
    if name.startswith("@") or not name:
        return f"it names no model; {forms}"
    if name == "models" and len(behind) > 1:
        return f"models/ is not a part of the model's name; {forms}"
    if not behind:
        return f"it names no version of the model; {forms}"
    if not (_VERSION.fullmatch(behind[0]) or _ALIAS.fullmatch(behind[0])):
        return f"what follows the model's name is not a version or an alias, and stages are not supported; {forms}"
    return ""
