"""The model volume: its layout, and access that never follows a symbolic link.

Other containers, and earlier starts of this one, can write to the volume too. So the loader opens every path from a
folder's descriptor, one segment after the other and without following links: no link can redirect a write to outside
the volume, even if it appears during the load. Source: openat(2), O_NOFOLLOW.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from model_loader.outcomes import Code, LoadError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC


class SafeDir:
    """A folder, by its descriptor. Paths are relative to it. Each method raises OSError."""

    def __init__(self, fd: int) -> None:
        """Take over `fd`."""
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def folder(self, path: str, *, make: bool = False) -> "SafeDir":
        """Return the folder at `path`. `make`: make missing folders."""
        found = self.fd
        for name in path.split("/"):
            holder = found
            try:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=holder)
                found = os.open(name, _FOLDER | _NO_LINK, dir_fd=holder)
            finally:
                if holder != self.fd:
                    os.close(holder)
        return SafeDir(found)

    def open(self, path: str, flags: int) -> int:
        """Return a descriptor of the file at `path`, as os.open does."""
        with self._holder(path) as (fd, name):
            return os.open(name, flags | _NO_LINK, 0o644, dir_fd=fd)

    def has_folder(self, name: str) -> bool:
        """Return whether this folder exists. Raises NotADirectoryError if it is something else."""
        try:
            self.folder(name).close()
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        with open(self.open(name, os.O_RDONLY), "rb") as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        draft = f"{name}.part"
        with open(self.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as stream:
            stream.write(data)
        self.rename(draft, self, name)

    def rename(self, path: str, folder: "SafeDir", name: str) -> None:
        """Move `path` into `folder`, as `name`."""
        with self._holder(path) as (fd, old):
            os.rename(old, name, src_dir_fd=fd, dst_dir_fd=folder.fd)

    def remove(self, name: str) -> None:
        """Remove a file, link or folder, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode):
                import shutil  # noqa: PLC0415  # start-up time (3 ms) of its archive modules

                shutil.rmtree(name, dir_fd=self.fd)
            else:
                os.unlink(name, dir_fd=self.fd)

    @contextlib.contextmanager
    def _holder(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield the descriptor of the folder that has `path`, and the last segment of `path`."""
        folder, _, name = path.rpartition("/")
        if not folder:
            yield self.fd, name
            return
        with self.folder(folder) as holder:
            yield holder.fd, name


class Opener:
    """Opens the files of a folder as :meth:`SafeDir.open` does. Caches the last file's folder for the next one."""

    def __init__(self, folder: SafeDir) -> None:
        self._folder = folder
        self._place = ""
        self._holder = folder

    def open(self, path: str, flags: int) -> int:
        """Return a descriptor of the file at `path`. Raises OSError."""
        place, _, name = path.rpartition("/")
        if place != self._place:
            self.close()
            if place:
                self._holder, self._place = self._folder.folder(place), place
        return self._holder.open(name, flags)

    def close(self) -> None:
        """Close the cached folder."""
        if self._place:
            self._holder.close()
        self._holder, self._place = self._folder, ""


class Volume:
    """The model volume: the server sees `model`; `state` is the loader's own. Raises OSError."""

    MODEL = "model"
    FILES = "files"
    """In `state`: the model during the download."""
    JOURNAL = "journal"
    COMPLETE = "complete.json"

    def __init__(self, root: Path) -> None:
        """Open the volume mounted at `root`."""
        with contextlib.ExitStack() as opened:
            self.root = opened.enter_context(SafeDir(os.open(root, _FOLDER | os.O_CLOEXEC)))
            self.state = opened.enter_context(self.root.folder("state", make=True))
            self._opened = opened.pop_all()
        self.files = root / "state" / self.FILES
        """Only for reading."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def clear(self) -> None:
        """Remove the model and everything that was downloaded."""
        self.state.remove(self.COMPLETE)
        self.state.remove(self.JOURNAL)
        self.root.remove(self.MODEL)
        self.state.remove(self.FILES)

    def publish(self) -> None:
        """Make the model visible to the server."""
        self.state.rename(self.FILES, self.root, self.MODEL)

    def stats(self) -> os.statvfs_result:
        """Return the volume's size and free space."""
        return os.fstatvfs(self.state.fd)


def storage_failure(error: OSError, file: str = "") -> LoadError:
    """Return the LoadError for an error of the volume."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LoadError(Code.NO_SPACE, "the model volume is full", file=file)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return LoadError(
            Code.REFUSED,
            "the model volume has a link or another file in place of a file or folder of the loader",
            hint="Make sure that no other container writes to the model's volume.",
            file=file,
        )
    return LoadError(Code.INTERNAL, f"the model volume cannot be written: {error.strerror}", file=file)
