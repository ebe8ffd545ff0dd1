"""Model URIs, taken apart once and compared as parts ever after."""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from serve_core.reasons import Problem, problem, quote

SCHEMES = {
    "http": "http://host/path/model.joblib",
    "https": "https://host/path/model.joblib",
    "s3": "s3://bucket/path",
    "gs": "gs://bucket/path",
    "az": "az://container/path",
    "hf": "hf://organisation/model@revision",
    "oci": "oci://registry/repository:tag",
    "pvc": "pvc://claim/path",
}
"""Scheme to an example of it."""

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
"""What a model's file name says of its format."""

_LONGEST = 2048
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")
_IPV6 = re.compile(r"[0-9a-f:.]{2,45}\Z")
# Scheme to what stands behind it, and its rule.
_STORES = {
    "s3": ("a bucket's name", re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")),
    "gs": ("a bucket's name", re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]\Z")),
    "az": ("a container's name", re.compile(r"(\$root|[a-z0-9](?!.*--)[a-z0-9-]{1,61}[a-z0-9])\Z")),
    "hf": ("an organisation's name", re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}\Z")),
    "pvc": ("a claim's name", _HOST),
}
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,96}(@[A-Za-z0-9_./-]{1,200})?\Z")
_ARTIFACT = re.compile(r"/[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?\Z")
_BEHIND = {"s3": "bucket", "gs": "bucket", "az": "container", "hf": "organisation", "oci": "registry", "pvc": "claim"}
_PATH_TEXT = re.compile(r"[!-~]*\Z")
_BLANK = " \t\r\n"
_SPACE = re.compile(f"[{_BLANK}]+")
_FOLDER = re.compile(r"[A-Za-z0-9._-]{1,255}\Z", re.ASCII)
_MOST = 16
"""Models of one Deployment."""


@dataclass(frozen=True)
class ModelURI:
    text: str
    scheme: str
    host: str
    """The host, bucket, container, organisation, registry or claim."""
    port: int | None
    path: str
    """The path in it, without the leading slash; not percent-decoded."""

    @property
    def file_name(self) -> str | None:
        """The name of the one file that the URI points to, if its suffix says that it is one."""
        if self.scheme in ("hf", "oci"):
            return None  # a whole repository or artifact, whatever its name ends in
        name = unquote(self.path.rsplit("/", 1)[-1])
        return name if any(name.endswith(suffix) and name != suffix for suffix in SUFFIX_FORMATS) else None


@dataclass(frozen=True)
class Placed:
    """A model's URI, and the folder of the whole that it fills; empty where it fills the whole."""

    uri: ModelURI
    folder: str

    @property
    def argument(self) -> str:
        """How the loader is told, where there are several."""
        return f"{self.uri.text}={self.folder or '.'}"


def split(text: str) -> tuple[tuple[str, str], ...]:
    """The URIs that the annotation names, and what each has for a folder.

    One URI is taken as it is. Of several, divided by white space, each may end in ``=FOLDER``.
    """
    words = _SPACE.split(text.strip(_BLANK))
    if len(words) == 1:
        return ((words[0], ""),)
    parts = (word.rpartition("=") for word in words)
    return tuple((uri, "" if folder == "." else folder) if equals else (folder, "") for uri, equals, folder in parts)


def parse_all(text: str, path: str) -> tuple[tuple[Placed, ...], tuple[Problem, ...]]:
    """Take apart what the annotation names; all faults come at once. ``path`` is where it stands."""
    parts = split(text)
    found: list[Placed] = []
    problems: list[Problem] = []
    for uri, folder in parts:
        parsed = parse(uri, path)
        if isinstance(parsed, Problem):
            problems.append(parsed)
        elif folder and not _is_folder(folder):
            why = "what follows the = is no folder, a path of letters, digits, dots, underscores and hyphens"
            example = f"{SCHEMES['s3']}=adapters/one"
            problems.append(problem("InvalidModelURI", path, value=quote(f"{uri}=…"), why=why, example=example))
        elif parsed.scheme == "pvc" and len(parts) > 1:
            why = "a claim is mounted as it is, and cannot be one of several models"
            problems.append(_invalid(uri, path, "pvc", why))
        else:
            found.append(Placed(parsed, folder))
    if len(parts) > _MOST:
        why = f"they are more than {_MOST}"
        value = f"a list of {len(parts)} URIs"
        problems.append(problem("InvalidModelURI", path, value=value, why=why, example=SCHEMES["s3"]))
    return tuple(found), tuple(problems)


def _is_folder(text: str) -> bool:
    segments = text.split("/")
    return all(_FOLDER.match(segment) for segment in segments) and "." not in segments and ".." not in segments


def parse(text: str, path: str) -> ModelURI | Problem:
    """Take a model URI apart. ``path`` is where it stands, for the message.

    Never repeats what may be a secret. ``..``, control characters and Kubernetes' ``$(NAME)`` expansion are refused:
    the URI becomes an argument of the loader.
    """
    scheme, separator, _ = text.partition("://")
    if not separator:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        return problem(
            "InvalidModelURI",
            path,
            value=quote(_redacted(text)),
            why=f"it has no scheme ({allowed})",
            example=SCHEMES["s3"],
        )
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        return problem("UnknownScheme", path, scheme=quote(_redacted(scheme) + "://"), allowed=allowed)
    secret = _secret(text)
    if secret:
        return problem("SecretInURI", path, what=secret)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return _invalid(text, path, scheme, "its host or port is malformed")
    why = _fault(text, parts, host, port)
    if why:
        return _invalid(text, path, scheme, why)
    # Host names know no upper case, names of a hub's organisations do.
    return ModelURI(text, scheme, parts.netloc if scheme == "hf" else host, port, parts.path.lstrip("/"))


def _fault(text: str, parts: SplitResult, host: str, port: int | None) -> str:
    """The first rule that the URI breaks, or nothing."""
    segments = unquote(parts.path).split("/")
    rules = (
        (len(text) > _LONGEST, f"it is longer than {_LONGEST} characters"),
        (
            not _PATH_TEXT.match(text),
            "it has white space, control characters or letters outside ASCII; percent-encode them",
        ),
        ("$(" in text, "it contains $("),
        ("#" in text, "it has a fragment"),
        ("\\" in text, "it has a backslash"),
        (not host, "it names no " + _BEHIND.get(parts.scheme, "host")),
        (".." in segments or "." in segments, "its path has . or .. segments"),
    )
    for broken, why in rules:
        if broken:
            return why
    if parts.scheme == "oci":
        return _registry_fault(parts, host)
    return _web_fault(parts, host) if parts.scheme in ("http", "https") else _store_fault(parts, port)


def _web_fault(parts: SplitResult, host: str) -> str:
    if not (_HOST.match(host) or (parts.netloc.startswith("[") and _IPV6.match(host))):
        return f"{quote(host)} is not a host name or an address"
    return "it names no file" if parts.path in ("", "/") else ""


def _store_fault(parts: SplitResult, port: int | None) -> str:
    what, pattern = _STORES[parts.scheme]
    if port is not None or parts.netloc.endswith(":"):
        return "it has a port"
    if not pattern.match(parts.netloc):
        return f"{quote(parts.netloc)} is not {what}"
    if parts.scheme == "hf" and not _REPOSITORY.match(parts.path.strip("/")):
        return "it names no model of the organisation"
    return ""


def _registry_fault(parts: SplitResult, host: str) -> str:
    if not _HOST.match(host):
        return f"{quote(host)} is not a registry's host name"
    return "" if _ARTIFACT.match(parts.path) else "it names no artifact as repository:tag or repository@sha256:…"


def _secret(text: str) -> str:
    rest = text.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return "a user name or password"
    if "?" in rest:
        return "a query, as signed URLs have"
    return ""


def _redacted(text: str) -> str:
    return re.sub(r"[^/@]*@", "…@", text.split("?", 1)[0])


def _invalid(text: str, path: str, scheme: str, why: str) -> Problem:
    return problem("InvalidModelURI", path, value=quote(text), why=why, example=SCHEMES[scheme])
