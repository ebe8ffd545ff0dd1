"""Processes that read over TLS: one Python process decrypts with little more than one core.

The loader's own process stays in charge: its workers claim parts, retry, hash, and record what is written. A worker
sends to a process what to read, with the descriptor of the file; the process answers how far it has written. The
processes end with the loader, also when the loader is killed.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from model_loader.download import file_state
from model_loader.download.file_state import FileState
from model_loader.download.hashing import BUFFER
from model_loader.download.range_requests import RangeRequests, RangesIgnoredError
from model_loader.http.http1 import ProtocolError
from model_loader.http.transport import Transport
from model_loader.outcomes import Code, LoadError

_MESSAGE_BYTES = 64 << 10
_SILENT_SECONDS = 0.2
"""Maximum seconds between two answers while bytes arrive."""
_PR_SET_PDEATHSIG = 1


class ProcessEndedError(Exception):
    """The process of a channel has ended, for example because the kernel needed its memory."""


class ReaderProcesses:
    """The processes of one download. Start them before any thread: they are copies of this process."""

    def __init__(self, count: int, states: Sequence[FileState], transport: Transport) -> None:
        """Start `count` processes, which read the files of `states` as `transport` allows."""
        self._pids: list[int] = []
        self._controls: list[socket.socket] = []
        self._cpu = [0.0] * count
        import ctypes  # noqa: PLC0415  # start-up time (6 ms) that other models save

        libc, loader = ctypes.CDLL(None), os.getpid()
        for _ in range(count):
            control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                pid = os.fork()
            except OSError:  # the pod's limit of processes: as many as there are do the work, or the loader's own
                control.close()
                theirs.close()
                return
            if not pid:
                try:
                    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                    if os.getppid() == loader:
                        for other in (control, *self._controls):
                            other.close()
                        _serve(theirs, states, transport)
                finally:
                    os._exit(0)
            theirs.close()
            self._pids.append(pid)
            self._controls.append(control)

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of all processes, as of their last answers."""
        return sum(self._cpu)

    def channel(self, slot: int) -> "Channel | None":
        """Return a connection for the worker `slot` to one of the processes, or None if that has ended."""
        if not self._controls:
            return None
        number = slot % len(self._controls)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(self._controls[number], [b"worker"], [theirs.fileno()])
            except OSError:
                mine.close()
                return None
        return Channel(mine, self._cpu, number)

    def end(self) -> None:
        """End all processes: from here on, none of them writes to a file."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self._pids:
            os.waitpid(pid, 0)
        self._pids.clear()
        for control in self._controls:
            control.close()


class Channel:
    """A worker's connection to its process."""

    def __init__(self, sock: socket.socket, cpu: list[float], number: int) -> None:
        """`cpu`: where to note the CPU seconds of the process `number`."""
        self._sock = sock
        self._cpu = cpu
        self._number = number

    def read(self, state: FileState, fd: int, start: int, end: int) -> None:
        """Request the bytes from `start` up to `end`, to be written to `fd`. Raises ProcessEndedError."""
        request = {"file": state.index, "start": start, "end": end, "modified": state.modified}
        try:
            socket.send_fds(self._sock, [json.dumps(request).encode()], [fd])
        except OSError:
            raise ProcessEndedError from None

    def answer(self, state: FileState) -> tuple[int, LoadError | None]:
        """Wait for the next answer: the end of what is written, and the failure that ended the reading, if any.

        There is an answer for each part that is complete. Raises ProcessEndedError.
        """
        while True:
            try:
                text = self._sock.recv(_MESSAGE_BYTES)
            except OSError:
                text = b""
            if not text:
                raise ProcessEndedError
            answer: dict[str, Any] = json.loads(text)
            self._cpu[self._number] = max(answer["cpu"], self._cpu[self._number])
            if "failed" in answer:
                return answer["at"], _failure(state, answer["failed"])
            if "modified" not in answer:
                return answer["at"], None
            failure = _begun(state, answer["modified"], answer["checksum"])
            if failure is not None:
                return answer["at"], failure

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def _begun(state: FileState, modified: str, checksum: str | None) -> LoadError | None:
    """Record what the head of a response says of a file. Returns the failure if another response said otherwise."""
    if state.modified and modified != state.modified:
        return LoadError(Code.CHANGED, f"{state.file.path} changed in the store during the download")
    state.modified = modified
    if checksum is not None:
        with state.hash.lock:
            if not state.checksum_known:
                state.expect(checksum)
    return None


def _failure(state: FileState, fields: dict[str, Any]) -> LoadError:
    if fields.pop("ignores_ranges"):
        return RangesIgnoredError(state.file)
    return LoadError(Code(fields.pop("code")), fields.pop("message"), **fields)


def _serve(control: socket.socket, states: Sequence[FileState], transport: Transport) -> None:
    """Read for workers, each of which sends its channel on `control`: the main function of a process."""
    gc.freeze()  # the memory that the processes share stays shared
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    while True:
        _, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 1)
        if not fds:
            return
        reading = _Reading(socket.socket(fileno=fds[0]), states, transport)
        threading.Thread(target=reading.run, daemon=True).start()


class _Reading:
    """Reads for one worker, in a thread of the process."""

    def __init__(self, channel: socket.socket, states: Sequence[FileState], transport: Transport) -> None:
        self._channel = channel
        self._states = states
        self._transport = transport
        self._requests = RangeRequests(transport)
        self._buffer = memoryview(bytearray(BUFFER))

    def run(self) -> None:
        """Answer requests until the worker closes its channel."""
        with self._channel, contextlib.suppress(OSError):
            while True:
                text, fds, _, _ = socket.recv_fds(self._channel, _MESSAGE_BYTES, 1)
                if not text:
                    return
                request = json.loads(text)
                try:
                    self._read(self._states[request["file"]], fds[0], request)
                finally:
                    os.close(fds[0])

    def _read(self, state: FileState, fd: int, request: dict[str, Any]) -> None:
        at: int = request["start"]
        end: int = request["end"]
        state.modified = request["modified"]
        try:
            response = self._requests.open(state, at, end, holds_hash=False)
            checksum = state.hash.checksum if state.checksum_known else None
            self._answer(at, modified=state.modified, checksum=checksum)
            said, answered = at, time.monotonic()
            while at < end:
                try:
                    count = response.readinto(self._buffer[: min(BUFFER, end - at)])
                except (OSError, ProtocolError) as error:
                    raise self._transport.connection_failure(state.file.url, error) from None
                if not count:
                    raise file_state.shorter(state.file)
                file_state.write(fd, self._buffer[:count], at, state.file)
                at += count
                parts = at // file_state.PART_BYTES - said // file_state.PART_BYTES
                if parts or at == end or time.monotonic() - answered > _SILENT_SECONDS:
                    self._answer(at)
                    said, answered = at, time.monotonic()
        except LoadError as failure:
            fields: dict[str, object] = {"code": failure.code, "message": failure.message, "hint": failure.own_hint}
            fields |= {"file": failure.file, "wait": failure.wait, "status": failure.status}
            self._answer(at, failed={**fields, "ignores_ranges": isinstance(failure, RangesIgnoredError)})

    def _answer(self, at: int, **fields: object) -> None:
        self._channel.sendall(json.dumps({"at": at, "cpu": time.process_time(), **fields}).encode())
