"""Reading the files of a plan in parallel parts, with bounded memory, into a folder."""

import errno
import hashlib
import http.client
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from model_loader.journal import Journal, Part
from model_loader.model import File
from model_loader.outcomes import Code, LoadError
from model_loader.report import Report
from model_loader.retries import Patience
from model_loader.transport import Transport

PART = 8 << 20
"""Bytes of one request. A killed loader reads at most so much again for each worker."""
BUFFER = 256 << 10
"""Bytes that a worker holds in memory."""
WORKERS = 8
MOST_WORKERS = 32
_TICK = 2.0


class Reader(Protocol):
    """Where the bytes of a part come from."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` from its start and return the number of bytes, 0 at the end."""

    def close(self) -> None:
        """Let go of what is behind it."""


@dataclass(slots=True)
class _State:
    """What is known of a file while it is read."""

    file: File
    size: int
    missing: set[int]
    done: dict[int, int] = field(default_factory=dict)
    modified: str = ""
    hashed: int = 0
    sha256: "hashlib._Hash | None" = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    retried: bool = False


class Engine:
    """Reads `files` into `folder`. One use only: `run`, then `hashes`."""

    def __init__(
        self,
        files: Sequence[File],
        folder: Path,
        *,
        transport: Transport,
        journal: Journal,
        report: Report,
        patience: float,
        hashing: bool,
    ) -> None:
        """`patience`: seconds that a part may fail without progress. `hashing`: compute every file's sha256."""
        self._folder = folder
        self._transport = transport
        self._journal = journal
        self._report = report
        self._over = threading.Event()
        self._patience = Patience(patience, report, self._over.wait)
        self._events: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._states = [self._state(file, hashing) for file in files]
        self._total = sum(max(file.size, 0) for file in files)
        self._received: list[int] = []
        self._limit = WORKERS
        self._files_done = 0
        self._parts = self._plan(journal)
        self._left = len(self._parts)
        self._kept = self._total - sum(end - start for _, start, end in self._parts if end >= 0)

    @property
    def received(self) -> int:
        """Bytes read from the source so far."""
        return sum(self._received)

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return sum(state.size for state in self._states)

    @property
    def missing(self) -> int:
        """Bytes that are still to be read, as far as sizes are known."""
        return self._total - self._kept

    def hashes(self) -> dict[str, str]:
        """Return the hex sha256 of each file that was hashed, by path."""
        return {state.file.path: state.sha256.hexdigest() for state in self._states if state.sha256 is not None}

    def run(self) -> None:
        """Read everything. Raises the LoadError that ended it; no worker writes to the folder afterwards."""
        threads: list[threading.Thread] = []
        started = told = moved = time.monotonic()
        told_bytes = moved_bytes = 0
        rate = best = 0.0
        try:
            while self._left:
                wanted = min(self._limit, self._left + sum(thread.is_alive() for thread in threads))
                while len(threads) < wanted:
                    self._received.append(0)
                    thread = threading.Thread(target=self._work, args=(len(threads),), daemon=True)
                    threads.append(thread)
                    thread.start()
                try:
                    event = self._events.get(timeout=max(0.0, told + _TICK - time.monotonic()))
                    if event is not None:
                        raise event
                except queue.Empty:
                    pass
                now, received = time.monotonic(), self.received
                if received > moved_bytes:
                    moved_bytes, moved = received, now
                elif now - moved > self._patience.seconds + _TICK:
                    raise LoadError(Code.STALLED, f"nothing was received for {now - moved:.0f} s")
                due = now - told >= _TICK
                if received > told_bytes and (due or received - told_bytes >= self._total / 20):
                    rate = (received - told_bytes) / max(now - told, 1e-6)
                    self._report.progress(self._kept + received, self._total, self._files_done, now - started, rate)
                if due:
                    # More connections as long as they bring more: a far store is limited by each one's window.
                    if rate > best * 1.1 and len(threads) == self._limit < MOST_WORKERS:
                        best, self._limit = rate, self._limit + WORKERS // 2
                    told, told_bytes = now, received
        finally:
            self._over.set()
            for thread in threads:
                thread.join(timeout=0 if self._left else None)

    def _state(self, file: File, hashing: bool) -> _State:
        hasher = hashlib.sha256() if hashing or file.sha256 else None
        return _State(file, max(file.size, 0), set(), sha256=hasher)

    def _plan(self, journal: Journal) -> deque[Part]:
        """Make the folders and files, and return the parts to read: largest files first, so that none is left last."""
        parts: list[Part] = []
        for folder in sorted({os.path.dirname(state.file.path) for state in self._states}):
            os.makedirs(self._folder / folder, mode=0o755, exist_ok=True)
        for index, state in sorted(enumerate(self._states), key=lambda item: -item[1].file.size):
            file = state.file
            cuts = [(0, -1)]
            if file.size >= 0:
                step = PART if file.ranged else max(file.size, 1)
                cuts = [(start, min(start + step, file.size)) for start in range(0, max(file.size, 1), step)]
            if len(cuts) > 1 and not any((index, *cut) in journal.parts for cut in cuts):
                self._reserve(file)
            for start, end in cuts:
                if (index, start, end) in journal.parts:
                    state.done[start] = end
                else:
                    state.missing.add(start)
                    parts.append((index, start, end))
            if not state.missing:
                self._files_done += 1
        return deque(parts)

    def _reserve(self, file: File) -> None:
        fd = self._open(file)
        try:
            os.ftruncate(fd, file.size)
        finally:
            os.close(fd)

    def _open(self, file: File) -> int:
        return os.open(self._folder / file.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)

    def _work(self, slot: int) -> None:
        buffer = memoryview(bytearray(BUFFER))
        try:
            while slot < self._limit and not self._over.is_set():
                try:
                    part = self._parts.popleft()
                except IndexError:
                    return
                self._read(part, slot, buffer)
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits for it
            self._events.put(error)
        finally:
            self._transport.close()

    def _read(self, part: Part, slot: int, buffer: memoryview) -> None:
        index, start, end = part
        state = self._states[index]
        position = start
        # A file that is one part is hashed as it passes; the parts of others arrive out of order.
        hasher = state.sha256 if len(state.missing) == 1 and not state.done else None

        def attempt() -> None:
            nonlocal position, hasher
            if not state.file.ranged and position > start:
                self._received[slot] -= position - start
                position, hasher = start, hasher and hashlib.sha256()
            reader = self._request(state, position, start, end)
            try:
                while end < 0 or position < end:
                    view = buffer if end < 0 else buffer[: min(BUFFER, end - position)]
                    count = reader.readinto(view)
                    if not count:
                        break
                    self._write(fd, buffer[:count], position, state.file)
                    if hasher is not None:
                        hasher.update(buffer[:count])
                    position += count
                    self._received[slot] += count
                    if self._over.is_set():
                        raise LoadError(Code.INTERRUPTED, "the load ended elsewhere")
            except (OSError, http.client.HTTPException) as error:
                raise self._transport.broken(state.file.url, error) from None
            finally:
                reader.close()
            if position < end:
                raise self._transport.broken(state.file.url, http.client.IncompleteRead(b""))

        fd = self._open(state.file)
        try:
            self._persist(attempt, lambda: position, state.file)
            if end < 0:
                os.ftruncate(fd, position)
                state.size = position
            if hasher is not None:
                state.sha256, state.hashed = hasher, position
            self._finish(part, state, position, fd, buffer)
        finally:
            os.close(fd)

    def _persist(self, attempt: Callable[[], None], progress: Callable[[], int], file: File) -> None:
        def named() -> None:
            try:
                attempt()
            except LoadError as failure:
                failure.file = failure.file or file.path
                if failure.status in (429, 503):
                    self._limit = max(1, self._limit // 2)
                raise

        self._patience.run(named, progress)

    def _request(self, state: _State, position: int, start: int, end: int) -> Reader:
        """Ask for bytes from `position` to `end`. Raises LoadError(Changed) when the file is not what was planned."""
        file = state.file
        if file.url.startswith("file:"):
            stream = open(unquote(urlsplit(file.url).path), "rb", buffering=0)  # noqa: SIM115  # closed by who reads it
            stream.seek(position)
            return stream
        headers: dict[str, str] = {}
        whole = (position, end) in ((0, file.size), (0, -1))
        if not whole:
            headers["Range"] = f"bytes={position}-{end - 1}"
        if file.etag:
            headers["If-Match"] = file.etag
        answer = self._transport.get(file.url, headers, file.by)
        etag = answer.headers.get("etag", "")
        modified = answer.headers.get("last-modified", "")
        state.modified = state.modified or modified
        total = answer.headers.get("content-range", "").rpartition("/")[2]
        length = answer.headers.get("content-length", "")
        changed = (
            (file.etag and etag and etag != file.etag)
            or (modified and modified != state.modified)
            or (total.isdigit() and file.size >= 0 and int(total) != file.size)
            or (whole and length.isdigit() and file.size >= 0 and int(length) != file.size)
        )
        if changed:
            self._transport.close()
            raise LoadError(Code.CHANGED, f"{file.path} was changed in the store while it was read", file=file.path)
        if not whole and answer.status != 206:
            self._transport.close()
            raise LoadError(Code.SERVER_ERROR, f"the server answered {answer.status} to a request for a part")
        return answer.body

    def _write(self, fd: int, data: memoryview, position: int, file: File) -> None:
        try:
            while len(data):
                count = os.pwrite(fd, data, position)
                data, position = data[count:], position + count
        except OSError as error:
            raise storage_failure(error, file.path) from None

    def _finish(self, part: Part, state: _State, position: int, fd: int, buffer: memoryview) -> None:
        _, start, _ = part
        with state.lock:
            state.done[start] = position
        self._hash_on(state, fd, buffer)
        with state.lock:
            state.missing.discard(start)
            last = not state.missing
        if last:
            self._hash_on(state, fd, buffer, wait=True)
            self._verify(state)
        self._journal.add(part)
        with self._lock:
            self._files_done += last
            self._left -= 1
        if not self._left or self.received - self._progressed >= self._total / 20:
            self._progressed = self.received
            self._events.put(None)

    _progressed = 0

    def _hash_on(self, state: _State, fd: int, buffer: memoryview, *, wait: bool = False) -> None:
        """Hash what is contiguous so far: one worker at a time, behind the writes, out of the page cache."""
        if state.sha256 is None:
            return
        while state.hashed in state.done and state.hashed < state.size:
            if not state.lock.acquire(blocking=wait):
                return
            try:
                end = state.done.get(state.hashed, 0)
                while state.hashed < end:
                    count = os.preadv(fd, [buffer[: min(BUFFER, end - state.hashed)]], state.hashed)
                    state.sha256.update(buffer[:count])
                    state.hashed += count
            finally:
                state.lock.release()

    def _verify(self, state: _State) -> None:
        wanted = state.file.sha256
        if wanted and state.sha256 is not None and state.sha256.hexdigest() != wanted:
            raise LoadError(
                Code.CORRUPTED, f"{state.file.path} does not hash to what its publisher says", file=state.file.path
            )


def storage_failure(error: OSError, file: str = "") -> LoadError:
    """Return the failure that stands for an error of the volume."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LoadError(Code.NO_SPACE, "the model volume is full", file=file)
    return LoadError(Code.INTERNAL, f"the model volume cannot be written: {error.strerror}", file=file)
