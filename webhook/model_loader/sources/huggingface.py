"""`hf://organisation/model[/path][@revision]` of a Hugging Face hub."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from model_loader.http.authorizers import ANONYMOUS, Authorizer, Header
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, size_of
from model_loader.plan.paths import check_clashes, safe_path
from model_loader.sources import documents, hub_layouts, pages
from model_uri import ModelURI
from model_uri.hub import DEFAULT_REVISION, HOST

_HUB = f"https://{HOST}"
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|git-blob:[0-9a-f]{40}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN = 6
"""Files in a message."""


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the files of the repository, or of the path in it, at the revision's present commit. Raises LoadError.

    The loader reads every file by that commit, and verifies the hub's checksum: sha256 for files in large file storage,
    git's hash for the others.
    """
    repository, revision = uri.repository, uri.revision
    hub = context.endpoint(_HUB, "HF_ENDPOINT")
    token = context.secret.get("HF_TOKEN", "token")
    authorizer: Authorizer = Header(f"Bearer {token}") if token else ANONYMOUS
    about = f"{hub}/api/models/{repository}/revision/{quote(revision or DEFAULT_REVISION, safe='')}?blobs=true"
    try:
        response = context.transport.read(about, authorizer=authorizer)
    except LoadError as failure:
        raise _explained(failure, uri, hub) from None
    try:
        found = documents.from_json(response)
        commit = str(found["sha"])
        if not _COMMIT.fullmatch(commit):
            raise ValueError(commit)
        base = f"{hub}/{repository}/resolve/{commit}"
        listed = [_file(base, entry, authorizer) for entry in found["siblings"]]
    except (ValueError, KeyError, TypeError):
        raise pages.unreadable(hub, "files") from None
    if not listed:
        raise LoadError(Code.NOT_FOUND, f"hf://{repository} holds no file")
    check_clashes(file.path for file in listed)
    files = {file.path: file for file in listed}
    path = "/".join(uri.inside)
    return _one(path, files, commit) if path in files and not uri.folder else _folder(uri, path, files, commit)


def _explained(failure: LoadError, uri: ModelURI, hub: str) -> LoadError:
    """Return the failure with what the hub says of it. Source: huggingface_hub, `hf_raise_for_status`."""
    repository, said = f"hf://{uri.repository}", failure.headers.get("x-error-code", "")
    if said == "RevisionNotFound":
        message = f"{repository} has no revision {uri.revision or DEFAULT_REVISION}"
        return LoadError(Code.NOT_FOUND, message, hint="Name a branch, a tag or a full commit; write %2F for a slash.")
    if said == "GatedRepo":
        hint = f"Accept the conditions of {hub}/{uri.repository} with the account of the token in HF_TOKEN."
        return LoadError(Code.UNAUTHORIZED, f"{repository} is gated, and the token has no access", hint=hint)
    if said == "RepoNotFound" or failure.code is Code.UNAUTHORIZED:
        # The hub does not say whether a private repository exists.
        message = f"{repository} does not exist, or HF_TOKEN has no access to it"
        hint = f"Check the name{'' if uri.segments else ' (an organisation is missing)'}, and the token in HF_TOKEN."
        return LoadError(failure.code, message, hint=hint)
    return failure


def _one(path: str, files: Mapping[str, File], commit: str) -> Listing:
    """Return the file at `path`; the parts of a GGUF model are one model."""
    place, _, _ = path.rpartition("/")
    parts = sorted(hub_layouts.parts_of(path, files))
    found = tuple(files[part]._replace(path=part[len(place) + 1 :] if place else part) for part in parts)
    return Listing(found, single=len(found) == 1, commit=commit, inside=place)


def _folder(uri: ModelURI, path: str, files: Mapping[str, File], commit: str) -> Listing:
    """Return the files below `path`; all if it is empty. Raises LoadError(NotFound)."""
    prefix = f"{path}/" if path else ""
    found = {name[len(prefix) :]: file for name, file in files.items() if name.startswith(prefix)}
    if not found:
        names = sorted(files, key=lambda name: not name.endswith(path.rpartition("/")[2]))[:_SHOWN]
        raise LoadError(
            Code.NOT_FOUND,
            f"hf://{uri.repository} has no file {path} at {uri.revision or DEFAULT_REVISION}",
            hint=f"It has {', '.join(names)}{' and others' if len(files) > _SHOWN else ''}.",
        )
    # Only files whose sha256 the hub lists: the digest of all files can then be verified without them.
    copies = frozenset(name for name in hub_layouts.copies(found) if found[name].checksum.startswith("sha256:"))
    return Listing(
        tuple(file._replace(path=name) for name, file in found.items()),
        commit=commit,
        inside=path,
        copies=copies,
        choices=choices if len(choices := hub_layouts.gguf_models(found.keys() - copies)) > 1 else (),
    )


def _file(base: str, entry: dict[str, object], authorizer: Authorizer) -> File:
    name = str(entry["rfilename"])
    stored = entry.get("lfs")
    if isinstance(stored, dict):
        checksum, size = f"sha256:{stored['sha256']}", stored["size"]
    else:
        checksum, size = f"git-blob:{entry['blobId']}", entry["size"]
    if not _CHECKSUM.fullmatch(checksum):
        raise ValueError(checksum)
    return File(
        path=safe_path(name),
        url=f"{base}/{quote(name)}",
        size=size_of(size),
        authorizer=authorizer,
        version=base,
        checksum=checksum,
    )
