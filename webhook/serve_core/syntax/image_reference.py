"""Container images, compared as registry, path, tag and digest.

Sources of the grammars: github.com/distribution/reference, ``reference.go`` and ``normalize.go``, for container
runtimes; go-containerregistry 0.20, ``pkg/name``, for Knative.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import model_uri
from model_uri import URIError

_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"sha256:[0-9a-f]{64}"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST_PART = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_REFERENCE = re.compile(
    rf"(?:({_DOMAIN})/)?({_PART}(?:/{_PART})*)(?::({_TAG}))?(?:@({_DIGEST}))?",
    re.ASCII,
)
_KNATIVE_REGISTRY = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]+)?", re.ASCII)
_KNATIVE_REPOSITORY = re.compile(r"[a-z0-9_./-]{2,255}")
_KNATIVE_TAG = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_LONGEST = 512
DEFAULT_REGISTRY = "docker.io"


@dataclass(frozen=True)
class Image:
    registry: str
    path: tuple[str, ...]
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        """Registry and path."""
        return "/".join((self.registry, *self.path))


def parse(text: str) -> Image:
    """Parse a reference as container runtimes do. Raises ValueError."""
    if len(text) > _LONGEST:  # what is cached is bounded
        raise ValueError("it is not an image reference")
    return _parse(text)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Image:
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ValueError("it is not an image reference")
    registry, path, tag, digest = match.groups()
    if registry is not None and not (
        "." in registry or ":" in registry or registry == "localhost" or registry.lower() != registry
    ):
        registry, path = None, f"{registry}/{path}"
    registry = _canonical(registry or DEFAULT_REGISTRY)
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    return Image(registry, tuple(path.split("/")), tag, digest)


def parse_or_none(text: object) -> Image | None:
    """Like :func:`parse`; ``None`` for anything that is not a reference."""
    try:
        return parse(str(text))
    except ValueError:
        return None


def repository(text: str) -> str:
    """Registry and path of an image, in any version; the text itself if it is not a reference."""
    parsed = parse_or_none(text)
    return text if parsed is None else parsed.repository


def is_readable_by_knative(reference: str) -> bool:
    """Whether Knative can parse a reference. Unlike container runtimes, it requires names of two characters."""
    name, at, digest = reference.partition("@")
    if at and not re.fullmatch(_DIGEST, digest):
        return False
    before, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        if not _KNATIVE_TAG.fullmatch(tag):
            return False
        name = before
    registry, slash, repository = name.partition("/")
    if not slash or not ("." in registry or ":" in registry):
        return bool(_KNATIVE_REPOSITORY.fullmatch(name))
    return bool(_KNATIVE_REGISTRY.fullmatch(registry) and _KNATIVE_REPOSITORY.fullmatch(repository))


@lru_cache(maxsize=1024)
def parse_repository(text: str) -> Image:
    """Parse the prefix of image names in a policy: a registry with or without a path. Raises ValueError."""
    registry, _, path = text.removesuffix("/").partition("/")
    if not re.fullmatch(_DOMAIN, registry) or not ("." in registry or ":" in registry or registry == "localhost"):
        raise ValueError("it does not begin with a registry, such as docker.io or ghcr.io")
    if path and not re.fullmatch(rf"{_PART}(?:/{_PART})*", path):
        raise ValueError("its path is not one of an image; leave the tag and the digest out")
    return Image(_canonical(registry), tuple(path.split("/")) if path else ())


def _canonical(registry: str) -> str:
    """The canonical spelling of a registry with its port, address or aliases. Raises ValueError."""
    try:
        return model_uri.parse(f"oci://{registry}/any/any").authority
    except URIError:
        raise ValueError("its registry is not a host name") from None


def is_below(image: Image, repository: Image) -> bool:
    """Whether the image is in this registry, and its path begins with whole segments of this path."""
    return image.registry == repository.registry and image.path[: len(repository.path)] == repository.path
