"""Downloads the files of a plan into a folder: in parallel parts, with bounded memory."""

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence

from model_loader.download import file_state
from model_loader.download.concurrency import INITIAL_WORKERS, WorkerLimit, initial_limit, process_count
from model_loader.download.file_state import FileState, OpenedFile
from model_loader.download.processes import ReaderProcesses
from model_loader.download.retries import RetryPolicy
from model_loader.download.worker import Worker
from model_loader.http.transport import Transport
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import File
from model_loader.report import Report
from model_loader.storage.journal import Journal
from model_loader.storage.volume import Opener, SafeDir

READ_AHEAD_BYTES = 256 << 20
"""Maximum bytes of one file that all workers together request at once, and that they are ahead of its hash.

Written bytes that are not hashed yet are then still in the page cache.
"""
PROGRESS_SECONDS = 2.0
"""Maximum seconds between two progress lines."""
_PROGRESS_LINES = 20
"""The number of progress lines for a download that is faster than that."""


class Scheduler:
    """Downloads `files` into `folder`, once: call `run`, then read `size` and `hashes`."""

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
        self._stopped = threading.Event()
        self._retry_policy = RetryPolicy(patience, report, self._stopped.wait)
        self._events: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        """What wakes the main thread: the error that ends the download, or nothing in particular."""
        self._lock = threading.Lock()
        self._part_written = threading.Condition(self._lock)
        self._states = [FileState(index, file, hashing, journal.parts) for index, file in enumerate(files)]
        self._make_folders()
        # Largest first, so that no large file is left for the end.
        self._waiting = deque(sorted((s for s in self._states if s.unfinished), key=lambda state: -state.file.size))
        self._unfinished = sum(bool(state.unfinished) for state in self._states)
        self._total = sum(max(file.size, 0) for file in files)
        sizes = [sum(end - start for start, end in state.unclaimed) for state in self._waiting]
        self.missing = sum(end - start for state in self._waiting for start, end in state.unclaimed if end >= 0)
        """Bytes still to be read, as far as the sizes are known."""
        self._unclaimed = sum(len(state.unclaimed) for state in self._waiting)
        self._workers: list[Worker] = []
        self._threads: list[threading.Thread] = []
        self._reported = 0
        over_tls = sum(size for state, size in zip(self._waiting, sizes, strict=True) if state.over_tls)
        self._process_count = process_count(over_tls)
        self._processes: ReaderProcesses | None = None
        far = bool(self._waiting) and transport.is_far(self._waiting[0].file.url)
        self._limit = WorkerLimit(
            initial_limit(sizes, hashing=hashing, far=far, processes=self._process_count), self._cpu_seconds
        )

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return sum(state.size for state in self._states)

    @property
    def checked(self) -> int:
        """Number of files that were verified against a checksum that the store keeps."""
        return sum(bool(state.hash.checksum) for state in self._states)

    @property
    def received(self) -> int:
        """Bytes read from the source so far."""
        return sum(worker.received for worker in self._workers)

    def hashes(self) -> dict[str, str]:
        """Return the hex sha256 of each hashed file, by path."""
        return {state.file.path: state.hash.sha256() for state in self._states if state.hash.needed}

    def _cpu_seconds(self) -> float:
        return time.process_time() + (self._processes.cpu_seconds if self._processes else 0.0)

    def _end_processes(self) -> None:
        if self._processes is not None:
            self._processes.end()

    def _make_folders(self) -> None:
        """Make the files' folders, and truncate what an earlier start left of files that must be read again."""
        for folder in sorted({os.path.dirname(state.file.path) for state in self._states}):
            self._folder.folder(folder or ".", make=True).close()
        if self._journal.parts:
            for state in self._states:
                if state.starts_over:
                    # The journal first: it must never list a part that is not there.
                    self._journal.drop(state.index)
                    with OpenedFile(self._folder, state.file, os.O_TRUNC):
                        pass

    def run(self) -> None:
        """Download everything. Raises LoadError; RangesIgnoredError when the files must be read whole."""
        self._prepare()
        if self._process_count:
            self._processes = ReaderProcesses(self._process_count, self._states, self._transport)
        if self._limit.value < INITIAL_WORKERS and self._waiting and len(self._waiting[0].unclaimed) > 1:
            self._waiting[0].hash.start_thread(self._events.put)
        try:
            self._supervise()
        except BaseException:
            self._stopped.set()
            self._transport.abort()
            self._end_processes()
            raise
        finally:
            with self._part_written:
                self._part_written.notify_all()
            for thread in self._threads:
                thread.join()
            self._end_processes()
            for state in self._states:
                state.hash.close()

    def _prepare(self) -> None:
        """Allocate large files, and verify the files that an earlier start completed."""
        for state in self._states:
            if not state.written and state.file.size > file_state.PART_BYTES:
                with OpenedFile(self._folder, state.file) as fd:
                    os.ftruncate(fd, state.file.size)
            if not state.unfinished:
                with OpenedFile(self._folder, state.file) as fd:
                    if state.file.size < 0:
                        state.size = state.written[0] = os.fstat(fd).st_size
                    state.hash_written(fd, wait=True)
                self._unfinished += not self._verify(state)

    def _supervise(self) -> None:
        """Start workers and report progress until all files are done. Raises the error that ended a worker."""
        started = reported = moved = time.monotonic()
        moved_bytes = 0
        self._limit.start()
        while self._unfinished:
            self._start_workers()
            with contextlib.suppress(queue.Empty):
                due = min(reported + PROGRESS_SECONDS, self._limit.next_sample)
                event = self._events.get(timeout=max(0.0, due - time.monotonic()))
                if event is not None:
                    raise event
            now, received = time.monotonic(), self.received
            if received != moved_bytes:
                moved_bytes, moved = received, now
            elif now - moved > self._retry_policy.seconds + PROGRESS_SECONDS:
                raise LoadError(Code.STALLED, f"nothing was received for {now - moved:.0f} s")
            if self._limit.has_gained(received, len(self._workers)):
                self._grow()
            is_due = now - reported >= PROGRESS_SECONDS
            if received > self._reported and (is_due or received - self._reported >= self._total / _PROGRESS_LINES):
                rate = (received - self._reported) / max(now - reported, 1e-3)
                done = self._total - self.missing + received
                files_done = len(self._states) - self._unfinished
                self._report.progress(done, self._total, files_done, now - started, rate)
                self._reported, reported = received, now
            elif is_due:
                reported = now

    def _start_workers(self) -> None:
        """Start as many workers as the limit allows and as there are parts for; replace those that have ended."""
        wanted = self._unclaimed
        for slot in range(self._limit.value):
            if wanted <= 0:
                return
            if slot < len(self._workers) and not self._workers[slot].gone:
                continue
            worker = Worker(
                slot,
                Opener(self._folder),
                transport=self._transport,
                retry_policy=self._retry_policy,
                limit=self._limit,
                stopped=self._stopped,
                channel=self._processes.channel(slot) if self._processes else None,
            )
            if slot < len(self._workers):
                worker.received = self._workers[slot].received
            self._workers[slot : slot + 1] = [worker]
            self._threads.append(threading.Thread(target=self._work, args=(worker,), daemon=True))
            self._threads[-1].start()
            wanted -= 1

    def _grow(self) -> None:
        """Allow more workers, and take back what the present ones have claimed and not started."""
        with self._lock:
            self._limit.grow()
            for worker in self._workers:
                # A process reads on without asking: what it may write belongs to its worker alone.
                if worker.state is not None and worker.claimed and not worker.delegates(worker.state):
                    self._unclaimed += len(worker.claimed)
                    worker.state.unclaimed.extend(worker.claimed)
                    worker.state.unclaimed = deque(sorted(worker.state.unclaimed))
                    worker.claimed.clear()

    def _work(self, worker: Worker) -> None:
        """Download claimed parts until there is nothing to claim: the main function of a worker's thread."""
        try:
            while worker.slot < self._limit.value and not self._stopped.is_set() and (state := self._claim(worker)):
                while self._next_part(worker):
                    # Truncating instead of a separate check: no byte of an earlier file stays.
                    with OpenedFile(worker.opener, state.file, os.O_TRUNC if state.single else 0) as worker.fd:
                        self._download_part(worker, state)
        except BaseException as error:  # noqa: BLE001  # the main thread raises it again
            self._events.put(error)
        finally:
            worker.close()
            worker.gone = True

    def _claim(self, worker: Worker) -> FileState | None:
        """Claim adjacent parts for a worker: of the same file as before if possible, so that it hashes as it reads."""
        with self._lock:
            state = worker.state
            if state is None or not state.unclaimed:
                if self._waiting:
                    state = self._waiting.popleft()
                else:
                    state = max(self._states, key=lambda other: len(other.unclaimed))
                    if not state.unclaimed:
                        return None
            # Many parts by one request, but at most a worker's share, so that all workers finish together.
            count = -(-self._unclaimed // self._limit.value)
            if self._limit.value > 1:
                count = min(count, max(1, READ_AHEAD_BYTES // file_state.PART_BYTES // self._limit.value))
            worker.state = state
            while state.unclaimed and count and (not worker.claimed or state.unclaimed[0][0] == worker.claimed[-1][1]):
                worker.claimed.append(state.unclaimed.popleft())
                self._unclaimed -= 1
                count -= 1
            return state

    def _next_part(self, worker: Worker) -> bool:
        """Move a worker to its next claimed part, and return whether there is one."""
        with self._lock:
            if not worker.claimed:
                return False
            worker.until = worker.claimed[-1][1]
            worker.start, worker.end = worker.claimed.popleft()
        worker.position = worker.start
        return True

    def _download_part(self, worker: Worker, state: FileState) -> None:
        if not state.checksum_known and (worker.start, worker.until) != (0, state.file.size):
            worker.fetch_checksum(state)
        self._wait_for_hash(worker, state)
        # The worker at the hash's position hashes the bytes while they are in the CPU's cache.
        worker.hashes = state.hash.needed and not worker.delegates(state) and state.hash.lock.acquire(blocking=False)
        if worker.hashes and state.hash.position != worker.start:
            state.hash.lock.release()
            worker.hashes = False
        try:
            worker.copy(state)
            if worker.end < 0:
                state.size = worker.position
        finally:
            if worker.hashes:
                state.hash.lock.release()
        self._finish_part(worker, state)

    def _wait_for_hash(self, worker: Worker, state: FileState) -> None:
        """Wait while the worker is too far ahead of the file's hash: other workers read the parts in between."""
        while state.hash.needed and worker.start - state.hash.position > READ_AHEAD_BYTES:
            state.hash_written(worker.fd)
            with self._part_written:
                if worker.start - state.hash.position > READ_AHEAD_BYTES:
                    self._part_written.wait(PROGRESS_SECONDS)
            worker.check_running()

    def _finish_part(self, worker: Worker, state: FileState) -> None:
        """Record a written part in the journal. After the last part of a file, verify the file first."""
        part = state.index, worker.start, worker.end
        state.written[worker.start] = worker.position
        state.hash_written(worker.fd)
        with self._part_written:
            last = state.unfinished == 1
            if not last:
                self._journal.add(part)
            state.unfinished -= 1
            self._part_written.notify_all()
        if last:
            if not state.single and state.size != os.fstat(worker.fd).st_size:
                os.ftruncate(worker.fd, state.size)
            state.hash_written(worker.fd, wait=True)
            if not self._verify(state):
                self._events.put(None)
                return
            # Only now: the next start trusts a file whose parts are all in the journal.
            self._journal.add(part)
            with self._lock:
                self._unfinished -= 1
        if not self._unfinished or self.received - self._reported >= self._total / _PROGRESS_LINES:
            self._events.put(None)

    def _verify(self, state: FileState) -> bool:
        """Return whether a file has the store's checksum; the first time not, schedule it again.

        Raises LoadError(Corrupted) the second time.
        """
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
            self._unclaimed += len(state.unclaimed)
        return False
