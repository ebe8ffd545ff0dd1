"""HTTP/1.1 over one connection: only what downloads need, with little work for each request.

Not `http.client`: its header parser (the email package) took half of the loader's CPU time for many small files. Source
of the rules: RFC 9112.
"""

import contextlib
import re
import socket
import time
from collections.abc import Mapping
from typing import Protocol

_HEAD_BYTES = 64 << 10
_MAX_HEADERS = 256
_MAX_INTERIM = 8
"""Maximum number of 1xx responses before the final one."""
_MAX_TRAILERS = 64
_DIGITS = 18
"""Maximum digits of a length: larger than any disk."""
SLOW_SECONDS = 60.0
"""Seconds in which ``SLOW_BYTES`` of a response must arrive: a server that sends single bytes counts as stalled."""
SLOW_BYTES = 16 << 10
_STATUS = re.compile(r"(HTTP/1\.[01]) ([1-5][0-9]{2})(?: [^\0-\x08\x0a-\x1f\x7f]*)?", re.ASCII)
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\0-\x08\x0a-\x1f\x7f]*)", re.ASCII)
_LENGTH = re.compile(rf"[0-9]{{1,{_DIGITS}}}", re.ASCII)
_CHUNK = re.compile(r"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\0-\x08\x0a-\x1f\x7f]{0,1024})?", re.ASCII)
_TARGET = re.compile(r"[!-~]+", re.ASCII)


class ProtocolError(Exception):
    """The server does not speak HTTP, or the connection ended inside a response."""


class Socket(Protocol):
    """The methods that the loader needs of a socket, with or without TLS. Each raises OSError."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of `data`."""

    def recv_into(self, view: memoryview, /) -> int:
        """Read at least one byte into `view` and return the count; 0 at the end of the connection."""

    def shutdown(self, how: int, /) -> None:
        """Shut the connection down, even while another thread uses it."""

    def close(self) -> None:
        """Close the connection."""


class Connection:
    """A connection for one request at a time."""

    def __init__(self, sock: Socket, host: str) -> None:
        """`host`: the value of the Host header."""
        self._sock = sock
        self._host = host
        # The received bytes that are not consumed yet are between the two positions.
        self._buffer = bytearray(_HEAD_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        # Seconds waited for the present response, and bytes received, since the last check.
        self._waited = 0.0
        self._came = 0

    def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None) -> "Response":
        """Send a request and return its response, with the body unread. Raises OSError and ProtocolError."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}", "Accept-Encoding: identity"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines)
        ends = len(lines) - 1
        if not head.isascii() or "\0" in head or (head.count("\n"), head.count("\r")) != (ends, ends):
            raise ProtocolError("a header has a line break or is not ASCII")
        if not _TARGET.fullmatch(target):
            raise ProtocolError("the URL has a space or is not ASCII")
        if self._start != self._end:
            raise ProtocolError("the server sent data after the end of the response")
        self._waited, self._came = 0.0, 0
        self._sock.sendall(f"{head}\r\n\r\n".encode() + (body or b""))
        for _ in range(_MAX_INTERIM + 1):
            response = Response(self, method, self._head())
            if response.status == 101:
                raise ProtocolError("the server switched protocols without a request")
            if response.status >= 200:
                return response
        raise ProtocolError("the server sent too many interim responses")

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def abort(self) -> None:
        """End the connection from another thread, and wake the thread that waits for it."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def readinto(self, view: memoryview) -> int:
        """Read at least one byte into `view` and return the count; 0 at the end of the connection."""
        have = min(self._end - self._start, len(view))
        if not have:
            return self._receive(view)
        view[:have] = self._view[self._start : self._start + have]
        self._start += have
        return have

    def line(self) -> str:
        """Return the next line without its CRLF."""
        text = self._until(b"\r\n").decode("latin-1")
        if "\r" in text or "\n" in text:
            raise ProtocolError("a line of the response does not end with CRLF")
        return text

    def _receive(self, view: memoryview) -> int:
        """Read from the socket. Raises TimeoutError when the server sends too slowly."""
        started = time.monotonic()
        count = self._sock.recv_into(view)
        self._waited += time.monotonic() - started
        self._came += count
        if self._waited > SLOW_SECONDS:
            if self._came < SLOW_BYTES:
                raise TimeoutError("the server sends too slowly")
            self._waited, self._came = 0.0, 0
        return count

    def _head(self) -> list[str]:
        return self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")

    def _until(self, mark: bytes) -> bytes:
        """Return the bytes before `mark`, and skip the mark."""
        if self._start == self._end:
            self._start = self._end = 0
        begin = self._start
        while (found := self._buffer.find(mark, begin, self._end)) < 0:
            if self._end == _HEAD_BYTES:
                if not self._start:
                    raise ProtocolError("the head of the response is too long")
                self._view[: self._end - self._start] = bytes(self._view[self._start : self._end])
                self._start, self._end = 0, self._end - self._start
            begin = max(self._start, self._end - len(mark) + 1)  # do not search any byte twice
            count = self._receive(self._view[self._end :])
            if not count:
                raise ProtocolError("the connection was closed before the response")
            self._end += count
        text = bytes(self._view[self._start : found])
        self._start = found + len(mark)
        return text


class Response:
    """A response whose body is still unread. `headers` has lower-case names.

    `left` is the number of unread bytes of the body, or -1 when only the end of the connection ends it.
    """

    def __init__(self, connection: Connection, method: str, head: list[str]) -> None:
        status = _STATUS.fullmatch(head[0])
        if status is None:
            raise ProtocolError("the response is not HTTP/1.1")
        self._connection = connection
        self.status = int(status[2])
        self.headers = _fields(head[1:])
        close = self.headers.get("connection", "").lower()
        self.reusable = close != "close" if status[1] == "HTTP/1.1" else close == "keep-alive"
        coding = self.headers.get("transfer-encoding")
        self._chunked = coding is not None
        self._chunk = 0
        length = self.headers.get("content-length")
        self.left = -1 if length is None else _length(length)
        if self._chunked and ((coding or "").lower() != "chunked" or length is not None or status[1] == "HTTP/1.0"):
            raise ProtocolError("the response's length is ambiguous or has an unknown coding")
        if self.status in (204, 304) and (self._chunked or (self.status == 204 and self.left > 0)):
            raise ProtocolError("a response that cannot have a body has one")
        if (
            method == "HEAD"
            or self.status < 200
            or self.status in (204, 304)
            or (method == "CONNECT" and self.status < 300)
        ):
            self._chunked, self.left = False, 0
        elif not self._chunked and self.left < 0:
            self.reusable = False

    def readinto(self, view: memoryview, /) -> int:
        """Read a part of the body into `view` and return the count, 0 at the end of the body.

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
                self.left = 0  # HTTP/1.0 ends a body of unknown length in this way
                return 0
            raise ProtocolError("the connection was closed inside a response")
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
        """Do nothing: the connection belongs to the transport."""

    def _next_chunk(self) -> bool:
        if self._chunk:
            return True
        size = _CHUNK.fullmatch(self._connection.line())
        if size is None:
            raise ProtocolError("a chunk has no length")
        self._chunk = int(size[1], 16)
        if self._chunk:
            return True
        for _ in range(_MAX_TRAILERS + 1):
            line = self._connection.line()
            if not line:
                self.left = 0
                return False
            _fields([line])
        raise ProtocolError("the trailer of a response is too long")


def _fields(lines: list[str]) -> dict[str, str]:
    """Return header or trailer fields by lower-case name. Raises ProtocolError for fields that span several lines."""
    if len(lines) > _MAX_HEADERS:
        raise ProtocolError("the response has too many headers")
    found: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise ProtocolError("the response has a malformed header")
        name, value = field[1].lower(), field[2].strip(" \t")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _length(text: str) -> int:
    """Return the value of Content-Length, which may repeat the same number."""
    values = {value.strip(" \t") for value in text.split(",")}
    if len(values) != 1 or not _LENGTH.fullmatch(value := values.pop()):
        raise ProtocolError("the response's Content-Length is not a number")
    return int(value)
