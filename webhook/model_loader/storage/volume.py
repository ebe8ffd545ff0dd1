"""The model volume: what lies where, and how it is written to without ever going through a link.

Other containers, and earlier starts of this one, can write to the volume too. So everything on it is reached from the
descriptor of a folder, segment by segment and never through a symbolic link: none can lead a write out of the volume,
whenever it is put there. Source: openat(2), O_NOFOLLOW.
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
    """A folder by its descriptor. Paths are relative to it, and each of the methods raises OSError."""

    def __init__(self, fd: int) -> None:
        """Take over `fd`."""
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.fd)

    def folder(self, path: str, *, make: bool = False) -> "SafeDir":
        """Return the folder at `path`; with `make`, whatever is missing of it is made."""
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
        """Tell whether there is a folder of this name. Raises NotADirectoryError where it is something else."""
        try:
            self.folder(name).close()
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """Return what the file of this name holds."""
        with open(self.open(name, os.O_RDONLY), "rb") as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        """Put a file of this name there, all of it at once."""
        draft = f"{name}.part"
        with open(self.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as stream:
            stream.write(data)
        self.rename(draft, self, name)

    def rename(self, path: str, folder: "SafeDir", name: str) -> None:
        """Put what is at `path` into `folder`, as `name`."""
        with self._holder(path) as (fd, old):
            os.rename(old, name, src_dir_fd=fd, dst_dir_fd=folder.fd)

    def remove(self, name: str) -> None:
        """Remove the file, link or folder of this name, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode):
                import shutil  # noqa: PLC0415  # 3 ms of start-up, with its archives

                shutil.rmtree(name, dir_fd=self.fd)
            else:
                os.unlink(name, dir_fd=self.fd)

    @contextlib.contextmanager
    def _holder(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield the descriptor of the folder that `path` is in, and its name there."""
        folder, _, name = path.rpartition("/")
        if not folder:
            yield self.fd, name
            return
        with self.folder(folder) as holder:
            yield holder.fd, name


class Opener:
    """Opens the files of a folder as :meth:`SafeDir.open` does, and keeps the folder of the last one for the next."""

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
        """Let go of the folder that is kept."""
        if self._place:
            self._holder.close()
        self._holder, self._place = self._folder, ""


class Volume:
    """The model volume: `model` is what the server sees, `state` what the loader keeps beside it. Raises OSError."""

    MODEL = "model"
    FILES = "files"
    """In `state`: the model while it is read."""
    JOURNAL = "journal"
    COMPLETE = "complete.json"

    def __init__(self, root: Path) -> None:
        """Open the volume that is mounted at `root`."""
        with contextlib.ExitStack() as opened:
            self.root = opened.enter_context(SafeDir(os.open(root, _FOLDER | os.O_CLOEXEC)))
            self.state = opened.enter_context(self.root.folder("state", make=True))
            self._opened = opened.pop_all()
        self.files = root / "state" / self.FILES
        """For reading alone."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def clear(self) -> None:
        """Remove the model and everything that was read for one."""
        self.state.remove(self.COMPLETE)
        self.state.remove(self.JOURNAL)
        self.root.remove(self.MODEL)
        self.state.remove(self.FILES)

    def publish(self) -> None:
        """Show the model to the server."""
        self.state.rename(self.FILES, self.root, self.MODEL)

    def stats(self) -> os.statvfs_result:
        """Return how much space there is."""
        return os.fstatvfs(self.state.fd)


def storage_failure(error: OSError, file: str = "") -> LoadError:
    """Return the failure that stands for an error of the volume."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LoadError(Code.NO_SPACE, "the model volume is full", file=file)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return LoadError(
            Code.REFUSED,
            "the model volume has a link, or a file, where a folder or file of the loader's belongs",
            hint="Let nothing else write to the model's volume.",
            file=file,
        )
    return LoadError(Code.INTERNAL, f"the model volume cannot be written: {error.strerror}", file=file)
