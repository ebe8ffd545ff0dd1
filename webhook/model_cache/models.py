"""From the request of a pod to a model on the node: lists it with the pod's credentials, downloads it once."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model_cache import fetch, keys
from model_cache.request import Request
from model_cache.store import Store, Tree
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Snapshot
from model_loader.storage.volume import Volume, storage_failure

_MODEL_FIELDS = ("digest", "checked", "runs_code", "runs_code_first", "skipped", "skipped_bytes", "skipped_first")
_HASHES = "hashes"
Progress = Callable[[Mapping[str, Any]], None]


class Settings(NamedTuple):
    """`networks`: private networks that models can come from. `uid`: the first of the users that downloads run as.

    `downloads`: the maximum of processes at once; each has a user of its own, if there is a `uid`. `secrets`: a folder
    in memory. `environment`: of each process: proxies and authorities, and no identity of the node.
    """

    networks: tuple[str, ...]
    uid: int | None
    downloads: int
    secrets: Path
    environment: Mapping[str, str]


class Counts:
    """What the metrics show."""

    def __init__(self) -> None:
        self.hits = 0
        self.downloads = 0
        self.received = 0
        self.failures = 0
        self.seconds = 0.0
        """Of all downloads."""


class Models:
    """The models on this node. Safe to use from several threads."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.counts = Counts()
        self._settings = settings
        self._lock = threading.Lock()
        self._flights: dict[str, threading.Event] = {}
        self._users: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for number in range(settings.downloads):
            self._users.put(None if settings.uid is None else settings.uid + number)

    @contextlib.contextmanager
    def model(self, request: Request, progress: Progress) -> Iterator[Path]:
        """Yield the folder of the model, which is not evicted in the context. Raises LoadError.

        Each call lists the source with the request's own credentials, whatever the node already has.
        """
        changed = False
        while True:
            try:
                found = self._listed(request, progress)
            except LoadError as failure:
                if failure.code is not Code.CHANGED or changed:
                    self.counts.failures += 1
                    raise
                changed = True
                continue
            if isinstance(found, threading.Event):
                found.wait()
                continue
            with self.store.pinned(found) as tree:
                if tree is not None:
                    self.store.touch(found)
                    yield self.store.path(found)
                    return

    def _listed(self, request: Request, progress: Progress) -> str | threading.Event:
        """Return the name of the model, or the end of another process's download of it. Raises LoadError."""
        uid = self._users.get()
        work = self.store.folder()
        try:
            with _Process(self._settings, self.store.limit, uid, work, request) as process:
                return self._follow(process, work, progress, request.sources)
        except OSError as error:
            raise storage_failure(error) from None
        finally:
            self.store.discard(work)
            self._users.put(uid)

    def _follow(
        self, process: "_Process", work: Path, progress: Progress, sources: Sequence[str]
    ) -> str | threading.Event:
        with contextlib.ExitStack() as held:
            listed: Mapping[str, Any] = {}
            known: Mapping[str, str] = {}
            assembled = work / "assembled"
            began = time.monotonic()
            for event in process.events():
                progress(event)
                match event["event"]:
                    case fetch.LISTED:
                        held.close()
                        name = event["tree"] or os.urandom(32).hex()
                        listed = {**event, "tree": name}
                        if self.store.verify(name):
                            tree = held.enter_context(self.store.pinned(name))
                            if tree is not None:
                                process.answer(do=fetch.USE, hashes=dict(tree.hashes), unpacked=dict(tree.unpacked))
                                continue
                        flight = held.enter_context(self._flight(name))
                        if flight is not None:
                            process.answer(do=fetch.WAIT)
                            return flight
                        self.store.discard(assembled)
                        known = self._known(listed, assembled)
                        need = sum(max(size, 0) for path, _, size in event["files"] if path not in known)
                        held.enter_context(self.store.reserved(need, work.name))
                        process.answer(do=fetch.DOWNLOAD, known=dict(known))
                    case fetch.READY:
                        self.counts.hits += 1
                        return str(listed["tree"])
                    case fetch.FETCHED:
                        process.end()
                        self._publish(listed, event, known, work, assembled, sources)
                        self.counts.seconds += time.monotonic() - began
                        return str(listed["tree"])
                    case fetch.FAILED:
                        code = Code(event["code"])
                        raise LoadError(code, str(event["message"]), hint=str(event["hint"]))
        raise LoadError(Code.INTERNAL, "the download's process ended without a result")

    def _known(self, listed: Mapping[str, Any], assembled: Path) -> Mapping[str, str]:
        """Return the files that the node already has. An archive is unpacked as a whole."""
        assembled.mkdir()
        model = assembled / Volume.MODEL
        model.mkdir()
        if listed["packed"]:
            return {}
        return self.store.known({path: name for path, name, _ in listed["files"]}, model)

    def _publish(
        self,
        listed: Mapping[str, Any],
        fetched: Mapping[str, Any],
        known: Mapping[str, str],
        work: Path,
        assembled: Path,
        sources: Sequence[str],
    ) -> None:
        name = str(listed["tree"])
        hashes, unpacked = dict(fetched["hashes"]), dict(fetched["unpacked"])
        if listed["packed"]:
            paths = {path: keys.of_unpacked(name, path) for path in unpacked}
            new = unpacked
        else:
            paths = {path: file or keys.of_unpacked(name, path) for path, file, _ in listed["files"]}
            new = {path: sha256 for path, sha256 in hashes.items() if path not in known}
        fields = {key: fetched[key] for key in _MODEL_FIELDS if key in fetched}
        fields["sources"] = list(sources)
        tree = Tree(name, paths, hashes, unpacked, fields, "")
        snapshots = [Snapshot._make((*each[:5], tuple(each[5]))) for each in listed["snapshots"]]
        self.store.publish(
            tree, work / "volume" / Volume.STATE / Volume.FILES, assembled, snapshots, fetched=new, owner=work.name
        )
        self.counts.downloads += 1
        self.counts.received += int(fetched["received"])

    @contextlib.contextmanager
    def _flight(self, name: str) -> Iterator[threading.Event | None]:
        """Yield the end of the download of a model by another process, or None if this one may download it."""
        with self._lock:
            other = self._flights.get(name)
            mine = threading.Event()
            if other is None:
                self._flights[name] = mine
        try:
            yield other
        finally:
            if other is None:
                with self._lock:
                    del self._flights[name]
                mine.set()


class _Process:
    """An unprivileged process of `fetch`, with a user and a process group of its own."""

    def __init__(self, settings: Settings, limit: int, uid: int | None, work: Path, request: Request) -> None:
        self._uid = uid
        self._ended = False
        self._secrets = settings.secrets / work.name
        volume = work / "volume"
        volume.mkdir(mode=0o700)
        work.chmod(0o711)
        self._own(volume)
        if request.secret:
            self._write_secret(request.secret)
        command = [sys.executable, "-I", "-m", "model_cache.fetch"]
        self._process = subprocess.Popen(  # noqa: S603  # this very program
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=dict(settings.environment),
            process_group=0,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        secret = str(self._secrets) if request.secret else ""
        said = {"arguments": request.arguments, "work": str(volume), "secret": secret, "limit": limit}
        self._say({**said, "networks": settings.networks})

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _own(self, path: Path) -> None:
        if self._uid is not None:
            os.chown(path, self._uid, self._uid)

    def _write_secret(self, secret: Mapping[str, str]) -> None:
        """Write the credentials into memory, where only this process can read them."""
        self._secrets.mkdir(mode=0o700)
        for key, value in secret.items():
            if "/" in key or key in ("", ".", ".."):
                raise LoadError(Code.REFUSED, "a key of the Secret is not a file name")
            path = self._secrets / key
            path.write_text(value, encoding="utf-8")
            path.chmod(0o400)
            self._own(path)
        self._own(self._secrets)

    def events(self) -> Iterator[Mapping[str, Any]]:
        """Yield what the process reports, until it ends."""
        stream = self._process.stdout
        for line in stream or ():
            event = json.loads(line)
            if isinstance(event, dict):
                yield event

    def answer(self, **fields: object) -> None:
        """Answer a list of files."""
        self._say(fields)

    def _say(self, fields: Mapping[str, object]) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # its end is reported as such
                self._process.stdin.write(json.dumps(fields) + "\n")
                self._process.stdin.flush()

    def end(self) -> None:
        """End the process and every other one of its user: nothing writes to its files any more."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.wait()
        if self._uid is not None:
            _end_all(self._uid)
        if self._secrets.exists():
            for path in self._secrets.iterdir():
                path.unlink()
            self._secrets.rmdir()


def _end_all(uid: int) -> None:
    """End every process of a user, and wait for the end."""
    while True:
        found = False
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                with contextlib.suppress(OSError):
                    if process.stat().st_uid == uid and "\nState:\tZ" not in (process / "status").read_text():
                        os.kill(int(process.name), signal.SIGKILL)
                        found = True
        if not found:
            return
        time.sleep(0.01)
