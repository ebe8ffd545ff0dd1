"""Aliases of a URI: other spellings, and other schemes and hosts that lead to the same store."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from model_uri import hub
from model_uri.uri import DOCKER_HUB, DOCKER_HUBS, GIT, WEB, ModelURI, URIError, parse, registry_port

_ACCOUNTS = ("s3", "gs", "az")
"""The schemes of stores whose users have accounts."""
ANY = "*"
"""Stands for a bucket that the host name does not contain."""

_HTTPS = 443
_S3 = re.compile(r"s3(?:express)?(?:-[a-z0-9-]+)?", re.ASCII)
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")
_ACCESS_POINTS = ("-s3alias", "--ol-s3", "--op-s3", "--xa-s3", ".mrap")
"""Suffixes of access point aliases, which stand in place of a bucket's name and do not contain it."""
_GOOGLE_HOSTS = frozenset({"storage.cloud.google.com", "www.googleapis.com", "apidata.googleusercontent.com"})
_GOOGLE_API = re.compile(r"storage/v[0-9a-z]+/b/([^/]+)(?:/o(?:/(.+))?)?", re.ASCII | re.DOTALL)
_AZURE_DOMAINS = (
    ".core.windows.net", ".core.chinacloudapi.cn", ".core.usgovcloudapi.net", ".core.cloudapi.de", ".storage.azure.net",
)  # fmt: skip
_MLFLOW = ("api", "2.0", "mlflow-artifacts")
"""Where a tracking server serves the files of all models."""
_MLFLOW_PATHS = frozenset({"mlflow", "mlflow-artifacts", "get-artifact", "model-versions"})
"""Segments of such addresses; a prefix can be before them."""
_GIT_VIEWS = frozenset({"-", "archive", "blob", "info", "media", "raw", "resolve", "src"})
"""What follows a repository's name in the addresses of its files."""
_GITHUB, _RAW_GITHUB = "github.com", "raw.githubusercontent.com"
_AZURE_SERVICES = frozenset({"blob", "dfs", "web"})


def aliases(uri: ModelURI) -> tuple[ModelURI, ...]:
    """Return ``uri`` and its aliases: by the scheme of its store, and by the store's public hosts."""
    found = [uri]
    if uri.scheme in WEB:
        for path in _readings_of_plus(uri.segments):
            read = replace(uri, segments=path)
            found += [read, *_stores_of(read)]
            if uri.port is None:
                found.append(replace(read, scheme="http" if uri.scheme == "https" else "https"))
    elif uri.scheme == "s3":
        found.append(_store("s3", uri.host, uri.segments))
    elif uri.scheme == GIT:
        web = ModelURI("", "https", uri.host, uri.port, uri.segments)
        found += [web, *_stores_of(web)]
    elif uri.scheme == "mlflow":
        found.append(ModelURI("", "https", uri.host, uri.port, _MLFLOW))
    elif uri.scheme == "oci" and uri.host in hub.HOSTS and len(uri.segments) > 1:
        found.append(ModelURI(uri.text, "hf", uri.segments[0], None, uri.segments[1:], revision=uri.tag))
    return tuple(dict.fromkeys([*found, *(other for each in found for other in _addresses_of(each))]))


def names(*uris: ModelURI) -> tuple[ModelURI, ...]:
    """Return the aliases of all ``uris``, in the form for comparison."""
    return tuple(dict.fromkeys(name.key for uri in uris for name in aliases(uri)))


def in_store_scheme(uri: ModelURI) -> str:
    """Return what to write for a web address of S3's, Google's or Azure's, to read a folder or to use credentials.

    Empty for an address of another store.
    """
    found = next((each for each in _stores_of(uri) if each.scheme in _ACCOUNTS and each.host != ANY), None)
    if found is None:
        return ""
    account = (
        f", with AZURE_STORAGE_ACCOUNT: {uri.host.partition('.')[0]} in the Secret" if found.scheme == "az" else ""
    )
    return f"{found}{account}"


def folder_advice(text: str) -> str:
    """Return the end of a sentence about a web address that names no file: what to write for a folder of a store."""
    try:
        meant = in_store_scheme(parse(text)) if text.startswith(("http://", "https://")) else ""
    except URIError:
        return ""
    return f"; for a folder, write {meant}" if meant else ""


def _addresses_of(uri: ModelURI) -> Iterator[ModelURI]:
    """Return the URLs, at the store's public hosts, of what a scheme names."""
    path = (uri.host, *uri.segments)
    if uri.scheme == "hf":
        yield _web(hub.HOST, address_in_hub(uri))
    elif uri.scheme == "oci":
        version = uri.digest or uri.tag
        path = ("v2", *uri.segments, *(("manifests", version) if version else ()))
        for host in DOCKER_HUBS if uri.host == DOCKER_HUB else (uri.host,):
            yield replace(_web(host, path), port=None if uri.port == _HTTPS else uri.port)
    elif uri.scheme == "s3":
        yield _web("s3.amazonaws.com", path)
        yield _web(f"{uri.host}.s3.amazonaws.com", uri.segments)
    elif uri.scheme == "gs":
        yield _web("storage.googleapis.com", path)
        yield _web(f"{uri.host}.storage.googleapis.com", uri.segments)


def address_in_hub(uri: ModelURI) -> tuple[str, ...]:
    """Return the path of a repository, or of a file in it, at the web address of its hub."""
    if not uri.revision and not uri.inside:
        return (uri.host, *uri.segments)
    return (uri.host, *uri.segments[:1], "resolve", uri.revision or hub.DEFAULT_REVISION, *uri.inside)


def _web(host: str, segments: tuple[str, ...]) -> ModelURI:
    return ModelURI("", "https", host.lower(), None, segments)


def _stores_of(uri: ModelURI) -> Iterator[ModelURI]:
    """Return the URIs, in the stores' schemes, of what a web address leads to."""
    host, segments = uri.host, uri.segments
    if host in hub.HOSTS:
        yield from _of_hub(uri)
    elif domain := next((each for each in _AMAZON if host.endswith(each)), ""):
        yield from _of_amazon(uri, host.removesuffix(domain).split("."))
    elif host.endswith(_AZURE_DOMAINS) and _AZURE_SERVICES & set(host.split(".")):
        if "web" in host.split("."):
            yield _store("az", "$web", segments)
        elif segments:
            yield _store("az", segments[0], segments[1:])
            yield _store("az", "$root", segments)
    else:
        yield from _of_google(uri)
    if segments[:1] == ("v2",) and len(segments) > 1:
        yield from _of_registry(uri)
    if host == _RAW_GITHUB:
        yield ModelURI("", GIT, _GITHUB, None, segments)
    elif _GIT_VIEWS & set(segments[1:]):
        yield ModelURI("", GIT, host, uri.port, segments)
    if _MLFLOW_PATHS & set(segments):
        yield ModelURI("", "mlflow", host, uri.port, ())


def in_store(scheme: str, path: tuple[str, ...]) -> Iterator[ModelURI]:
    """Return the URIs, in a scheme, of a path at one of its stores, by the protocol of the store."""
    web = _web("store.invalid", path)
    if scheme == "hf":
        yield from _of_hub(web)
    elif scheme == "gs":
        yield from _of_google(replace(web, host="storage.googleapis.com"))
    elif scheme != "oci":
        for each in _readings_of_plus(path[1:]):
            yield _store(scheme, path[0], each)
    elif path[0] == "v2":
        yield from _of_registry(web)


def _readings_of_plus(path: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    """Return a path of a web address, and the same with spaces: S3 and others read an unencoded ``+`` as a space."""
    return dict.fromkeys((path, tuple(segment.replace("+", " ") for segment in path)))


def _of_hub(uri: ModelURI) -> Iterator[ModelURI]:
    page = hub.page(uri.segments)
    if page.owner:
        yield ModelURI(uri.text, "hf", page.owner, None, page.path, revision=page.revision)


def _of_amazon(uri: ModelURI, labels: list[str]) -> Iterator[ModelURI]:
    at = next((index for index in reversed(range(len(labels))) if _S3.fullmatch(labels[index])), -1)
    if at < 0:
        return
    bucket = ".".join(labels[:at])
    aside = ("accesspoint", "object-lambda", "outposts", "vpce", "control")
    if any(word in label for word in aside for label in labels):
        yield _store("s3", ANY, ())
    elif bucket:
        yield _store("s3", bucket, uri.segments)
    elif uri.segments:
        yield _store("s3", uri.segments[0], uri.segments[1:])


def _of_google(uri: ModelURI) -> Iterator[ModelURI]:
    host, segments = uri.host, uri.segments
    bucket = next(
        (
            host.removesuffix(domain)
            for domain in (".storage.googleapis.com", ".commondatastorage.googleapis.com", ".storage.cloud.google.com")
            if host.endswith(domain)
        ),
        "",
    )
    if bucket:
        yield _store("gs", bucket, segments)
        return
    if host == "firebasestorage.googleapis.com":
        segments = ("storage", *segments)
    elif host not in _GOOGLE_HOSTS and not (host.endswith(".googleapis.com") and "storage" in host):
        return
    elif ".storage." in host:
        yield _store("gs", host.partition(".storage.")[0], segments)
    api = segments[1:] if segments[:1] in (("download",), ("batch",)) else segments
    found = _GOOGLE_API.fullmatch("/".join(api))
    if found:
        yield _store("gs", found[1], tuple(found[2].split("/")) if found[2] else ())
    if segments:
        yield _store("gs", segments[0], segments[1:])


def _of_registry(uri: ModelURI) -> Iterator[ModelURI]:
    """The registry API: ``/v2/REPOSITORY/manifests/TAG``, ``/v2/REPOSITORY/blobs/DIGEST``."""
    host = DOCKER_HUB if uri.host in DOCKER_HUBS else uri.host
    port = registry_port(host, uri.port or _HTTPS)
    path = uri.segments[1:]
    kinds = [index for index, segment in enumerate(path) if segment in ("manifests", "blobs", "tags")]
    name = path[: kinds[-1]] if kinds else path
    if not name:
        return
    reference = path[kinds[-1] + 1 :][:1] if kinds and path[kinds[-1]] == "manifests" else ()
    tag = reference[0] if reference and ":" not in reference[0] else ""
    digest = reference[0] if reference and ":" in reference[0] else ""
    yield ModelURI(uri.text, "oci", host, port, name, tag=tag, digest=digest)


def _store(scheme: str, host: str, segments: Iterable[str]) -> ModelURI:
    if scheme == "s3" and host.lower().endswith(_ACCESS_POINTS):
        host, segments = ANY, ()
    return ModelURI("", scheme, host, None, tuple(segments))
