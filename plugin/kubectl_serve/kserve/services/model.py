"""Where the model comes from: KServe's URIs, storage entries and identifiers of a hub as URIs of kubectl-serve. Pure.

Source: KServe 0.20, ``python/storage/kserve_storage/kserve_storage.py`` and ``pkg/apis/serving/v1beta1``.
"""

import posixpath
import re
from dataclasses import dataclass

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.arguments import Arguments
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import READ_ONLY
from kubectl_serve.kserve.services import credentials
from model_uri import encode_path, hub
from model_uri.uri import is_short
from serve_core.api import models
from serve_core.api.annotations import CREDENTIALS, MODEL, MOUNT, WRITABLE
from serve_core.base.constants import MODEL_MOUNT
from serve_core.syntax import image_reference, mount_path

_AZURE = re.compile(
    r"https://([a-z0-9]+)((?:\.z[0-9]{1,2})?\.blob\.(?:core\.windows|storage\.azure)\.net)/([^?#]+)", re.ASCII
)
_AZURE_HOST = ".blob.core.windows.net"
_AZURE_FILES = re.compile(r"https://[^/]+\.file\.(?:core\.windows|storage\.azure)\.net/", re.ASCII)
_GIT = re.compile(r"https://[^?#]+\.git", re.ASCII)
_GITHUB = re.compile(r"https://github\.com/([^/?#]+/[^/?#]+)/(?:blob|raw)/([^?#]+)\?raw=true", re.ASCII)
"""GitHub's link for a file, which leads to the address for downloads."""
_HUB = "hf://"
_RAW = ("s3://", "gs://", "pvc://")
"""Schemes whose path KServe takes as it is, but for what follows ``?`` or ``#`` in s3://. Here, a path is
percent-encoded."""

_SECOND = "has no effect: another field names the model."
_STORAGE_TYPES = {"s3": "s3", "gs": "gs", "gcs": "gs"}


@dataclass(frozen=True)
class Source:
    """A model's URI, as kubectl-serve reads it."""

    uri: str
    note: str = ""
    """What the user must do beside it."""


def source(text: str) -> Source:
    """The URI for one of KServe's. A URI of a store that kubectl-serve does not have stays: admission refuses it."""
    uri = text.strip()
    for prefix in ("oci+native://", "oci+fetch://"):
        if uri.startswith(prefix):
            uri = "oci://" + uri.removeprefix(prefix)
    if uri.startswith("oci://"):
        return Source("oci://" + _with_registry(uri.removeprefix("oci://")))
    if uri.startswith(_HUB):
        return Source(_with_revision_behind_at(uri))
    if found := _AZURE.fullmatch(uri):
        account, host, path = found.groups()
        endpoint = "" if host == _AZURE_HOST else f" and AZURE_STORAGE_ENDPOINT=https://{account}{host}"
        variables = f"AZURE_STORAGE_ACCOUNT={account}{endpoint}"
        why = f"the account is not part of the URI: add {variables} to the Secret that {CREDENTIALS} names."
        return Source(encode_path(f"az://{path.strip('/')}"), why)
    if _GIT.fullmatch(uri):
        return Source(f"git+{uri}")
    if found := _GITHUB.fullmatch(uri):
        return Source(f"https://raw.githubusercontent.com/{found[1]}/{found[2]}")
    if uri.startswith(_RAW):
        encoded = encode_path(uri)
        return Source(encoded if uri.startswith("s3://") else encoded.replace("?", "%3F").replace("#", "%23"))
    return Source(uri)


def of_hub(name: str, revision: str | None) -> str:
    """The URI of a hub's repository, which some servers take as a URI too."""
    uri = source(name).uri if "://" in name else f"{_HUB}{name}"
    return uri if revision is None or "@" in uri or not uri.startswith(_HUB) else f"{uri}@{hub.encoded(revision)}"


def _with_revision_behind_at(uri: str) -> str:
    """A URI of the hub whose revision follows an ``@``. One that cannot be read stays: admission says why."""
    try:
        owner, path, revision = hub.split(uri.removeprefix(_HUB))
    except ValueError:
        return uri
    if not revision or "@" in uri or hub.is_quantization(revision):
        return uri
    return f"{_HUB}{owner}{'/' if path else ''}{path}@{hub.encoded(revision)}"


def _with_registry(image: str) -> str:
    """An image with its registry: container runtimes take a name without one from Docker Hub."""
    first, slash, _ = image.partition("/")
    if slash and not is_short(first):
        return image
    return f"{image_reference.DEFAULT_REGISTRY}/{'' if slash else 'library/'}{image}"


def read_access(document: Field, draft: Draft) -> None:
    """Whether the server can write to the model's claim. Called after the model is read."""
    annotation = document.at("metadata", "annotations", READ_ONLY)
    if annotation.value == "false" and draft.asked.get(MODEL, "").startswith("pvc://"):
        annotation.use()
        draft.asked[WRITABLE] = "true"
    elif annotation.value == "false":
        annotation.note("has no equivalent: the server only reads what the loader downloads.")
    elif annotation.value == "true":
        annotation.use()


def read_uri(field: Field, draft: Draft) -> None:
    """The model of a field with one URI."""
    if MODEL in draft.asked:
        field.note(_SECOND)
        return
    text = field.text()
    if text is None:
        return
    if _AZURE_FILES.match(text):
        field.refuse("has no equivalent: mount the file share as a PersistentVolumeClaim, and write pvc://CLAIM/PATH.")
        return
    found = source(text)
    draft.asked[MODEL] = found.uri
    if found.note:
        field.remark(found.note)


def read_uris(predictor: Field, draft: Draft, *, of_catalogue: bool) -> None:
    """The models of ``storageUris``: a URI and a mount path each. ``of_catalogue``: whether the server is one of the
    catalogue, which does not read a model everywhere."""
    places = [each for each in predictor.at("storageUris").objects() if each.at("uri").is_text()]
    if not places:
        return
    paths = [mount_path.normalized(each.at("mountPath").text() or MODEL_MOUNT) for each in places]
    mount = _common_mount(paths, of_catalogue=of_catalogue)
    if mount != MODEL_MOUNT:
        draft.asked[MOUNT] = mount
    found = []
    for each, path in zip(places, paths, strict=True):
        converted = source(str(each.at("uri").text()))
        if converted.note:
            each.at("uri").remark(converted.note)
        is_inside = mount_path.is_within(path, mount)
        folder = (path.removeprefix(mount) if is_inside else path).strip("/")
        if len(places) == 1:
            folder = ""
        here = posixpath.join(mount, folder).rstrip("/")
        if here != path:
            each.at("mountPath").remark(f"kubectl-serve mounts this model at {here}.")
        found.append((converted.uri, folder))
    draft.asked[MODEL] = models.join(found)


def _common_mount(paths: list[str], *, of_catalogue: bool) -> str:
    """The folder for models at ``paths``: the default one if it has several of them, or if no other can have them."""
    common = posixpath.commonpath(paths)
    is_allowed = mount_path.is_for_data(common) if of_catalogue else mount_path.fault(common) is None
    is_default = len(paths) > 1 and mount_path.is_within(common, MODEL_MOUNT)
    return common if is_allowed and not is_default else MODEL_MOUNT


def read_storage(storage: Field, document: Field, draft: Draft) -> None:
    """The model of a storage entry: a path in a bucket, and an entry of Secret ``storage-config``."""
    parameters = storage.at("parameters")
    kind, bucket, path = parameters.at("type"), parameters.at("bucket"), storage.at("path")
    draft.has_entries = MODEL not in draft.asked
    secret = credentials.of_entries(document) if draft.has_entries else credentials.STORAGE_CONFIG
    entry = credentials.storage_entry(secret, storage, draft)
    scheme = _STORAGE_TYPES.get(str(kind.value or entry.get("type") or "s3"))
    credentials.note_entry(secret, storage, entry, scheme, document)
    for name, each in parameters.entries().items():
        if name not in ("type", "bucket"):
            each.note(f"belongs into the Secret that {CREDENTIALS} names.")
    if MODEL in draft.asked:
        for each in (kind, bucket, path):
            each.note(_SECOND)
        return
    if scheme is None:
        (kind or storage).refuse("has no equivalent; the stores are those of the model's URI.")
        return
    kind.use()
    in_secret = entry.get("bucket")
    its_name = bucket.text() or (in_secret if isinstance(in_secret, str) else "")
    if not its_name:
        storage.remark(f"names no bucket; add the bucket from Secret {secret} to {MODEL}.")
    where = f"{its_name or 'BUCKET'}/{(path.text() or '').strip('/')}"
    draft.asked[MODEL] = encode_path(f"{scheme}://{where}")


def read_hub_arguments(server: Field, args: Arguments, draft: Draft) -> None:
    """The model that the server itself would download from the hub, if its arguments name one."""
    named = args.find("--model_id", "--model")
    if named is not None and posixpath.normpath(named.value) == MODEL_MOUNT:
        args.take("--model_id", "--model")
        named = None
    is_loaded = MODEL in draft.asked
    if named is not None and (is_loaded or named.value.startswith("/")):
        if is_loaded and not named.value.startswith("/"):
            named.words[0].remark(f"names another model than the one that is loaded to {MODEL_MOUNT}.")
        return
    revision, of_tokenizer = args.take("--model_revision", "--revision"), args.take("--tokenizer_revision")
    for each in (revision, of_tokenizer):
        if named is None and each is not None:
            each.note("has no effect: the model's URI has the revision.")
    if named is None:
        return
    args.take("--model_id", "--model")
    draft.asked[MODEL] = of_hub(named.value, revision.value if revision is not None else None)
    server.at("args").remark("the loader downloads the model instead of the server.")
    of_model = revision.value if revision is not None else hub.DEFAULT_REVISION
    if of_tokenizer is not None and of_tokenizer.value != of_model:
        of_tokenizer.note("has no equivalent: the tokenizer has the revision of the model.")
