r"""The digest of a model: what `kubectl-serve.dev/digest` pins.

A model that is one file has that file's sha256. A model that is a folder has the sha256 of its manifest: for each file
one line `<sha256, hex>  <path>\n`, the path relative to the folder, the lines sorted by the path's UTF-8 bytes.
coreutils compute the same:

    find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum

Empty folders, modes and times do not count. A model that is an archive at a URL has the archive's sha256; for an OCI
artifact or image, the unpacked files count.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

_BUFFER = 1 << 20


def of_manifest(files: Mapping[str, str]) -> str:
    """Return the digest of a folder from each file's path and hex sha256."""
    lines = (
        f"{sha256}  {path}\n".encode() for path, sha256 in sorted(files.items(), key=lambda item: item[0].encode())
    )
    return "sha256:" + hashlib.sha256(b"".join(lines)).hexdigest()


def hashes(path: Path) -> dict[str, str]:
    """Return the hex sha256 of each file of a folder, by path. Raises OSError. Ignores links."""
    found: dict[str, str] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder) / name
            if file.is_file() and not file.is_symlink():
                found[file.relative_to(path).as_posix()] = sha256(file)
    return found


def sha256(path: Path, progress: Callable[[int], None] = lambda size: None) -> str:
    """Return the hex sha256 of a file. `progress` receives the size of each piece that was read. Raises OSError."""
    buffer, found = memoryview(bytearray(_BUFFER)), hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            found.update(buffer[:size])
            progress(size)
    return found.hexdigest()
