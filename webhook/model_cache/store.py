"""The content on a node: files by name, and models made of them. It knows nothing of CSI.

The folder of the cache has:

- ``files/NAME``: the content of a file, and ``files/NAME.sha256``: its hash
- ``trees/NAME``: a model, as hard links to files, and ``trees/NAME.json``: its record
- ``work/``: what is not complete

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model_cache import mounts
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


class Tree(NamedTuple):
    """A model in the cache.

    `paths`: of its files, each with the name of its content. `hashes`: hex sha256 of what was downloaded, by path.
    `unpacked`: of what its archives have. `fields`: what the download reported. `boot`: of the node, when the content
    was last verified; `verified`: when that was, in seconds since the epoch.
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


class Store:
    """The cache's folder. Safe to use from several threads of one process. Methods raise OSError."""

    def __init__(self, root: Path, limit: int, boot: str = "") -> None:
        """`limit`: bytes. `boot`: identifies the boot of the node."""
        self.root = root
        self.limit = limit
        self.evictions = 0
        self._boot = boot or journal.boot()
        self._files, self._trees, self._work = (root / name for name in ("files", "trees", "work"))
        self._lock = threading.RLock()
        self._pinned: Counter[str] = Counter()
        self._reserved: dict[str, int] = {}
        self._verifying = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)
        self._only = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # An earlier driver can take a moment to end.
        fcntl.flock(self._only, fcntl.LOCK_EX)
        # A download's process reaches its own folder, and no other.
        root.chmod(0o711)
        for folder in (self._files, self._trees, self._work):
            folder.mkdir(exist_ok=True)
        for folder in (self._files, self._trees):
            folder.chmod(0o700)
        self._work.chmod(0o711)
        self._recover()

    def close(self) -> None:
        """Let another process use the folder."""
        os.close(self._only)

    def _recover(self) -> None:
        """Remove what an earlier process did not complete."""
        for path in self._work.iterdir():
            _remove(path)
        names = {path.name for path in self._trees.iterdir()}
        for name in names:
            key = name.removesuffix(_RECORD)
            if not {key, key + _RECORD} <= names and key not in self.mounted():
                _remove(self._trees / name)
        for path in self._files.iterdir():
            if path.suffix == _HASH:
                continue
            if not self._hash_of(path.name):
                path.unlink()
        self._sweep()

    def folder(self) -> Path:
        """Return a new folder for a download."""
        while True:
            path = self._work / os.urandom(8).hex()
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                return path

    def discard(self, folder: Path) -> None:
        """Remove the folder of a download, or a part of it."""
        if folder.exists():
            _remove(folder)

    def known(self, names: Mapping[str, str], into: Path) -> dict[str, str]:
        """Link the files that the cache has into the folder of a download, and return their sha256, by path.

        `names`: the name of each file, by path. A linked file stays until the folder is removed.
        """
        found: dict[str, str] = {}
        with self._lock:
            for path, name in names.items():
                sha256 = self._hash_of(name) if name else ""
                if sha256 and (self._files / name).exists():
                    _link(self._files / name, into, path)
                    found[path] = sha256
        return found

    def _hash_of(self, name: str) -> str:
        try:
            return (self._files / f"{name}{_HASH}").read_text(encoding="ascii")
        except FileNotFoundError:
            return ""

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
                    sum((self._files / name).stat().st_size for name in tree.paths.values()),
                    (self._trees / f"{tree.name}{_RECORD}").stat().st_mtime,
                )
                for tree in self.trees()
            ]

    def used(self) -> int:
        """Return the bytes of all content."""
        with self._lock:
            return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self._files))

    @contextlib.contextmanager
    def reserved(self, need: int, owner: str) -> Iterator[None]:
        """Reserve `need` bytes for a download, and evict unused models for it. Raises LoadError(NoSpace)."""
        with self._lock:
            self._make_room(need, need)
            self._reserved[owner] = need
        try:
            yield
        finally:
            with self._lock:
                del self._reserved[owner]

    def _make_room(self, need: int, new: int) -> None:
        """Evict models until the cache has room for `need` bytes, of which the disk does not have `new` yet."""
        if need > self.limit:
            raise LoadError(
                Code.NO_SPACE,
                f"the model needs {need >> 20} MiB and the node's cache has {self.limit >> 20} MiB in total",
                hint="Increase the cache's size, or set kubectl-serve.dev/cache: none.",
            )
        for tree in self.trees():
            if self._fits(need, new):
                return
            self.evict(tree.name)
        if not self._fits(need, new):
            raise LoadError(
                Code.NO_SPACE,
                f"the model needs {need >> 20} MiB, and pods use what the node's cache has",
                hint="Increase the cache's size, or set kubectl-serve.dev/cache: none.",
            )

    def _fits(self, need: int, new: int) -> bool:
        others = sum(self._reserved.values())
        stats = os.statvfs(self.root)
        free = stats.f_bavail * stats.f_frsize
        return self.used() + others + need <= self.limit and others + new <= free

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
        self,
        tree: Tree,
        content: Path,
        assembled: Path,
        snapshots: Sequence[Snapshot],
        *,
        fetched: Mapping[str, str],
        owner: str,
    ) -> None:
        """Add a model. Nothing may write to `content` any more. Raises LoadError.

        `owner`: of the reserved bytes. A file whose size the store did not give, and an archive, can take more.

        `content`: the folder with the downloaded files. `assembled`: a folder with links to the known ones. `fetched`:
        hex sha256 of the downloaded files, by path.
        """
        with SafeDir(os.open(content, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)) as folder:
            for path in fetched:
                _take_over(folder, safe_path(path))
            model = assembled / Volume.MODEL
            model.mkdir(exist_ok=True)
            with self._lock:
                self._reserved[owner] = 0
                self._make_room(sum(_blocks(content / path) for path in fetched), 0)
                for path, sha256 in fetched.items():
                    self._add_file(folder, path, tree.paths[path], sha256)
                    target = self._files / tree.paths[path]
                    _link(target, model, path)
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
        with self._lock:
            self._write_record(tree._replace(boot=self._boot, verified=time.time()))
            assembled.rename(self._trees / tree.name)
            _sync(self._trees)

    def _add_file(self, folder: SafeDir, path: str, name: str, sha256: str) -> None:
        target = self._files / name
        if self._hash_of(name) and target.exists():
            # Another download was faster. The same names have the same content, unless the store is at fault.
            if self._hash_of(name) != sha256:
                raise LoadError(Code.CHANGED, f"the store has two contents for one version of {path}", file=path)
            return
        self._write(self._files / f"{name}{_HASH}", sha256)
        with SafeDir(os.open(self._files, os.O_RDONLY | os.O_DIRECTORY)) as files:
            folder.rename(path, files, name)
            os.fsync(files.fd)

    def _write_record(self, tree: Tree) -> None:
        self._write(self._trees / f"{tree.name}{_RECORD}", json.dumps(tree._asdict()))

    def _write(self, path: Path, text: str) -> None:
        draft = self._work / os.urandom(8).hex()
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)

    def verify(self, name: str, *, again: bool = False) -> bool:
        """Return whether a model has its content. Reads it after a restart of the node, or `again`.

        Takes a changed model and its changed files out of the cache. Pods that have it mounted keep it.
        """
        with self.pinned(name) as tree:
            if tree is None or (tree.boot == self._boot and not again):
                return tree is not None
        with self._verifying, self.pinned(name) as tree:
            if tree is None or (tree.boot == self._boot and not again):
                return tree is not None  # another thread was faster
            root = self._trees / name / Volume.MODEL
            wrong = [path for path, sha256 in tree.contents.items() if _hash(root / path) != sha256]
            with self._lock:
                if not wrong:
                    stamp = (self._trees / f"{name}{_RECORD}").stat()
                    self._write_record(tree._replace(boot=self._boot, verified=time.time()))
                    os.utime(self._trees / f"{name}{_RECORD}", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
                    return True
                for path in wrong:
                    for suffix in ("", _HASH):
                        (self._files / f"{tree.paths[path]}{suffix}").unlink(missing_ok=True)
                self._set_aside(name)
            return False

    def _set_aside(self, name: str) -> None:
        (self._trees / f"{name}{_RECORD}").unlink(missing_ok=True)
        if name in self.mounted() or self._pinned[name] > 1:
            # A server can have it open. The next start removes it, when no pod has it mounted.
            (self._trees / name).rename(self._trees / f"changed-{name}.{os.urandom(8).hex()}")
        else:
            _remove(self._trees / name)


def _blocks(path: Path) -> int:
    return path.lstat().st_blocks * 512


def _hash(path: Path) -> str:
    try:
        return digests.sha256(path)
    except OSError:
        return ""


def _take_over(folder: SafeDir, path: str) -> None:
    """Make a downloaded file the driver's own, and write it to the disk.

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
