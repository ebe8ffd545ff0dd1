"""Reading the files of a plan in parallel parts, with bounded memory, into a folder."""

import contextlib
import hashlib
import mmap
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote, urlsplit

from model_loader import checksums
from model_loader.http1 import ProtocolError
from model_loader.journal import Journal, Part
from model_loader.model import File
from model_loader.outcomes import Code, LoadError
from model_loader.report import Report
from model_loader.retries import Patience
from model_loader.transport import Answer, Transport
from model_loader.volume import Folder, storage_failure

PART = 8 << 20
"""Bytes of one request. A killed loader reads at most so much again for each worker."""
BUFFER = 256 << 10
"""Bytes that a worker holds in memory: small enough for a core's cache, so that hashing them costs no second read."""
WORKERS = 4
MOST_WORKERS = 32
_TICK = 2.0
"""Seconds between two lines of progress, at most."""
_WEIGH = 0.5
"""Seconds between two looks at whether more workers brought more."""
_UNKNOWN = -1


class Reader(Protocol):
    """Where the bytes of a part come from."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` from its start and return the number of bytes, 0 at the end."""

    def close(self) -> None:
        """Let go of what is behind it."""


class _State:
    """What is known of a file while it is read. The lock guards the hash; the engine's lock guards the rest."""

    def __init__(self, index: int, file: File, hashing: bool) -> None:
        self.index = index
        self.file = file
        self.hashing = hashing or bool(file.checksum)
        self.wanted = file.checksum
        self.asked = not file.ask
        self.retried = False
        self.redirected = ""
        self.reset(frozenset())

    def reset(self, written: Set[Part]) -> None:
        """Begin anew with the parts that are written already left out."""
        size = self.file.size
        self.size = max(size, 0)
        self.modified = ""
        self.parts: deque[tuple[int, int]] = deque()
        self.done: dict[int, int] = {}
        for start, end in _cuts(self.file):
            if (self.index, start, end) in written:
                self.done[start] = end
            else:
                self.parts.append((start, end))
        self.left = len(self.parts)
        self.lock = threading.Lock()
        self.restart_hash()

    def restart_hash(self) -> None:
        """Hash from the file's start."""
        self.sha256 = hashlib.sha256()
        self.check: checksums.Hash | None = None
        if self.wanted and not self.wanted.startswith("sha256:"):
            self.check = checksums.new(self.wanted, max(self.file.size, 0))
        self.hashed = 0

    def hash(self, data: checksums.Bytes) -> None:
        """Take in the next bytes of the file."""
        self.sha256.update(data)
        if self.check is not None:
            self.check.update(data)
        self.hashed += len(data)

    def genuine(self) -> bool:
        """Tell whether the file, hashed to its end, has the store's checksum."""
        wanted = self.wanted.partition(":")[2]
        return not wanted or (self.check or self.sha256).hexdigest() == wanted

    def expect(self, checksum: str) -> None:
        """Hash for this checksum too, from the file's start; the lock must be held."""
        self.asked = True
        if checksum:
            self.wanted, self.hashing = checksum, True
            self.restart_hash()


def _cuts(file: File) -> list[tuple[int, int]]:
    if file.size < 0:
        return [(0, _UNKNOWN)]
    step = PART if file.ranged else max(file.size, 1)
    return [(start, min(start + step, file.size)) for start in range(0, max(file.size, 1), step)]


class Engine:
    """Reads `files` into `folder`, once: `run`, then `size` and `hashes`."""

    def __init__(
        self,
        files: Sequence[File],
        folder: Folder,
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
        self._states = [_State(index, file, hashing) for index, file in enumerate(files)]
        for state in self._states:
            state.reset(journal.parts)
        # Largest first, so that no large file is left for the end.
        self._waiting = deque(sorted((s for s in self._states if s.left), key=lambda state: -state.file.size))
        self._left = sum(bool(state.left) for state in self._states)
        self._total = sum(max(file.size, 0) for file in files)
        self.missing = sum(end - start for state in self._waiting for start, end in state.parts if end >= 0)
        """Bytes that are still to be read, as far as the sizes are known."""
        self._received: list[int] = []
        self._told = 0
        # A file is hashed in order, by one core: workers that read far ahead only take the CPU from it.
        self._fewest = min(WORKERS, len(self._waiting) + 1) if hashing else WORKERS
        self._limit = self._fewest

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return sum(state.size for state in self._states)

    @property
    def checked(self) -> int:
        """How many files were checked against a checksum that the store keeps."""
        return sum(bool(state.wanted) for state in self._states)

    @property
    def received(self) -> int:
        """Bytes read from the source so far."""
        return sum(self._received)

    def hashes(self) -> dict[str, str]:
        """Return the hex sha256 of each file that was hashed, by path."""
        return {state.file.path: state.sha256.hexdigest() for state in self._states if state.hashing}

    def run(self) -> None:
        """Read everything. Raises the LoadError that ended it."""
        self._prepare()
        threads: list[threading.Thread] = []
        try:
            self._watch(threads)
        except BaseException:
            self._over.set()
            self._transport.abort()
            raise
        finally:
            for thread in threads:
                thread.join()

    def _prepare(self) -> None:
        """Make folders and files, and look once more at the files that an earlier start completed."""
        for folder in sorted({os.path.dirname(state.file.path) for state in self._states}):
            self._folder.folder(folder or ".", make=True).close()
        for state in self._states:
            if not state.done and state.file.size > PART:
                with _Opened(self._folder, state.file) as fd:
                    os.ftruncate(fd, state.file.size)
            if not state.left:
                with _Opened(self._folder, state.file) as fd:
                    self._hash_on(state, fd, wait=True)
                self._left += not self._verified(state)

    def _watch(self, threads: list[threading.Thread]) -> None:
        """Keep enough workers going and tell the progress until all is read. Raises what ended a worker."""
        started = told = moved = weighed = time.monotonic()
        moved_bytes = weighed_bytes = 0
        best = 0.0
        while self._left:
            while len(threads) < min(self._limit, sum(state.left for state in self._states)):
                self._received.append(0)
                threads.append(threading.Thread(target=self._work, args=(len(threads),), daemon=True))
                threads[-1].start()
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=max(0.0, min(told + _TICK, weighed + _WEIGH) - time.monotonic()))
                if event is not None:
                    raise event
            now, received = time.monotonic(), self.received
            if received != moved_bytes:
                moved_bytes, moved = received, now
            elif now - moved > self._patience.seconds + _TICK:
                raise LoadError(Code.STALLED, f"nothing was received for {now - moved:.0f} s")
            if now - weighed >= _WEIGH:
                rate = (received - weighed_bytes) / (now - weighed)
                # More connections as long as they bring more: over a long way each one's window is the limit.
                if self._unhashed() > 2 * self._limit * PART:
                    self._limit = min(self._limit, max(self._fewest, self._limit // 2))
                elif rate > best * 1.1 and len(threads) == self._limit < MOST_WORKERS:
                    best, self._limit = rate, self._limit * 2
                weighed, weighed_bytes = now, received
            if received > self._told and (now - told >= _TICK or received - self._told >= self._total / 20):
                rate = (received - self._told) / max(now - told, 1e-3)
                kept = self._total - self.missing
                self._report.progress(kept + received, self._total, self._files_done(), now - started, rate)
                self._told, told = received, now
            elif now - told >= _TICK:
                told = now

    def _unhashed(self) -> int:
        """Return the bytes that are on the volume and are still to be hashed."""
        return sum(
            sum(end - start for start, end in state.done.copy().items()) - state.hashed
            for state in self._states
            if state.hashing and state.left
        )

    def _files_done(self) -> int:
        return len(self._states) - self._left

    def _work(self, slot: int) -> None:
        buffer = memoryview(bytearray(BUFFER))
        state = None
        try:
            while slot < self._limit and not self._over.is_set():
                found = self._next(state)
                if found is None:
                    return
                state, start, end = found
                with _Opened(self._folder, state.file) as fd:
                    self._read(state, start, end, slot, fd, buffer)
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits for it
            self._events.put(error)
        finally:
            self._transport.close()

    def _next(self, state: _State | None) -> tuple[_State, int, int] | None:
        """Return the next part to read: of the same file, so that it is hashed as it passes, else of another."""
        with self._lock:
            if state is None or not state.parts:
                if self._waiting:
                    state = self._waiting.popleft()
                else:
                    state = max(self._states, key=lambda other: len(other.parts))
                    if not state.parts:
                        return None
            return state, *state.parts.popleft()

    def _read(self, state: _State, start: int, end: int, slot: int, fd: int, buffer: memoryview) -> None:
        if not state.asked and (start, end) != (0, state.file.size):
            self._persist(lambda: self._ask(state), lambda: 0, state.file)
        # Who reads the part that is to be hashed next hashes it as it passes.
        hashes = state.hashing and state.lock.acquire(blocking=False)
        if hashes and state.hashed != start:
            state.lock.release()
            hashes = False
        task = _Task(state, start, end, slot, fd, hashes)
        try:
            self._persist(lambda: self._copy(task, buffer), lambda: task.position, state.file)
            if end < 0:
                state.size = task.position
        finally:
            if hashes:
                state.lock.release()
        self._finish(state, (start, end), task.position, fd)

    def _ask(self, state: _State) -> None:
        """Ask for the checksum of a file that is read in parts, whose answers do not tell it."""
        answer = self._transport.send("HEAD", state.file.url, {}, by=state.file.by)
        with state.lock:
            if not state.asked:
                state.expect(checksums.of_answer(answer.headers))

    def _copy(self, task: "_Task", buffer: memoryview) -> None:
        """Read what is missing of a part: one request. Raises LoadError."""
        state, end = task.state, task.end
        if not state.file.ranged:
            self._received[task.slot] -= task.position - task.start
            task.position = task.start
            if task.hashes:
                state.restart_hash()
        reader = self._request(task)
        try:
            while end < 0 or task.position < end:
                count = reader.readinto(buffer if end < 0 else buffer[: min(BUFFER, end - task.position)])
                if not count:
                    break
                _write(task.fd, buffer[:count], task.position, state.file)
                if task.hashes:
                    state.hash(buffer[:count])
                task.position += count
                self._received[task.slot] += count
                self._check_going_on()
        except (OSError, ProtocolError) as error:
            raise self._transport.broken(state.file.url, error) from None
        finally:
            reader.close()
        if task.position < end:
            raise LoadError(Code.CHANGED, f"{state.file.path} is shorter than the store says")

    def _check_going_on(self) -> None:
        if self._over.is_set():
            raise LoadError(Code.INTERRUPTED, "the load has ended")

    def _persist(self, attempt: Callable[[], None], progress: Callable[[], int], file: File) -> None:
        def named() -> None:
            try:
                self._check_going_on()
                attempt()
            except LoadError as failure:
                self._check_going_on()
                failure.file = failure.file or file.path
                if failure.status in (429, 503):
                    self._limit = max(1, self._limit // 2)
                raise

        self._patience.run(named, progress)

    def _request(self, task: "_Task") -> Reader:
        """Ask for what is missing of a part. Raises LoadError(Changed) when the file is not what was planned."""
        state, position, end = task.state, task.position, task.end
        file = state.file
        if file.url.startswith("file:"):
            stream = open(unquote(urlsplit(file.url).path), "rb", buffering=0)  # noqa: SIM115  # closed by who reads it
            stream.seek(position)
            return stream
        headers: dict[str, str] = {}
        whole = (position, end) in ((0, file.size), (0, _UNKNOWN))
        if not whole:
            headers["Range"] = f"bytes={position}-{end - 1}"
        if file.etag:
            headers["If-Match"] = file.etag
        answer = self._get(state, headers)
        if self._changed(state, answer.headers, whole):
            raise LoadError(Code.CHANGED, f"{file.path} was changed in the store while it was read", file=file.path)
        if not whole and answer.status != 206:
            raise LoadError(Code.SERVER_ERROR, f"the server answered {answer.status} to a request for a part")
        if not whole and not answer.headers.get("content-range", "").startswith(f"bytes {position}-"):
            raise LoadError(Code.SERVER_ERROR, "the server answered with another part than the one asked for")
        if whole and not state.asked:
            with contextlib.nullcontext() if task.hashes else state.lock:
                state.expect(checksums.of_answer(answer.headers))
        return answer.body

    def _get(self, state: _State, headers: Mapping[str, str]) -> Answer:
        """Send the request where the last one was redirected to, which spares the hub a question for every part."""
        if state.redirected:
            try:
                return self._transport.get(state.redirected, headers)
            except LoadError as failure:
                if failure.status not in (400, 401, 403, 404, 410):
                    raise
        answer = self._transport.get(state.file.url, headers, state.file.by)
        elsewhere = answer.url != state.file.url and urlsplit(answer.url)[:2] != urlsplit(state.file.url)[:2]
        state.redirected = answer.url if elsewhere else ""
        return answer

    def _changed(self, state: _State, headers: Mapping[str, str], whole: bool) -> bool:
        """Tell whether an answer is about another state of the file than the plan, or than an earlier answer."""
        file = state.file
        etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
        if (file.etag and etag and etag != file.etag) or (state.modified and modified != state.modified):
            return True
        state.modified = modified
        told = headers.get("content-length", "") if whole else headers.get("content-range", "").rpartition("/")[2]
        return file.size >= 0 and told.isdecimal() and int(told) != file.size

    def _finish(self, state: _State, part: tuple[int, int], position: int, fd: int) -> None:
        """Write down that a part is there, and when it was the last of its file, that the file is."""
        state.done[part[0]] = position
        self._journal.add((state.index, *part))
        self._hash_on(state, fd)
        with self._lock:
            state.left -= 1
            last = not state.left
        if last:
            if state.size != os.fstat(fd).st_size:
                os.ftruncate(fd, state.size)
            self._hash_on(state, fd, wait=True)
            if not self._verified(state):
                self._events.put(None)
                return
            with self._lock:
                self._left -= 1
        if not self._left or self.received - self._told >= self._total / 20:
            self._events.put(None)

    def _hash_on(self, state: _State, fd: int, *, wait: bool = False) -> None:
        """Hash what is there up to the first gap: one worker at a time, behind the writes, out of the page cache."""
        while state.hashing and state.hashed < state.size and state.hashed in state.done:
            if not state.lock.acquire(blocking=wait):
                return
            try:
                end = state.done.get(state.hashed, 0)
                if end > state.hashed:
                    # Mapped and not read: no copy. A part begins on a page.
                    with mmap.mmap(fd, end - state.hashed, prot=mmap.PROT_READ, offset=state.hashed) as data:
                        state.hash(data)
            finally:
                state.lock.release()

    def _verified(self, state: _State) -> bool:
        """Tell whether a file is what the store says; if not, have it read again. Raises LoadError(Corrupted)."""
        if state.genuine():
            return True
        failure = LoadError(
            Code.CORRUPTED, f"{state.file.path} does not have the checksum that the store keeps", file=state.file.path
        )
        if state.retried:
            raise failure
        self._report.retry(failure, 1, 0.0)
        with self._lock:
            state.retried = True
            state.reset(frozenset())
        return False


@dataclass(slots=True)
class _Task:
    """A part that is being read into `fd`, up to `position` so far; `hashes`: its reader holds the file's hash."""

    state: _State
    start: int
    end: int
    slot: int
    fd: int
    hashes: bool
    position: int = field(init=False)

    def __post_init__(self) -> None:
        self.position = self.start


class _Opened:
    """A file of the model, open for reading and writing for as long as the block lasts; never through a link."""

    def __init__(self, folder: Folder, file: File) -> None:
        self._folder = folder
        self._file = file

    def __enter__(self) -> int:
        try:
            self._fd = self._folder.open(self._file.path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise storage_failure(error, self._file.path) from None
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _write(fd: int, data: memoryview, position: int, file: File) -> None:
    try:
        while data:
            count = os.pwrite(fd, data, position)
            data, position = data[count:], position + count
    except OSError as error:
        raise storage_failure(error, file.path) from None
