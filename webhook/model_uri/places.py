"""Places that policies allow and deny: sets of URIs, compared by their parsed parts."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from model_uri import naming
from model_uri.schemes import scheme_of
from model_uri.uri import DOCKER_HUB, ModelURI, URIError, is_short, parse

_PATTERN = re.compile(r"\*(?:\.([^:]+))?(:[0-9]+)?", re.ASCII)
_NEWEST = {"revision": "main", "tag": "latest"}
"""The default version, by field of the URI."""


@dataclass(frozen=True)
class Place:
    """A scheme, a host or ``*`` or ``*.example.com``, and the first segments of a path: all that is below.

    A revision, tag or digest limits it to that version.
    """

    uri: ModelURI
    """The host is the suffix of the pattern; empty for any."""
    wild: bool = False
    """Whether ``*`` is before the host."""

    def holds(self, uri: ModelURI) -> bool:
        """Return whether ``uri``, by this scheme and host, is in the place."""
        mine, other = self.uri.key, uri.key
        return self._is_of(mine, other) and other.encoded[: len(mine.encoded)] == mine.encoded

    def allows(self, uri: ModelURI) -> bool:
        """Return whether a rule that allows the place allows ``uri``: it is in the place, and from the place's owner.

        Anyone can open a pull request to a hub's model: the place must name it.
        """
        return self.holds(uri) and (not uri.is_proposal or self.uri.revision == uri.revision)

    def names(self, uri: ModelURI) -> bool:
        """Return whether ``uri``, by any alias, is in the place or around it: a denial is about the content."""
        return self.names_any(naming.names(uri))

    def names_any(self, names: Iterable[ModelURI]) -> bool:
        """:meth:`names` for the result of :func:`model_uri.naming.names`, to check many places."""
        return any(place._overlaps(name) for place in self._aliases for name in names)

    @property
    def specificity(self) -> tuple[bool, int, int]:
        """Greater for the narrower of two places that hold the same URI."""
        return not self.wild, len(self.uri.host), len(self.uri.segments)

    def _overlaps(self, name: ModelURI) -> bool:
        """Return whether an alias, in the form for comparison, is in the place, or the place is in it."""
        mine = self.uri.key
        if mine.scheme != name.scheme:
            return False
        common = min(len(mine.segments), len(name.segments))
        whole = common == len(mine.segments) or scheme_of(name.scheme).folders
        return whole and mine.composed[:common] == name.composed[:common] and self._is_of(mine, name)

    def _is_of(self, mine: ModelURI, other: ModelURI) -> bool:
        return (
            mine.scheme == other.scheme
            and mine.port == other.port
            and self._is_host(mine.host, other.host)
            and self._is_version(mine, other)
        )

    def _is_version(self, mine: ModelURI, other: ModelURI) -> bool:
        if not (mine.revision or mine.tag or mine.digest):
            return True
        if mine.digest or other.digest:
            return mine.digest == other.digest or bool(mine.tag and mine.tag == other.tag and not mine.digest)
        return all(getattr(mine, part) in ("", getattr(other, part) or newest) for part, newest in _NEWEST.items())

    def _is_host(self, mine: str, other: str) -> bool:
        if naming.ANY in (mine, other):
            return True
        if self.wild:
            return not mine or other.endswith(f".{mine}")
        return other == mine

    @cached_property
    def _aliases(self) -> tuple["Place", ...]:
        if self.wild:
            return (self,)
        found = naming.aliases(self.uri)
        if (self.uri.scheme, self.uri.host, len(self.uri.segments)) == ("oci", DOCKER_HUB, 1):
            found += (replace(self.uri, segments=("library", *self.uri.segments)),)
        # Denying an access point does not deny a bucket: the alias does not contain the bucket's name.
        return tuple(Place(each) for each in found if each.host != naming.ANY)


@lru_cache(maxsize=1024)
def parse_place(text: str) -> Place:
    """Parse a place, such as ``s3://models/team-a`` or ``https://*.example.com``. Raises URIError."""
    scheme, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    wild = authority.startswith("*")
    pattern = _PATTERN.fullmatch(authority)
    if wild and pattern is None:
        raise URIError("its host is not a name, * or *.NAME")
    host = f"{pattern[1] or 'any'}{pattern[2] or ''}" if pattern else authority
    path = path.removesuffix("/")
    if "*" in path:
        raise URIError("its path has a *, and a place contains all that is below it; write %2A for the character")
    if scheme == "oci" and is_short(authority):
        host, path = DOCKER_HUB, f"{authority}{slash}{path}".removesuffix("/")
    if scheme == "oci" and "/" not in path:
        # A registry, or the first segment of its repositories' names.
        uri = parse(f"{scheme}{separator}{host}/any/{path or 'any'}")
        uri = replace(uri, segments=uri.segments[1:] if path else ())
    else:
        uri = parse(f"{scheme}{separator}{host}{slash}{path}")
    if uri.subdirectory:
        raise URIError("a place contains a whole repository")
    if pattern and not pattern[1]:
        uri = replace(uri, host="")
    return Place(replace(uri, text=text), wild)
