"""Where models come from, compared as parsed parts: a text's beginning says nothing about where it leads."""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote, urlsplit

_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*", re.ASCII)
_ADDRESS = re.compile(r"[0-9a-f:.]{2,45}", re.ASCII)
_TEXT = re.compile(r"[!-~]{1,2048}", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A model's place. ``host`` is the host, bucket, claim or organisation; ``port`` ``None`` where there is none."""

    scheme: str
    host: str
    port: int | None
    segments: tuple[str, ...]
    """The path's, percent-decoded."""

    def __str__(self) -> str:
        port = "" if self.port == _PORTS.get(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}/{'/'.join(self.segments)}".rstrip("/")


@dataclass(frozen=True)
class Place:
    """A set of places: a scheme, a host or ``*`` or ``*.example.com``, and the first segments of a path."""

    scheme: str
    host: str
    port: int | None
    segments: tuple[str, ...]

    def holds(self, source: Source) -> bool:
        return (
            source.scheme == self.scheme
            and source.port == self.port
            and _host_matches(source.host, self.host)
            and source.segments[: len(self.segments)] == self.segments
        )


def parse(text: str) -> Source:
    """Take a model's URI apart. Raises ValueError with a sentence that says why it cannot be compared safely.

    Stricter than the loader: what two programs may read differently is not compared at all.
    """
    scheme, host, port, segments = _parts(text)
    if not (_is_host(host) or (scheme, host) == ("file", "")):
        raise ValueError("its host is not a plain name or address")
    return Source(scheme, host, port, segments)


@lru_cache(maxsize=1024)
def parse_place(text: str) -> Place:
    """Read a place of a policy, such as ``s3://models/team-a`` or ``https://*.example.com``. Raises ValueError."""
    scheme, host, port, segments = _parts(text)
    plain = host.removeprefix("*.")
    if host != "*" and not (_is_host(plain) or (scheme, host) == ("file", "")):
        raise ValueError("its host is not a name, * or *.NAME")
    return Place(scheme, host, port, segments)


def _parts(text: str) -> tuple[str, str, int | None, tuple[str, ...]]:
    if not _TEXT.fullmatch(text):
        raise ValueError("it is empty, too long, or has white space, control characters or letters outside ASCII")
    scheme, separator, rest = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise ValueError("it does not begin with a scheme in lower case, such as s3://")
    if any(character in rest for character in "?#\\@") and not _pinned(scheme, rest):
        raise ValueError("it has a user name, a query, a fragment or a backslash")
    if "$(" in rest:
        raise ValueError("it has $(, which Kubernetes expands")
    try:
        parts = urlsplit(f"https://{rest}")
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        raise ValueError("its host or port is malformed") from None
    return scheme, host, _PORTS.get(scheme) if port is None else port, _segments(parts.path)


def _is_host(host: str) -> bool:
    return bool(_HOST.fullmatch(host) or (":" in host and _ADDRESS.fullmatch(host)))


def _segments(path: str) -> tuple[str, ...]:
    raw = path.removeprefix("/").removesuffix("/")
    segments = tuple(unquote(segment) for segment in raw.split("/")) if raw else ()
    if any(segment in ("", ".", "..") or "/" in segment or not segment.isprintable() for segment in segments):
        raise ValueError("its path has an empty, . or .. segment, or an encoded slash")
    if any("%" in segment for segment in segments):
        raise ValueError("its path is percent-encoded twice")
    return segments


def _pinned(scheme: str, rest: str) -> bool:
    """``oci://host/name@sha256:...`` and ``hf://org/name@revision`` have an @ that is no user name."""
    head, _, tail = rest.partition("@")
    return scheme in ("oci", "hf") and "/" in head and bool(re.fullmatch(r"[A-Za-z0-9:._-]+(/[A-Za-z0-9._/-]*)?", tail))


def _host_matches(host: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern


_REVISIONS = {
    "oci": re.compile(r".*@sha256:[0-9a-f]{64}"),
    "hf": re.compile(r".*[@:][0-9a-f]{40}(/.*)?"),
}


def is_immutable(text: str) -> bool:
    """Whether the URI itself names one version for ever: a digest in a registry, a commit in a hub."""
    pattern = _REVISIONS.get(text.partition("://")[0])
    return pattern is not None and pattern.fullmatch(text) is not None
