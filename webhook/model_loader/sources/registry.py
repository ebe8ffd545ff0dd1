"""`oci://registry/repository[:tag|@sha256:…]`: a model as an artifact or image in an OCI registry.

A layer of an artifact is a file, named by an annotation or by its media type, or a tar that the loader unpacks. Of a
container image, which has its model in `/models`, the loader unpacks only that folder. It reads and verifies every blob
by digest.

Sources: github.com/opencontainers/image-spec, manifest.md and image-index.md; the annotations of ORAS and of
github.com/modelpack/model-spec, which KitOps and Docker use too; the media types of github.com/docker/model-runner and
github.com/ollama/ollama.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from model_loader.http.authorizers import ANONYMOUS, Authorizer, Header, Token, basic
from model_loader.http.transport import redact, split
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, Unpack, size_of
from model_loader.plan.paths import safe_path
from model_loader.sources import docker_config, documents
from model_loader.sources.docker_config import Login
from model_loader.sources.documents import mapping
from model_uri import ModelURI
from model_uri.uri import DOCKER_HUB

_DOCKER_HUB_API = "registry-1.docker.io"
_TOKEN_SERVICES = {
    _DOCKER_HUB_API: "auth.docker.io",
    "docker.elastic.co": "docker-auth.elastic.co",
    "registry.gitlab.com": "gitlab.com",
    "registry.digitalocean.com": "api.digitalocean.com",
}
"""Registries with a token service on another host. Other registries issue tokens themselves."""
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_ACCEPTED = {"Accept": ", ".join(_MANIFESTS + _INDEXES)}
_IMAGES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_ATTESTED = "vnd.docker.reference.type"
"""The annotation of BuildKit's attestations, which stand in an index beside the images."""
_DIGESTS = ("sha256", "sha512")
"""The registered digest algorithms."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_BEARER = re.compile(r"\bbearer\s(.*)", re.ASCII | re.DOTALL | re.IGNORECASE)

_NAMES = ("org.cncf.model.filepath", "org.cnai.model.filepath", "org.opencontainers.image.title")
"""The annotations of a layer that name its file, of ModelPack and of ORAS."""
_UNPACK = "io.deis.oras.content.unpack"
"""The annotation of a folder that ORAS packed."""
_TARS = {
    "tar": ".tar",
    "tar+gzip": ".tar.gz",
    "tar.gzip": ".tar.gz",
    "tar+zstd": ".tar.zst",
    "tar.zstd": ".tar.zst",
}
_FORMATS = (
    "application/vnd.cncf.model.",
    "application/vnd.cnai.model.",
    "application/vnd.kitops.modelkit.",
    "application/vnd.docker.ai.",
)
"""Prefixes of media types with which a tar is one, even if the layer has a name. ORAS calls plain files tars too."""
_COMPRESSED = ("+gzip", "+zstd")
"""Suffixes of a compressed file, which only KitOps can write, if it is no tar."""
_FILES = {
    "application/vnd.docker.ai.chat.template.jinja": "chat_template{}.jinja",
    "application/vnd.docker.ai.dduf": "model{}.dduf",
    "application/vnd.docker.ai.gguf.v3": "model{}.gguf",
    "application/vnd.docker.ai.gguf.v3.lora": "adapter{}.gguf",
    "application/vnd.docker.ai.gguf.v3.mmproj": "mmproj{}.gguf",
    "application/vnd.docker.ai.mmproj": "mmproj{}.gguf",
    "application/vnd.docker.ai.safetensors": "model{}.safetensors",
    "application/vnd.ollama.image.adapter": "adapter{}.gguf",
    "application/vnd.ollama.image.model": "model{}.gguf",
    "application/vnd.ollama.image.projector": "mmproj{}.gguf",
}
"""Names of files by the media type of a layer without a name. The shard's number, if any, takes the place of `{}`."""
_NO_FILES = (
    "application/vnd.docker.ai.license",
    "application/vnd.kitops.modelkit.config.v1+json",
    "application/vnd.oci.empty.v1+json",
    "application/vnd.ollama.image.license",
    "application/vnd.ollama.image.messages",
    "application/vnd.ollama.image.params",
    "application/vnd.ollama.image.system",
    "application/vnd.ollama.image.template",
)
"""Media types of layers that no model server reads, if they have no name."""


class _Repository(NamedTuple):
    """A repository. `base`: its URL in the registry's API. `name`: its path. `authority`: host and port of the API."""

    base: str
    authority: str
    name: str
    context: Context


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the layers of the artifact or image. Raises LoadError."""
    repository = _repository(uri, context)
    manifest, authorizer = _open(repository, uri.digest or uri.tag or "latest")
    if "manifests" in manifest:
        manifest = _manifest(repository, _platform(manifest), authorizer)
    try:
        # ModelPack allows the config of an image, so that container runtimes can mount the artifact.
        artifact = str(manifest.get("artifactType", "")).startswith(_FORMATS)
        image = not artifact and str(mapping(manifest["config"])["mediaType"]) in _IMAGES
        files = tuple(_files(repository, _list(manifest["layers"]), authorizer, image=image))
    except (KeyError, TypeError, ValueError):
        message = f"{redact(repository.base)} did not answer with a manifest of layers"
        raise LoadError(Code.SERVER_ERROR, message) from None
    if not files:
        raise LoadError(Code.NOT_FOUND, f"{uri} has no layer with a file")
    return Listing(files)


def _repository(uri: ModelURI, context: Context) -> _Repository:
    name = "/".join(uri.segments)
    plain = context.secret.switch("plain-http")
    authority = _DOCKER_HUB_API if uri.host == DOCKER_HUB else uri.authority
    registry = f"{'http' if plain else 'https'}://{authority}"
    if context.store:
        registry = context.store.endpoint or f"https://{authority}"
        if plain and not registry.startswith("http:"):
            context.refuse("plain-http", "true", context.store)
    return _Repository(f"{registry}/v2/{name}", urlsplit(registry).netloc, name, context)


def _files(
    repository: _Repository, layers: list[Mapping[str, object]], authorizer: Authorizer, *, image: bool
) -> Iterator[File]:
    """Yield the files of the layers, and the tars to unpack. Raises LoadError; KeyError and TypeError for no layer."""
    kinds = [str(layer["mediaType"]).partition(";")[0].strip() for layer in layers]
    notes = [mapping(layer.get("annotations") or {}) for layer in layers]
    names = [next((str(each[key]) for key in _NAMES if each.get(key)), "") for each in notes]
    shards = Counter(kind for kind, name in zip(kinds, names, strict=True) if not name)
    numbers: Counter[str] = Counter()
    for index, (layer, kind, name) in enumerate(zip(layers, kinds, names, strict=True)):
        path, unpack = name, Unpack.NO
        tar = next((ending for suffix, ending in _TARS.items() if kind.endswith(suffix)), "")
        if notes[index].get(_UNPACK) == "true":
            path, unpack = f"layer-{index:03}{tar or '.tar.gz'}", Unpack.WHOLE
        elif tar and (not name or kind.startswith(_FORMATS)):
            whole = not image or kind.startswith(_FORMATS)
            path, unpack = f"layer-{index:03}{tar}", Unpack.WHOLE if whole else Unpack.IMAGE
        elif name and not (kind.startswith(_FORMATS) and kind.endswith(_COMPRESSED)):
            path = safe_path(name)
        elif kind in _FILES:
            numbers[kind] += 1
            path = _FILES[kind].format(f"-{numbers[kind]:05}-of-{shards[kind]:05}" if shards[kind] > 1 else "")
        elif kind in _NO_FILES:
            continue
        else:
            raise LoadError(Code.REFUSED, f"a layer of type {kind[:80]} is neither a plain file with a name nor a tar")
        digest = str(layer["digest"])
        if not digest.startswith("sha256:") or not _DIGEST.fullmatch(digest):
            raise LoadError(Code.REFUSED, f"a layer has the digest {digest[:80]!a}, which is not a sha256")
        url, size = f"{repository.base}/blobs/{digest}", size_of(layer["size"])
        yield File(path, url, size, authorizer, version=digest, checksum=digest, unpack=unpack)


def _open(repository: _Repository, reference: str) -> tuple[Mapping[str, object], Authorizer]:
    """Return the manifest, and the authorizer that the registry accepts for it. Raises LoadError.

    Tries the credentials one after the other, as the kubelet does: an entry for an organisation, then one for the host.
    """
    challenge = _challenge(repository, reference)
    logins = docker_config.logins(repository.context.secret, repository.authority, repository.name)
    refusals: list[LoadError] = []
    for login in logins or [Login()]:
        try:
            authorizer = _authorizer(repository, challenge, login)
            return _manifest(repository, reference, authorizer), authorizer
        except LoadError as failure:
            # A registry can hide a repository from identities that must not read it.
            if failure.code not in (Code.UNAUTHORIZED, Code.NOT_FOUND):
                raise
            refusals.append(failure)
    if logins or refusals[0].code is not Code.UNAUTHORIZED:
        raise refusals[0]
    host = DOCKER_HUB if repository.authority == _DOCKER_HUB_API else repository.authority
    hint = f"Use a Secret with credentials for {host}: `kubectl create secret docker-registry NAME "
    hint += f"--docker-server={host} --docker-username=USER --docker-password=PASSWORD`."
    raise LoadError(Code.UNAUTHORIZED, refusals[0].message, hint=hint)


def _manifest(repository: _Repository, reference: str, authorizer: Authorizer) -> Mapping[str, object]:
    """Return a manifest. Verifies the requested digest and the one in the registry's header.

    Requests the manifest once more if the digest differs, as the loader does for files.

    Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
    """
    transport = repository.context.transport
    for _ in range(2):
        response = transport.get(f"{repository.base}/manifests/{reference}", _ACCEPTED, authorizer)
        body = transport.read_body(response)
        if _has_digest(body, reference) and _has_digest(body, response.headers.get("docker-content-digest", "")):
            break
    else:
        raise LoadError(Code.CORRUPTED, f"the manifest that {redact(repository.base)} sent does not have its digest")
    try:
        return documents.from_json(body)
    except ValueError:
        raise LoadError(Code.SERVER_ERROR, f"{redact(repository.base)} did not answer with a manifest") from None


def _has_digest(body: bytes, digest: str) -> bool:
    """Return whether `body` has this digest. True for a tag or an unknown algorithm, which cannot be verified."""
    algorithm, _, value = digest.partition(":")
    return algorithm not in _DIGESTS or hashlib.new(algorithm, body).hexdigest() == value


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
    """Return the digest of the manifest for this machine, else of the only one without a platform, or of the only one.

    Raises LoadError.
    """
    machine = os.uname().machine
    wanted = ("linux", _ARCHITECTURES.get(machine, machine))
    found: list[tuple[tuple[object, object], str]] = []
    try:
        for entry in _list(index["manifests"]):
            digest, platform = _digest(str(entry["digest"])), mapping(entry.get("platform") or {})
            if _ATTESTED not in mapping(entry.get("annotations") or {}) and platform.get("os") != "unknown":
                found.append(((platform.get("os"), platform.get("architecture")), digest))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise LoadError(Code.SERVER_ERROR, "the registry's index cannot be read") from None
    fitting = [digest for platform, digest in found if platform == wanted]
    neutral = [digest for platform, digest in found if platform == (None, None)]
    for candidates in (fitting[:1], neutral, [digest for _, digest in found]):
        if len(candidates) == 1:
            return candidates[0]
    raise LoadError(Code.NOT_FOUND, f"the index has no image for {'/'.join(wanted)}")


def _challenge(repository: _Repository, reference: str) -> str:
    """Return what the registry requires from a client without credentials; empty if it says nothing."""
    try:
        repository.context.transport.send("HEAD", f"{repository.base}/manifests/{reference}", _ACCEPTED)
    except LoadError as failure:
        if failure.status == 401:
            return failure.headers.get("www-authenticate", "")
        # Whether the manifest exists and can be read is for the GET to say: not every registry supports HEAD.
        if failure.code not in (Code.UNAUTHORIZED, Code.NOT_FOUND, Code.INVALID_SOURCE):
            raise
    return ""


def _authorizer(repository: _Repository, challenge: str, login: Login) -> Authorizer:
    """Return a token authorizer if the registry names a token service, else the user and password.

    Sources: https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/
    """
    if login.bearer:
        return Header(f"Bearer {login.bearer}")
    by_login = basic(login.basic) if login.basic else ANONYMOUS
    bearer = _BEARER.search(challenge[:4096])
    said = dict(reversed(re.findall(r'(\w{1,32})="([^"]*)"', bearer[1]))) if bearer else {}
    if "realm" not in said:
        return by_login
    transport = repository.context.transport
    service = _token_service(said["realm"], repository, known=bool(login.basic or login.identity))
    query = {"scope": f"repository:{repository.name}:pull"}
    query |= {"service": said["service"]} if "service" in said else {}

    def fetch() -> tuple[str, float]:
        if login.identity:
            grant = {"grant_type": "refresh_token", "refresh_token": login.identity, "client_id": "kubectl-serve"}
            answer = transport.read(service, form=urlencode(query | grant))
        else:
            mark = "&" if "?" in service else "?"
            answer = transport.read(f"{service}{mark}{urlencode(query)}", authorizer=by_login)
        found = documents.from_json(answer)
        return str(found.get("token") or found["access_token"]), float(found.get("expires_in") or 60)

    return Token(fetch)


def _token_service(realm: str, repository: _Repository, *, known: bool) -> str:
    """Return the URL of the token service. `known`: whether the request to it would carry a password or token.

    Raises LoadError(Refused): a registry can name any host, but a password is for one host only.
    """
    registry, service = split(repository.base), split(realm)
    if service.scheme == "http" and (registry.scheme, registry.netloc) != ("http", service.netloc):
        raise LoadError(
            Code.REFUSED,
            f"the token service of the registry {registry.netloc} uses plain http: {service.netloc}",
            hint="Use a registry whose token service uses https.",
        )
    same = service.hostname == registry.hostname and service.port in (None, 443, registry.port)
    expected = same or service.netloc == _TOKEN_SERVICES.get(registry.netloc)
    if known and not expected and not docker_config.names(repository.context.secret, service.netloc):
        raise LoadError(
            Code.REFUSED,
            f"the registry {registry.netloc} requests the password for another host, {service.netloc}",
            hint="If it is the registry's own token service, add it to auths in the Secret's .dockerconfigjson.",
        )
    return realm
