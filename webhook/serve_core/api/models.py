"""Model URIs, parsed once and compared by their parts."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote as percent_encoded

import model_uri
from model_uri import ModelURI, SecretError, URIError, hub, without_secrets
from model_uri.naming import folder_advice, in_store_scheme
from model_uri.schemes import scheme_of
from serve_core.base.reasons import Diagnostic, diagnostic, meant, quote

SCHEMES = {scheme.name: scheme.example for scheme in model_uri.SCHEMES.values() if scheme.example}
"""Scheme to an example URI."""

_TO_S3 = f"{SCHEMES['s3']}, with AWS_ENDPOINT_URL in the Secret"
_TO_AZURE = f"{SCHEMES['az']}, with AZURE_STORAGE_ACCOUNT in the Secret"
_OTHER_NAMES = {
    **dict.fromkeys(("s3a", "s3n"), SCHEMES["s3"]),
    **dict.fromkeys(("b2", "ceph", "cos", "cosn", "minio", "obs", "oss", "r2"), _TO_S3),
    **dict.fromkeys(("gcs", "gcp"), SCHEMES["gs"]),
    **dict.fromkeys(("abfs", "abfss", "adl", "azure", "wasb", "wasbs"), _TO_AZURE),
    **dict.fromkeys(("hub", "huggingface"), SCHEMES["hf"]),
    **dict.fromkeys(("docker", "image", "oras"), SCHEMES["oci"]),
    **dict.fromkeys(("file", "hostpath", "nfs"), SCHEMES["pvc"]),
}
"""What to write instead of the schemes of other tools for the same stores."""

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
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
"""A repository of a hub as its web site shows it."""
_FOLDER = re.compile(r"[A-Za-z0-9._-]{1,255}\Z", re.ASCII)
_TOP, _BELOW = ".", "./"
"""The folder of a model that is the model directory itself, and what can begin every other folder."""
_PRINTED = " !$%&'()*+,/:;=[]~"
"""Characters of a list of URIs that need no encoding, besides letters and digits."""
_REPOSITORY_SLASHES = "hf://organisation/model".count("/")
_COLUMNS = frozenset({
    "date", "datetime", "day", "ds", "dt", "env", "environment", "epoch", "hour", "month", "part", "partition",
    "region", "run", "run_id", "stage", "step", "time", "timestamp", "ts", "ver", "version", "week", "year",
})  # fmt: skip
"""Usual names of partitions, as in ``date=2026-01-01/``: Apache Hive's layout, which data lakes use."""
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
    path = uri.inside if scheme_of(uri.scheme).named else uri.segments
    if not path or uri.folder:
        return None  # a whole repository or artifact, whatever its name ends in
    name = path[-1]
    return name if has_file_suffix(name) else None


def has_file_suffix(name: str) -> bool:
    """Whether the name of a file, or the last one of a path, ends as that of a model file."""
    name = name.rpartition("/")[2]
    return any(name.endswith(suffix) and name != suffix for suffix in SUFFIX_FORMATS)


def split(text: str) -> tuple[tuple[str, str], ...]:
    """The URIs in the annotation, each with its folder.

    A single URI is taken as it is. Of several, separated by white space, each can end in ``=FOLDER``: the text after
    the last ``=``. If there are too many, the last contains the rest.
    """
    words = _words(text)
    if len(words) == 1:
        return ((words[0], ""),)
    parts = (word.rpartition("=") for word in words)
    return tuple(
        (uri, "" if folder == _TOP else folder.removeprefix(_BELOW)) if equals else (folder, "")
        for uri, equals, folder in parts
    )


def join(parts: Iterable[tuple[str, str]]) -> str:
    """The annotation that :func:`split` reads as these URIs, each with its folder.

    A single URI cannot have a folder. Raises ValueError if it has one.
    """
    given = list(parts)
    if len(given) == 1:
        if given[0][1]:
            raise ValueError("a single model has no folder")
        return given[0][0]
    words = []
    for uri, folder in given:
        word = f"{uri}={folder or _TOP}" if folder or "=" in uri else uri
        words.append(f"{uri}={_BELOW}{folder}" if ambiguity(word) else word)
    return " ".join(words)


def ambiguity(word: str) -> str:
    """Why the last ``=`` of one of several URIs can be a part of its path; empty if it surely begins the folder."""
    uri, equals, folder = word.rpartition("=")
    before, _, name = uri.rpartition("/")
    if "?" in name and "=" not in name:
        return "its = can belong to the query or begin the folder; end the URI with =FOLDER, or with =. for none"
    if not equals or folder == _TOP or folder.startswith(_BELOW) or "=" in name:
        return ""
    # The name of an artifact, of a hub's repository or of a revision has no =.
    if uri.startswith("oci://") or (uri.startswith("hf://") and (uri.count("/") <= _REPOSITORY_SLASHES or "@" in name)):
        return ""
    is_next = "=" in before and name.isidentifier() and name != folder.rpartition("/")[2]
    if not (folder[:1].isdigit() or name.lower() in _COLUMNS or is_next):
        return ""
    whole = word.replace("=", "%3D")
    return f"its last = can belong to the path or begin the folder; write {whole} or {uri}={_BELOW}{folder}"


def unclear(text: str) -> str:
    """Why the annotation cannot be split into URIs and folders; empty if it can."""
    words = _words(text)
    return "" if len(words) == 1 else next(filter(None, (_without_scheme(words), *map(ambiguity, words))), "")


def _words(text: str) -> list[str]:
    return _SPACE.split(text.strip(_BLANK), maxsplit=MAX_MODELS)


def parse_all(text: str, path: str, *, rendered: bool = False) -> tuple[tuple[Placed, ...], tuple[Diagnostic, ...]]:
    """Parse the annotation at ``path``; return the models and all problems.

    ``rendered``: the text is from :attr:`Placed.argument`, where each of several URIs has a folder.
    """
    words, parts = _words(text), split(text)
    if len(parts) > MAX_MODELS:
        why = f"it has more than {MAX_MODELS} URIs"
        return (), (diagnostic("InvalidModelURI", path, value="this list of URIs", why=why, example=SCHEMES["s3"]),)
    found: list[Placed] = []
    problems: list[Diagnostic] = []
    spaced = _without_scheme(words)
    if spaced:
        problems.append(_invalid(next(word for word in words if "://" not in word), path, "s3", spaced))
    for word, (uri, folder) in zip(words, parts, strict=True):
        if spaced and "://" not in word:
            continue
        parsed = parse(uri, path)
        doubt = "" if rendered or len(parts) == 1 or isinstance(parsed, Diagnostic) else ambiguity(word)
        if isinstance(parsed, Diagnostic):
            problems.append(parsed)
        elif doubt:
            problems.append(_invalid(word, path, parsed.scheme, doubt))
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


def _without_scheme(words: Sequence[str]) -> str:
    """Why the white space before a word without a scheme separates no URIs; empty if every word has one."""
    if "://" not in words[0] or all("://" in word for word in words):
        return ""
    if any(set("@?") & set(word) for word in words):  # possible secrets
        return "it has no scheme, and a space in a name must be written as %20"
    joined = words[0] + "".join((" " if "://" in word else "%20") + word for word in words[1:])
    return f"it has no scheme; for a space in a name, write {percent_encoded(joined, safe=_PRINTED)}"


def canonical(text: str) -> str:
    """The annotation with each URI in its canonical form, for display; unchanged if it cannot be read."""
    found, problems = parse_all(text, "")
    if problems or not found:
        return " ".join(_words(text))
    return join((str(model.uri), model.folder) for model in found)


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
            value=quote(without_secrets(text)),
            why=f"it has no scheme ({allowed})",
            example=_example(text),
        )
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        other = _OTHER_NAMES.get(scheme.lower())
        near = f"Did you mean {other}? " if other else meant(scheme, SCHEMES)
        shown = quote(without_secrets(f"{scheme}://"))
        return diagnostic("UnknownScheme", path, scheme=shown, allowed=allowed, meant=near)
    try:
        return model_uri.parse_model(text)
    except SecretError as error:
        return diagnostic("SecretInURI", path, what=f"{error.what}{_store_of_signed(text)}")
    except URIError as error:
        return _invalid(text, path, error.scheme or scheme, f"{error}{folder_advice(text)}")


def _example(text: str) -> str:
    """What to write instead of a text without a scheme."""
    if text.partition("/")[0] in hub.HOSTS:
        return SCHEMES["hf"]
    if _REPOSITORY.fullmatch(text):
        return f"hf://{text}"
    if text.startswith("models:/"):
        return SCHEMES["mlflow"]
    return SCHEMES["pvc" if text.startswith("/") else "s3"]


def _store_of_signed(text: str) -> str:
    """The end of a sentence about a signed web address: what to write for the same object with a key of its store."""
    address = text.partition("?")[0]
    try:
        instead = in_store_scheme(model_uri.parse(address)) if address.startswith(("http://", "https://")) else ""
    except URIError:
        return ""
    return f"; write {instead}" if instead else ""


def _invalid(text: str, path: str, scheme: str, why: str) -> Diagnostic:
    example = SCHEMES.get(scheme, SCHEMES["s3"])
    return diagnostic("InvalidModelURI", path, value=quote(without_secrets(text)), why=why, example=example)
