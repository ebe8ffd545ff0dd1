"""Names for content: which files of which stores are the same.

A name covers what a store itself vouches for, and all that vouched: the URI, every server that answered while the
files were listed, the authorities that were trusted, and each file's address, size, ETag, version and checksum. So a
store that a tenant controls can list any ETag or checksum: the name is another one. Nothing is shared by the hash of
its bytes, because a hash proves no access.
"""

import hashlib
import json
from collections.abc import Sequence

from model_loader.plan.model import File, Snapshot
from model_loader.plan.options import LoaderOptions

_FORMAT = 1
"""Part of each name. Increase it when the meaning of a name changes."""


def of_trust(options: LoaderOptions, origins: Sequence[str], authorities: str) -> str:
    """Return a name for what vouches for a list of files: sources, servers that answered, and trusted authorities."""
    stores = [store.argument for store in options.stores]
    # With the query: it can name the model. A signed URL is then shared only by those who have it.
    uris = [load.uri for load in options.loads]
    return _name("trust", uris, stores, sorted(origins), hashlib.sha256(authorities.encode()).hexdigest())


def of_file(trust: str, file: File) -> str:
    """Return a file's name, or an empty text if its store gives nothing that identifies its content."""
    if file.size < 0 or not (file.etag or file.version or file.checksum):
        return ""
    return _name("file", trust, _address(file), file.size, file.etag, file.version, file.checksum)


def of_tree(
    options: LoaderOptions, trust: str, files: Sequence[File], names: Sequence[str], snapshots: Sequence[Snapshot]
) -> str:
    """Return the name of a model, or an empty text if a file has none. `names`: of the files."""
    if not all(names):
        return ""
    listed = [(file.path, name, file.unpack.value) for file, name in zip(files, names, strict=True)]
    hub = [tuple(each) for each in snapshots] if options.hub_cache else []
    return _name("tree", trust, str(options.files), listed, hub)


def of_unpacked(tree: str, path: str) -> str:
    """Return the name of a file that an archive of the model has."""
    return _name("unpacked", tree, path)


def _address(file: File) -> str:
    """Return the address of a file, unless its version is a strong hash of its content, which the download verifies.

    Addresses of such files can be temporary: of Git LFS, or of a git repository's pack on the volume.
    """
    algorithm, _, digest = file.checksum.partition(":")
    hashed = algorithm in ("sha256", "git-blob") and file.version.removeprefix("sha256:") == digest
    return "" if hashed else file.url


def _name(*parts: object) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, *parts]).encode()).hexdigest()
