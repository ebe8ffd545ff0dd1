"""HTTP/1.1 over one connection: just what reading models takes, and no more work a request than that.

Not `http.client`: its header parsing (the e-mail package) alone took half of the loader's CPU time on many small files.
Source of the rules: RFC 9112.
"""

import contextlib
import socket
from collections.abc import Mapping
from typing import Protocol

_HEAD_BYTES = 64 << 10


class ProtocolError(Exception):
    """The server's bytes are not HTTP, or the connection ended in the middle of an answer."""


class Socket(Protocol):
    """What is used of a socket, with TLS or without. Each raises OSError."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of `data`."""

    def recv_into(self, view: memoryview, /) -> int:
        """Fill `view` with what is there, at least one byte, and return the count; 0 at the connection's end."""

    def shutdown(self, how: int, /) -> None:
        """Shut the connection down, whichever thread uses it."""

    def close(self) -> None:
        """Close the connection."""


class Connection:
    """A connection that is used for one request at a time."""

    def __init__(self, sock: Socket, host: str) -> None:
        """`host`: what the Host header says."""
        self._sock = sock
        self._host = host
        # Bytes received and not yet handed out: those between the two marks.
        self._buffer = bytearray(_HEAD_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None) -> "Response":
        """Send a request and return the head of its answer. Raises OSError and ProtocolError."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}", "Accept-Encoding: identity"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines)
        if len(lines) != head.count("\n") + 1 or not head.isascii():
            raise ProtocolError("a header has a line end or is not ASCII")
        self._sock.sendall(f"{head}\r\n\r\n".encode() + (body or b""))
        while True:
            response = Response(self, method, self._head())
            if response.status >= 200:
                return response

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def abort(self) -> None:
        """End the connection from another thread: who waits on it is woken."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def readinto(self, view: memoryview) -> int:
        """Fill `view` with what is there, at least one byte, and return the count; 0 at the connection's end."""
        have = min(self._end - self._start, len(view))
        if not have:
            return self._sock.recv_into(view)
        view[:have] = self._view[self._start : self._start + have]
        self._start += have
        return have

    def line(self) -> str:
        """Return the next line without its end."""
        return self._until(b"\r\n").decode("latin-1")

    def _head(self) -> list[str]:
        return self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")

    def _until(self, mark: bytes) -> bytes:
        """Return the bytes before `mark`, and go on behind it."""
        if self._start == self._end:
            self._start = self._end = 0
        while (found := self._buffer.find(mark, self._start, self._end)) < 0:
            if self._end == _HEAD_BYTES:
                if not self._start:
                    raise ProtocolError("the answer's head is too long")
                self._view[: self._end - self._start] = bytes(self._view[self._start : self._end])
                self._start, self._end = 0, self._end - self._start
            count = self._sock.recv_into(self._view[self._end :])
            if not count:
                raise ProtocolError("the connection was closed before the answer")
            self._end += count
        text = bytes(self._view[self._start : found])
        self._start = found + len(mark)
        return text


class Response:
    """An answer: its head is read, its body not yet. `headers` has lower-case names.

    `left` is the number of bytes of the body still to come, or -1 where only its end will tell.
    """

    def __init__(self, connection: Connection, method: str, head: list[str]) -> None:
        version, _, rest = head[0].partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdecimal():
            raise ProtocolError("the answer is not HTTP/1.1")
        self._connection = connection
        self.status = int(rest[:3])
        self.headers: dict[str, str] = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            name = name.lower()
            value = value.strip()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        close = self.headers.get("connection", "").lower()
        self.reusable = close != "close" if version == "HTTP/1.1" else close == "keep-alive"
        self._chunked = self.headers.get("transfer-encoding", "").lower().endswith("chunked")
        self._chunk = 0
        self.left = -1
        if method == "HEAD" or self.status < 200 or self.status in (204, 304):
            self._chunked, self.left = False, 0
        elif not self._chunked:
            length = self.headers.get("content-length", "")
            if length.isdecimal():
                self.left = int(length)
            elif length:
                raise ProtocolError("the answer's Content-Length is no number")
            else:
                self.reusable = False

    def readinto(self, view: memoryview, /) -> int:
        """Fill `view` from its start with some of the body and return the count, 0 at the body's end.

        Raises OSError, and ProtocolError when the connection ends before the body.
        """
        if not self.left:
            return 0
        if self._chunked and not self._next_chunk():
            return 0
        limit = self._chunk if self._chunked else self.left
        count = self._connection.readinto(view[:limit] if 0 <= limit < len(view) else view)
        if not count:
            if limit < 0:
                self.left = 0  # an old server's way to end a body of unknown length
                return 0
            raise ProtocolError("the connection was closed in the middle of an answer")
        if self._chunked:
            self._chunk -= count
            if not self._chunk and self._connection.line():
                raise ProtocolError("a chunk has no end")
        elif self.left > 0:
            self.left -= count
        return count

    def read(self, limit: int) -> bytes:
        """Return the body, or its first `limit` bytes. Raises OSError and ProtocolError."""
        body = bytearray()
        view = memoryview(bytearray(min(limit, 64 << 10)))
        while len(body) < limit and (count := self.readinto(view[: limit - len(body)])):
            body += view[:count]
        return bytes(body)

    def close(self) -> None:
        """Nothing to let go of: the connection is its owner's."""

    def _next_chunk(self) -> bool:
        if self._chunk:
            return True
        text = self._connection.line().partition(";")[0].strip()
        try:
            self._chunk = int(text, 16)
        except ValueError:
            raise ProtocolError("a chunk has no length") from None
        if self._chunk:
            return True
        while self._connection.line():
            pass  # trailers
        self.left = 0
        return False
