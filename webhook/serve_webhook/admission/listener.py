"""The HTTP listener: TLS, a maximum number of connections, and a graceful end. It does not know what it serves."""

import asyncio
import logging
import ssl
from asyncio import sslproto
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

HANDSHAKE_SECONDS = 2.0
IDLE_SECONDS = 120.0
"""Longer than the API server keeps an unused connection (90 s, Go's ``http.DefaultTransport``): if the server closed
first, it could cut off a request that is on its way."""
sslproto.SSLProtocol.max_size = 64 * 2**10
"""Bytes of each connection's TLS buffer; Python's default is 256 KiB. The smaller buffer costs no time, and the API
server opens a connection for each call in flight."""
MAX_CONNECTIONS = 256
"""Each takes 90 KiB, mostly the TLS buffer. The API server opens one for each call in flight, and handles at most
200 mutating requests at a time (``--max-mutating-requests-inflight``)."""
DRAIN_SECONDS = 5.0
"""Until every node has removed this replica from the Service's endpoints."""
RETRY_AFTER = {"Retry-After": "1"}
"""Header of 429 and 503: the API server repeats such a call after this many seconds, up to ten times within the
webhook's time limit (client-go, ``rest/with_retry.go``)."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_logger = logging.getLogger("serve_webhook.http")
# A request that is not valid HTTP is its sender's fault. A traceback for each would let any client fill the log.
_logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


def tls_context(client_authority: str = "") -> ssl.SSLContext:
    """TLS without a certificate yet. With ``client_authority`` (PEM), clients need one of its certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_authority:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_authority)
    return context


@asynccontextmanager
async def serving(
    app: web.Application, host: str, port: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve ``app`` and yield its port; at the end, requests in progress are finished."""
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_logger,
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=DRAIN_SECONDS,
        lingering_time=HANDSHAKE_SECONDS,
        # Compressed bodies are refused: unpacking one first would let a client use our CPU for nothing.
        auto_decompress=False,
    )
    busy: set[object] = set()

    @web.middleware
    async def limit_connections(request: web.Request, handler: Handler) -> web.StreamResponse:
        busy.add(request.protocol)
        try:
            if runner.server and len(runner.server.connections) > MAX_CONNECTIONS:
                _make_room(runner.server.connections, busy, request)
            return await handler(request)
        except web.HTTPException as error:
            # aiohttp keeps this answer until the connection's next request. Its traceback would keep the body as well.
            error.__context__ = None
            raise error.with_traceback(None) from None
        finally:
            busy.discard(request.protocol)

    app.middlewares.append(limit_connections)
    await runner.setup()
    accept = runner.server
    assert accept is not None  # noqa: S101 - what setup() is for

    def connected() -> asyncio.Protocol:
        """Above the limit, close the oldest idle connection of the peer with most idle connections."""
        if len(accept.connections) >= MAX_CONNECTIONS and (idle := _idle(accept.connections, busy)):
            _close(_of_largest_peer(idle)[0])
        return accept()

    handshake = None if context is None else HANDSHAKE_SECONDS
    listening = await asyncio.get_running_loop().create_server(
        connected, host, port, ssl=context, ssl_handshake_timeout=handshake
    )
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await runner.cleanup()


def _of_largest_peer(connections: Sequence[RequestHandler]) -> list[RequestHandler]:
    """The connections of the peer that has most of them, oldest first."""
    by_peer: defaultdict[str, list[RequestHandler]] = defaultdict(list)
    for connection in connections:
        by_peer[peer_of(connection.transport)].append(connection)
    return max(by_peer.values(), key=len)


def _idle(connections: Sequence[RequestHandler], busy: Container[object]) -> list[RequestHandler]:
    return [each for each in connections if each not in busy and each.transport is not None]


def _make_room(connections: Sequence[RequestHandler], busy: Container[object], request: web.Request) -> None:
    """Close an idle connection, as for a new connection; where none is idle, the newest of the largest peer.

    Raises the HTTP error 503 where that is the connection of ``request``.
    """
    if idle := _idle(connections, busy):
        _close(_of_largest_peer(idle)[0])
        return
    newest = _of_largest_peer([connection for connection in connections if connection.transport is not None])[-1]
    if newest is request.protocol:
        request.protocol.keep_alive(False)
        raise web.HTTPServiceUnavailable(text="too busy", headers=RETRY_AFTER)
    _close(newest)


def _close(connection: RequestHandler) -> None:
    """Close a connection at once. A regular end of TLS would wait for the client."""
    transport = connection.transport
    connection.force_close()
    if transport is not None:
        transport.abort()


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The client's address without its port."""
    name = transport.get_extra_info("peername") if transport else None
    return str(name[0]) if name else ""
