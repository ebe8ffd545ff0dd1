"""Reading the files of a plan in parallel parts, with bounded memory, into a folder."""

import contextlib
import mmap
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Protocol
from urllib.parse import unquote, urlsplit

from model_loader.download.hashing import BUFFER, FileHash
from model_loader.download.retries import RetryPolicy
from model_loader.http.http1 import ProtocolError
from model_loader.http.transport import HttpResponse, Transport
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import File
from model_loader.report import Report
from model_loader.storage.journal import Journal, Part
from model_loader.storage.volume import Opener, SafeDir, storage_failure
from model_loader.verify import checksums

PART = 8 << 20
"""Bytes of one line of the journal. A killed loader reads at most so much again for each worker."""
AHEAD = 256 << 20
"""Bytes that all workers together ask for of one file at once, and that they are ahead of its hash at most.

What is hashed behind the writes is then still in the page cache.
"""
WORKERS = 2
"""To begin with: enough for a store next door, and more would contend for the interpreter over many small files."""
MOST_WORKERS = 64
_TICK = 2.0
"""Seconds between two lines of progress, at most."""
_WEIGH = 0.1
"""Seconds between two looks at whether more workers brought more."""
_GAIN = 1.25
"""So much more must more workers have brought, for still more."""
_BUSY = 0.3
"""The share of the machine's cores that this process uses, from which on more workers would only be in the way."""
_UNKNOWN = -1
_CORES = len(os.sched_getaffinity(0))


class Reader(Protocol):
    """Where the bytes of a part come from."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill `buffer` from its start and return the number of bytes, 0 at the end."""

    def close(self) -> None:
        """Let go of what is behind it."""


class PartsIgnoredError(LoadError):
    """Ends a run: the server of `file` sends it whole, whatever part of it is asked for."""

    def __init__(self, file: File) -> None:
        super().__init__(
            Code.SERVER_ERROR,
            "the server ignores which part is asked for, so files are read whole",
            hint="A server that serves parts is read faster, and gone on with where an answer was cut.",
            file=file.path,
        )
        self.server = file.server

    @property
    def transient(self) -> bool:
        """Another request for a part would be answered likewise."""
        return False


class _State:
    """What is known of a file while it is read. The engine's lock guards it; the hash has its own."""

    def __init__(self, index: int, file: File, hashing: bool, written: Set[Part]) -> None:
        """`written`: the parts that are there already."""
        self.index = index
        self.file = file
        self.hash = FileHash(file.size, file.checksum, needed=hashing)
        self.asked = not file.ask
        self.retried = False
        self.redirected = ""
        self.reset(written)

    def reset(self, written: Set[Part]) -> None:
        """Begin anew with the parts that are written already left out."""
        size = self.file.size
        self.size = max(size, 0)
        self.modified = ""
        self.parts: deque[tuple[int, int]] = deque()
        self.done: dict[int, int] = {}
        # As one part, where the server of an earlier start served none.
        whole = (self.index, 0, size) in written
        for start, end in _cuts(size):
            if whole or (self.index, start, end) in written:
                self.done[start] = end
            else:
                self.parts.append((start, end))
        self.anew = bool(self.parts) and not self.file.ranged
        """Whether it has to be read from its start, whatever there is of it: the rest alone cannot be asked for."""
        if self.anew:
            self.parts, self.done = deque([(0, size)]), {}
        self.left = len(self.parts)
        self.single = self.left == 1 and not self.done and size >= 0 and not self.retried
        """Whether it is read by one part of known size, and the journal lists nothing of it."""

    def expect(self, checksum: str) -> None:
        """Note what the store says that the file hashes to, if it does; the hash's lock must be held."""
        self.asked = True
        if checksum:
            self.hash.expect(checksum)


def _cuts(size: int) -> list[tuple[int, int]]:
    if size < 0:
        return [(0, _UNKNOWN)]
    return [(start, min(start + PART, size)) for start in range(0, max(size, 1), PART)]


class Engine:
    """Reads `files` into `folder`, once: `run`, then `size` and `hashes`."""

    def __init__(
        self,
        files: Sequence[File],
        folder: SafeDir,
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
        self._patience = RetryPolicy(patience, report, self._over.wait)
        self._events: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        """Notified when a part is there."""
        self._states = [_State(index, file, hashing, journal.parts) for index, file in enumerate(files)]
        self._make_room()
        # Largest first, so that no large file is left for the end.
        self._waiting = deque(sorted((s for s in self._states if s.left), key=lambda state: -state.file.size))
        self._left = sum(bool(state.left) for state in self._states)
        self._total = sum(max(file.size, 0) for file in files)
        self.missing = sum(end - start for state in self._waiting for start, end in state.parts if end >= 0)
        """Bytes that are still to be read, as far as the sizes are known."""
        self._unclaimed = sum(len(state.parts) for state in self._waiting)
        self._workers: list[_Worker] = []
        self._told = 0
        self._limit = self._first_limit(hashing)

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return sum(state.size for state in self._states)

    @property
    def checked(self) -> int:
        """How many files were checked against a checksum that the store keeps."""
        return sum(bool(state.hash.checksum) for state in self._states)

    @property
    def received(self) -> int:
        """Bytes read from the source so far."""
        return sum(worker.received for worker in self._workers)

    def hashes(self) -> dict[str, str]:
        """Return the hex sha256 of each file that was hashed, by path."""
        return {state.file.path: state.hash.sha256() for state in self._states if state.hash.needed}

    def _first_limit(self, hashing: bool) -> int:
        """Return how many workers to begin with.

        A file is hashed in order, by one core. Where one file is most of the model, one worker reads it and a thread
        beside hashes: more would take the CPU from that.
        """
        sizes = [sum(end - start for start, end in state.parts) for state in self._waiting]
        if not hashing or min(sizes, default=0) < 0:
            return WORKERS
        return max(1, min(WORKERS, sum(sizes) // max([1, *sizes])))

    def _make_room(self) -> None:
        """Make folders, and give back the room of what an earlier start left of files that have to be read anew."""
        for folder in sorted({os.path.dirname(state.file.path) for state in self._states}):
            self._folder.folder(folder or ".", make=True).close()
        if self._journal.parts:
            for state in self._states:
                if state.anew:
                    # The journal first, which must never list what is not there.
                    self._journal.drop(state.index)
                    with _Opened(self._folder, state.file, os.O_TRUNC):
                        pass

    def run(self) -> None:
        """Read everything. Raises the LoadError that ended it: PartsIgnoredError where files are to be read whole."""
        self._prepare()
        if self._limit < WORKERS and self._waiting and len(self._waiting[0].parts) > 1:
            self._waiting[0].hash.work_beside(self._events.put)
        threads: list[threading.Thread] = []
        try:
            self._watch(threads)
        except BaseException:
            self._over.set()
            self._transport.abort()
            raise
        finally:
            with self._moved:
                self._moved.notify_all()
            for thread in threads:
                thread.join()
            for state in self._states:
                state.hash.close()

    def _prepare(self) -> None:
        """Make the large files, and look once more at the files that an earlier start completed."""
        for state in self._states:
            if not state.done and state.file.size > PART:
                with _Opened(self._folder, state.file) as fd:
                    os.ftruncate(fd, state.file.size)
            if not state.left:
                with _Opened(self._folder, state.file) as fd:
                    if state.file.size < 0:
                        state.size = state.done[0] = os.fstat(fd).st_size
                    self._hash_on(state, fd, wait=True)
                self._left += not self._verified(state)

    def _watch(self, threads: list[threading.Thread]) -> None:
        """Keep enough workers going and tell the progress until all is read. Raises what ended a worker."""
        started = told = moved = weighed = time.monotonic()
        spent = time.process_time()
        moved_bytes = weighed_bytes = 0
        best = 0.0
        while self._left:
            self._engage(threads)
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
                busy = (time.process_time() - spent) / (now - weighed) / _CORES
                if rate > best * _GAIN and busy < _BUSY and len(self._workers) == self._limit < MOST_WORKERS:
                    best = rate
                    self._grow()
                weighed, weighed_bytes, spent = now, received, time.process_time()
            if received > self._told and (now - told >= _TICK or received - self._told >= self._total / 20):
                rate = (received - self._told) / max(now - told, 1e-3)
                kept = self._total - self.missing
                self._report.progress(kept + received, self._total, self._files_done(), now - started, rate)
                self._told, told = received, now
            elif now - told >= _TICK:
                told = now

    def _engage(self, threads: list[threading.Thread]) -> None:
        """Have as many workers as may be and as there is work for, also where one has left because there was none."""
        wanted = self._unclaimed
        for slot in range(self._limit):
            if wanted <= 0:
                return
            if slot < len(self._workers) and not self._workers[slot].gone:
                continue
            worker = _Worker(slot, Opener(self._folder))
            if slot < len(self._workers):
                worker.received = self._workers[slot].received
            self._workers[slot : slot + 1] = [worker]
            threads.append(threading.Thread(target=self._work, args=(worker,), daemon=True))
            threads[-1].start()
            wanted -= 1

    def _grow(self) -> None:
        """Let four times as many workers read: over a long way, what one connection brings is limited by the way."""
        with self._lock:
            self._limit = min(MOST_WORKERS, self._limit * 4)
            for worker in self._workers:
                if worker.state is not None and worker.claimed:
                    self._unclaimed += len(worker.claimed)
                    worker.state.parts.extend(worker.claimed)
                    worker.state.parts = deque(sorted(worker.state.parts))
                    worker.claimed.clear()

    def _files_done(self) -> int:
        return len(self._states) - self._left

    def _work(self, worker: "_Worker") -> None:
        try:
            while worker.slot < self._limit and not self._over.is_set() and (state := self._claim(worker)):
                while self._next(worker):
                    # Nothing is left of what may be there, without another look.
                    with _Opened(worker.opener, state.file, os.O_TRUNC if state.single else 0) as worker.fd:
                        self._read(worker, state)
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits for it
            self._events.put(error)
        finally:
            worker.leave()
            worker.opener.close()
            self._transport.close()
            worker.gone = True

    def _claim(self, worker: "_Worker") -> _State | None:
        """Give a worker parts to read, next to each other: of the same file, so that they are hashed as they pass."""
        with self._lock:
            state = worker.state
            if state is None or not state.parts:
                if self._waiting:
                    state = self._waiting.popleft()
                else:
                    state = max(self._states, key=lambda other: len(other.parts))
                    if not state.parts:
                        return None
            # Many parts by one request, but no more than a worker's share, so that all come to an end together.
            most = -(-self._unclaimed // self._limit)
            if self._limit > 1:
                most = min(most, max(1, AHEAD // PART // self._limit))
            worker.state = state
            while state.parts and most and (not worker.claimed or state.parts[0][0] == worker.claimed[-1][1]):
                worker.claimed.append(state.parts.popleft())
                self._unclaimed -= 1
                most -= 1
            return state

    def _next(self, worker: "_Worker") -> bool:
        """Go on to the next part that a worker has claimed, if there is one."""
        with self._lock:
            if not worker.claimed:
                return False
            worker.until = worker.claimed[-1][1]
            worker.start, worker.end = worker.claimed.popleft()
        worker.position = worker.start
        return True

    def _read(self, worker: "_Worker", state: _State) -> None:
        if not state.asked and (worker.start, worker.until) != (0, state.file.size):
            self._persist(lambda: self._ask(state), lambda: 0, state.file)
        self._stay_close(worker, state)
        # Who reads the part that is to be hashed next hashes it as it passes.
        worker.hashes = state.hash.needed and state.hash.lock.acquire(blocking=False)
        if worker.hashes and state.hash.position != worker.start:
            state.hash.lock.release()
            worker.hashes = False
        try:
            self._persist(lambda: self._copy(worker, state), lambda: worker.position, state.file)
            if worker.end < 0:
                state.size = worker.position
        finally:
            if worker.hashes:
                state.hash.lock.release()
        self._finish(worker, state)

    def _stay_close(self, worker: "_Worker", state: _State) -> None:
        """Wait until the file's hash is not too far behind; whatever it waits for is being read by somebody else."""
        while state.hash.needed and worker.start - state.hash.position > AHEAD:
            self._hash_on(state, worker.fd)
            with self._moved:
                if worker.start - state.hash.position > AHEAD:
                    self._moved.wait(_TICK)
            self._check_going_on()

    def _ask(self, state: _State) -> None:
        """Ask for the checksum of a file that is read in parts, whose answers do not tell it."""
        answer = self._transport.send("HEAD", state.file.url, {}, by=state.file.by)
        with state.hash.lock:
            if not state.asked:
                state.expect(checksums.of_answer(answer.headers))

    def _copy(self, worker: "_Worker", state: _State) -> None:
        """Read what is missing of a part, out of the answer that is open or of a new one. Raises LoadError."""
        end, buffer = worker.end, worker.buffer
        if end < 0 or not state.file.ranged:
            worker.received -= worker.position - worker.start
            worker.position = worker.start
            if worker.hashes:
                state.hash.restart()
        try:
            if worker.reader is None or worker.reads != (state, worker.position):
                worker.leave()
                worker.reader, worker.reach = self._request(worker, state), worker.until
            while end < 0 or worker.position < end:
                count = worker.reader.readinto(buffer if end < 0 else buffer[: min(BUFFER, end - worker.position)])
                if not count:
                    break
                _write(worker.fd, buffer[:count], worker.position, state.file)
                if worker.hashes:
                    buffer = worker.buffer = state.hash.take(buffer, count)
                worker.position += count
                worker.received += count
                self._check_going_on()
            if worker.position < end:
                raise LoadError(Code.CHANGED, f"{state.file.path} is shorter than the store says")
        except BaseException as error:
            worker.leave()
            if isinstance(error, OSError | ProtocolError):
                raise self._transport.broken(state.file.url, error) from None
            raise
        worker.reads = state, worker.position
        if worker.position == worker.reach:
            worker.leave()

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

    def _request(self, worker: "_Worker", state: _State) -> Reader:
        """Ask for all that a worker has claimed. Raises LoadError(Changed) when the file is not what was planned."""
        file, position, end = state.file, worker.position, worker.until
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
        if not whole and answer.status == 200:
            raise PartsIgnoredError(file)
        if not whole and answer.status != 206:
            raise LoadError(Code.SERVER_ERROR, f"the server answered {answer.status} to a request for a part")
        if not whole and not answer.headers.get("content-range", "").startswith(f"bytes {position}-"):
            raise LoadError(Code.SERVER_ERROR, "the server answered with another part than the one asked for")
        if whole and not state.asked:
            with contextlib.nullcontext() if worker.hashes else state.hash.lock:
                state.expect(checksums.of_answer(answer.headers))
        return answer.body

    def _get(self, state: _State, headers: Mapping[str, str]) -> HttpResponse:
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

    def _finish(self, worker: "_Worker", state: _State) -> None:
        """Write down that a part is there, and when it was the last of its file, that the file is."""
        part = state.index, worker.start, worker.end
        state.done[worker.start] = worker.position
        self._hash_on(state, worker.fd)
        with self._moved:
            last = state.left == 1
            if not last:
                self._journal.add(part)
            state.left -= 1
            self._moved.notify_all()
        if last:
            if not state.single and state.size != os.fstat(worker.fd).st_size:
                os.ftruncate(worker.fd, state.size)
            self._hash_on(state, worker.fd, wait=True)
            if not self._verified(state):
                self._events.put(None)
                return
            # The next start takes a file that is listed whole as it is.
            self._journal.add(part)
            with self._lock:
                self._left -= 1
        if not self._left or self.received - self._told >= self._total / 20:
            self._events.put(None)

    def _hash_on(self, state: _State, fd: int, *, wait: bool = False) -> None:
        """Hash what is there up to the first gap: one worker at a time, behind the writes, out of the page cache."""
        while state.hash.needed and state.hash.position < state.size and state.hash.position in state.done:
            if not state.hash.lock.acquire(blocking=wait):
                return
            try:
                end = state.done.get(state.hash.position, 0)
                if end > state.hash.position:
                    # Mapped and not read: no copy. A part begins on a page.
                    length, flags = end - state.hash.position, mmap.MAP_SHARED | mmap.MAP_POPULATE
                    with mmap.mmap(fd, length, flags, mmap.PROT_READ, offset=state.hash.position) as data:
                        state.hash.add(data)
            finally:
                state.hash.lock.release()

    def _verified(self, state: _State) -> bool:
        """Tell whether a file is what the store says; if not, have it read again. Raises LoadError(Corrupted)."""
        if state.hash.is_genuine():
            return True
        self._journal.drop(state.index)
        failure = LoadError(
            Code.CORRUPTED, f"{state.file.path} does not have the checksum that the store keeps", file=state.file.path
        )
        if state.retried:
            raise failure
        self._report.retry(failure, 1, 0.0)
        with self._lock:
            state.retried = True
            state.reset(frozenset())
            state.hash.restart()
            self._unclaimed += len(state.parts)
        return False


class _Worker:
    """What one thread has claimed of a file, and how far it is: at `position` of the part from `start` to `end`."""

    def __init__(self, slot: int, opener: Opener) -> None:
        self.slot = slot
        self.opener = opener
        self.gone = False
        self.buffer = memoryview(bytearray(BUFFER))
        self.received = 0
        self.state: _State | None = None
        self.claimed: deque[tuple[int, int]] = deque()
        self.start = self.end = self.position = self.until = 0
        """`until` is where that ends which is asked for."""
        self.fd = -1
        self.hashes = False
        """Whether it holds the file's hash."""
        self.reader: Reader | None = None
        self.reads: tuple[_State, int] | None = None
        """What the open answer gives next, and in `reach` where it ends: with a part, so that none reaches beyond."""
        self.reach = 0

    def leave(self) -> None:
        """Let go of the answer that is open."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None


class _Opened:
    """A file of the model, open for reading and writing for as long as the block lasts; never through a link."""

    def __init__(self, folder: SafeDir | Opener, file: File, flags: int = 0) -> None:
        self._folder = folder
        self._file = file
        self._flags = os.O_RDWR | os.O_CREAT | flags

    def __enter__(self) -> int:
        try:
            self._fd = self._folder.open(self._file.path, self._flags)
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
