"""Repositories of a Hugging Face hub: their ``hf://`` URIs, web addresses, and folders in a cache."""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

HOST = "huggingface.co"
HOSTS = frozenset({HOST, "hf.co", "www.huggingface.co", "www.hf.co", "hf-mirror.com"})
"""Hosts of Hugging Face's hub, and mirrors of it."""
KINDS = {"datasets": "dataset", "spaces": "Space", "buckets": "bucket", "collections": "collection", "papers": "paper"}
"""What a hub has besides models, by the first segment of its address."""
DEFAULT_REVISION = "main"
"""Of a repository."""
DOWNLOAD = "?download=true"
"""The query of the link that the hub's web site shows for a file."""

_API = (
    ("api", "resolve-cache", "models"), ("api", "resolve-cache", "datasets"), ("api", "models"), ("api", "datasets"),
    ("api", "spaces"), ("api", "buckets"), ("datasets",), ("spaces",), ("buckets",), ("v2",),
)  # fmt: skip
_VIEWS = frozenset({"resolve", "raw", "blob", "tree", "revision", "commit", "commits", "blame", "edit"})
"""Segments of an address before a revision."""
_CACHE_FOLDER = re.compile(r"models--([A-Za-z0-9._-]+)", re.ASCII)
_CACHE = "resolve-cache"
"""Behind it, the commit follows the name at once."""
_REVISION = re.compile(r"[A-Za-z0-9_./+-]{1,200}", re.ASCII)
_REFERENCE = re.compile(r"(?:refs/)?pr/[^/]+|refs/[a-z]+/[^/]+", re.ASCII)
"""A revision with slashes: huggingface_hub (`HfFileSystem.resolve_path`) takes a pull request's as a whole."""
_NAME_AND_VERSION = re.compile(r"[A-Za-z0-9][\w.-]*@[^:@]*", re.ASCII)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16}", re.ASCII)
_QUANTIZATION = re.compile(r"(?:UD-)?(?:I?Q[1-8](?:_[0-9A-Z_]+)?|TQ[12]_0|B?F16|F32|MXFP4)", re.ASCII | re.IGNORECASE)


def cache_folder(repository: str) -> str:
    """Return the name of a repository's folder in a cache. Source: huggingface_hub, "Understand caching"."""
    return f"models--{repository.replace('/', '--')}"


def repository_of(cache_folder: str) -> str | None:
    """Return the repository that has this folder in a cache; ``None`` for the name of another folder."""
    found = _CACHE_FOLDER.fullmatch(cache_folder)
    return None if found is None else found[1].replace("--", "/")


def is_version(rest: str) -> bool:
    """Return whether an ``@`` in ``rest``, what follows ``hf://``, can only begin a revision.

    It follows the name of a repository without an organisation, and not a user name or a token.
    """
    return "/" not in rest and _NAME_AND_VERSION.fullmatch(rest) is not None and not _TOKEN.match(rest)


def is_quantization(revision: str) -> bool:
    """Return whether Ollama and llama.cpp would take the text after a colon as a quantization."""
    return _QUANTIZATION.fullmatch(revision) is not None


def split(rest: str) -> tuple[str, str, str]:
    """Return owner or repository, the path behind it (encoded), and the revision (decoded) of what follows ``hf://``.

    The revision follows an ``@`` at the end, or an ``@`` (huggingface_hub) or a colon (KServe) behind the repository's
    name. In the latter case, it ends at the next slash. Raises ValueError with the reason.
    """
    owner, slash, path = rest.partition("/")
    if ":" in owner and slash:
        raise ValueError("it has a port")
    name = path.partition("/")[0] if slash else owner
    mark = ":" if ":" in name.partition("@")[0] else "@"
    before, found, behind = rest.partition(mark)
    if ":" in before:
        raise ValueError("a colon is in its path; write @ before a revision, and %3A for a colon in a name")
    if {":", "@"} & set(behind):
        raise ValueError(_MALFORMED)
    if not found:
        return owner, path, ""
    if not behind.strip("/"):
        raise ValueError(f"it names no revision behind the {mark}")
    reference = _REFERENCE.match(behind)
    revision = reference[0] if reference else behind.partition("/")[0]
    below = behind[len(revision) :]
    below = "" if below == "/" else below
    owner, slash, path = before.partition("/")
    if below and ("/" in path or not slash):
        raise ValueError("a slash in its revision is not encoded; write %2F")
    return owner, path + below, _decoded(revision)


_MALFORMED = "its revision is malformed"


def _decoded(revision: str) -> str:
    decoded = unquote(revision)
    segments = decoded.split("/")
    if not _REVISION.fullmatch(decoded) or not all(segments) or {".", ".."} & set(segments):
        raise ValueError(_MALFORMED)
    return decoded


def encoded(revision: str) -> str:
    """Return a revision as :func:`split` reads it."""
    return revision if _REFERENCE.fullmatch(revision) else quote(revision, safe="+")


class Page(NamedTuple):
    """What an address of a hub shows. ``kind``: if it is no model. ``path``: the repository's name and a path in it.

    ``is_file``: whether the address gives a file, and not a page about it.
    """

    owner: str = ""
    path: tuple[str, ...] = ()
    revision: str = ""
    kind: str = ""
    is_file: bool = False


def page(segments: tuple[str, ...]) -> Page:
    """Return what the decoded path of an address shows, at a hub or at its API."""
    kind = KINDS.get(segments[0], "") if segments else ""
    prefix = next((each for each in _API if segments[: len(each)] == each), ())
    rest = segments[len(prefix) :]
    if not rest:
        return Page(kind=kind)
    if _CACHE in prefix:
        return Page(rest[0], (*rest[1:2], *rest[3:]), "".join(rest[2:3]), kind)
    view = next((at for at in (2, 1) if rest[at : at + 1] and rest[at] in _VIEWS), 0)
    if not view:
        return Page(rest[0], rest[1:2], kind=kind)
    named = rest[view + 1 :]
    length = 3 if named[:1] == ("refs",) else 1
    inside = named[length:]
    is_file = rest[view] == "resolve" and bool(inside) and prefix[:1] != ("api",)
    # A repository without an organisation has no form with a path.
    return Page(rest[0], (rest[1], *inside) if view == 2 else (), "/".join(named[:length]), kind, is_file)
