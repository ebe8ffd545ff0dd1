"""Model URIs, parsed once and compared by their parts."""

import re
from dataclasses import dataclass

import model_uri
from model_uri import ModelURI, SecretError, URIError
from serve_core.base.reasons import Diagnostic, diagnostic, meant, quote

SCHEMES = {scheme.name: scheme.example for scheme in model_uri.SCHEMES.values() if scheme.example}
"""Scheme to an example URI."""

SUFFIX_FORMATS = {
    ".joblib": "sklearn",
    ".pkl": "sklearn",
    ".pickle": "sklearn",
    ".ubj": "xgboost",
    ".bst": "xgboost",
    ".onnx": "onnx",
    ".gguf": "gguf",
    ".safetensors": "huggingface",
}
"""File name suffix to the model format."""

_BLANK = " \t\r\n"
_SPACE = re.compile(f"[{_BLANK}]+")
_FOLDER = re.compile(r"[A-Za-z0-9._-]{1,255}\Z", re.ASCII)
MAX_MODELS = 16
"""Maximum number of models of one Deployment."""


@dataclass(frozen=True)
class Placed:
    """A model's URI, and its folder below the model directory; empty for the directory itself."""

    uri: ModelURI
    folder: str

    @property
    def argument(self) -> str:
        """The loader's argument, if there are several models."""
        return f"{self.uri.text}={self.folder or '.'}"


def file_name(uri: ModelURI) -> str | None:
    """The name of the file at the URI, if its suffix is that of a model file."""
    if uri.scheme in ("hf", "oci") or not uri.segments or uri.folder:
        return None  # a whole repository or artifact, whatever its name ends in
    name = uri.segments[-1]
    return name if any(name.endswith(suffix) and name != suffix for suffix in SUFFIX_FORMATS) else None


def split(text: str) -> tuple[tuple[str, str], ...]:
    """The URIs in the annotation, each with its folder.

    A single URI is taken as it is. Of several, separated by white space, each can end in ``=FOLDER``. If there are too
    many, the last contains the rest.
    """
    words = _SPACE.split(text.strip(_BLANK), maxsplit=MAX_MODELS)
    if len(words) == 1:
        return ((words[0], ""),)
    parts = (word.rpartition("=") for word in words)
    return tuple((uri, "" if folder == "." else folder) if equals else (folder, "") for uri, equals, folder in parts)


def parse_all(text: str, path: str) -> tuple[tuple[Placed, ...], tuple[Diagnostic, ...]]:
    """Parse the annotation at ``path``; return the models and all problems."""
    parts = split(text)
    if len(parts) > MAX_MODELS:
        why = f"it has more than {MAX_MODELS} URIs"
        return (), (diagnostic("InvalidModelURI", path, value="this list of URIs", why=why, example=SCHEMES["s3"]),)
    found: list[Placed] = []
    problems: list[Diagnostic] = []
    for uri, folder in parts:
        parsed = parse(uri, path)
        if isinstance(parsed, Diagnostic):
            problems.append(parsed)
        elif folder and not _is_folder(folder):
            why = "the text after = is not a folder: a path of letters, digits, dots, underscores and hyphens"
            example = f"{SCHEMES['s3']}=adapters/one"
            problems.append(diagnostic("InvalidModelURI", path, value=quote(f"{uri}=…"), why=why, example=example))
        elif parsed.scheme == "pvc" and len(parts) > 1:
            why = "a PersistentVolumeClaim is mounted as it is, and cannot be one of several models"
            problems.append(_invalid(uri, path, "pvc", why))
        else:
            found.append(Placed(parsed, folder))
    return tuple(found), tuple(problems)


def _is_folder(text: str) -> bool:
    segments = text.split("/")
    return all(_FOLDER.match(segment) for segment in segments) and "." not in segments and ".." not in segments


def parse(text: str, path: str) -> ModelURI | Diagnostic:
    """Parse the model URI at ``path``.

    Messages never repeat what can be a secret. ``..``, control characters and Kubernetes' ``$(NAME)`` expansion are
    refused, because the URI becomes an argument of the loader.
    """
    if len(text) > model_uri.MAX_LENGTH:
        # The message does not repeat it: a cut could leave half of a secret.
        value, why = "this text", f"it is longer than {model_uri.MAX_LENGTH} characters"
        return diagnostic("InvalidModelURI", path, value=value, why=why, example=SCHEMES["s3"])
    scheme, separator, _ = text.partition("://")
    if not separator:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        return diagnostic(
            "InvalidModelURI",
            path,
            value=quote(_redacted(text)),
            why=f"it has no scheme ({allowed})",
            example=SCHEMES["s3"],
        )
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        near = meant(scheme, SCHEMES)
        return diagnostic("UnknownScheme", path, scheme=quote(_redacted(scheme) + "://"), allowed=allowed, meant=near)
    try:
        return model_uri.parse_model(text)
    except SecretError as error:
        return diagnostic("SecretInURI", path, what=error.what)
    except URIError as error:
        return _invalid(text, path, scheme, str(error))


def _redacted(text: str) -> str:
    segments = text.split("?", 1)[0].split("/")
    return "/".join(f"…@{segment.rpartition('@')[2]}" if "@" in segment else segment for segment in segments)


def _invalid(text: str, path: str, scheme: str, why: str) -> Diagnostic:
    return diagnostic("InvalidModelURI", path, value=quote(_redacted(text)), why=why, example=SCHEMES[scheme])
