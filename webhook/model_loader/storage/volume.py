"""The model volume: its layout, its owner, and access that never follows a symbolic link.

Other containers, and earlier starts of this one, can write to the volume too. So the loader opens every path from a
folder's descriptor, one segment after the other and without following links: no link can redirect a write to outside
the volume, even if it appears during the load. Source: openat(2), O_NOFOLLOW.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from model_loader.outcomes import Code, LoadError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
_MOUNTS = Path("/proc/self/mountinfo")
_POD = re.compile(r"/pods/([0-9a-f-]{32,36})/", re.ASCII)
"""The pod's UID in the source of a mount that the kubelet makes for every container, such as ``/etc/hosts``."""


def this_pod() -> str:
    """Return what identifies the pod: its host name, and its UID where a mount shows it.

    Container restarts and reboots of the node keep both. Host names alone are cut at 63 characters, so that two pods of
    one Deployment can have the same.
    """
    try:
        uid = _POD.search(_MOUNTS.read_text())
    except OSError:
        uid = None
    return f"{os.uname().nodename} {uid[1] if uid else ''}".strip()


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

    def is_empty(self, name: str) -> bool:
        """Return whether this folder has no entry or does not exist. Raises NotADirectoryError as `has_folder`."""
        try:
            with self.folder(name) as found:
                return not os.listdir(found.fd)
        except FileNotFoundError:
            return True

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

    def link(self, path: str, folder: "SafeDir", name: str) -> None:
        """Give the file at `path` a second name, in `folder`."""
        with self._holder(path) as (fd, old):
            os.link(old, name, src_dir_fd=fd, dst_dir_fd=folder.fd, follow_symlinks=False)

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
    """The model volume: the server sees `model` and `hub`; `state` is the loader's own. Raises OSError.

    The loader removes only what it wrote. `state` has the name of the pod that made it, and `model` and `hub` belong to
    that pod once `state` has the record of a complete model.
    """

    MODEL = "model"
    HUB = "hub"
    """The model as a cache of `huggingface_hub`; in `state` until the model is published."""
    STATE = "state"
    FILES = "files"
    """In `state`: the model during the download."""
    SCRATCH = "scratch"
    """In `state`: temporary files of a source."""
    JOURNAL = "journal"
    COMPLETE = "complete.json"
    OWNER = "owner"
    _PUBLISHED = (MODEL, HUB)

    def __init__(self, root: Path, pod: str) -> None:
        """Open the volume mounted at `root` for a pod (`this_pod`).

        Raises LoadError(Refused) for a volume with files in the loader's folders that the loader did not write.
        """
        with contextlib.ExitStack() as opened:
            self.root = opened.enter_context(SafeDir(os.open(root, _FOLDER | os.O_CLOEXEC)))
            owner = self._owner()
            if owner is None:
                self._refuse_published()
                self._mark(pod)
                owner = self._owner()
            if owner is None:
                raise _not_ours(self.STATE)
            self.owner = owner
            self.is_own = owner == pod
            self.state = opened.enter_context(self.root.folder(self.STATE))
            if self.is_own and not self.has_record():
                self._refuse_published()
            self._opened = opened.pop_all()
        self.files = root / self.STATE / self.FILES
        """Only for reading."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def require_own(self) -> None:
        """Raise LoadError(Refused) if another pod made the loader's folders."""
        if not self.is_own:
            raise LoadError(
                Code.REFUSED,
                f"the model volume has the model of another pod, {ascii(self.owner)[1:-1][:120]}",
                hint="Give each pod a model volume of its own. Pods can share a model on a claim: pvc://CLAIM/PATH.",
            )

    def has_record(self) -> bool:
        """Return whether a model was complete here: then `model` and `hub` are the loader's."""
        try:
            os.close(self.state.open(self.COMPLETE, os.O_RDONLY))
        except FileNotFoundError:
            return False
        return True

    def clear(self) -> None:
        """Remove the model and everything that was downloaded."""
        for name in self._PUBLISHED:
            old = f"old-{name}"
            self.state.remove(old)
            with contextlib.suppress(FileNotFoundError):
                self.root.rename(name, self.state, old)
        # Not earlier: without this record, the next start takes the model for a user's.
        self.state.remove(self.COMPLETE)
        self.state.remove(self.JOURNAL)
        for name in (*(f"old-{name}" for name in self._PUBLISHED), self.FILES, self.HUB, self.SCRATCH):
            self.state.remove(name)

    def publish(self) -> None:
        """Make the model visible to the server, the hub's layout first: `model` is the last step."""
        if self.state.has_folder(self.HUB):
            self.state.rename(self.HUB, self.root, self.HUB)
        self.state.rename(self.FILES, self.root, self.MODEL)

    def _owner(self) -> str | None:
        try:
            return self.root.read(f"{self.STATE}/{self.OWNER}").decode(errors="replace")
        except FileNotFoundError:
            return None

    def _mark(self, pod: str) -> None:
        """Make `state` with its owner in it, in one step, unless it has files."""
        draft = f"{self.STATE}.{os.urandom(8).hex()}"
        try:
            with self.root.folder(draft, make=True) as made:
                made.write(self.OWNER, pod.encode())
            self.root.rename(draft, self.root, self.STATE)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another loader was faster, or it is a user's
                raise
        finally:
            self.root.remove(draft)

    def _refuse_published(self) -> None:
        for name in self._PUBLISHED:
            if not self.root.is_empty(name):
                raise _not_ours(name)

    def stats(self) -> os.statvfs_result:
        """Return the volume's size and free space."""
        return os.fstatvfs(self.state.fd)


def _not_ours(folder: str) -> LoadError:
    return LoadError(
        Code.REFUSED,
        f"the model volume has a folder {folder} that this loader did not write",
        hint="Use an empty volume for the model: the loader removes earlier models from its volume.",
    )


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
