"""The parser of model URIs.

Admission, policies and the loader use :func:`parse`: the loader fetches exactly what a policy allowed. A path is
percent-decoded once, and :meth:`ModelURI.__str__` encodes it again. Every pattern here is linear, and the length is
checked first.
"""

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from urllib.parse import quote, unquote, unquote_to_bytes

from model_uri import hosts, hub, registered_models
from model_uri.schemes import scheme_of

MAX_LENGTH = 2048
"""Maximum characters of a URI."""
WEB = ("http", "https")
GIT = "git+https"

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}", re.ASCII)
_TEXT = re.compile(r"[!-~]*", re.ASCII)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?", re.ASCII)
_STORE = re.compile(r"[A-Za-z0-9$_.-]{1,253}", re.ASCII)
_REPOSITORY_PART = re.compile(r"[a-z0-9]+(?:(?:[.]|__?|-+)[a-z0-9]+)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9_.-]{1,96}", re.ASCII)
_PROPOSAL = re.compile(r"(refs/)?pr/.*", re.ASCII | re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_OF_GIT = re.compile(r"(?![/.-])[A-Za-z0-9_./+-]{1,200}", re.ASCII)
"""A branch, a tag or a commit."""
SUBDIRECTORY = "#subdirectory="
"""What begins the path of a folder or file in a git repository, as for pip."""
_VIEWS_OF_GIT = frozenset({"-", "blob", "raw", "src", "tree"})
"""What follows a repository's name in the address of a web page about a file or folder."""
DOCKER_HUB = "docker.io"
DOCKER_HUBS = (DOCKER_HUB, "registry-1.docker.io", "index.docker.io", "registry.hub.docker.com")
"""Hosts of Docker Hub's registry."""
_OFFICIAL = re.compile(
    rf"(?!localhost(?:[:@]|\Z))[a-z0-9]+(?:(?:__?|-+)[a-z0-9]+)*(?::{_TAG.pattern})?(?:@{_DIGEST.pattern})?", re.ASCII
)
"""A reference without a slash, at Docker Hub. One with a dot would look like a registry."""
_SAFE = "!$&'()+,;=:@-._~"
"""Characters of a path segment without an encoding: RFC 3986, section 3.3, without ``*``, a usual pattern."""
_SAFE_IN_HUB = _SAFE.replace("@", "").replace(":", "")
"""Without the marks that begin a revision."""
_AZURE = re.compile(r"\.(blob|file)\.(core\.windows|storage\.azure)\.net", re.ASCII | re.IGNORECASE)
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]", re.ASCII)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})", re.ASCII)
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)
_HIDDEN_DOT = re.compile(r"%(?:25)*2e", re.ASCII | re.IGNORECASE)
_HIDDEN_SEMICOLON = re.compile(r"%(?:25)*3b", re.ASCII | re.IGNORECASE)
_HIDDEN = re.compile(r"%(?:25)*(?:2f|5c|[01][0-9a-f]|7f)", re.ASCII | re.IGNORECASE)
"""A slash, a backslash or a control character that is encoded more than once."""


class URIError(ValueError):
    """A text that is not a model URI. The message completes a sentence, such as "it names no bucket".

    ``scheme``: the scheme to write instead, if it is another one.
    """

    def __init__(self, message: str, scheme: str = "") -> None:
        super().__init__(message)
        self.scheme = scheme


class SecretError(URIError):
    """A URI with a possible secret in it, which no message may repeat. ``what``: the kind of secret."""

    def __init__(self, what: str) -> None:
        super().__init__(f"it has {what}")
        self.what = what


def without_secrets(text: str) -> str:
    """Return what should be a URI for a message, without what can be a user, a password, a token or a query.

    A password can have a slash, ``?`` or ``://``. So all before an ``@`` goes if it has a colon or another ``@``, and
    else the name.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    if {":", "@", "?"} & set(scheme):
        return "…"
    rest, _, query = rest.partition("?")
    before, mark, behind = rest.rpartition("@")
    if "@" in query:
        return f"{scheme}{separator}…"
    if not mark:
        return f"{scheme}{separator}{rest}"
    folder, slash, _ = before.rpartition("/")
    kept = "" if {":", "@"} & set(before) else f"{folder}{slash}"
    return f"{scheme}{separator}{kept}…@{behind}"


@dataclass(frozen=True)
class ModelURI:
    """The location of a model. Two URIs of one scheme that lead to the same model are equal, in any spelling."""

    text: str = field(compare=False)
    """The original text."""
    scheme: str
    host: str
    """The canonical host or registry, or the bucket, container, organisation or claim."""
    port: int | None
    """``None`` for the default port."""
    segments: tuple[str, ...]
    """The path, percent-decoded once. No segment is empty, ``.`` or ``..``, or has a slash."""
    folder: bool = field(default=False, compare=False)
    """Whether the text ends in a slash."""
    revision: str = ""
    """For a hub's model, or a git repository."""
    tag: str = ""
    digest: str = ""
    """For an artifact in a registry."""
    subdirectory: tuple[str, ...] = ()
    """For a git repository: the path of a folder or file in it, decoded."""
    query: str = field(default="", repr=False)
    """For a signed URL: a secret."""
    written: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """The encoded segments of a web address as written: a web server may take ``+`` and ``%2B`` as different."""

    @property
    def path(self) -> str:
        """The path without a leading slash, decoded."""
        return "/".join(self.segments) + ("/" if self.folder else "")

    @cached_property
    def key(self) -> "ModelURI":
        """The form for comparison: names of buckets, organisations and a hub's models are case-insensitive."""
        host, segments = self.host.lower(), self.segments
        if self.scheme == "hf" and segments:
            segments = (segments[0].lower().removesuffix(".git"), *segments[1:])
        elif self.scheme == GIT and segments:
            # GitHub, GitLab and others know a repository by both names, and in any case.
            segments = tuple(segment.lower() for segment in segments)
            segments = (*segments[:-1], segments[-1].removesuffix(".git"))
        elif self.scheme in WEB and host in hub.HOSTS:
            host = hub.HOST
        return self if (host, segments) == (self.host, self.segments) else replace(self, host=host, segments=segments)

    def beside(self, name: str) -> "ModelURI":
        """Return the URI of another file in the same folder, without a query."""
        if self.subdirectory:
            return replace(self, subdirectory=(*self.subdirectory[:-1], name))
        return replace(
            self, segments=(*self.segments[:-1], name), written=(*self.written[:-1], quote(name, safe="")), query=""
        )

    def below(self, path: str) -> "ModelURI":
        """Return the URI of a file below this one."""
        if self.scheme == GIT:
            return replace(self, subdirectory=(*self.subdirectory, *path.split("/")), folder=False)
        return replace(self, segments=(*self.segments, *path.split("/")), folder=False)

    @property
    def is_immutable(self) -> bool:
        """Whether the URI names one version for ever: a digest in a registry, a commit in a hub or a git repository."""
        is_commit = self.scheme in ("hf", GIT) and _COMMIT.fullmatch(self.revision) is not None
        return bool(self.digest) or is_commit

    @property
    def is_proposal(self) -> bool:
        """Whether the URI names a pull request of a hub's model: anyone can open one under the model's name."""
        return self.scheme == "hf" and _PROPOSAL.fullmatch(self.revision) is not None

    @property
    def repository(self) -> str:
        """Of a hub's URI: ``organisation/model``, or the name alone of a repository without an organisation."""
        return "/".join((self.host, *self.segments[:1]))

    @property
    def inside(self) -> tuple[str, ...]:
        """The path of a file or folder in a repository or a registered model. Empty for other URIs."""
        if self.scheme == "mlflow":
            return registered_models.split(self.segments)[1]
        return self.segments[1:] if self.scheme == "hf" else self.subdirectory

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        return hosts.bracketed(self.host) + ("" if self.port is None else f":{self.port}")

    @property
    def url(self) -> str:
        """The URL of a file at ``http://`` or ``https://``, for the request: the path as written."""
        written = [quote(each, safe=f"{_SAFE}*%") for each in self.written] if self._is_as_written else self.encoded
        return f"{self.scheme}://{self.authority}/{'/'.join(written)}{'?' + self.query if self.query else ''}"

    @cached_property
    def encoded(self) -> tuple[str, ...]:
        """The encoded segments, in one spelling.

        Of a web address, RFC 3986 (section 6.2.2) allows only to decode unreserved characters. Every other path is
        encoded from its decoded segments.
        """
        if self._is_as_written:
            return tuple(quote(_ESCAPE.sub(_normal, each), safe=_SAFE + "%") for each in self.written)
        safe = _SAFE_IN_HUB if self.scheme in ("hf", "mlflow", GIT) else _SAFE
        return tuple(quote(segment, safe=safe) for segment in self.segments)

    @property
    def _is_as_written(self) -> bool:
        """Whether ``written`` spells the segments. A copy with other segments has no spelling."""
        return bool(self.written) and tuple(map(unquote, self.written)) == self.segments

    @cached_property
    def composed(self) -> tuple[str, ...]:
        """The segments in Unicode's form NFC: some stores do not distinguish the forms."""
        if all(map(str.isascii, self.segments)):
            return self.segments
        import unicodedata  # noqa: PLC0415  # start-up time that ASCII names save

        return tuple(unicodedata.normalize("NFC", segment) for segment in self.segments)

    def __str__(self) -> str:
        """The canonical text, without a query. :func:`parse` returns an equal URI for it."""
        path = "".join(f"/{segment}" for segment in self.encoded)
        if self.scheme == "mlflow":
            path = registered_models.joined(self.encoded)
        versions = (("@", hub.encoded(self.revision)), (":", self.tag), ("@", self.digest))
        version = "".join(f"{mark}{text}" for mark, text in versions if text)
        root = "/" if self.scheme == "file" and not path else ""
        inside = "/".join(quote(segment, safe=_SAFE_IN_HUB) for segment in self.subdirectory)
        inside = f"{SUBDIRECTORY}{inside}" if inside else ""
        return f"{self.scheme}://{self.authority}{path}{version}{inside}{root}"


def parse(text: str, *, signed: bool = False) -> ModelURI:
    """Parse a URI of any scheme. Raises URIError if two programs could parse it differently.

    ``signed``: allow a query in a web URL.
    """
    scheme, rest = _scheme(text)
    if scheme == "oci":
        rest = _with_registry(rest)
    rest, inside = _without_subdirectory(rest) if scheme == GIT else (rest, "")
    if scheme == "mlflow" and "/" not in rest:
        rest = registered_models.with_slash(rest)
    _check_text(scheme, rest, signed=signed)
    if scheme == "hf":
        return _of_hub(text, rest)
    rest, _, query = rest.partition("?")
    authority, slash, raw = rest.partition("/")
    if not authority and scheme != "file":
        raise URIError(f"it names no {scheme_of(scheme).host}")
    host, port = _host(scheme, authority)
    if scheme == "oci":
        return _of_registry(text, host, port, slash + raw)
    if scheme == GIT:
        return _of_git(text, host, port, raw, inside)
    if scheme == "mlflow":
        raw = registered_models.with_alias(raw)
    written = tuple(raw.removesuffix("/").split("/")) if scheme in WEB and raw else ()
    return ModelURI(text, scheme, host, port, _segments(raw), folder=raw.endswith("/"), query=query, written=written)


def parse_model(text: str, *, signed: bool = False) -> ModelURI:
    """Parse a URI of a model that the loader, or a volume claim, can provide. Raises URIError.

    As :func:`parse`, with the scheme's rules for names.
    """
    _check_pasted(text, signed=signed)
    uri = parse(text, signed=signed)
    if uri.scheme in WEB:
        if not hosts.is_strict(uri.host):
            raise URIError(f'"{uri.host}" is not a host name or an address')
        if uri.host in hub.HOSTS and not (page := hub.page(uri.segments)).is_file:
            raise _of_web_site(page)
        if not uri.segments or uri.folder:
            raise URIError("it names no file")
    elif uri.scheme == "oci":
        if not hosts.is_strict(uri.host):
            raise URIError(f'"{uri.host}" is not a registry\'s host name')
    elif (rule := scheme_of(uri.scheme).rule) is not None and not rule.fullmatch(uri.host):
        raise URIError(f'"{uri.host}" is not {scheme_of(uri.scheme).names}')
    if uri.scheme == "hf":
        _check_repository(uri)
    elif uri.scheme in ("mlflow", GIT):
        _check_host(uri)
    return uri


def _check_host(uri: ModelURI) -> None:
    """Refuse what cannot be a registered model, or a git repository. Raises URIError."""
    if uri.scheme == "mlflow" and (fault := registered_models.fault(uri.authority, uri.segments)):
        raise URIError(fault)
    if not hosts.is_strict(uri.host):
        raise URIError(f'"{uri.host}" is not a host name or an address')
    if uri.scheme == GIT:
        if not uri.segments:
            raise URIError("it names no repository")
        if _VIEWS_OF_GIT & set(uri.segments[2:]):
            raise URIError(
                "it is the address of a web page; write git+https://HOST/REPOSITORY@REVISION#subdirectory=PATH"
            )


def _check_pasted(text: str, *, signed: bool) -> None:
    """Refuse a hub's web address behind ``hf://``, or with the query of the web site's link for a download.

    ``signed``: an address can have a query.
    """
    address = text.removeprefix("hf://")
    is_behind = address != text
    if is_behind and address.partition("/")[0] in hub.HOSTS:
        address = f"https://{address}"
    plain = address.removesuffix(hub.DOWNLOAD)
    if not plain.startswith(("https://", "http://")) or not (is_behind or (plain != address and not signed)):
        return
    uri = parse(plain)
    if uri.host in hub.HOSTS:
        raise _of_web_site(hub.page(uri.segments))


def _of_web_site(page: hub.Page) -> URIError:
    """Return the error for an address of a hub's web site, with the form to write."""
    if page.kind:
        return URIError(f"it names a {page.kind}, not a model")
    if not page.owner:
        return URIError("it names no model")
    form = ModelURI("", "hf", page.owner, None, page.path, revision=page.revision)
    what = "a web address" if page.is_file else "the address of a web page"
    return URIError(f"it is {what}; write {form}", "hf")


def _check_repository(uri: ModelURI) -> None:
    """Refuse what cannot be a model's repository. Raises URIError."""
    rest = uri.text.partition("://")[2]
    if uri.host in hub.KINDS:
        raise URIError(f"it names a {hub.KINDS[uri.host]}, not a model")
    if uri.host == "models" and len(uri.segments) > 1:
        raise URIError(f"models/ is not a part of the repository's name; write hf://{rest.removeprefix('models/')}")
    if (not uri.segments and "/" in rest) or not all(map(_MODEL.fullmatch, uri.segments[:1])):
        raise URIError("it names no model of the organisation")
    page = hub.page((uri.host, *uri.segments))
    if page.revision in ("main", "master") or _COMMIT.fullmatch(page.revision):
        raise _of_web_site(page)  # hf://organisation/model/resolve/main/FILE
    if "@" not in rest and hub.is_quantization(uri.revision):
        raise URIError(
            f"{uri.revision} is a quantization and not a revision; name its file, as in hf://{uri.repository}/FILE"
        )


def uri_of_path(scheme: str, host: str, path: str) -> str:
    """Return the URI of a path in a claim or on a machine, with any characters."""
    return str(ModelURI("", scheme, host, None, tuple(path.split("/")) if path else ()))


def encode_path(text: str) -> str:
    """Return the URI of a store whose path is not percent-encoded, as KServe's are, in the form for :func:`parse`.

    A web address is encoded already, unless it is Azure's: KServe takes that apart itself. ``?`` and ``#`` stay:
    KServe ignores what follows them for some stores, so they have two readings.

    Source: KServe 0.20, ``python/storage/kserve_storage/kserve_storage.py``
    """
    scheme, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    if not separator or (scheme in WEB and not _AZURE.search(authority)):
        return text
    return f"{scheme}://{authority}{slash}{quote(path, safe=_SAFE + '/*?#', errors='replace')}"


def is_short(part: str) -> bool:
    """Return whether the first part of a reference is a name at Docker Hub, as for container runtimes.

    A registry's name has a dot or a port, or is `localhost`.

    Source: github.com/distribution/reference, normalize.go, splitDockerDomain
    """
    return part not in ("", "localhost") and not set(".:@*") & set(part)


def registry_port(host: str, port: int) -> int | None:
    """Return the port of a registry as the URI has it, where 443 is the default.

    A host without a dot keeps it: without a port, it would be a name at Docker Hub.
    """
    return None if port == scheme_of("oci").port and not is_short(host) else port


def _with_registry(rest: str) -> str:
    """Return a reference with its registry: `acme/iris` and `iris` are at Docker Hub."""
    first, slash, _ = rest.partition("/")
    short = is_short(first) and _REPOSITORY_PART.fullmatch(first) if slash else _OFFICIAL.fullmatch(first)
    return f"{DOCKER_HUB}/{rest}" if short else rest


def _scheme(text: str) -> tuple[str, str]:
    if len(text) > MAX_LENGTH:
        raise URIError(f"it is longer than {MAX_LENGTH} characters")
    scheme, separator, rest = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise URIError("it does not begin with a scheme in lower case, such as s3://")
    return scheme, rest


def _check_text(scheme: str, rest: str, *, signed: bool) -> None:
    """Refuse secrets, and characters that a URI cannot have, before parsing."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority and not (scheme == "hf" and hub.is_version(rest)):
        raise SecretError("a user name or password")
    if "?" in rest and not (signed and scheme in WEB):
        kind = "a query, as signed URLs have"
        raise SecretError(kind if scheme in WEB else f"{kind}; write %3F for a ? in a name")
    if "\\" in rest:
        raise URIError("it has a backslash")
    if not rest.isprintable():
        raise URIError("it has a control character, or white space that is not a space")
    if not _TEXT.fullmatch(authority):
        raise URIError("its host has a space or letters outside ASCII; write the name in ASCII (xn--)")
    if not _TEXT.fullmatch(rest):
        raise URIError(f"it has a space or letters outside ASCII; {_write(scheme, rest)}")
    if "$(" in rest:
        raise URIError("it contains $(")
    if "#" in rest:
        raise URIError(f"it has a #, which begins a fragment; {_write(scheme, rest)}")
    if _LONE_PERCENT.search(rest.partition("?")[0]):
        raise URIError(f"it has a % that begins no percent-encoding; {_write(scheme, rest)}")


def _write(scheme: str, rest: str) -> str:
    """Return what to write instead of a URI whose path is not encoded."""
    authority, slash, path = rest.partition("/")
    if scheme == "oci":
        return "the name of an artifact cannot have it"
    # An @ can come after a password, and a query is a secret.
    if {"@", "?"} & set(rest) or {"#", "%"} & set(authority) or scheme == GIT:
        return "percent-encode the characters of its path"
    return f"write {scheme}://{authority}{slash}{quote(_LONE_PERCENT.sub('%25', path), safe=_SAFE + '/*%')}"


def _host(scheme: str, authority: str) -> tuple[str, int | None]:
    found = _AUTHORITY.fullmatch(authority)
    if found is None or (found[2] and not 0 < int(found[2]) < 65536):
        raise URIError("its host or port is malformed")
    host, port = found[1], int(found[2]) if found[2] else None
    if scheme == "file":
        if host not in ("", "localhost") or found[2] is not None:
            raise URIError("its host is not this machine")
        return "", None
    known = scheme_of(scheme)
    if known.rule is not None:
        if found[2] is not None:
            raise URIError("it has a port")
        if not _STORE.fullmatch(host):
            raise URIError(f'"{host}" is not {known.names}')
        return host, None
    try:
        host = hosts.canonical(host)
    except ValueError:
        what = "a registry's host name" if scheme == "oci" else "a host name or an address"
        raise URIError(f'"{host}" is not {what}') from None
    if scheme == "oci":
        if port is None and is_short(host):
            raise URIError(f'"{host}" is not a registry\'s host name: it has neither a dot nor a port')
        host = DOCKER_HUB if host in DOCKER_HUBS else host
        return host, None if port is None else registry_port(host, port)
    return host, None if port == known.port else port


def _segments(raw: str) -> tuple[str, ...]:
    path = raw.removesuffix("/")
    return tuple(_segment(segment) for segment in path.split("/")) if path or raw else ()


def _segment(raw: str) -> str:
    """Decode a segment of a path, once."""
    try:
        segment = unquote_to_bytes(raw).decode() if "%" in raw else raw
    except UnicodeDecodeError:
        raise URIError("its path does not decode to UTF-8") from None
    # Some web servers decode twice, or read what follows a ; as parameters.
    dots = _HIDDEN_SEMICOLON.sub(";", _HIDDEN_DOT.sub(".", segment)).partition(";")[0]
    if dots in (".", ".."):
        raise URIError("its path has . or .. segments")
    if not segment:
        raise URIError("its path has an empty segment")
    if "/" in segment or "\\" in segment or _HIDDEN.search(segment):
        raise URIError("its path has an encoded slash, backslash or control character")
    if not segment.isprintable():
        raise URIError("its path encodes an unprintable character")
    if "$(" in segment:
        raise URIError("its path contains $(")
    return segment


def _normal(escape: re.Match[str]) -> str:
    """Return one spelling of an encoded character."""
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()


def _of_hub(text: str, rest: str) -> ModelURI:
    try:
        host, raw, revision = hub.split(rest)
    except ValueError as error:
        raise URIError(str(error)) from None
    if not host:
        raise URIError("it names no organisation")
    if not _STORE.fullmatch(host):
        raise URIError(f'"{host}" is not {scheme_of("hf").names}')
    segments = _segments(raw)
    # The slash behind a repository's name means nothing.
    is_folder = raw.endswith("/") and len(segments) > 1
    return ModelURI(text, "hf", host, None, segments, folder=is_folder, revision=revision)


def _without_subdirectory(rest: str) -> tuple[str, str]:
    """Return what follows ``git+https://`` without the path in the repository, and that path. Raises URIError."""
    rest, mark, fragment = rest.partition("#")
    key, equals, inside = fragment.partition("=")
    if mark and (f"#{key}=" != SUBDIRECTORY or not equals or not inside.strip("/")):
        # Of several URIs, the last = begins the folder.
        several = "; one of several URIs with a path must end in =FOLDER, or in =. for none"
        is_cut = f"#{fragment}=" == SUBDIRECTORY
        raise URIError(f"what follows its # is not {SUBDIRECTORY[1:]}PATH{several if is_cut else ''}")
    _check_text(GIT, f"host/{inside}", signed=False)
    return rest, inside


def _of_git(text: str, host: str, port: int | None, raw: str, inside: str) -> ModelURI:
    path, mark, revision = raw.partition("@")
    if "//" in f"/{path}":
        raise URIError(
            f"its path has an empty segment; write {SUBDIRECTORY}PATH behind it for a path in the repository"
        )
    revision = unquote(revision)
    if mark and (not _OF_GIT.fullmatch(revision) or ".." in revision or "//" in revision or revision[-1] in "/."):
        raise URIError("its revision is not a branch, a tag or a commit")
    below = _segments(inside) if inside else ()
    is_folder = inside.endswith("/")
    return ModelURI(text, GIT, host, port, _segments(path), folder=is_folder, revision=revision, subdirectory=below)


def _of_registry(text: str, host: str, port: int | None, path: str) -> ModelURI:
    rest, at, digest = path.removeprefix("/").partition("@")
    rest, colon, tag = rest.partition(":")
    segments = tuple(rest.split("/"))
    if "." in segments or ".." in segments:
        raise URIError("its path has . or .. segments")
    whole = all(map(_REPOSITORY_PART.fullmatch, segments))
    if not whole or (colon and not _TAG.fullmatch(tag)) or (at and not _DIGEST.fullmatch(digest)):
        raise URIError("it does not name an artifact as repository:tag or repository@sha256:…")
    if host == DOCKER_HUB and len(segments) == 1:
        segments = ("library", *segments)
    return ModelURI(text, "oci", host, port, segments, tag=tag, digest=digest)
