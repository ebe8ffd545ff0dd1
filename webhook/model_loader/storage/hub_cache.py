"""A model as a cache of `huggingface_hub`: a server that names the repository finds it there, and downloads nothing.

The cache has hard links to the model's files, so it takes no space. Source: huggingface_hub, "Understand caching";
files in `snapshots` need no `blobs`.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence

from model_loader.plan.model import DEFAULT_REVISION, Snapshot
from model_loader.plan.paths import below
from model_loader.storage.volume import SafeDir


def write(snapshots: Sequence[Snapshot], files: SafeDir, cache: SafeDir) -> None:
    """Lay out the repositories, whose files are in `files`, in the folder `cache`. Raises OSError."""
    for snapshot in snapshots:
        with cache.folder(f"models--{snapshot.repository.replace('/', '--')}", make=True) as repository:
            # A server that names no revision gets the model's, which can be another than main's.
            for reference in {snapshot.revision, DEFAULT_REVISION} - {snapshot.commit}:
                place, _, name = f"refs/{reference}".rpartition("/")
                with repository.folder(place, make=True) as folder:
                    folder.write(name, snapshot.commit.encode())  # without a line end
            for path in snapshot.paths:
                place, _, name = f"snapshots/{snapshot.commit}/{below(snapshot.inside, path)}".rpartition("/")
                # Two of the models can be parts of one repository.
                with repository.folder(place, make=True) as folder, contextlib.suppress(FileExistsError):
                    files.link(below(snapshot.folder, path), folder, name)


def hashes(snapshots: Sequence[Snapshot], files: Mapping[str, str]) -> dict[str, str]:
    """Return the sha256 in hex of each file that :func:`write` lays out, by path. `files`: those of the model."""
    found: dict[str, str] = {}
    for snapshot in snapshots:
        repository = f"models--{snapshot.repository.replace('/', '--')}"
        for reference in {snapshot.revision, DEFAULT_REVISION} - {snapshot.commit}:
            found[f"{repository}/refs/{reference}"] = hashlib.sha256(snapshot.commit.encode()).hexdigest()
        for path in snapshot.paths:
            place = f"{repository}/snapshots/{snapshot.commit}/{below(snapshot.inside, path)}"
            found.setdefault(place, files[below(snapshot.folder, path)])
    return found
