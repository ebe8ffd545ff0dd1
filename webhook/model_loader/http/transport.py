"""HTTP as the loader needs it: checked addresses, checked redirects, and errors by cause.

Plain sockets are as fast as obstore and use less CPU time and a fifth of the memory (docs/benchmarks/loader.md). With
them the loader controls addresses, redirects and headers.
"""

import functools
import math
import re
import socket
import struct
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from model_loader.http import proxies
from model_loader.http.authorizers import ANONYMOUS, Authorizer
from model_loader.http.http1 import Connection, ProtocolError, Response
from model_loader.http.network import Network
from model_loader.outcomes import Code, LoadError
from model_uri import hub
from model_uri.uri import GIT, SUBDIRECTORY

if TYPE_CHECKING:
    import ssl

    from model_loader.http.tls import TlsSocket

CONNECT_SECONDS = 10.0
# Seconds without a byte that count as a stall. The loader then repeats the request from the present position.
READ_SECONDS = 10.0
_STALLED = (TimeoutError, BlockingIOError)
"""Python raises the one, and the kernel's socket timeout the other."""
_REDIRECTS = 5
_PROXY_AUTHENTICATION = 407
_ERROR_BYTES = 4096
_DOCUMENT_BYTES = 64 << 20
FAR_SECONDS = 0.005
"""Round-trip time from which a server counts as far."""
_TCP_INFO_BYTES = 72
"""Up to `tcpi_rtt`, the last field that is read: microseconds, as the kernel measured them. Source: linux/tcp.h."""
_AGENT = {"User-Agent": "kubectl-serve-model-loader"}
# All headers that a redirect to another host may carry: no credential, cookie or header of a store.
_CARRIED = frozenset({"accept", "range", "if-match"})
_PORTS = {"http": 80, "https": 443}
_Origin = tuple[str, str, int]


_REASONS = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        r"<Code>([A-Za-z0-9]{1,64})</Code>",  # S3, Azure
        r"\b(AADSTS[0-9]{1,10})\b",  # Entra ID, in the description of OAuth's error
        r'"error"\s{0,8}:\s{0,8}"([a-z_]{1,64})"',  # OAuth: RFC 6749, section 5.2
    )
)
_HINTS = {
    "RequestTimeTooSkewed": "Correct the clock of the node: it differs from the store's.",
    "InvalidObjectState": "The object is in an archive: restore it first.",
}
"""What to do about some codes of stores."""
_NEEDS_TLS = ("Client sent an HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port")
"""In the answers of Go's and nginx's servers to plain http at a port with TLS."""
_ABOUT_CREDENTIALS = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "PublicAccessNotPermitted"})
"""Codes that stores send with the status 400 or 409."""


class HttpResponse(NamedTuple):
    """A successful response: `url` after redirects, header names in lower case, and the unread body."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: Response


def redact(url: str) -> str:
    """Return `url` without user information, query and fragment, for messages. The path in a git repository stays."""
    scheme, _, rest = url.partition("://")
    rest, mark, inside = rest.partition(SUBDIRECTORY) if scheme == GIT else (rest, "", "")
    if scheme == "hf" and hub.is_version(rest):
        return url
    authority, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}{mark}{inside}"


def split(url: str) -> SplitResult:
    """Return the parts of `url`. Raises LoadError: InvalidSource without a host, Refused with credentials in it."""
    try:
        parts = urlsplit(url)
        host, _, credentials = _authority(parts.netloc)
    except ValueError as error:
        raise LoadError(Code.INVALID_SOURCE, f"{redact(url)!r} is not a URL: {error}") from None
    if parts.scheme not in _PORTS or not host:
        raise LoadError(Code.INVALID_SOURCE, f"{redact(url)!r} is not an http or https URL with a host")
    if credentials:
        raise LoadError(
            Code.REFUSED,
            f"{redact(url)} has credentials in it",
            hint="Put them into a Secret: many users can read a URI.",
        )
    return parts


@functools.lru_cache
def _authority(netloc: str) -> tuple[str, int, bool]:
    """Return the host, the port (0 if none), and whether there are credentials. Raises ValueError."""
    parts = SplitResult("", netloc, "", "", "")
    return parts.hostname or "", parts.port or 0, parts.username is not None or parts.password is not None


class Transport:
    """Sends requests over persistent connections, one for each thread and host."""

    def __init__(
        self,
        network: Network,
        *,
        certificates: str = "",
        environment: Mapping[str, str] | None = None,
        fixed: bool = False,
    ) -> None:
        """`certificates`: PEM text of authorities to trust in addition to the system's. `environment` may name proxies.

        `fixed`: the pod cannot change where names lead: they are absolute, and no proxy may read plain http.
        """
        self._network = network
        self._fixed = fixed
        self._environment = environment or {}
        self._proxies: dict[_Origin, SplitResult | None] = {}
        self._seconds: dict[_Origin, float] = {}
        self._certificates = certificates
        self._local = threading.local()
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._in_use: set[Connection] = set()
        self._aborted = False

    def get(
        self, url: str, headers: Mapping[str, str] | None = None, authorizer: Authorizer = ANONYMOUS
    ) -> HttpResponse:
        """Send a GET; see `send`."""
        return self.send("GET", url, headers or {}, authorizer=authorizer)

    @property
    def origins(self) -> list[str]:
        """The servers that this transport has connected to, as `scheme://host:port`, sorted."""
        return sorted(f"{scheme}://{host}:{port}" for scheme, host, port in self._proxies)

    def is_far(self, url: str) -> bool:
        """Return whether the server of `url` is far away, as far as a connection has shown it.

        What a proxy or a sidecar connects to counts as near.
        """
        parts = urlsplit(url)
        return parts.scheme in _PORTS and self._seconds.get(_origin(parts), 0.0) >= FAR_SECONDS

    def probe(self, url: str, authorizer: Authorizer = ANONYMOUS) -> None:
        """Request the head of `url`, without following a redirect: the server refuses it where it refuses the content.

        Raises LoadError, as `send`.
        """
        parts = split(url)
        sent: dict[str, str] = {}
        authorizer.sign("HEAD", parts, sent)
        response = self._exchange("HEAD", parts, sent, None)
        text = self.drain(response)
        if response.status >= 400:
            raise _status_failure(url, response.status, response.headers, text)

    def read(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        authorizer: Authorizer = ANONYMOUS,
        form: str | None = None,
    ) -> bytes:
        """Return the whole body, of at most 64 MiB, of a GET, or of a POST of `form`; see `send`."""
        if form is None:
            response = self.get(url, headers, authorizer)
        else:
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self.send("POST", url, {**kind, **(headers or {})}, authorizer=authorizer, body=form.encode())
        return self.read_body(response)

    def read_body(self, response: HttpResponse) -> bytes:
        """Return the whole body, of at most 64 MiB, of a response. Raises LoadError."""
        try:
            body = response.body.read(_DOCUMENT_BYTES)
        except (OSError, ProtocolError) as error:
            raise self.connection_failure(response.url, error) from None
        if response.body.left:
            self.close()
            raise LoadError(Code.REFUSED, f"{redact(response.url)} is longer than {_DOCUMENT_BYTES >> 20} MiB")
        return body

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        authorizer: Authorizer = ANONYMOUS,
        body: bytes | None = None,
    ) -> HttpResponse:
        """Send one request, follow its redirects, and return the response with its body unread.

        Repeats a refused request once with fresh credentials, if there are any. Raises LoadError: Refused for an
        address or redirect that is not allowed, Unreachable or Stalled when the connection fails, and by the HTTP
        status: Unauthorized, NotFound, Changed, ServerError, InvalidSource.
        """
        try:
            return self._follow(method, url, headers, authorizer, body)
        except LoadError as failure:
            # The response to a HEAD has no body that says that the token has expired.
            refused = failure.code is Code.UNAUTHORIZED or (method == "HEAD" and failure.status == 400)
            if not refused or not failure.status or not authorizer.refresh():
                raise
        return self._follow(method, url, headers, authorizer, body)

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], authorizer: Authorizer, body: bytes | None
    ) -> HttpResponse:
        parts, reached = split(url), url
        sent = dict(headers)
        authorizer.sign(method, parts, sent)
        for _ in range(_REDIRECTS + 1):
            response = self._exchange(method, parts, sent, body)
            answered = response.headers
            if response.status < 300:
                return HttpResponse(reached, response.status, answered, response)
            target = answered.get("location", "")
            text = self.drain(response)
            if response.status not in (301, 302, 303, 307, 308) or not target:
                raise _status_failure(parts.geturl(), response.status, answered, text)
            following = split(urljoin(parts.geturl(), target))
            if parts.scheme == "https" and following.scheme != "https":
                raise LoadError(
                    Code.REFUSED,
                    f"{redact(parts.geturl())} redirects to plain http on {following.hostname}",
                    hint="Use the https URL.",
                )
            if _origin(following) != _origin(parts):
                sent = {name: value for name, value in sent.items() if name.lower() in _CARRIED}
            parts, reached, body = following, following.geturl(), None
        raise LoadError(Code.REFUSED, f"{redact(url)} redirects more than {_REDIRECTS} times")

    def connection_failure(self, url: str, error: Exception) -> LoadError:
        """Return the failure for a connection that broke. Drops this thread's connections."""
        self.close()
        if isinstance(error, _STALLED):
            return LoadError(Code.STALLED, f"{_host(url)} sent nothing for {READ_SECONDS:.0f} s")
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        return LoadError(Code.UNREACHABLE, f"the connection to {_host(url)} broke: {reason}")

    def close(self) -> None:
        """Close this thread's connections."""
        for connection, _ in self._connections().values():
            self._drop(connection)
        self._connections().clear()

    def abort(self) -> None:
        """End every request in every thread, and all later ones."""
        with self._lock:
            self._aborted = True
            for connection in self._in_use:
                connection.abort()

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            self._in_use.discard(connection)
        connection.close()

    def _connections(self) -> dict[_Origin, tuple[Connection, Response]]:
        """Return this thread's connections, each with its last response."""
        found: dict[_Origin, tuple[Connection, Response]] | None = getattr(self._local, "connections", None)
        if found is None:
            found = self._local.connections = {}
        return found

    def _exchange(self, method: str, parts: SplitResult, headers: Mapping[str, str], body: bytes | None) -> Response:
        origin = _origin(parts)
        connections = self._connections()
        connection, last = connections.pop(origin, (None, None))
        if connection is not None and last is not None and (last.left or not last.reusable):
            self._drop(connection)
            connection = None
        kept = connection is not None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        proxy = self._proxy(origin) if parts.scheme == "http" else None
        if proxy is not None:
            target = f"http://{parts.netloc}{target}"
            headers = {**headers, **proxies.authorization(proxy)}
        try:
            if connection is None:
                connection = self._dial(origin)
            response = connection.request(method, target, {**_AGENT, **headers}, body)
        except (OSError, ProtocolError) as error:
            if connection is not None:
                self._drop(connection)
            # The server may have closed an idle connection: that is no error of the server.
            if kept and not isinstance(error, _STALLED):
                return self._exchange(method, parts, headers, body)
            raise self.connection_failure(parts.geturl(), error) from None
        connections[origin] = connection, response
        return response

    def _dial(self, origin: _Origin) -> Connection:
        scheme, host, port = origin
        name = f"[{host}]" if ":" in host else host
        proxy = self._proxy(origin)
        if proxy is None:
            plain = scheme == "http"
            sock = self._network.connect(host, port, plain=plain, timeout=CONNECT_SECONDS, absolute=self._fixed)
        elif self._fixed and scheme == "http":
            raise LoadError(Code.REFUSED, f"plain http to {host} would go through a proxy, which is not allowed")
        else:
            self._network.check(host, port, plain=scheme == "http")
            at = proxy.hostname or "", proxy.port or 80
            sock = self._network.connect(*at, plain=True, timeout=CONNECT_SECONDS)
        _limit(sock)
        self._seconds[origin] = min(_round_trip(sock), self._seconds.get(origin, math.inf))
        if proxy is not None and scheme == "https":
            self._tunnel(sock, f"{name}:{port}", proxy)
        connection = Connection(
            self._secure(sock, host) if scheme == "https" else sock,
            name if port == _PORTS[scheme] else f"{name}:{port}",
        )
        with self._lock:
            self._in_use.add(connection)
            if self._aborted:
                connection.abort()
        return connection

    def _secure(self, sock: socket.socket, host: str) -> "TlsSocket":
        try:
            from model_loader.http import tls  # noqa: PLC0415  # start-up time (5 ms) that a plain http store saves

            with self._lock:
                self._tls = self._tls or tls.context(self._certificates)
            return tls.TlsSocket(sock, self._tls, host)
        except BaseException:
            sock.close()
            raise

    def _proxy(self, origin: _Origin) -> SplitResult | None:
        if origin not in self._proxies:
            self._proxies[origin] = proxies.proxy_for(*origin, self._environment)
        return self._proxies[origin]

    def _tunnel(self, sock: socket.socket, target: str, proxy: SplitResult) -> None:
        """Make the proxy connect to `target`. Raises LoadError."""
        try:
            status = Connection(sock, target).request("CONNECT", target, proxies.authorization(proxy)).status
        except BaseException:
            sock.close()
            raise
        if status >= 300:
            sock.close()
            code = Code.SERVER_ERROR if status >= 500 else Code.REFUSED
            hint = proxies.HINT if status == _PROXY_AUTHENTICATION else ""
            raise LoadError(code, f"the proxy {proxy.hostname} answered {status} for {target}", hint=hint)

    def drain(self, response: Response) -> str:
        """Return the start of an unneeded body. Reading a short one completely keeps the connection usable."""
        try:
            return response.read(_ERROR_BYTES).decode("utf-8", "replace")
        except (OSError, ProtocolError):
            return ""


def _limit(sock: socket.socket) -> None:
    """Let the kernel limit the wait: with a timeout of Python's, each read makes another system call."""
    sock.settimeout(None)
    seconds = struct.pack("@ll", int(READ_SECONDS), int(READ_SECONDS % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, seconds)


def _round_trip(sock: socket.socket) -> float:
    """Return the seconds of a packet to the other side and back, 0 if the kernel does not say it."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return float(struct.unpack_from("@I", info, _TCP_INFO_BYTES - 4)[0]) / 1e6
    except (OSError, struct.error):
        return 0.0


def _origin(parts: SplitResult) -> _Origin:
    host, port, _ = _authority(parts.netloc)
    return parts.scheme, host, port or _PORTS[parts.scheme]


def _host(url: str) -> str:
    return urlsplit(url).hostname or redact(url)


def _status_failure(url: str, status: int, headers: Mapping[str, str], text: str) -> LoadError:
    if status == _PROXY_AUTHENTICATION:
        return LoadError(Code.REFUSED, f"the proxy answered {status} for {redact(url)}", hint=proxies.HINT)
    code = Code.INVALID_SOURCE
    if status in (401, 403):
        code = Code.UNAUTHORIZED
    elif status in (404, 410):
        code = Code.NOT_FOUND
    elif status in (412, 416):
        code = Code.CHANGED
    elif status in (408, 425, 429) or status >= 500:
        code = Code.SERVER_ERROR
    reason = _reason(text)
    if reason in _ABOUT_CREDENTIALS:
        code = Code.UNAUTHORIZED
    message = f"{redact(url)} answered {status}{f' ({reason})' if reason else ''}"
    hint = _HINTS.get(reason, "")
    if status == 400 and any(each in text for each in _NEEDS_TLS):
        hint = "The server expects TLS at this port: write https:// instead of http://."
    wait = _retry_after(headers.get("retry-after", ""))
    return LoadError(code, message, hint=hint, wait=wait, status=status, headers=headers, reason=reason, answer=text)


def _reason(text: str) -> str:
    """Return the server's code of an error, but nothing else of it: the rest may repeat the request."""
    return next((found[1] for found in (pattern.search(text) for pattern in _REASONS) if found), "")


def _retry_after(value: str) -> float:
    return min(float(value), 60.0) if value.isdigit() else 0.0
