"""A model as a cache of `huggingface_hub`: a server that names the repository finds it there, and downloads nothing.

The cache has hard links to the model's files, so it takes no space. Source: huggingface_hub, "Understand caching";
files in `snapshots` need no `blobs`.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence

from model_loader.plan.model import Snapshot
from model_loader.plan.paths import below
from model_loader.storage.volume import SafeDir
from model_uri import hub


def write(snapshots: Sequence[Snapshot], files: SafeDir, cache: SafeDir) -> None:
    """Lay out the repositories, whose files are in `files`, in the folder `cache`. Raises OSError."""
    for snapshot in snapshots:
        with cache.folder(hub.cache_folder(snapshot.repository), make=True) as repository:
            for reference in _references(snapshot):
                place, _, name = reference.rpartition("/")
                with repository.folder(place, make=True) as folder:
                    folder.write(name, _content(snapshot))
            for path in snapshot.paths:
                place, _, name = _place(snapshot, path).rpartition("/")
                # Two of the models can be parts of one repository.
                with repository.folder(place, make=True) as folder, contextlib.suppress(FileExistsError):
                    files.link(below(snapshot.folder, path), folder, name)


def hashes(snapshots: Sequence[Snapshot], files: Mapping[str, str]) -> dict[str, str]:
    """Return the sha256 in hex of each file that :func:`write` lays out, by path. `files`: those of the model."""
    found: dict[str, str] = {}
    for snapshot in snapshots:
        repository = hub.cache_folder(snapshot.repository)
        for reference in _references(snapshot):
            found[f"{repository}/{reference}"] = hashlib.sha256(_content(snapshot)).hexdigest()
        for path in snapshot.paths:
            found.setdefault(f"{repository}/{_place(snapshot, path)}", files[below(snapshot.folder, path)])
    return found


def _references(snapshot: Snapshot) -> list[str]:
    """The files that name the commit. A server that names no revision gets the model's, which can be another than
    that of the default branch."""
    return [f"refs/{name}" for name in {snapshot.revision, hub.DEFAULT_REVISION} - {snapshot.commit}]


def _content(snapshot: Snapshot) -> bytes:
    """The content of a reference, without a line end."""
    return snapshot.commit.encode()


def _place(snapshot: Snapshot, path: str) -> str:
    """The place of a file in the repository's folder. `path`: below the snapshot's folder of the model."""
    return f"snapshots/{snapshot.commit}/{below(snapshot.inside, path)}"
