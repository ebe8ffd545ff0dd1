"""What a server may send: RFC 9112, exactly, over real sockets."""

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from model_loader.http import http1, tls
from model_loader.http.http1 import Connection, ProtocolError
from support.loader_harness import Loader

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ABC = OK + b"Content-Length: 3\r\n\r\nabc"


def answer(said: bytes, method: str = "GET") -> bytes:
    """Return the body that a client reads when a server sends `data` and closes the connection."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    with ours, theirs:
        sender = threading.Thread(target=_send, args=(theirs, said))
        sender.start()
        connection = Connection(ours, "store.example.com")
        try:
            return connection.request(method, "/model.bin", {}).read(1 << 20)
        finally:
            ours.close()
            with contextlib.suppress(OSError):
                theirs.shutdown(socket.SHUT_RDWR)
            sender.join()


def _send(sock: socket.socket, said: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    "said",
    [
        ABC,
        OK + b"content-length:3\r\n\r\nabc",
        OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        OK + b"Content-Length: 3\r\n\r\nabcdef",
        OK + b"\r\nabc",
        CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"1\r\na\r\n02\r\nbc\r\n000\r\nX-Checksum: 1\r\n\r\n",
        CHUNKED + b'3;name="value"\r\nabc\r\n0\r\n\r\n',
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + OK
        + b"Content-Length: 3\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\n\r\nabc",
        b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_valid_http_is_read(said: bytes) -> None:
    assert answer(said) == b"abc"


BAD = {
    "no chunk's length": [
        CHUNKED + size + b"\r\nabc\r\n0\r\n\r\n"
        for size in (
            b"+3", b"-3", b"0x3", b" 3", b"3 ", b"\t3", b"3_", b"0_3", b"", b"3\x0b", b"\xb3", b"3 ,", b"F" * 16,
            b"0" * 17, b"3;" + b"x" * 2000, b"3\n", b"3\r", b"3;a\nb", b"g",
        )
    ],
    "a chunk's end": [CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", CHUNKED + b"3\r\nabc\n0\r\n\r\n", CHUNKED + b"3\r\nab"],
    "two lengths": [
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        OK + b"Content-Length: 3, 4\r\n\r\nabcd",
        OK + b"Transfer-Encoding: chunked, identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ],
    "a length": [
        OK + b"Content-Length: " + length + b"\r\n\r\nabc"
        for length in (b"+3", b"-3", b"3 3", b"0x3", b"", b"\xb3", b"3.0", b"9" * 19, b"3;")
    ],
    "a header": [
        OK + line + b"\r\nContent-Length: 3\r\n\r\nabc"
        for line in (
            b"X : 1", b" X: 1", b"X", b": 1", b"X\t: 1", b"X: a\x00b", b"X: a\rb", b"X: a\nb", b"X(: 1",
            b"X: 1\r\n folded", b"X: \x7f",
        )
    ]
    + [OK + b"\r\n".join([b"X: 1"] * 300) + b"\r\n\r\n", OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n"],
    "a status": [
        line + b"\r\nContent-Length: 3\r\n\r\nabc"
        for line in (
            b"HTTP/1.1  200 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 20 OK", b"HTTP/2 200", b"ICY 200 OK",
            b"HTTP/1.1 200\x00",
        )
    ]
    + [b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n", b"\r\n\r\n"],
    "the protocol": [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + ABC],
    "no end of interim answers": [b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + ABC],
    "no end of trailers": [CHUNKED + b"0\r\n" + b"X: 1\r\n" * 100 + b"\r\n", CHUNKED + b"0\r\nX : 1\r\n\r\n"],
    "a body where there is none": [b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc"],
    "cut": [OK + b"Content-Length: 4\r\n\r\nabc", CHUNKED + b"3\r\nabc\r\n", CHUNKED + b"3\r\nabc\r\n0\r\n", OK],
}  # fmt: skip


@pytest.mark.parametrize("said", [each for bad in BAD.values() for each in bad])
@pytest.mark.attack(35)
def test_ambiguous_http_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        answer(said)


@given(
    st.lists(st.sampled_from([b"\r\n", b"\n", b"3", b"abc", b"0", b";", b":", b" ", OK, CHUNKED, b"X: 1"]), max_size=12)
)
def test_any_bytes_are_a_response_or_a_protocol_error(parts: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        answer(b"".join(parts))


@pytest.mark.parametrize("text", ["/a b", "/a\r\nX: 1", "/a\nb", "/a\0", "/é", ""])
@pytest.mark.attack(35)
def test_a_url_cannot_become_another_request(text: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ProtocolError):
        Connection(ours, "store.example.com").request("GET", text, {})


@pytest.mark.attack(35)
def test_data_after_a_response_does_not_answer_the_next_request() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(ABC + OK + b"Content-Length: 4\r\n\r\nevil")
        connection = Connection(ours, "store.example.com")
        assert connection.request("GET", "/a", {}).read(9) == b"abc"
        with pytest.raises(ProtocolError, match="data after the end of the response"):
            connection.request("GET", "/b", {})


@contextlib.contextmanager
def serving(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """Answer every connection with ``behave``; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    sock, _ = server.accept()
                    with sock:
                        behave(sock)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        over.set()
        with contextlib.suppress(OSError), socket.create_connection(server.getsockname()):
            pass
        thread.join(5)


@pytest.mark.parametrize("part", ["head", "body", "chunks", "hello"])
@pytest.mark.attack(35)
def test_a_server_that_sends_single_bytes_is_stalled(load: Loader, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(http1, "SLOW_SECONDS", 0.3)
    begin = {
        "head": OK,
        "body": OK + b"Content-Length: 1000000\r\n\r\n",
        "chunks": CHUNKED,
        "hello": b"",
    }[part]
    piece = {"head": b"X: 1\r\n", "body": b"a", "chunks": b"1\r\na\r\n", "hello": b"HTTP/1.1 100 Go\r\n\r\n"}[part]
    gone = threading.Event()

    def trickle(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(begin)
        for _ in range(200):
            sock.sendall(piece)
            gone.wait(0.05)

    with serving(trickle) as port:
        run = load(f"http://127.0.0.1:{port}/model.bin", options=("--patience=0.5",))
        gone.set()

    # Otherwise the server would close it in the end.
    assert run.code == "Stalled" or part == "hello"
    assert run.files() == {}


@pytest.mark.attack(35)
def test_a_load_from_a_slow_server_ends(load: Loader) -> None:
    """In a separate process: a signal implements the deadline."""
    over = threading.Event()

    def trickle(sock: socket.socket) -> None:
        sock.recv(65536)
        with contextlib.suppress(OSError):
            sock.sendall(OK + b"Content-Length: 1000000\r\n\r\n")
            while not over.wait(0.02):
                sock.sendall(b"a")

    program = "from model_loader import __main__ as m; m.DEADLINE_SECONDS = 2; m.run()"
    with serving(trickle) as port:
        command = [sys.executable, "-c", program, *load.arguments(f"http://127.0.0.1:{port}/model.bin")]
        ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
        over.set()

    assert (load.message()["code"], ended.returncode) == ("Stalled", 18)
    assert "hours" in str(load.message()["message"])


@pytest.mark.parametrize(("closed", "read"), [(True, b"abc"), (False, None)])
@pytest.mark.attack(35)
def test_over_tls_only_tls_own_end_ends_a_body_without_length(closed: bool, read: bytes | None) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with context.wrap_socket(theirs, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(OK + b"\r\nabc")
            if closed:
                with contextlib.suppress(OSError):
                    secure.unwrap()

    thread = threading.Thread(target=serve)
    thread.start()
    with ours:
        sock = tls.TlsSocket(ours, tls.context(authority.cert_pem.bytes().decode()), "127.0.0.1")
        response = Connection(sock, "127.0.0.1").request("GET", "/", {})
        if read is None:
            with pytest.raises(OSError, match="EOF"):
                response.read(100)
        else:
            assert response.read(100) == read
    thread.join(5)
