"""The loader uses the environment's proxies, and the rules about addresses still apply."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest
import trustme

from model_loader.http.proxies import proxy_for
from support.loader_harness import Loader, WebServer


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


def test_https_uses_a_tunnel_with_the_proxys_own_credentials(load: Loader, web: WebServer, proxy: Proxy) -> None:
    authority = trustme.CA()
    web.secure(authority.issue_cert("127.0.0.1"))
    web.files["/model.bin"] = b"weights"
    load.credentials(**{"ca.crt": authority.cert_pem.bytes().decode()}, authorization="Bearer secret")
    address = proxy.url.replace("http://", "http://user:word@")

    run = load(f"{web.url}/model.bin", environment={"HTTPS_PROXY": address})

    assert run.files() == {"model.bin": b"weights"}
    assert proxy.asked[0].startswith(f"CONNECT {web.url.removeprefix('https://')} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXNlcjp3b3Jk" in proxy.asked[0]
    assert "secret" not in "".join(proxy.asked)


def test_plain_http_sends_the_whole_url_to_the_proxy(load: Loader, web: WebServer, proxy: Proxy) -> None:
    web.files["/model.bin"] = b"weights"

    run = load(f"{web.url}/model.bin", environment={"http_proxy": proxy.url})

    assert run.files() == {"model.bin": b"weights"}
    assert proxy.asked[0].startswith(f"GET {web.url}/model.bin HTTP/1.1\r\n")


@pytest.mark.attack(14)
def test_a_proxy_does_not_bypass_the_rules(load: Loader, proxy: Proxy) -> None:
    environment = {"HTTPS_PROXY": proxy.url}

    assert load("https://169.254.169.254/model.bin", environment=environment).code == "Refused"
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("no_proxy", "host", "straight"),
    [
        ("", "a.example.com", False),
        ("example.com", "a.example.com", True),
        (".example.com, other", "example.com", True),
        ("example.com", "badexample.com", False),
        ("*.svc", "minio.models.svc", True),
        ("*", "anything", True),
    ],
)
def test_hosts_in_no_proxy_are_reached_directly(no_proxy: str, host: str, straight: bool) -> None:
    found = proxy_for("https", host, {"HTTPS_PROXY": "proxy:3128", "NO_PROXY": no_proxy})

    assert (found is None) is straight
