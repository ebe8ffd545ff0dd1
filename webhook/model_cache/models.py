"""From the request of a pod to a model on the node: lists it with the pod's credentials, downloads it once."""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from model_cache import fetch, keys
from model_cache.process import InterruptedByOthersError, Process, Settings
from model_cache.request import Request
from model_cache.store import Room, Store, Tree
from model_cache.turns import Turns
from model_loader.http.transport import redact
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Snapshot
from model_loader.storage.volume import Volume, storage_failure

_MODEL_FIELDS = ("digest", "checked", "runs_code", "runs_code_first", "skipped", "skipped_bytes", "skipped_first")
_LISTING_TURN, _DOWNLOAD_TURN = 60.0, 240.0
"""Seconds of a turn when other namespaces wait. A download goes on where it ended: first it hashes what it has."""
_LISTING_SECONDS = 300.0
"""Seconds in which a source must list a model."""
_KEPT = (Code.INTERNAL, Code.INTERRUPTED, Code.UNREACHABLE, Code.SERVER_ERROR, Code.STALLED)
"""How a download can end so that the next one goes on with what it has written."""
_VERIFICATIONS = 2
"""Maximum of models that are read at once to verify them."""
Progress = Callable[[Mapping[str, Any]], None]
_Next = Callable[[], Turns]
"""Waits until another process can have a result, and returns which turn that process needs."""


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
        self.settings = settings
        self.listings = Turns(settings.downloads, _LISTING_TURN)
        self.downloads = Turns(settings.downloads, _DOWNLOAD_TURN)
        self._verifications = Turns(_VERIFICATIONS, _LISTING_SECONDS)
        self._lock = threading.Lock()
        self._flights: dict[str, threading.Event] = {}
        self._users: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for number in range(2 * settings.downloads):
            self._users.put(None if settings.uid is None else settings.uid + number)

    @contextlib.contextmanager
    def model(self, wanted: Request, progress: Progress, needed: Callable[[], bool] = lambda: True) -> Iterator[Path]:
        """Yield the folder of the model, which is not evicted in the context. Raises LoadError.

        Each call lists the source with the request's own credentials, whatever the node already has. `needed`: whether
        the pod still exists; nothing begins for one that does not.
        """
        changed = False
        turns = self.listings
        while True:
            try:
                found = self._found(wanted, turns, progress, needed)
            except InterruptedByOthersError:
                continue
            except LoadError as failure:
                if failure.code is not Code.CHANGED or changed:
                    self.counts.failures += 1
                    raise
                changed = True
                continue
            if not isinstance(found, str):
                turns = found()
                continue
            with self.store.pinned(found) as tree:
                if tree is not None:
                    self.store.touch(found)
                    yield self.store.path(found)
                    return

    def _found(self, wanted: Request, turns: Turns, progress: Progress, needed: Callable[[], bool]) -> str | _Next:
        """Return the name of the model, or what to wait for. Raises LoadError, InterruptedByOthersError."""
        with contextlib.ExitStack() as held:
            slot = held.enter_context(contextlib.ExitStack())
            turn = slot.enter_context(turns.turn(wanted.namespace))
            if not needed():
                raise LoadError(Code.INTERRUPTED, "the pod was deleted", hint="Wait: Kubernetes tries again.")
            uid = self._users.get()
            held.callback(self._users.put, uid)
            room = held.enter_context(self.store.room())
            try:
                process = held.enter_context(Process(self.settings, self.store.limit, uid, room.folder, wanted))
                room.stop = process.stop
                turn.on_end(lambda: process.stop(InterruptedByOthersError()))
                return _Attempt(self, wanted, process, room, uid, slot, turns is self.downloads).result(progress)
            except OSError as error:
                raise storage_failure(error) from None

    def verified(self, namespace: str, name: str) -> Turns:
        """Verify a model, and return the turn of the process that uses it."""
        with self._verifications.turn(namespace):
            self.store.verify(name)
        return self.listings

    def flying(self, name: str) -> threading.Event | None:
        """Return the end of the download of a model by another process, if there is one."""
        with self._lock:
            return self._flights.get(name)

    def landed(self, flight: threading.Event) -> Turns:
        """Wait for the end of a download by another process, and return the turn of the process that looks again."""
        flight.wait()
        return self.listings

    @contextlib.contextmanager
    def flight(self, name: str) -> Iterator[threading.Event | None]:
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


class _Attempt:
    """What the driver does for one process."""

    def __init__(
        self,
        models: Models,
        wanted: Request,
        process: Process,
        room: Room,
        uid: int | None,
        slot: contextlib.ExitStack,
        may_download: bool,
    ) -> None:
        """`slot`: the turn of the process. `may_download`: whether that is one of a download."""
        self._models = models
        self._store = models.store
        self._wanted = wanted
        self._process = process
        self._room = room
        self._uid = uid
        self._slot = slot
        self._may_download = may_download
        self._held = contextlib.ExitStack()
        """What the process needs until its end: a model, or to be the only download of one."""
        self._name = ""
        self._listed: Mapping[str, Any] = {}
        self._known: Mapping[str, str] = {}
        self._assembled = room.folder / "assembled"
        self._volume: Path | None = None
        """Of the download, when that has begun."""
        self._began = time.monotonic()

    def result(self, progress: Progress) -> str | _Next:
        """Return the name of the model, or what to wait for. Raises LoadError, InterruptedByOthersError."""
        keep = True
        late = LoadError(Code.STALLED, f"the store did not list the model in {_LISTING_SECONDS:.0f} s")
        deadline = threading.Timer(_LISTING_SECONDS, self._process.stop, (late,))
        deadline.daemon = True
        deadline.start()
        try:
            for event in self._process.events():
                progress(event)
                match event["event"]:
                    case fetch.LISTED:
                        deadline.cancel()
                        found = self._answer(event)
                        if found is not None:
                            return found
                    case fetch.READY:
                        self._models.counts.hits += 1
                        return self._name
                    case fetch.FETCHED:
                        self._process.end()
                        self._publish(event)
                        return self._name
                    case fetch.FAILED:
                        raise LoadError(Code(event["code"]), str(event["message"]), hint=str(event["hint"]))
            raise LoadError(Code.INTERNAL, "the download's process ended without a result")
        except LoadError as failure:
            keep = failure.code in _KEPT
            raise
        finally:
            deadline.cancel()
            self._process.end()
            if keep and self._volume is not None:
                self._store.keep(self._room)
            self._room.finish()
            self._held.close()

    def _answer(self, listed: Mapping[str, Any]) -> _Next | None:
        """Answer a list of files. Returns what to wait for, if this process cannot have the model now."""
        self._held.close()
        if self._volume is None:
            self._name = listed["tree"] or os.urandom(32).hex()
        elif listed["tree"] != self._listed["tree"]:
            raise LoadError(Code.CHANGED, "the model changed during the download")
        self._listed = listed
        if not self._store.is_verified(self._name):
            self._process.answer(do=fetch.WAIT)
            return lambda: self._models.verified(self._wanted.namespace, self._name)
        if self._use():
            return None
        flight = self._models.flying(self._name)
        if flight is None and not self._has_turn():
            self._process.answer(do=fetch.WAIT)
            return lambda: self._models.downloads
        if flight is None:
            flight = self._held.enter_context(self._models.flight(self._name))
        if flight is not None:
            self._process.answer(do=fetch.WAIT)
            return lambda: self._models.landed(flight)
        if not self._use():  # another process can have ended since
            self._download()
        return None

    def _use(self) -> bool:
        """Return whether the node has the model. The process then only compares its digest."""
        tree = self._held.enter_context(self._store.pinned(self._name))
        if tree is not None:
            self._process.answer(do=fetch.USE, hashes=dict(tree.hashes), unpacked=dict(tree.unpacked))
        return tree is not None

    def _has_turn(self) -> bool:
        """Return whether the process has the turn of a download, in place of its turn of a list, if there is one."""
        if not self._may_download:
            with contextlib.ExitStack() as slot:
                turn = slot.enter_context(self._models.downloads.at_once(self._wanted.namespace))
                if turn is not None:
                    turn.on_end(lambda: self._process.stop(InterruptedByOthersError()))
                    self._slot.close()
                    self._slot.push(slot.pop_all())
                    self._may_download = True
        return self._may_download

    def _download(self) -> None:
        files = self._listed["files"]
        self._store.discard(self._assembled)
        model = self._assembled / Volume.MODEL
        model.mkdir(parents=True)
        self._known = {}
        if not self._listed["packed"]:  # an archive is unpacked as a whole
            self._known = self._store.known({path: name for path, name, _ in files}, model)
        need = sum(max(size, 0) for path, _, size in files if path not in self._known)
        if self._volume is None:
            self._volume = self._store.volume(self._room, self._listed["tree"], self._uid)
        self._store.reserve(self._room, need)
        self._process.answer(do=fetch.DOWNLOAD, known=dict(self._known), volume=str(self._volume))

    def _publish(self, fetched: Mapping[str, Any]) -> None:
        listed, name = self._listed, self._name
        hashes, unpacked = dict(fetched["hashes"]), dict(fetched["unpacked"])
        if listed["packed"]:
            paths = {path: keys.of_unpacked(name, path) for path in unpacked}
            new = unpacked
        else:
            paths = {path: file or keys.of_unpacked(name, path) for path, file, _ in listed["files"]}
            new = {path: sha256 for path, sha256 in hashes.items() if path not in self._known}
        fields = {key: fetched[key] for key in _MODEL_FIELDS if key in fetched}
        fields["sources"] = [redact(uri) for uri in self._wanted.sources]
        tree = Tree(name, paths, hashes, unpacked, fields, "")
        snapshots = [Snapshot._make((*each[:5], tuple(each[5]))) for each in listed["snapshots"]]
        self._store.publish(tree, self._room, self._assembled, snapshots, fetched=new)
        self._volume = None
        self._models.counts.downloads += 1
        self._models.counts.received += int(fetched["received"])
        self._models.counts.seconds += time.monotonic() - self._began
