"""`hf://organisation/model[@revision]` of a Hugging Face hub."""

import re
from urllib.parse import quote

from model_loader.http.authorizers import ANONYMOUS, Authorizer, Header
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import DEFAULT_REVISION, Context, File, Listing, size_of
from model_loader.plan.paths import safe_path
from model_loader.sources import documents
from model_uri import ModelURI

_HUB = "https://huggingface.co"
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|git-blob:[0-9a-f]{40}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the files of the repository at the revision's present commit. Raises LoadError.

    The loader reads every file by that commit, and verifies the hub's checksum: sha256 for files in large file storage,
    git's hash for the others.
    """
    repository, revision = f"{uri.host}/{uri.segments[0]}", uri.revision
    hub = context.endpoint(_HUB, "HF_ENDPOINT")
    token = context.secret.get("HF_TOKEN", "token")
    authorizer: Authorizer = Header(f"Bearer {token}") if token else ANONYMOUS
    about = f"{hub}/api/models/{repository}/revision/{quote(revision or DEFAULT_REVISION, safe='')}?blobs=true"
    response = context.transport.read(about, authorizer=authorizer)
    try:
        found = documents.from_json(response)
        commit = str(found["sha"])
        if not _COMMIT.fullmatch(commit):
            raise ValueError(commit)
        base = f"{hub}/{repository}/resolve/{commit}"
        files = tuple(_file(base, entry, authorizer) for entry in found["siblings"])
    except (ValueError, KeyError, TypeError):
        raise LoadError(Code.SERVER_ERROR, f"{hub} did not answer with a list of files") from None
    if not files:
        raise LoadError(Code.NOT_FOUND, f"hf://{repository} holds no file")
    return Listing(files, commit=commit)


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
