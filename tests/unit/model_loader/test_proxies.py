"""The loader uses the environment's proxies, and the rules about addresses still apply."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import trustme

from model_loader.http.proxies import proxy_for
from model_loader.outcomes import LoadError
from support.loader_harness import Loader, Reply, WebServer

pytestmark = pytest.mark.usefixtures("names")
"""The loader never asks for a loopback address through a proxy."""


class Proxy(socketserver.ThreadingTCPServer):
    """An http proxy: CONNECT makes a tunnel; it forwards other requests to the host of their URL."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy
    rbufsize = 0

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.read(1)
        self.server.asked.append(head.decode())
        method, target, _ = head.decode().split(" ", 2)
        host, _, port = target.removeprefix("http://").partition("/")[0].partition(":")
        with socket.create_connection((host, int(port))) as far:
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = "/" + target.removeprefix("http://").partition("/")[2]
                far.sendall(head.replace(target.encode(), path.encode(), 1))
            back = threading.Thread(target=_copy, args=(far, self.connection))
            back.start()
            _copy(self.connection, far)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = Proxy()
    yield server
    server.shutdown()
    server.server_close()


def named(web: WebServer) -> str:
    """Return the server's URL with a name."""
    return web.url.replace("127.0.0.1", "store.example.com")


def test_https_uses_a_tunnel_with_the_proxys_own_credentials(load: Loader, web: WebServer, proxy: Proxy) -> None:
    authority = trustme.CA()
    web.secure(authority.issue_cert("store.example.com"))
    web.files["/model.bin"] = b"weights"
    load.credentials(**{"ca.crt": authority.cert_pem.bytes().decode()}, authorization="Bearer secret")
    address = proxy.url.replace("http://", "http://user:w%40rd@")

    run = load(f"{named(web)}/model.bin", environment={"HTTPS_PROXY": address})

    assert run.files() == {"model.bin": b"weights"}
    assert proxy.asked[0].startswith(f"CONNECT {named(web).removeprefix('https://')} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXNlcjp3QHJk" in proxy.asked[0]
    assert "secret" not in "".join(proxy.asked)
    assert not any("Proxy-Authorization" in request.headers for request in web.requests)


def test_plain_http_sends_the_whole_url_and_the_credentials_to_the_proxy(
    load: Loader, web: WebServer, proxy: Proxy
) -> None:
    web.files["/model.bin"] = b"weights"

    run = load(f"{named(web)}/model.bin", environment={"http_proxy": proxy.url.replace("//", "//user:word@")})

    assert run.files() == {"model.bin": b"weights"}
    assert proxy.asked[0].startswith(f"GET {named(web)}/model.bin HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXNlcjp3b3Jk" in proxy.asked[0]


@pytest.mark.attack(15)
def test_the_proxys_password_is_not_for_hosts_that_are_reached_directly(
    load: Loader, web: WebServer, proxy: Proxy
) -> None:
    web.files["/model.bin"] = b"weights"
    environment = {"HTTP_PROXY": proxy.url.replace("//", "//user:word@"), "NO_PROXY": "127.0.0.1"}
    entry = WebServer()
    entry.fault = lambda request, number: Reply(302, {"Location": f"{web.url}/model.bin"})

    run = load(f"{named(entry)}/model.bin", environment=environment)
    entry.close()

    assert run.files() == {"model.bin": b"weights"}
    assert len(proxy.asked) == len(entry.requests) > 0
    assert not any("Proxy-Authorization" in request.headers for request in web.requests)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_requires_a_password_is_reported_with_how_to_write_it(
    load: Loader, web: WebServer, scheme: str
) -> None:
    """The server acts as the proxy."""
    web.fault = lambda request, number: Reply(407)
    web.server.RequestHandlerClass.do_CONNECT = web.server.RequestHandlerClass.do_GET  # type: ignore[attr-defined]

    run = load(f"{scheme}://store.example.com:9/m.bin", environment={f"{scheme}_proxy": web.url})

    assert (run.code, "407" in str(run.message["message"])) == ("Refused", True)
    assert "http://USER:PASSWORD@HOST:PORT" in str(run.message["hint"])


@pytest.mark.attack(14)
def test_a_proxy_does_not_bypass_the_rules(load: Loader, proxy: Proxy) -> None:
    environment = {"HTTPS_PROXY": proxy.url}

    assert load("https://169.254.169.254/model.bin", environment=environment).code == "Refused"
    assert proxy.asked == []


DIRECT = [
    ("example.com", "https://example.com"),
    ("example.com", "https://a.example.com"),
    ("EXAMPLE.com", "https://a.Example.COM"),
    (".example.com", "https://a.example.com"),
    ("*.example.com", "https://a.b.example.com"),
    ("other , example.com", "https://example.com"),
    ("localhost,*", "https://anything"),
    ("example.com:443", "https://example.com"),
    ("example.com:8443", "https://a.example.com:8443"),
    (".example.com:80", "http://a.example.com"),
    ("10.0.0.0/8", "https://10.1.2.3:9000"),
    ("10.1.2.3/8", "https://10.200.0.1"),
    ("10.1.2.3", "https://10.1.2.3:9000"),
    ("10.1.2.3:9000", "https://10.1.2.3:9000"),
    ("fd00::/8", "https://[fd12::1]"),
    ("fd12::1", "https://[fd12:0::1]:9000"),
    ("[fd12::1]:9000", "https://[fd12::1]:9000"),
    ("[fd12::1]", "https://[fd12::1]"),
    ("10.0.0.0/8", "https://[::ffff:10.1.2.3]"),
    ("", "https://localhost:9000"),
    ("", "https://127.0.0.2:9000"),
    ("", "https://[::1]"),
]
PROXIED = [
    ("", "https://a.example.com"),
    ("example.com", "https://badexample.com"),
    ("example.com", "https://example.com.evil.example"),
    (".example.com", "https://example.com"),
    ("*.example.com", "https://example.com"),
    ("*example.com", "https://badexample.com"),
    ("example.com:443", "http://example.com"),
    ("example.com:443", "https://example.com:8443"),
    (":443", "https://example.com"),
    ("*:443", "https://example.com"),
    ("10.0.0.0/8", "https://11.1.2.3"),
    ("10.0.0.0/8", "https://ten.example.com"),
    ("10.0.0.0/99", "https://10.1.2.3"),
    ("10.1.2.3:9000", "https://10.1.2.3"),
    ("10.1.2", "https://10.1.2.3"),
    ("fd00::/8", "https://[fe12::1]"),
    ("[fd12::1]:9000", "https://[fd12::1]"),
    ("example.com other.com", "https://example.com"),
    ("[,],/,::::,*.", "https://example.com"),
]


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [(*case, True) for case in DIRECT] + [(*case, False) for case in PROXIED],
)
def test_no_proxy_is_read_as_by_go(no_proxy: str, url: str, direct: bool) -> None:
    environment = {"HTTPS_PROXY": "proxy:3128", "HTTP_PROXY": "proxy:3128", "NO_PROXY": no_proxy}
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]

    assert (proxy_for(parts.scheme, parts.hostname or "", port, environment) is None) is direct


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:2"}, "http://upper:1"),
        ({"HTTPS_PROXY": "", "https_proxy": "lower:2"}, "http://lower:2"),
        ({"HTTP_PROXY": "http://plain:1", "ALL_PROXY": "http://all:1"}, None),
        ({"HTTPS_PROXY": "http://a:1\n", "no_proxy": "other"}, "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "REQUEST_METHOD": "GET"}, "http://a:1"),
    ],
)
def test_the_variables_have_either_case(environment: dict[str, str], proxy: str | None) -> None:
    found = proxy_for("https", "example.com", 443, environment)

    assert (found and found.geturl()) == proxy


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("socks5://user:word@proxy:1080", "socks5"),
        ("https://user:word@proxy:443", "https"),
        ("http://user:word@proxy:99999", "HTTPS_PROXY does not name"),
        ("http://user:word@", "HTTPS_PROXY does not name"),
        ("http://[user:word", "HTTPS_PROXY does not name"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_reported_without_its_password(value: str, why: str) -> None:
    with pytest.raises(LoadError, match=why) as failure:
        proxy_for("https", "example.com", 443, {"HTTPS_PROXY": value})

    assert (failure.value.code, "word" in str(failure.value)) == ("InvalidSource", False)
    assert "http://HOST:PORT" in failure.value.hint


@pytest.mark.attack(14)
def test_a_cgi_program_does_not_use_a_proxy_that_its_client_can_set() -> None:
    with pytest.raises(LoadError, match="REQUEST_METHOD"):
        proxy_for("http", "example.com", 80, {"HTTP_PROXY": "http://evil:1", "REQUEST_METHOD": "GET"})
