"""`oci://registry/repository[:tag|@sha256:…]`: a model as an artifact or image in an OCI registry.

A layer with a title (as ORAS pushes files) is that file. The loader unpacks any other layer, which must be a tar; of a
container image, which has its model in `/models`, only that folder. It reads and verifies every blob by digest.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from model_loader.http.authorizers import ANONYMOUS, Authorizer, Header, Token
from model_loader.http.transport import redact, split
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, Unpack, size_of
from model_loader.plan.paths import safe_path
from model_loader.sources import documents
from model_uri import ModelURI

_SERVERS = {"docker.io": "registry-1.docker.io"}
"""Registries with another host name for the API."""
_TOKEN_SERVICES = {
    "registry-1.docker.io": "auth.docker.io",
    "docker.elastic.co": "docker-auth.elastic.co",
    "registry.gitlab.com": "gitlab.com",
    "registry.digitalocean.com": "api.digitalocean.com",
}
"""Registries with a token service on another host. Other registries issue tokens themselves."""
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_IMAGES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_TITLE = "org.opencontainers.image.title"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_UNPACK = "io.deis.oras.content.unpack"
_DIGESTS = ("sha256", "sha512")
"""The registered digest algorithms."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_TARS = {"tar": ".tar", "tar+gzip": ".tar.gz", "tar.gzip": ".tar.gz"}


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the layers of the artifact or image. Raises LoadError."""
    host, name = _SERVERS.get(uri.host, uri.authority), "/".join(uri.segments)
    plain = context.secret.get("plain-http") == "true"
    registry = f"{'http' if plain else 'https'}://{host}"
    if context.store:
        registry = context.store.endpoint or f"https://{host}"
        if plain and not registry.startswith("http:"):
            context.refuse("plain-http", "true", context.store)
        host = urlsplit(registry).netloc
    base = f"{registry}/v2/{name}"
    authorizer = _authorizer(base, host, name, context)
    manifest = _manifest(base, uri.digest or uri.tag or "latest", context, authorizer)
    if "manifests" in manifest:
        manifest = _manifest(base, _platform(manifest), context, authorizer)
    try:
        image = str(_mapping(manifest["config"])["mediaType"]) in _IMAGES
        layers = enumerate(_list(manifest["layers"]))
        files = tuple(
            _layer(base, index, layer, Unpack.IMAGE if image else Unpack.WHOLE, authorizer) for index, layer in layers
        )
    except (KeyError, TypeError, ValueError):
        raise LoadError(Code.SERVER_ERROR, f"{redact(base)} did not answer with a manifest of layers") from None
    if not files:
        raise LoadError(Code.NOT_FOUND, f"{uri} has no layer")
    return Listing(files)


def _layer(base: str, index: int, layer: Mapping[str, object], unpack: Unpack, authorizer: Authorizer) -> File:
    digest, kind = str(layer["digest"]), str(layer["mediaType"])
    notes = _mapping(layer.get("annotations") or {})
    title = str(notes.get(_TITLE, ""))
    ending = next((ending for suffix, ending in _TARS.items() if kind.endswith(suffix)), "")
    if not digest.startswith("sha256:") or not _DIGEST.fullmatch(digest):
        raise LoadError(Code.REFUSED, f"a layer has the digest {digest[:80]!a}, which is not a sha256")
    # ORAS packs a folder as a layer with a title and this annotation.
    if notes.get(_UNPACK) == "true":
        path, unpack = f"layer-{index:03}.tar.gz", Unpack.WHOLE
    elif title:
        path, unpack = safe_path(title), Unpack.NO
    elif ending:
        path = f"layer-{index:03}{ending}"
    else:
        raise LoadError(Code.REFUSED, f"a layer of type {kind[:80]} is neither a file with a title nor a tar")
    size = size_of(layer["size"])
    return File(path, f"{base}/blobs/{digest}", size, authorizer, version=digest, checksum=digest, unpack=unpack)


def _manifest(base: str, reference: str, context: Context, authorizer: Authorizer) -> Mapping[str, object]:
    """Return a manifest. Verifies the requested digest and the one in the registry's header.

    Requests the manifest once more if the digest differs, as the loader does for files.

    Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
    """
    url, headers = f"{base}/manifests/{reference}", {"Accept": ", ".join(_MANIFESTS + _INDEXES)}
    for _ in range(2):
        response = context.transport.get(url, headers, authorizer)
        body = context.transport.read_body(response)
        if _has_digest(body, reference) and _has_digest(body, response.headers.get("docker-content-digest", "")):
            break
    else:
        raise LoadError(Code.CORRUPTED, f"the manifest that {redact(base)} sent does not have its digest")
    try:
        return documents.from_json(body)
    except ValueError:
        raise LoadError(Code.SERVER_ERROR, f"{redact(base)} did not answer with a manifest") from None


def _has_digest(body: bytes, digest: str) -> bool:
    """Return whether `body` has this digest. True for a tag or an unknown algorithm, which cannot be verified."""
    algorithm, _, value = digest.partition(":")
    return algorithm not in _DIGESTS or hashlib.new(algorithm, body).hexdigest() == value


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


def _list(value: object) -> list[Mapping[str, object]]:
    if not isinstance(value, list):
        raise TypeError(value)
    return value


def _digest(value: str) -> str:
    """Return a digest that can be verified. Raises ValueError."""
    if not _DIGEST.fullmatch(value):
        raise ValueError(value)
    return value


def _platform(index: Mapping[str, object]) -> str:
    """Return the digest of the manifest for this machine, or the only one of the index."""
    machine = os.uname().machine
    wanted = ("linux", _ARCHITECTURES.get(machine, machine))
    try:
        entries = _list(index["manifests"])
        about = [(entry.get("platform") or {}, _digest(str(entry["digest"]))) for entry in entries]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise LoadError(Code.SERVER_ERROR, "the registry's index cannot be read") from None
    for is_for, digest in about:
        if isinstance(is_for, dict) and (is_for.get("os"), is_for.get("architecture")) == wanted:
            return digest
    if len(about) == 1:
        return about[0][1]
    raise LoadError(Code.NOT_FOUND, f"the index has no image for {'/'.join(wanted)}")


def _authorizer(base: str, host: str, name: str, context: Context) -> Authorizer:
    """Return a token authorizer if the registry names a token service, else the Secret's user and password.

    Source: https://distribution.github.io/distribution/spec/auth/token/
    """
    basic = _basic(host, context)
    try:
        context.transport.read(f"{base.partition('/v2/')[0]}/v2/")
    except LoadError as failure:
        challenge = failure.headers.get("www-authenticate", "")
        if failure.status != 401:
            if failure.code is Code.NOT_FOUND:
                return ANONYMOUS
            raise
        if challenge.lower().startswith("basic"):
            return Header(basic) if basic else ANONYMOUS
        asked = dict(re.findall(r'(\w{1,32})="([^"]*)"', challenge[:4096]))
        if "realm" not in asked:
            raise
        service = _token_service(asked["realm"], base, bool(basic), context)

        def fetch() -> tuple[str, float]:
            query = {"scope": f"repository:{name}:pull"} | ({"service": asked["service"]} if "service" in asked else {})
            authorizer = Header(basic) if basic else ANONYMOUS
            mark = "&" if "?" in service else "?"
            found = documents.from_json(
                context.transport.read(f"{service}{mark}{urlencode(query)}", authorizer=authorizer)
            )
            return str(found.get("token") or found["access_token"]), float(found.get("expires_in", 60))

        return Token(fetch)
    return Header(basic) if basic else ANONYMOUS


def _token_service(realm: str, base: str, known: bool, context: Context) -> str:
    """Return the URL of the token service. `known`: whether the request to it would carry a password.

    Raises LoadError(Refused): a registry can name any host, but a password is for one host only.
    """
    registry, service = split(base), split(realm)
    if service.scheme == "http" and (registry.scheme, registry.netloc) != ("http", service.netloc):
        raise LoadError(
            Code.REFUSED,
            f"the token service of the registry {registry.netloc} uses plain http: {service.netloc}",
            hint="Use a registry whose token service uses https.",
        )
    same = service.hostname == registry.hostname and service.port in (None, 443, registry.port)
    theirs = {_TOKEN_SERVICES.get(registry.netloc), *map(_host_of, _auths(context))}
    if known and not same and service.netloc not in theirs:
        raise LoadError(
            Code.REFUSED,
            f"the registry {registry.netloc} requests the password for another host, {service.netloc}",
            hint="If it is the registry's own token service, add it to auths in the Secret's .dockerconfigjson.",
        )
    return realm


def _host_of(key: str) -> str:
    """Return the host of a docker config's entry. The key may be a URL, as for Docker Hub."""
    host = key.partition("://")[2] or key
    return host.partition("/")[0]


def _auths(context: Context) -> Mapping[str, object]:
    """Return the entries of the Secret's docker config. Raises LoadError(InvalidSource)."""
    config = context.secret.document(".dockerconfigjson")
    try:
        return _mapping(json.loads(config)["auths"]) if config else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LoadError(Code.INVALID_SOURCE, "the Secret's .dockerconfigjson cannot be read") from None


def _basic(host: str, context: Context) -> str:
    """Return the Authorization header for `host`, from a Secret of type docker-registry or basic-auth."""
    user, password = context.secret.get("username"), context.secret.get("password")
    pair = f"{user}:{password}" if user or password else ""
    entries = {_host_of(key): entry for key, entry in _auths(context).items()}
    if "docker.io" in entries or "index.docker.io" in entries:
        entries.setdefault(_SERVERS["docker.io"], entries.get("index.docker.io", entries.get("docker.io")))
    try:
        entry = _mapping(entries.get(host) or {})
        pair = base64.b64decode(str(entry["auth"])).decode() if "auth" in entry else pair
        if "username" in entry and "password" in entry:
            pair = f"{entry['username']}:{entry['password']}"
    except (ValueError, TypeError):
        raise LoadError(Code.INVALID_SOURCE, "the Secret's .dockerconfigjson cannot be read") from None
    return "Basic " + base64.b64encode(pair.encode()).decode() if pair else ""
