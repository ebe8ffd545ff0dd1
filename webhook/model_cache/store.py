"""The content on a node: files by name, and models made of them. It knows nothing of CSI.

The folder of the cache has:

- ``files/NAME``: the content of a file, and ``files/NAME.sha256``: its hash
- ``trees/NAME``: a model, as hard links to files, and ``trees/NAME.json``: its record
- ``parts/NAME``: what an interrupted download of a model has written; the next one goes on with it
- ``work/``: what is not complete
- ``session``: exists if the last driver ended as it should, and no driver runs

Everything is written in ``work``, reaches the disk, and gets its name by a rename: a crash leaves the whole or nothing.
Only the driver can write to ``files`` and ``trees``.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from model_cache import mounts
from model_cache.process import InterruptedByOthersError
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Snapshot
from model_loader.plan.paths import safe_path
from model_loader.storage import hub_cache, journal
from model_loader.storage.volume import SafeDir, Volume
from model_loader.verify import digest as digests

_TREE = re.compile(r"/trees/([^/]+)")
"""In the source of a mount: the folder of the model, or of one whose content was found to be changed."""
_POD = re.compile(r"/pods/([0-9A-Za-z-]+)/volumes/")
"""In the target of a mount: the UID of its pod."""
_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)
_RECORD = ".json"
_HASH = ".sha256"
_SESSION = "session"
_PARTS_OF = "name"
"""In the folder of a process: the name of the model that it downloads."""
_CACHE, _DISK = "cache", "disk"
"""What there can be too little of."""
_FREE_INODES = 0.06
"""Share of the disk's inodes that stays free: the kubelet evicts pods below 0.05."""
_SLOW_SECONDS, _SLOW_RATE = 120.0, 1 << 20
"""A download that is older, and has received fewer bytes per second, gives its space to others."""
_SLACK = 1 << 20
"""Bytes that a download can take more than its store said: the file system's blocks, and the journal."""
_END_SECONDS = 30.0
"""Until a process has ended after its signal."""


class Tree(NamedTuple):
    """A model in the cache.

    `paths`: of its files, each with the name of its content. `hashes`: hex sha256 of what was downloaded, by path.
    `unpacked`: of what its archives have. `fields`: what the download reported, and its sources. `boot`: the session in
    which the content was last verified, and `verified`: when, in seconds since the epoch.
    """

    name: str
    paths: Mapping[str, str]
    hashes: Mapping[str, str]
    unpacked: Mapping[str, str]
    fields: Mapping[str, Any]
    boot: str
    verified: float = 0.0

    @property
    def contents(self) -> Mapping[str, str]:
        """The hex sha256 of each file of the model, by path."""
        return self.unpacked or self.hashes


class Content(NamedTuple):
    """A model in the cache, with the bytes of its files, and when it was last used, in seconds since the epoch."""

    tree: Tree
    bytes: int
    used: float


class Room:
    """The disk space of one process. `need`: bytes of its download, as far as the store gives sizes."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of the process, in `work`."""
        self.folder = folder
        self.need = 0
        self.stop: Callable[[Exception], None] = lambda _: None
        """Ends the process, for a reason."""
        self.stopped = False
        self.finished = False
        self.written = 0
        """Bytes of the download on the disk, when it was measured last."""
        self.other = 0
        """Bytes beside the download, such as a git repository's pack."""
        self._began = time.monotonic()
        self._first = 0

    @property
    def volume(self) -> Path:
        """The folder of the download."""
        return self.folder / "download"

    def begin(self, need: int) -> None:
        """Begin the download."""
        self.written, self.other = self.measured()
        self.need, self._first, self._began = need, self.written, time.monotonic()

    def finish(self) -> None:
        """Record that what was written is elsewhere: it counts there."""
        self.need = self.written = self.other = 0
        self.finished = True

    def measured(self) -> tuple[int, int]:
        """Return how much is written, and how much beside the download. Takes a moment for many files."""
        written = _size(self.volume)
        return written, _size(self.folder) - written

    @property
    def is_slow(self) -> bool:
        """Whether the download has its space for no good reason: its store sends next to nothing."""
        seconds = time.monotonic() - self._began
        return seconds > _SLOW_SECONDS and self.written - self._first < seconds * _SLOW_RATE

    def end(self, reason: Exception) -> None:
        """End the process. Its space is free a moment later."""
        self.stopped = True
        self.stop(reason)


class Store:
    """The cache's folder. Safe to use from several threads of one process. Methods raise OSError."""

    def __init__(self, root: Path, limit: int, boot: str = "", keep_free: int = 0) -> None:
        """`limit`: bytes. `boot`: identifies the boot of the node. `keep_free`: bytes of the disk that stay free."""
        self.root = root
        self.limit = limit
        self.evictions = 0
        self.keep_free = keep_free
        self._files, self._trees, self._parts, self._work = (
            root / name for name in ("files", "trees", "parts", "work")
        )
        self._lock = threading.RLock()
        self._released = threading.Condition(self._lock)
        """Notified when a process has ended."""
        self._pinned: Counter[str] = Counter()
        self._rooms: list[Room] = []
        self._verifying: dict[str, threading.Lock] = {}
        root.mkdir(parents=True, exist_ok=True)
        self._only = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # An earlier driver can take a moment to end.
        fcntl.flock(self._only, fcntl.LOCK_EX)
        # A download's process reaches its own folder, and no other.
        root.chmod(0o711)
        for folder in (self._files, self._trees, self._parts, self._work):
            folder.mkdir(exist_ok=True)
        for folder in (self._files, self._trees, self._parts):
            folder.chmod(0o700)
        self._work.chmod(0o711)
        self._boot = self._session(boot or journal.boot())
        self._recover()
        with self._lock:
            self._make_room()

    def close(self) -> None:
        """Let another process use the folder. It trusts the content without another verification."""
        with contextlib.suppress(OSError):  # of a full disk
            self._write(self.root / _SESSION, self._boot)
        os.close(self._only)

    def _session(self, boot: str) -> str:
        """Return what identifies this boot of the node; something new if the last driver did not end as it should."""
        session = f"{boot} {os.urandom(8).hex()}"
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            found = (self.root / _SESSION).read_text(encoding="ascii")
            if found.startswith(f"{boot} "):
                session = found
        (self.root / _SESSION).unlink(missing_ok=True)
        return session

    def _recover(self) -> None:
        """Remove what an earlier process did not complete, except what a download can go on with."""
        for path in self._work.iterdir():
            self.keep(Room(path))
            _remove(path)
        names = {path.name for path in self._trees.iterdir()}
        mounted = self.mounted()
        for name in names:
            key = name.removesuffix(_RECORD)
            whole = {key, key + _RECORD} <= names and self._tree(key) is not None
            if not whole and key not in mounted:
                _remove(self._trees / name)
        for path in self._files.iterdir():
            if path.suffix == _HASH:
                continue
            if not self._hash_of(path.name):
                path.unlink()
        self._sweep()

    @contextlib.contextmanager
    def room(self) -> Iterator[Room]:
        """Yield the space of a process, with a folder of its own."""
        while True:
            folder = self._work / os.urandom(8).hex()
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                break
        room = Room(folder)
        with self._lock:
            self._rooms.append(room)
        try:
            yield room
        finally:
            self.discard(folder)
            with self._lock:
                self._rooms.remove(room)
                self._released.notify_all()

    def discard(self, folder: Path) -> None:
        """Remove the folder of a process, or a part of it."""
        if folder.exists():
            _remove(folder)

    def volume(self, room: Room, name: str, uid: int | None) -> Path:
        """Return the folder for the content of a download: with what an earlier one left, if there is something.

        `name`: of the model. Nothing is kept for one without a name. `uid`: the user of the process.
        """
        if name:
            with self._lock, contextlib.suppress(FileNotFoundError):
                (self._parts / name).rename(room.volume)
            if room.volume.exists() and not _hand_over(room.volume, uid):
                _remove(room.volume)
            self._write(room.folder / _PARTS_OF, name)
        room.volume.mkdir(mode=0o700, exist_ok=True)
        if uid is not None:
            os.chown(room.volume, uid, uid)
        return room.volume

    def keep(self, room: Room) -> None:
        """Keep what a download has written for the next one of the same model. Nothing may write to it any more."""
        try:
            name = (room.folder / _PARTS_OF).read_text(encoding="ascii")
        except (FileNotFoundError, NotADirectoryError):
            return
        if _NAME.fullmatch(name) and (room.volume / Volume.STATE / Volume.JOURNAL).is_file():
            os.utime(room.volume)
            with self._lock:
                _remove(self._parts / name)
                room.volume.rename(self._parts / name)
                room.finish()

    def known(self, names: Mapping[str, str], into: Path) -> dict[str, str]:
        """Link the files that the cache has into the folder of a download, and return their sha256, by path.

        `names`: the name of each file, by path. A linked file stays until the folder is removed. A file of which no
        model was verified in this session is read first.
        """
        found: dict[str, str] = {}
        with self._lock:
            for path, name in names.items():
                sha256 = self._hash_of(name) if name else ""
                if sha256 and (self._files / name).exists():
                    _link(self._files / name, into, path)
                    found[path] = sha256
            trees = self.trees() if found else []
        verified = {name for tree in trees if tree.boot == self._boot for name in tree.paths.values()}
        for path in [path for path in found if names[path] not in verified]:
            if _hash(into / path) != found[path]:
                (into / path).unlink()
                del found[path]
                with self._lock:
                    self._drop({names[path]})
        return found

    def _hash_of(self, name: str) -> str:
        try:
            found = (self._files / f"{name}{_HASH}").read_text(encoding="ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return ""
        return found if _NAME.fullmatch(found) else ""  # a crash of the node can cut it

    @contextlib.contextmanager
    def pinned(self, name: str) -> Iterator[Tree | None]:
        """Yield the model of that name, or None. It is not evicted in the context."""
        with self._lock:
            tree = self._tree(name)
            self._pinned[name] += 1
        try:
            yield tree
        finally:
            with self._lock:
                self._pinned[name] -= 1
                if not self._pinned[name]:
                    del self._pinned[name]

    def path(self, name: str) -> Path:
        """Return the folder of a model."""
        return self._trees / name

    def touch(self, name: str) -> None:
        """Record that a model was used."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._trees / f"{name}{_RECORD}")

    def _tree(self, name: str) -> Tree | None:
        if not _NAME.fullmatch(name) or not (self._trees / name).is_dir():
            return None
        try:
            return Tree(**json.loads((self._trees / f"{name}{_RECORD}").read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def trees(self) -> list[Tree]:
        """Return all models, the one that was used the longest ago first."""
        with self._lock:
            records = sorted(self._trees.glob(f"*{_RECORD}"), key=lambda path: path.stat().st_mtime_ns)
            found = (self._tree(path.name.removesuffix(_RECORD)) for path in records)
            return [tree for tree in found if tree is not None]

    def content(self) -> list[Content]:
        """Return all models with their size. Files that several models have count for each."""
        with self._lock:
            return [
                Content(
                    tree,
                    sum((self._trees / tree.name / Volume.MODEL / path).stat().st_size for path in tree.paths),
                    (self._trees / f"{tree.name}{_RECORD}").stat().st_mtime,
                )
                for tree in self.trees()
            ]

    def used(self) -> int:
        """Return the bytes of all content, and of what interrupted downloads left."""
        with self._lock:
            return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self._files)) + _size(self._parts)

    def reserve(self, room: Room, need: int) -> None:
        """Reserve `need` bytes for a download, and evict unused content for it. Raises LoadError(NoSpace)."""
        if need > self.limit:
            raise LoadError(
                Code.NO_SPACE,
                f"the model needs {need >> 20} MiB and the node's cache has {self.limit >> 20} MiB in total",
                hint="Increase the cache's size, or set kubectl-serve.dev/cache: none.",
            )
        room.begin(need)
        with self._lock:
            lack = self._take_from_slow(room, self._make_room())
            if lack:
                room.need = 0
                raise _no_space(need, lack, self.keep_free)

    def _take_from_slow(self, room: Room, lack: str) -> str:
        """End slow downloads of others while there is too little of something. Returns of what there still is."""
        for other in sorted(self._rooms, key=lambda each: -each.need):
            if lack and other is not room and other.need and other.is_slow and not other.stopped:
                other.end(InterruptedByOthersError())
                self._wait_for_end(other)
                lack = self._make_room()
        return lack

    def _wait_for_end(self, room: Room) -> None:
        self._released.wait_for(lambda: room not in self._rooms, _END_SECONDS)

    def tend(self) -> None:
        """Evict what disk pressure or growing downloads require. Ends downloads that have no room."""
        with self._lock:
            rooms = list(self._rooms)
        if not rooms and not self._lack_of_disk(0):
            return
        sizes = [(room, *room.measured()) for room in rooms]
        with self._lock:
            for room, written, other in sizes:
                if not room.finished:
                    room.written, room.other = written, other
            lack = self._make_room()
            rooms = [room for room in self._rooms if not room.stopped]
            # What takes more than its store said. On a disk that others fill: what has the most.
            greedy = [room for room in rooms if room.written + room.other > room.need + _SLACK]
            if lack and not greedy and self._lack_of_disk(0):
                greedy = rooms
            if lack and greedy:
                room = max(greedy, key=lambda each: each.written + each.other)
                room.end(_no_space(max(room.need, room.written + room.other), lack, self.keep_free))

    def _make_room(self) -> str:
        """Evict unused content until all that is reserved has room. Returns what there is too little of."""
        lack = self._lack()
        for path in sorted(self._parts.iterdir(), key=lambda path: path.stat().st_mtime_ns) if lack else ():
            if lack:
                _remove(path)
                lack = self._lack()
        for tree in self.trees() if lack else ():
            if lack and self.evict(tree.name):
                lack = self._lack()
        return lack

    def _lack(self) -> str:
        """Return what there is too little of for all that is reserved."""
        if self.used() + sum(max(room.need, room.written) + room.other for room in self._rooms) > self.limit:
            return _CACHE
        return self._lack_of_disk(sum(max(0, room.need - room.written) for room in self._rooms))

    def _lack_of_disk(self, need: int) -> str:
        stats = os.statvfs(self.root)
        if not self.keep_free:
            return _DISK if need > stats.f_bavail * stats.f_frsize else ""
        # The kubelet evicts pods from a node that has too few inodes, too.
        inodes = stats.f_files and stats.f_favail < stats.f_files * _FREE_INODES
        return _DISK if inodes or need + self.keep_free > stats.f_bavail * stats.f_frsize else ""

    def evict(self, name: str) -> bool:
        """Remove a model, unless it is mounted or about to be. Returns whether it was removed."""
        with self._lock:
            if self._pinned[name] or name in self.mounted():
                return False
            trash = self._work / os.urandom(8).hex()
            try:
                (self._trees / name).rename(trash)
            except FileNotFoundError:
                return False
            (self._trees / f"{name}{_RECORD}").unlink(missing_ok=True)
            _remove(trash)
            self._sweep()
            self.evictions += 1
            return True

    def _sweep(self) -> None:
        """Remove files that no model has."""
        names = set(os.listdir(self._files))
        contents = {name for name in names if not name.endswith(_HASH)}
        for name in contents:
            if (self._files / name).stat().st_nlink == 1:
                # The hash first: a file without one is removed at the next start.
                (self._files / f"{name}{_HASH}").unlink(missing_ok=True)
                (self._files / name).unlink()
        for name in names - contents:
            if name.removesuffix(_HASH) not in contents:
                (self._files / name).unlink(missing_ok=True)

    def mounted(self) -> set[str]:
        """Return the names of mounted models, from the kernel's table: it survives a restart of the driver."""
        return set(self.pods())

    def pods(self) -> Mapping[str, set[str]]:
        """Return the UIDs of the pods that have a model mounted, by its name."""
        state = self.root.stat()
        device = f"{os.major(state.st_dev)}:{os.minor(state.st_dev)}"
        found: dict[str, set[str]] = {}
        for mount in mounts.present():
            if mount.device == device and (tree := _TREE.search(mount.root)):
                pod = _POD.search(mount.target)
                found.setdefault(tree[1], set()).update([pod[1]] if pod else [])
        return found

    def publish(
        self, tree: Tree, room: Room, assembled: Path, snapshots: Sequence[Snapshot], *, fetched: Mapping[str, str]
    ) -> None:
        """Add a model. Nothing may write to the download any more. Raises LoadError.

        `assembled`: a folder with links to the known files. `fetched`: hex sha256 of the downloaded files, by path.
        """
        state = room.volume / Volume.STATE
        with (
            SafeDir(os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)) as volume,
            volume.folder(Volume.FILES) as folder,
        ):
            sizes = {path: _take_over(folder, safe_path(path)) for path in fetched}
            # From here on the files differ from the journal: nothing can go on with them.
            volume.remove(Volume.JOURNAL)
            model = assembled / Volume.MODEL
            model.mkdir(exist_ok=True)
            with self._lock:
                # A file whose size the store did not give, and an archive, can take more than was reserved.
                room.finish()
                room.need = room.written = sum(sizes.values())
                lack = self._make_room()
                if lack:
                    raise _no_space(room.need, lack, self.keep_free)
            for path, sha256 in fetched.items():
                with self._lock:  # for each: others wait for it
                    self._add_file(folder, path, tree.paths[path], sha256)
                    _link(self._files / tree.paths[path], model, path)
                    room.need = room.written = room.need - sizes[path]
        if snapshots:
            with (
                SafeDir(os.open(assembled, os.O_RDONLY | os.O_DIRECTORY)) as root,
                root.folder(Volume.MODEL) as files,
                root.folder(Volume.HUB, make=True) as hub,
            ):
                hub_cache.write(snapshots, files, hub)
        for place, _, _ in os.walk(assembled, topdown=False):
            os.chmod(place, 0o755)  # noqa: S103  # model servers run as any user
            _sync(Path(place))
        _sync(self._files)
        with self._lock:
            self._write_record(tree._replace(boot=self._boot, verified=time.time()))
            assembled.rename(self._trees / tree.name)
            _sync(self._trees)

    def _add_file(self, folder: SafeDir, path: str, name: str, sha256: str) -> None:
        target = self._files / name
        known = self._hash_of(name)
        if known and target.exists():
            # Another download was faster. The same names have the same content, unless the store is at fault.
            if known != sha256:
                raise LoadError(Code.CHANGED, f"the store has two contents for one version of {path}", file=path)
            return
        (self._files / f"{name}{_HASH}").write_text(sha256, encoding="ascii")
        with SafeDir(os.open(self._files, os.O_RDONLY | os.O_DIRECTORY)) as files:
            folder.rename(path, files, name)

    def _write_record(self, tree: Tree) -> None:
        self._write(self._trees / f"{tree.name}{_RECORD}", json.dumps(tree._asdict()))

    def _write(self, path: Path, text: str) -> None:
        draft = self._work / f"draft-{os.urandom(8).hex()}"
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)

    def is_verified(self, name: str) -> bool:
        """Return whether a model needs no verification before its use: also one that the cache does not have."""
        tree = self._tree(name)
        return tree is None or tree.boot == self._boot

    def verify(self, name: str, *, again: bool = False) -> bool:
        """Return whether a model has its content. Reads it in a new session, or `again`.

        Takes a changed model and its changed files out of the cache. Pods that have it mounted keep it.
        """
        with self._lock:
            only = self._verifying.setdefault(name, threading.Lock())
        try:
            with only, self.pinned(name) as tree:
                if tree is None or (tree.boot == self._boot and not again):
                    return tree is not None
                root = self._trees / name / Volume.MODEL
                wrong = [path for path, sha256 in tree.contents.items() if _hash(root / path) != sha256]
                with self._lock:
                    if not wrong:
                        self._stamp(tree, self._boot)
                        return True
                    self._drop({tree.paths[path] for path in wrong})
                    self._set_aside(name)
                return False
        finally:
            with self._lock:
                if not only.locked():
                    self._verifying.pop(name, None)

    def _drop(self, names: Set[str]) -> None:
        """Remove changed files. Other models that have them are verified before their next use."""
        for name in names:
            for suffix in ("", _HASH):
                (self._files / f"{name}{suffix}").unlink(missing_ok=True)
        for tree in self.trees():
            if not names.isdisjoint(tree.paths.values()):
                self._stamp(tree, "")

    def _stamp(self, tree: Tree, boot: str) -> None:
        """Record a verification; the time of the last use stays."""
        record = self._trees / f"{tree.name}{_RECORD}"
        used = record.stat()
        self._write_record(tree._replace(boot=boot, verified=time.time() if boot else tree.verified))
        os.utime(record, ns=(used.st_atime_ns, used.st_mtime_ns))

    def _set_aside(self, name: str) -> None:
        (self._trees / f"{name}{_RECORD}").unlink(missing_ok=True)
        if name in self.mounted() or self._pinned[name] > 1:
            # A server can have it open. The next start removes it, when no pod has it mounted.
            (self._trees / name).rename(self._trees / f"changed-{name}.{os.urandom(8).hex()}")
        else:
            _remove(self._trees / name)


def _size(folder: Path) -> int:
    """Return the bytes on the disk of what a folder has, except files that are elsewhere too. A process can write."""
    total, folders = 0, [str(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif (state := entry.stat(follow_symlinks=False)).st_nlink == 1:
                        total += state.st_blocks * 512
    return total


def _hand_over(folder: Path, uid: int | None) -> bool:
    """Give what an ended process left to another user. Returns whether it has only files and folders."""
    folders = [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                state = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(state.st_mode):
                    folders.append(entry.path)
                elif not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
                    return False
                if uid is not None:
                    os.chown(entry.path, uid, uid, follow_symlinks=False)
                os.chmod(entry.path, 0o755 if stat.S_ISDIR(state.st_mode) else 0o644)
    return True


def _no_space(need: int, lack: str, keep_free: int) -> LoadError:
    if lack == _DISK:
        return LoadError(
            Code.NO_SPACE,
            f"the model needs {need >> 20} MiB, which the node's disk does not have beside the {keep_free >> 20} MiB"
            " that stay free",
            hint="Delete other data on the node's disk, give the cache a disk of its own (kubectl serve install"
            " --cache-path), or set kubectl-serve.dev/cache: none.",
        )
    return LoadError(
        Code.NO_SPACE,
        f"the model needs {need >> 20} MiB, and pods use what the node's cache has",
        hint="Increase the cache's size, or set kubectl-serve.dev/cache: none.",
    )


def _hash(path: Path) -> str:
    try:
        return digests.sha256(path)
    except OSError:
        return ""


def _take_over(folder: SafeDir, path: str) -> int:
    """Make a downloaded file the driver's own, write it to the disk, and return its bytes there.

    Raises LoadError(Refused) for anything but a file.
    """
    fd = folder.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            raise LoadError(Code.REFUSED, f"{path} is not a file of its own", file=path)
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o444)
        os.fsync(fd)
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


def _link(file: Path, folder: Path, path: str) -> None:
    target = folder / safe_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(file, target, follow_symlinks=False)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
