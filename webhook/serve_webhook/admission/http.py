"""The HTTP endpoints: admission reviews, and on another port health, readiness and metrics.

It reads nothing from the cluster: callers pass in everything that answers depend on.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from time import perf_counter

from aiohttp import web

from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.v1alpha1 import PolicyException
from serve_webhook.admission import own_writes, review, validation
from serve_webhook.admission.listener import RETRY_AFTER, Handler, peer_of
from serve_webhook.admission.scheduling import ByteLimiter, ReviewExecutor
from serve_webhook.metrics import Metrics

MAX_REQUEST_BYTES = 8 * 2**20
"""Object and old object may have 3 MB each."""
MAX_IN_FLIGHT_BYTES = 16 * 2**20
"""Of all requests together that are read or wait."""
READ_SECONDS = 2.0
"""For a request's turn and its body together. The API server's time limit for the whole call is 5 s."""
CLOSE_PROBABILITY = 1 / 500
"""Of an answer to close its connection. The API server keeps its connections, so a replica that started later would
get no reviews. The API server does the same to its own clients (``--goaway-chance``). A new one costs 2 ms of CPU."""
NAMESPACE_SECONDS = 0.5
"""Wait for the watch to bring a namespace that is as new as the object in it; after that, the API server asks again."""
UNSEEN_PAUSES = (0.02, 0.08, 0.4)
"""Seconds between reads of a Deployment that the writing replica may have seen before this one."""

ContextSource = Callable[[], ClusterContext | None]
NamespaceWaiter = Callable[[str], Awaitable[None]]
DeploymentLookup = Callable[[str, str], JsonObject | None]


def admission_app(
    context: ContextSource,
    deployment: DeploymentLookup,
    metrics: Metrics,
    *,
    exceptions: Callable[[], Sequence[PolicyException]] = tuple,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    stopping: Callable[[], bool] = lambda: False,
    callers: Sequence[str] = (),
    appears: NamespaceWaiter | None = None,
    draw: Callable[[], float] = random.random,
) -> web.Application:
    """The admission endpoints.

    ``context`` returns ``None`` until all its sources were read. ``deployment`` finds a served Deployment by namespace
    and name. Once ``stopping`` is true, each answer closes its connection. ``callers``: common names of accepted client
    certificates; empty: all. ``appears`` returns as soon as a namespace is in the context's labels; without it, no
    namespace is waited for. ``draw`` returns random numbers from 0 to 1.
    """
    limiter, executor = ByteLimiter(MAX_IN_FLIGHT_BYTES), ReviewExecutor()

    def endpoint(name: str, reviewer: Callable[[ClusterContext], review.Reviewer]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            _check_caller(request, callers)
            async with _received(request, limiter) as body:
                if (present := context()) is None:
                    raise web.HTTPServiceUnavailable(text="not ready yet", headers=RETRY_AFTER)
                start = perf_counter()
                judge = partial(executor.judge, peer=peer_of(request.transport))
                try:
                    answer, decision = await _reviewed(body, judge, context, present, reviewer, appears)
                except (TimeoutError, review.UnseenError):
                    text = "too busy, or the namespace or the Deployment is not known yet"
                    raise web.HTTPTooManyRequests(text=text, headers=RETRY_AFTER) from None
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
    async def spread(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if stopping() or draw() < CLOSE_PROBABILITY:
            # The answer announces it, so the API server opens a new connection, possibly to another replica.
            response.force_close()
        return response

    app = web.Application(middlewares=[spread])
    app.on_cleanup.append(executor.close)
    app.router.add_post("/policies", endpoint("policies", policies))
    app.router.add_post("/deployments", endpoint("deployments", complete))
    app.router.add_post("/deployments/scale", endpoint("scale", scale))
    app.router.add_post("/pods", endpoint("pods", lambda _: review.pod))
    app.router.add_post("/own", endpoint("own", own))
    return app


async def _reviewed(
    body: bytes,
    judge: Callable[[bytes, review.Reviewer], Awaitable[tuple[bytes, str]]],
    context: ContextSource,
    present: ClusterContext,
    reviewer: Callable[[ClusterContext], review.Reviewer],
    appears: NamespaceWaiter | None,
) -> tuple[bytes, str]:
    """Judge a review once its namespace's labels are known: policies and Istio select namespaces by labels.

    Raises TimeoutError where the watch does not bring the namespace, UnseenError where it does not bring a Deployment,
    and what :meth:`ReviewExecutor.judge` raises.
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
                await appears(str(unknown))  # type: ignore[misc]  # UnknownNamespaceError needs it
        except review.UnseenError:
            await asyncio.sleep(pause)
        present = context() or present
    return await judge(body, judge_by(present))


def health_app(missing: Callable[[], list[str]], metrics: Metrics) -> web.Application:
    """``missing`` returns the names of what this replica still waits for before it can serve."""

    async def live(_: web.Request) -> web.Response:
        return _plain(200, "ok")

    async def ready(_: web.Request) -> web.Response:
        awaited = missing()
        return _plain(503 if awaited else 200, "waiting for " + ", ".join(awaited) if awaited else "ok")

    async def render_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.router.add_get("/healthz", live)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", render_metrics)
    return app


def _check_caller(request: web.Request, callers: Sequence[str]) -> None:
    """Raise 403 for a client certificate that is not one of ``callers``."""
    if not callers:
        return
    certificate = (request.transport and request.transport.get_extra_info("peercert")) or {}
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    if not any(kind == "commonName" and name in callers for kind, name in subject):
        raise web.HTTPForbidden(text="only the API server is answered")


@asynccontextmanager
async def _received(request: web.Request, limiter: ByteLimiter) -> AsyncIterator[bytes]:
    """The body of a valid request, counted as in flight meanwhile. Raises the HTTP error of an invalid one."""
    size = _checked_size(request)
    async with AsyncExitStack() as held:
        try:
            async with asyncio.timeout(READ_SECONDS):
                await held.enter_async_context(limiter.admit(size, peer_of(request.transport)))
                if request.transport is None:
                    raise web.HTTPBadRequest(text="the connection is closed")
                # Not request.read(): the request would keep the body until the connection's next one.
                body = await request.content.read()
        except TimeoutError:
            raise web.HTTPTooManyRequests(
                text="too busy, or the body did not arrive in time", headers=RETRY_AFTER
            ) from None
        except (web.RequestPayloadError, ConnectionError):
            raise web.HTTPBadRequest(text="the body broke off") from None
        yield body


def _checked_size(request: web.Request) -> int:
    """The Content-Length of a valid request. Raises the HTTP error of an invalid one."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="only application/json")
    if "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType(text="no compression")
    if (size := request.content_length) is None:
        raise web.HTTPLengthRequired(text="a Content-Length is needed")
    if size > MAX_REQUEST_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_REQUEST_BYTES, size)
    return size


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")
