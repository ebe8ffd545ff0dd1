"""A worker: copies the parts that it has claimed from the source to the volume."""

import threading
from collections import deque
from collections.abc import Callable

from model_loader.download import file_state
from model_loader.download.concurrency import WorkerLimit
from model_loader.download.file_state import FileState
from model_loader.download.hashing import BUFFER
from model_loader.download.processes import Channel, ProcessEndedError
from model_loader.download.range_requests import RangeRequests, Reader
from model_loader.download.retries import RetryPolicy
from model_loader.http.http1 import ProtocolError
from model_loader.http.transport import Transport
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import File
from model_loader.storage.volume import Opener


class Worker:
    """One thread's claim and position: it is at `position` of the part from `start` to `end`."""

    def __init__(
        self,
        slot: int,
        opener: Opener,
        *,
        transport: Transport,
        retry_policy: RetryPolicy,
        limit: WorkerLimit,
        stopped: threading.Event,
        channel: Channel | None,
    ) -> None:
        """`slot`: this worker runs while it is below `limit`. `stopped`: set when the download ends.

        `channel`: to a process that reads for this worker over TLS.
        """
        self.slot = slot
        self.opener = opener
        self._transport = transport
        self._requests = RangeRequests(transport)
        self._retry_policy = retry_policy
        self._limit = limit
        self._stopped = stopped
        self._channel = channel
        self.gone = False
        self.received = 0
        """Bytes read from the source."""
        self.state: FileState | None = None
        self.claimed: deque[tuple[int, int]] = deque()
        """Parts that this worker reads after the present one, all adjacent."""
        self.start = self.end = self.position = 0
        self.until = 0
        """The end of the last claimed part: one request covers them all."""
        self.fd = -1
        self.hashes = False
        """Whether this worker holds the lock of the file's hash, and hashes what it reads."""
        self._buffer = memoryview(bytearray(BUFFER))
        self._reader: Reader | None = None
        self._next: tuple[FileState, int] | None = None
        """The file and position of the next byte of the open response."""
        self._reader_end = 0
        """The end of the open response, which is also the end of a part."""
        self._written = 0
        """The position up to which the process has written."""

    def copy(self, state: FileState) -> None:
        """Write the present part to `fd`. Raises LoadError when retries do not help."""
        self._retry(lambda: self._copy(state), lambda: self.position, state.file)

    def fetch_checksum(self, state: FileState) -> None:
        """Request the checksum that the store keeps of a file. Raises LoadError."""
        self._retry(lambda: self._requests.fetch_checksum(state), lambda: 0, state.file)

    def check_running(self) -> None:
        """Raise LoadError(Interrupted) when the download has ended."""
        if self._stopped.is_set():
            raise LoadError(Code.INTERRUPTED, "the load has ended")

    def close(self) -> None:
        """Close all that is open."""
        self._close_reader()
        if self._channel is not None:
            self._channel.close()
        self.opener.close()
        self._transport.close()

    def delegates(self, state: FileState) -> bool:
        """Return whether a process reads the file for this worker."""
        return self._channel is not None and state.over_tls

    def _copy(self, state: FileState) -> None:
        """Read the missing bytes of the part. Raises LoadError."""
        if self._channel is not None and self.delegates(state):
            try:
                self._follow(self._channel, state)
            except ProcessEndedError:
                self.check_running()
                self._channel = None  # from here on, this process reads
                self.received -= self._written - self.position
            else:
                return
        self._read(state)

    def _follow(self, channel: Channel, state: FileState) -> None:
        """Let the process read all claimed parts, and wait until it has written the present one.

        Raises LoadError, ProcessEndedError.
        """
        if self._next != (state, self.position):
            self._written, self._reader_end = self.position, self.until
            channel.read(state, self.fd, self.position, self.until)
        self._next = None
        while self._written < self.end:
            written, failure = channel.answer(state)
            self.received += written - self._written
            self._written = written
            self.position = min(written, self.end)
            if failure is not None:
                raise failure
            self.check_running()
        self.position = self.end
        if self.position < self._reader_end:
            self._next = state, self.position

    def _read(self, state: FileState) -> None:
        """Read the missing bytes of the part, from the open response or a new one. Raises LoadError."""
        end, buffer = self.end, self._buffer
        if end < 0 or not state.file.ranged:
            self.received -= self.position - self.start
            self.position = self.start
            if self.hashes:
                state.hash.restart()
        try:
            if self._reader is None or self._next != (state, self.position):
                self._close_reader()
                self._reader = self._requests.open(state, self.position, self.until, holds_hash=self.hashes)
                self._reader_end = self.until
            while end < 0 or self.position < end:
                count = self._reader.readinto(buffer if end < 0 else buffer[: min(BUFFER, end - self.position)])
                if not count:
                    break
                file_state.write(self.fd, buffer[:count], self.position, state.file)
                if self.hashes:
                    buffer = self._buffer = state.hash.take(buffer, count)
                self.position += count
                self.received += count
                self.check_running()
            if self.position < end:
                raise file_state.shorter(state.file)
        except BaseException as error:
            self._close_reader()
            if isinstance(error, OSError | ProtocolError):
                raise self._transport.connection_failure(state.file.url, error) from None
            raise
        self._next = state, self.position
        if self.position == self._reader_end:
            self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _retry(self, attempt: Callable[[], None], progress: Callable[[], int], file: File) -> None:
        def checked() -> None:
            try:
                self.check_running()
                attempt()
            except LoadError as failure:
                self.check_running()
                failure.file = failure.file or file.path
                if failure.status in (429, 503):
                    self._limit.shrink()
                raise

        self._retry_policy.run(checked, progress)
