"""A folder of a claim that pods share: each version of a model is downloaded once, and never changed.

The folder of one request has:

- ``versions/ID``: a complete model, as a :class:`Volume`. ID covers the request and the list of its files.
- ``work/ID.N``: the volume of attempt N to download it
- ``locks/ID.N``: the lock of that attempt
- ``scratch-POD``: what the loader of one pod needs during its load
- ``model`` and ``hub``: links to the version that the pod which started last requested

Every attempt has a folder of its own, and a rename makes it the version. So correctness needs no lock, and a version is
whole or absent wherever a loader is killed. The lock saves downloads: the attempt with the highest number has it. A
loader makes the file of the next number with O_EXCL, which is atomic on NFS too, if the present attempt has given up or
its file stays unchanged. This compares a file with itself over time, so that the clocks of nodes can differ.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from model_loader.outcomes import Code, LoadError
from model_loader.report import Report
from model_loader.storage.volume import SafeDir, Volume

_BEAT = 5.0
"""Seconds between two writes of an attempt to its lock."""
_STALE = 60.0
"""Seconds after which an unchanged lock counts as left by a loader that was killed."""
_POLL = 1.0
"""Seconds between two looks at another loader's lock: NFS has no notification."""
_REPORT = 5.0
"""Seconds between two reports of another loader's progress."""
RECORD = f"{Volume.STATE}/{Volume.COMPLETE}"
"""The record of a complete model, in the folder of its version."""
_SMALL = 1 << 20
"""Maximum size of a lock or a record."""
_SHOWN = ("owner", "bytes", "total")
"""Fields of a lock that waiting loaders report."""
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class _Lock(NamedTuple):
    """The lock of attempt `number` (0: there is none), and its file's content."""

    number: int
    content: bytes = b""

    @property
    def fields(self) -> dict[str, object]:
        try:
            found = json.loads(self.content)
        except (ValueError, RecursionError):
            return {}  # a loader was killed between making the file and writing it
        return found if isinstance(found, dict) else {}


class Attempt:
    """One attempt to download a version, with its lock. As a context, it renews the lock until it ends."""

    def __init__(self, shared: "SharedFolder", version: str, number: int, report: Report) -> None:
        self._shared = shared
        self._version = version
        self._name = f"{version}.{number}"
        self._report = report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._folder = shared.work.folder(self._name, make=True)

    @property
    def root(self) -> Path:
        """The folder for the volume, by its descriptor: no link on the claim can redirect it."""
        return by_descriptor(self._folder)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # the error that ended the attempt matters more
            self._write({"ended": True})
        self._folder.close()

    def publish(self) -> bool:
        """Make the attempt's folder the version. Returns False if another loader was faster; Raises OSError."""
        _sync(self.root)
        try:
            self._shared.work.rename(self._name, self._shared.versions, self._version)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            self._shared.work.remove(self._name)
            return False
        os.fsync(self._shared.versions.fd)
        return True

    def _renew(self) -> None:
        beat = 0
        while True:
            beat += 1
            with contextlib.suppress(OSError):  # at the worst, another loader starts an attempt of its own
                self._write({"owner": self._shared.pod, "beat": beat, **self._report.done})
            if self._ended.wait(_BEAT):
                return

    def _write(self, fields: dict[str, object]) -> None:
        self._shared.locks.write(self._name, json.dumps(fields).encode())


class SharedFolder:
    """The folder of one request on a claim. Methods raise OSError."""

    def __init__(self, claim: Path, path: str, pod: str) -> None:
        """Open the folder `path` of the volume mounted at `claim`, for a pod (`this_pod`)."""
        self.pod = pod
        self.scratch = f"scratch-{hashlib.sha256(pod.encode()).hexdigest()[:16]}"
        """The name of this pod's own folder, for the time of its load."""
        with contextlib.ExitStack() as opened:
            with SafeDir(os.open(claim, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
                self.folder = opened.enter_context(root.folder(path, make=True))
            self.versions, self.work, self.locks = (
                opened.enter_context(self.folder.folder(name, make=True)) for name in ("versions", "work", "locks")
            )
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @contextlib.contextmanager
    def version(self, version: str) -> Iterator[SafeDir | None]:
        """Yield the folder of a complete version, or None."""
        try:
            folder = self.versions.folder(version)
        except FileNotFoundError:
            yield None
            return
        with folder:
            yield folder

    def attempt(self, version: str, report: Report) -> Attempt | None:
        """Return the attempt to download a version, once no other loader downloads it; None if one completed it."""
        seen, since, reported = _Lock(0), time.monotonic(), 0.0
        while not self.versions.has_folder(version):
            lock, now = self._last(version), time.monotonic()
            if lock != seen:
                seen, since = lock, now
            is_free = not lock.number or "ended" in lock.fields or lock.fields.get("owner") == self.pod
            if (is_free or now - since > _STALE) and self._take(version, lock.number + 1):
                if is_free:
                    self._resume(version, lock.number)
                self._clean(version, lock.number)
                return Attempt(self, version, lock.number + 1, report)
            if now - reported > _REPORT:
                report.event("waiting", {key: lock.fields.get(key, 0) for key in _SHOWN})
                reported = now
            time.sleep(_POLL)
        self._clean(version, self._last(version).number)
        return None

    def link(self, version: str, *names: str) -> None:
        """Let the names in the folder lead to the version's. Raises LoadError(Refused) for a user's folder there.

        The kubelet follows the link when it starts the server, which keeps what it got.
        """
        for name in names:
            target = f"versions/{version}/{name}"
            try:
                kind = os.stat(name, dir_fd=self.folder.fd, follow_symlinks=False).st_mode
                if not stat.S_ISLNK(kind):
                    raise LoadError(
                        Code.REFUSED,
                        f"the claim's folder has a file or folder {name} that this loader did not write",
                        hint="Use another folder of the claim.",
                    )
                if os.readlink(name, dir_fd=self.folder.fd) == target:
                    continue
            except FileNotFoundError:
                pass
            draft = f"{name}.{os.urandom(8).hex()}"
            os.symlink(target, draft, dir_fd=self.folder.fd)
            self.folder.rename(draft, self.folder, name)

    def set_aside(self, version: str) -> None:
        """Take a changed version out of use. Its files stay, because a server can have them open."""
        with contextlib.suppress(FileNotFoundError):  # another loader was faster
            self.versions.rename(version, self.versions, f"changed-{version}.{os.urandom(8).hex()}")

    def _last(self, version: str) -> _Lock:
        while True:
            number = max(self._numbers(self.locks, version), default=0)
            if not number:
                return _Lock(0)
            with contextlib.suppress(FileNotFoundError):  # replaced by a higher one, or removed with the last
                return _Lock(number, read_small(self.locks, f"{version}.{number}"))

    def _take(self, version: str, number: int) -> bool:
        name = f"{version}.{number}"
        try:
            os.close(self.locks.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        if self.versions.has_folder(version) or max(self._numbers(self.locks, version), default=0) != number:
            self.locks.remove(name)  # what this loader saw was of the past
            return False
        return True

    def _resume(self, version: str, number: int) -> None:
        """Continue with the files of an attempt that surely writes no more."""
        with contextlib.suppress(FileNotFoundError):
            self.work.rename(f"{version}.{number}", self.work, f"{version}.{number + 1}")

    def _clean(self, version: str, most: int) -> None:
        """Remove earlier attempts, which are no version and have no reader."""
        for folder in (self.work, self.locks):
            for number in self._numbers(folder, version):
                if number <= most:
                    folder.remove(f"{version}.{number}")

    @staticmethod
    def _numbers(folder: SafeDir, version: str) -> list[int]:
        found = (name.removeprefix(f"{version}.") for name in os.listdir(folder.fd) if name.startswith(f"{version}."))
        return [int(name) for name in found if name.isascii() and name.isdecimal() and len(name) < 10]


def read_small(folder: SafeDir, name: str) -> bytes:
    """Return the content of a file that a loader wrote: nothing that another pod put there can block or fill it."""
    fd = folder.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, _SMALL) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)


def by_descriptor(folder: SafeDir) -> Path:
    """Return a path that leads to an open folder, whatever happens to its name."""
    return Path(f"/proc/self/fd/{folder.fd}")


def owner_of(version: str) -> str:
    """Return the owner to be written into the volume of a version: every loader of the request."""
    return f"version {version}"


def has_only_files(root: Path) -> bool:
    """Whether a folder has files and folders alone: a digest leaves out links, and a server follows them."""
    for place, folders, names in os.walk(root):
        kinds = {stat.S_IFMT(os.lstat(os.path.join(place, name)).st_mode) for name in (*folders, *names)}
        if not kinds <= {stat.S_IFDIR, stat.S_IFREG}:
            return False
    return True


def _sync(root: Path) -> None:
    """Write a folder's files to the disk: the version must survive a crash of the node whole. Raises OSError."""
    for place, _, names in os.walk(root, topdown=False):
        for name in (*names, "."):
            fd = os.open(os.path.join(place, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                with contextlib.nullcontext() if name != "." else contextlib.suppress(OSError):  # not everywhere
                    os.fsync(fd)
            finally:
                os.close(fd)
