"""HTTP: the admission endpoints over TLS, and health, readiness and metrics on a port of their own.

Knows nothing of the cluster: what it answers from is passed in.
"""

import asyncio
import itertools
import logging
import random
import ssl
from asyncio import sslproto
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from heapq import heappop, heappush
from time import perf_counter

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from serve_core.api.policies import PolicyException
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_webhook.admission import own_writes, review, validation
from serve_webhook.metrics import Metrics

LARGEST = 8 * 2**20
"""Bytes of a request: object and old object may have 3 MB each."""
IN_FLIGHT = 16 * 2**20
"""Bytes of all requests together that are read or wait at one time."""
AT_ONCE = 32 * 2**10
"""Bytes of a review that is judged without a pause: it takes less than 25 ms, whatever is in it. A larger one is judged
in a thread beside, one after another, so that the others and the kubelet are answered meanwhile."""
SHARE = 0.01
"""Seconds after which, of reviews that are judged without a pause, the next one lets everything else have its turn."""
READ_SECONDS = 2.0
"""For the body to arrive, and before that for its turn; the API server gives us 5 s in all."""
IDLE_SECONDS = 120.0
"""Longer than the API server keeps a connection that it does not use (90 s, as Go's ``http.DefaultTransport``): the one
who closes first never cuts off a request that is on its way."""
LAST_ANSWER_CHANCE = 1 / 500
"""That an answer is the last one of its connection: the API server keeps its connections, and a replica that came later
would answer nothing. The API server does so with its own callers (``--goaway-chance``). A new one costs 2 ms of CPU."""
NAMESPACE_SECONDS = 0.5
"""For the watch to bring a namespace that is as new as what is made in it; then the API server may ask again."""
UNSEEN_PAUSES = (0.02, 0.08, 0.4)
"""Seconds between looks at a Deployment that the replica that writes may have seen before this one; then likewise."""
AGAIN = {"Retry-After": "1"}
"""With 429 and 503: seconds after which a call that could not be answered is worth another try. The API server does
that by itself, up to ten times within the webhook's time limit (client-go, ``rest/with_retry.go``)."""
sslproto.SSLProtocol.max_size = 64 * 2**10
"""Bytes of each connection's buffer for TLS, where Python has 256 KiB: it costs no more time, and the API server opens
a connection for every call in flight."""
MOST_CONNECTIONS = 256
"""At one time. Each takes 90 KiB, most of it the buffer for TLS. The API server opens one for a call in flight,
and has no more than 200 requests that change something (its ``--max-mutating-requests-inflight``)."""
DRAIN_SECONDS = 5.0
"""Until every node has heard that this replica is to be called no more."""

Facts = Callable[[], ClusterContext | None]
Appears = Callable[[str], Awaitable[None]]
Lookup = Callable[[str, str], JsonObject | None]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


_http_logger = logging.getLogger("serve_webhook.http")
# What cannot be read as HTTP is its sender's fault: a traceback each would let anybody fill the log.
_http_logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class Gate:
    """Bounds the bytes that are in flight, first come, first served; of one peer, to half of them."""

    def __init__(self, capacity: int) -> None:
        self._free = capacity
        self._share = capacity // 2
        self._taken: Counter[str] = Counter()
        self._queue: list[tuple[int, str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def admit(self, size: int, peer: str = "") -> AsyncIterator[None]:
        await self._acquire(size, peer)
        try:
            yield
        finally:
            self._release(size, peer)

    async def _acquire(self, size: int, peer: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, peer, turn))
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(size, peer)
            else:
                # Not there any more if somebody left in the same instant, and passed over it.
                with suppress(ValueError):
                    self._queue.remove((size, peer, turn))
                self._wake()
            raise

    def _release(self, size: int, peer: str) -> None:
        self._free += size
        self._taken[peer] -= size
        if not self._taken[peer]:
            del self._taken[peer]
        self._wake()

    def _wake(self) -> None:
        """Let in who fits, in their order; whoever has a share already waits beside it."""
        waiting = []
        full = False
        for size, peer, turn in self._queue:
            if turn.cancelled():
                continue
            has_share = bool(self._taken[peer]) and self._taken[peer] + size > self._share
            full = full or (size > self._free and not has_share)
            if full or has_share:
                waiting.append((size, peer, turn))
            else:
                self._free -= size
                self._taken[peer] += size
                turn.set_result(None)
        self._queue = waiting


class Turns:
    """One at a time. Peers take turns, and of what waits of one the smallest comes first: what is made to take long, or
    comes in crowds, keeps nobody else waiting."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: OrderedDict[str, list[tuple[int, int, asyncio.Future[None]]]] = OrderedDict()
        """By peer, whose turn is next first."""
        self._numbers = itertools.count()

    @asynccontextmanager
    async def take(self, size: int, peer: str) -> AsyncIterator[None]:
        """Raises TimeoutError where it would be too late."""
        async with asyncio.timeout(READ_SECONDS):
            await self._acquire(size, peer)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, size: int, peer: str) -> None:
        if not self._taken:
            self._taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting.setdefault(peer, []), (size, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            peer, theirs = self._waiting.popitem(last=False)
            _, _, turn = heappop(theirs)
            if theirs:
                self._waiting[peer] = theirs
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._taken = False


class Judges:
    """Judges reviews so that nobody waits for long who asks for something else."""

    def __init__(self) -> None:
        self._small, self._large = Turns(), Turns()
        self._beside = ThreadPoolExecutor(1, "judge")
        self._spent = 0.0

    async def judge(self, body: bytes, reviewer: review.Reviewer, peer: str = "") -> tuple[bytes, str]:
        """What :func:`review.review` answers and raises; TimeoutError where too many of ``peer`` are before it."""
        if len(body) > AT_ONCE:
            async with self._large.take(len(body), peer):
                return await asyncio.get_running_loop().run_in_executor(self._beside, review.review, body, reviewer)
        async with self._small.take(len(body), peer):
            if self._spent > SHARE:
                await asyncio.sleep(0)
            return self._judged(body, reviewer)

    def _judged(self, body: bytes, reviewer: review.Reviewer) -> tuple[bytes, str]:
        """Counts the time until everything else has its turn."""
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._all_had_their_turn)
        start = perf_counter()
        try:
            return review.review(body, reviewer)
        finally:
            self._spent += perf_counter() - start

    def _all_had_their_turn(self) -> None:
        self._spent = 0.0

    async def close(self, _: object = None) -> None:
        """Let go of the thread."""
        self._beside.shutdown(wait=False)


def admission_app(
    context: Facts,
    deployment: Lookup,
    metrics: Metrics,
    exceptions: Callable[[], Sequence[PolicyException]] = tuple,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    stopping: Callable[[], bool] = lambda: False,
    callers: Sequence[str] = (),
    appears: Appears | None = None,
    draw: Callable[[], float] = random.random,
) -> web.Application:
    """``context`` are ``None`` until everything they come from was read; ``deployment`` finds a served one by namespace
    and name. ``stopping``: from now on every answer is the last one of its connection. ``callers`` are the names of
    client certificates that are answered, where not all are. ``appears`` returns as soon as a namespace of that name is
    in the context's labels; without it, no namespace is waited for. ``draw`` gives numbers from 0 to 1 at random."""
    gate, judges = Gate(IN_FLIGHT), Judges()

    def endpoint(name: str, reviewer: Callable[[ClusterContext], review.Reviewer]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            _check_caller(request, callers)
            async with _received(request, gate) as body:
                if (present := context()) is None:
                    raise web.HTTPServiceUnavailable(text="not ready yet", headers=AGAIN)
                start = perf_counter()
                judge = partial(judges.judge, peer=_peer(request.transport))
                try:
                    answer, decision = await _reviewed(body, judge, context, present, reviewer, appears)
                except (TimeoutError, review.UnseenError):
                    text = "too busy, or the namespace or the Deployment is not known yet"
                    raise web.HTTPTooManyRequests(text=text, headers=AGAIN) from None
                except review.MalformedError as error:
                    metrics.reviews.labels(name, "malformed").inc()
                    return _plain(400, str(error))
            metrics.reviews.labels(name, decision).inc()
            metrics.review_seconds.labels(name).observe(perf_counter() - start)
            return web.Response(body=answer, content_type="application/json")

        return handle

    def complete(present: ClusterContext) -> review.Reviewer:
        return lambda request: review.mutate(request, present)

    def scale(_: ClusterContext) -> review.Reviewer:
        return lambda request: review.scale(request, deployment(request.namespace, request.name))

    def policies(present: ClusterContext) -> review.Reviewer:
        return lambda request: validation.validate(request, present, exceptions(), now(), deployment)

    def own(present: ClusterContext) -> review.Reviewer:
        return lambda request: own_writes.judge(request, present, deployment)

    @web.middleware
    async def part(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if stopping() or draw() < LAST_ANSWER_CHANCE:
            # The API server hears it before the connection closes, and asks by a new one, maybe another replica.
            response.force_close()
        return response

    app = web.Application(middlewares=[part])
    app.on_cleanup.append(judges.close)
    app.router.add_post("/policies", endpoint("policies", policies))
    app.router.add_post("/deployments", endpoint("deployments", complete))
    app.router.add_post("/deployments/scale", endpoint("scale", scale))
    app.router.add_post("/own", endpoint("own", own))
    return app


async def _reviewed(
    body: bytes,
    judge: Callable[[bytes, review.Reviewer], Awaitable[tuple[bytes, str]]],
    context: Facts,
    present: ClusterContext,
    reviewer: Callable[[ClusterContext], review.Reviewer],
    appears: Appears | None,
) -> tuple[bytes, str]:
    """Judge nothing in a namespace whose labels are not known: policies may select it by them, and so does Istio.

    Raises TimeoutError where the watch does not bring it, UnseenError where it does not bring a Deployment, and what
    :meth:`Judges.judge` raises.
    """

    def judge_by(known: ClusterContext) -> review.Reviewer:
        def decide(request: review.AdmissionRequest) -> review.AdmissionResponse:
            if appears and request.namespace and request.namespace not in known.namespace_labels:
                raise review.UnknownNamespaceError(request.namespace)
            return reviewer(known)(request)

        return decide

    for pause in UNSEEN_PAUSES:
        try:
            return await judge(body, judge_by(present))
        except review.UnknownNamespaceError as unknown:
            async with asyncio.timeout(NAMESPACE_SECONDS):
                await appears(str(unknown))  # type: ignore[misc]  # without it nothing is unknown
        except review.UnseenError:
            await asyncio.sleep(pause)
        present = context() or present
    return await judge(body, judge_by(present))


def health_app(missing: Callable[[], list[str]], metrics: Metrics) -> web.Application:
    """``missing`` names what this replica waits for before it can serve."""

    async def live(_: web.Request) -> web.Response:
        return _plain(200, "ok")

    async def ready(_: web.Request) -> web.Response:
        lacking = missing()
        return _plain(503 if lacking else 200, "waiting for " + ", ".join(lacking) if lacking else "ok")

    async def measured(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.router.add_get("/healthz", live)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", measured)
    return app


def tls_context(client_authority: str = "") -> ssl.SSLContext:
    """Without a certificate yet. With ``client_authority``, in PEM, only its certificates may call."""
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
    """Serve ``app`` and yield its port; at the end the requests that are being answered are finished."""
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_http_logger,
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=DRAIN_SECONDS,
        lingering_time=READ_SECONDS,
        # What is compressed is refused; unpacking it to throw it away would be the sender's gain.
        auto_decompress=False,
    )
    busy: set[object] = set()

    @web.middleware
    async def in_hand(request: web.Request, handler: Handler) -> web.StreamResponse:
        busy.add(request.protocol)
        try:
            if runner.server and len(there := runner.server.connections) > MOST_CONNECTIONS:
                _make_room(there, busy, request)
            return await handler(request)
        except web.HTTPException as error:
            # It is an answer as well, which aiohttp keeps until the connection's next request: not with the body, to
            # which its traceback leads.
            error.__context__ = None
            raise error.with_traceback(None) from None
        finally:
            busy.discard(request.protocol)

    app.middlewares.append(in_hand)
    await runner.setup()
    accept = runner.server
    assert accept is not None  # noqa: S101 - what setup() is for

    def connected() -> asyncio.Protocol:
        """Of too many connections, the oldest that asks for nothing gives way, of the peer that has most of them."""
        if len(there := accept.connections) >= MOST_CONNECTIONS and (idle := _idle(there, busy)):
            _close(_of_most(idle)[0])
        return accept()

    handshake = None if context is None else READ_SECONDS
    listening = await asyncio.get_running_loop().create_server(
        connected, host, port, ssl=context, ssl_handshake_timeout=handshake
    )
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await runner.cleanup()


def _of_most(connections: Sequence[RequestHandler]) -> list[RequestHandler]:
    """Those of the peer that has most of them, the oldest first."""
    by_peer: defaultdict[str, list[RequestHandler]] = defaultdict(list)
    for connection in connections:
        by_peer[_peer(connection.transport)].append(connection)
    return max(by_peer.values(), key=len)


def _idle(connections: Sequence[RequestHandler], busy: Container[object]) -> list[RequestHandler]:
    """Those that ask for nothing."""
    return [each for each in connections if each not in busy and each.transport is not None]


def _make_room(connections: Sequence[RequestHandler], busy: Container[object], request: web.Request) -> None:
    """Of too many connections, one that asks for nothing is cut off, as for a new connection. Where all ask for
    something, it is the newest of the peer that has most of them.

    Raises the HTTP error where that is ``request``.
    """
    if idle := _idle(connections, busy):
        _close(_of_most(idle)[0])
        return
    newest = _of_most([connection for connection in connections if connection.transport is not None])[-1]
    if newest is request.protocol:
        request.protocol.keep_alive(False)
        raise web.HTTPServiceUnavailable(text="too busy", headers=AGAIN)
    _close(newest)


def _close(connection: RequestHandler) -> None:
    """Close a connection now: to close TLS in peace, the other side has to answer."""
    transport = connection.transport
    connection.force_close()
    if transport is not None:
        transport.abort()


def _peer(transport: asyncio.BaseTransport | None) -> str:
    """The address that a connection is from, without its port."""
    name = transport.get_extra_info("peername") if transport else None
    return str(name[0]) if name else ""


def _check_caller(request: web.Request, callers: Sequence[str]) -> None:
    """Turn away who shows the certificate of somebody else."""
    if not callers:
        return
    certificate = (request.transport and request.transport.get_extra_info("peercert")) or {}
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    if not any(kind == "commonName" and name in callers for kind, name in subject):
        raise web.HTTPForbidden(text="only the API server is answered")


@asynccontextmanager
async def _received(request: web.Request, gate: Gate) -> AsyncIterator[bytes]:
    """The body of an acceptable request, which counts as in flight meanwhile; raises the HTTP error of any other."""
    size = _checked_size(request)
    async with AsyncExitStack() as held:
        try:
            async with asyncio.timeout(READ_SECONDS):
                await held.enter_async_context(gate.admit(size, _peer(request.transport)))
                if request.transport is None:
                    raise web.HTTPBadRequest(text="the connection is closed")
                # Not request.read(): the request would keep the body until the connection's next one.
                body = await request.content.read()
        except TimeoutError:
            raise web.HTTPTooManyRequests(text="too busy, or the body did not arrive in time", headers=AGAIN) from None
        except (web.RequestPayloadError, ConnectionError):
            raise web.HTTPBadRequest(text="the body broke off") from None
        yield body


def _checked_size(request: web.Request) -> int:
    """The declared length of an acceptable request; raises the HTTP error of any other."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="only application/json")
    if "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType(text="no compression")
    if (size := request.content_length) is None:
        raise web.HTTPLengthRequired(text="a Content-Length is needed")
    if size > LARGEST:
        raise web.HTTPRequestEntityTooLarge(LARGEST, size)
    return size


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")
