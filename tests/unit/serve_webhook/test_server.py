"""The server over real TLS on loopback, with the API server and other clients."""

import asyncio
import base64
import gzip
import io
import json
import ssl
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serve_core.base.constants import SERVED_LABEL
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_webhook.admission import http, listener, review, scheduling
from serve_webhook.admission.scheduling import ReviewExecutor
from serve_webhook.certs import authority as certificates
from serve_webhook.metrics import Metrics

NAME = certificates.SERVER_NAMES[0]
JSON = {"Content-Type": "application/json"}


def body(**request: Any) -> bytes:
    sent = {
        "uid": "u-1",
        "operation": "UPDATE",
        "userInfo": {"username": "jane"},
        "namespace": "default",
        "name": "iris",
    }
    return json.dumps(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": sent | request}
    ).encode()


@dataclass
class Running:
    """A server that is answering, and what it answers from."""

    tls: ssl.SSLContext
    material: certificates.Material
    metrics: Metrics = field(default_factory=Metrics)
    context: ClusterContext | None = field(default_factory=lambda: ClusterContext(LoaderConfig("loader:1")))
    deployments: dict[tuple[str, str], Any] = field(default_factory=dict)
    stopping: bool = False
    drawn: float = 0.5
    port: int = 0

    def client(self, shown: certificates.Signer | None = None) -> aiohttp.ClientSession:
        """``shown`` is the client's own certificate."""
        trusting = ssl.create_default_context(cadata=self.material.bundle.decode())
        if shown is not None:
            show(trusting, shown)
        return aiohttp.ClientSession(
            f"https://127.0.0.1:{self.port}", connector=aiohttp.TCPConnector(ssl=trusting), headers=JSON
        )

    async def post(self, path: str, sent: Any, **options: Any) -> tuple[int, str]:
        sent = io.BytesIO(sent) if isinstance(sent, bytes) else sent
        async with self.client() as client, client.post(path, data=sent, server_hostname=NAME, **options) as answer:
            return answer.status, await answer.text()


def show(context: ssl.SSLContext, signer: certificates.Signer) -> None:
    """Load a certificate and its key, for which Python's TLS wants a file."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(signer.certificate.public_bytes(serialization.Encoding.PEM))
        file.write(signer.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ))  # fmt: skip
        file.flush()
        context.load_cert_chain(file.name)


def signed(name: str, authority: certificates.Signer | None = None) -> certificates.Signer:
    """A client's certificate, or without a signer an authority's."""
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    # The unit is whatever its owner asked the authority for.
    unit = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "apiserver")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), unit])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .sign(authority.key if authority else key, hashes.SHA256())
    )
    return certificates.Signer(made, key)


async def speak(
    running: Running, said: str, address: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which so much has been said, and no more."""
    trusting = ssl.create_default_context(cadata=running.material.bundle.decode())
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", running.port, ssl=trusting, server_hostname=NAME, local_addr=(address, 0)
    )
    writer.write(said.encode())
    await writer.drain()
    return reader, writer


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    material, context = certificates.issue(datetime.now(UTC)), listener.tls_context()
    certificates.load(context, material)
    found = Running(context, material)
    app = http.admission_app(
        lambda: found.context,
        lambda *name: found.deployments.get(name),
        found.metrics,
        stopping=lambda: found.stopping,
        draw=lambda: found.drawn,
    )
    async with listener.serving(app, "127.0.0.1", 0, context) as found.port:
        yield found


async def test_a_review_is_answered(running: Running) -> None:
    status, text = await running.post("/deployments", body(object={"metadata": {"name": "iris"}}))
    assert status == 200
    assert json.loads(text)["response"]["uid"] == "u-1"
    reported = running.metrics.render().decode()
    assert 'decision="refused",review="deployments"} 1.0' in reported
    (took,) = (line for line in reported.splitlines() if "review_seconds_sum" in line)
    assert float(took.split()[-1]) < 60


@pytest.mark.attack(37)
async def test_a_write_of_the_servers_own_waits_for_the_deployment_that_it_comes_from(running: Running) -> None:
    served: Any = {"metadata": {"name": "iris", "namespace": "default", "uid": "u-1"}, "spec": {}}
    served |= {"apiVersion": "apps/v1", "kind": "Deployment"}
    served["metadata"]["annotations"] = {
        "kubectl-serve.dev/model": "pvc://claim",
        "kubectl-serve.dev/mode": "deployment",
    }
    served["spec"] = {"template": {"spec": {"containers": [{"name": "a", "image": "a"}]}}}
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "iris", "uid": "u-1", "controller": True}
    metadata = {"name": "iris", "namespace": "default", "ownerReferences": [reference]}
    made = body(operation="CREATE", object={"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}})

    status, text = await running.post("/own", made)
    assert (status, text) == (429, "too busy, or the namespace or the Deployment is not known yet")

    asked = asyncio.create_task(running.post("/own", made))
    await asyncio.sleep(0)
    running.deployments["default", "iris"] = served
    status, text = await asked
    assert (status, json.loads(text)["response"]["allowed"]) == (200, True)


async def test_on_its_way_out_it_says_that_the_connection_closes(running: Running) -> None:
    async with running.client() as client:
        async with client.post("/deployments", data=body(), server_hostname=NAME) as answer:
            assert "Connection" not in answer.headers
        running.stopping = True
        async with client.post("/deployments", data=body(), server_hostname=NAME) as answer:
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
            assert answer.content_type == "application/json"


async def test_now_and_then_a_connection_ends_so_that_another_replica_may_be_asked(running: Running) -> None:
    async with running.client() as client:
        for running.drawn, reported in ((0.001, "close"), (0.003, None)):
            async with client.post("/deployments", data=body(), server_hostname=NAME) as answer:
                assert (answer.status, answer.headers.get("Connection")) == (200, reported)


async def test_scaling_is_answered_from_what_is_watched(running: Running) -> None:
    scaling = body(object={"spec": {"replicas": 2}})
    assert json.loads((await running.post("/deployments/scale", scaling))[1])["response"]["allowed"]
    running.deployments["default", "iris"] = {
        "metadata": {"labels": {SERVED_LABEL: "true"}, "annotations": {"kubectl-serve.dev/model": "s3://a/b"}}
    }
    response = json.loads((await running.post("/deployments/scale", scaling))[1])["response"]
    assert response["status"]["reason"] == "Forbidden"


async def test_pods_of_knative_get_a_startup_probe_and_are_never_refused(running: Running) -> None:
    queue = {"name": "queue-proxy", "readinessProbe": {"httpGet": {"path": "/", "port": 8012}}}
    pod = body(object={"metadata": {"name": "iris"}, "spec": {"containers": [queue]}})
    response = json.loads((await running.post("/pods", pod))[1])["response"]
    (operation,) = json.loads(base64.b64decode(response["patch"]))
    assert operation["path"] == "/spec/containers/0/startupProbe"
    response = json.loads((await running.post("/pods", body(object={"spec": 7})))[1])["response"]
    assert response["allowed"]
    assert "patch" not in response


@pytest.mark.attack(20)
async def test_before_everything_is_known_no_request_is_admitted(running: Running) -> None:
    running.context = None
    async with running.client() as client, client.post("/deployments", data=body(), server_hostname=NAME) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1", "so the API server asks once more by itself"


@pytest.mark.parametrize(
    ("sent", "options", "status"),
    [
        pytest.param(b"{", {}, 400, id="not JSON"),
        pytest.param(b"[" * 1_000_000, {}, 400, id="a million lists"),
        pytest.param(b"{}", {"headers": {"Content-Type": "text/plain"}}, 415, id="another type"),
        pytest.param(b"x" * (http.MAX_REQUEST_BYTES + 1), {}, 413, id="too large"),
        pytest.param(b"{}", {"headers": {"Content-Encoding": "gzip"}}, 415, id="compressed"),
    ],
)
@pytest.mark.attack(9, 10)
async def test_what_no_api_server_sends_is_a_client_error(
    running: Running, sent: bytes, options: dict[str, Any], status: int
) -> None:
    assert (await running.post("/deployments", sent, **options))[0] == status


@pytest.mark.attack(10)
async def test_a_body_of_unknown_length_is_not_waited_for(running: Running) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"{"

    assert (await running.post("/deployments", endless()))[0] == 411


async def test_another_method_or_path_is_refused(running: Running) -> None:
    assert (await running.post("/", body()))[0] == 404
    async with running.client() as client, client.get("/deployments", server_hostname=NAME) as answer:
        assert answer.status == 405


@pytest.mark.attack(10)
async def test_an_object_of_six_megabytes_is_answered(running: Running) -> None:
    large = {"metadata": {"name": "iris", "annotations": {"a": "x" * 3_000_000}}}
    status, _ = await running.post("/deployments", body(object=large, oldObject=large))
    assert status == 200


@pytest.mark.attack(18)
async def test_a_slow_sender_is_cut_off(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", 0.05)
    head = "POST /deployments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    reader, writer = await speak(running, head)
    async with asyncio.timeout(5):
        assert (await reader.readline()).split()[1] == b"429"
    writer.close()
    await writer.wait_closed()


@pytest.mark.attack(18)
async def test_a_connection_without_a_handshake_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.05)
    context = listener.tls_context()
    certificates.load(context, certificates.issue(datetime.now(UTC)))
    async with listener.serving(web.Application(), "127.0.0.1", 0, context) as port, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()


@pytest.mark.attack(18)
async def test_the_rest_of_a_refused_body_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.05)
    app = http.admission_app(lambda: None, lambda *_: None, Metrics())
    async with listener.serving(app, "127.0.0.1", 0) as port, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /deployments HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n{")
        assert (await reader.read()).startswith(b"HTTP/1.1 415"), "up to the connection's end"
        writer.close()


@pytest.mark.attack(10)
async def test_no_more_bytes_are_taken_than_fit_into_memory(running: Running) -> None:
    """While two senders keep all that may be in flight, a third waits for its turn."""
    head = "POST /deployments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{{"
    half = head.format(http.MAX_IN_FLIGHT_BYTES // 2)
    holding = [await speak(running, half, address) for address in ("127.0.0.8", "127.0.0.9")]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await running.post("/deployments", body())
    for _, writer in holding:
        writer.close()
    assert (await running.post("/deployments", body()))[0] == 200


@pytest.mark.attack(18)
async def test_idle_connections_are_closed_for_new_ones(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    silent = [await speak(running, start) for start in ("", "POST /depl", "")]
    async with running.client() as client:
        for _ in range(2):
            async with client.post("/deployments", data=body(), server_hostname=NAME) as answer:
                assert answer.status == 200
        async with asyncio.timeout(5):
            assert await silent[0][0].read() == b"", "the oldest is cut off, and no other"
        for reader, writer in silent[1:]:
            assert not reader.at_eof()
            writer.close()


@pytest.mark.attack(18)
async def test_a_connection_with_a_request_stays_open(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(http, "READ_SECONDS", 60)
    head = "POST /deployments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    reader, writer = await speak(running, head)
    assert (await running.post("/deployments", body()))[0] == 503
    writer.write(b"}".ljust(8))
    assert (await reader.readline()).split()[1] == b"400"
    writer.close()


@pytest.mark.attack(10)
async def test_what_is_compressed_is_never_unpacked(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[bytes] = []
    monkeypatch.setattr(aiohttp.http_parser.DeflateBuffer, "feed_data", lambda _, data, *more: unpacked.append(data))
    headers = {"Content-Encoding": "gzip"}
    assert (await running.post("/deployments", gzip.compress(body()), headers=headers))[0] == 415
    assert unpacked == []


@pytest.mark.parametrize("names", [(), ("apiserver",)])
@pytest.mark.attack(17)
async def test_with_an_authority_for_clients_only_its_certificates_are_answered(names: tuple[str, ...]) -> None:
    authority, stranger = signed("clients"), signed("clients")
    material = certificates.issue(datetime.now(UTC))
    pem = authority.certificate.public_bytes(serialization.Encoding.PEM).decode()
    context = listener.tls_context(pem)
    certificates.load(context, material)
    found = Running(context, material)
    app = http.admission_app(lambda: found.context, lambda *_: None, found.metrics, callers=names)

    async def ask(shown: certificates.Signer | None) -> int:
        async with found.client(shown) as client, client.post("/policies", data=body(), server_hostname=NAME) as answer:
            return answer.status

    async with listener.serving(app, "127.0.0.1", 0, context) as found.port:
        assert await ask(signed("apiserver", authority)) == 200
        assert await ask(signed("kubelet", authority)) == (403 if names else 200)
        for forged in (None, signed("apiserver", stranger)):
            with pytest.raises(aiohttp.ClientError):
                await ask(forged)


async def test_a_new_certificate_is_served_without_a_restart(running: Running) -> None:
    old = running.material
    running.material = certificates.issue(datetime.now(UTC))
    certificates.load(running.tls, running.material)
    assert (await running.post("/deployments", body()))[0] == 200
    running.material = old
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await running.post("/deployments", body())


@pytest.mark.attack(10)
async def test_the_byte_limiter_admits_what_fits_in_order() -> None:
    gate, order = scheduling.ByteLimiter(10), []

    async def enter(name: str, size: int, leave: asyncio.Event) -> None:
        async with gate.admit(size, name):
            order.append(name)
            await leave.wait()

    leave = asyncio.Event()
    first = asyncio.create_task(enter("first", 8, leave))
    await asyncio.sleep(0)
    large = asyncio.create_task(enter("large", 5, asyncio.Event()))
    small = asyncio.create_task(enter("small", 1, asyncio.Event()))
    await asyncio.sleep(0)
    assert order == ["first"]
    large.cancel()  # one that gives up does not hold up those behind it
    await asyncio.wait({large})
    await asyncio.sleep(0)
    assert order == ["first", "small"]
    leave.set()
    await first
    async with gate.admit(9, "other"):
        beyond = asyncio.create_task(enter("beyond", 1, asyncio.Event()))
        await asyncio.sleep(0)
        assert "beyond" not in order, "who gave up gave nothing back that it did not have"
    for task in (small, beyond):
        task.cancel()


@pytest.mark.attack(18)
async def test_one_peer_has_half_of_what_may_be_in_flight_and_waits_beside_the_others() -> None:
    gate, inside = scheduling.ByteLimiter(10), []

    async def enter(number: int) -> None:
        async with gate.admit(1, "many"):
            inside.append(number)
            await asyncio.Event().wait()

    async with gate.admit(4, "many"), gate.admit(1, "many"):
        more = [asyncio.create_task(enter(number)) for number in range(20)]
        await asyncio.sleep(0)
        assert inside == []
        async with asyncio.timeout(1), gate.admit(5, "other"):
            pass
    await asyncio.sleep(0)
    assert inside == [0, 1, 2, 3, 4]
    for task in more:
        task.cancel()


async def test_a_cancelled_turn_is_skipped() -> None:
    gate, entered = scheduling.ByteLimiter(1), asyncio.Event()

    async def enter() -> None:
        async with gate.admit(1):
            entered.set()

    async with gate.admit(1):
        impatient, patient = asyncio.create_task(enter()), asyncio.create_task(enter())
        await asyncio.sleep(0)
        impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    await patient
    assert entered.is_set()


async def test_at_the_end_the_requests_that_are_being_answered_are_finished() -> None:
    entered, go, left = asyncio.Event(), asyncio.Event(), []

    async def handle(_: web.Request) -> web.Response:
        entered.set()
        await go.wait()
        left.append("answered")
        return web.Response(text="late")

    app = web.Application()
    app.router.add_get("/", handle)
    async with aiohttp.ClientSession() as client:
        async with listener.serving(app, "127.0.0.1", 0) as port:
            asked = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/"))
            await entered.wait()
            asyncio.get_running_loop().call_later(0.05, go.set)
        assert left == ["answered"]
        assert await (await asked).text() == "late"


async def test_health_readiness_and_metrics() -> None:
    missing = ["certificates"]
    app = http.health_app(lambda: missing, Metrics())
    async with (
        listener.serving(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        async with client.get("/healthz") as answer:
            assert answer.status == 200
        async with client.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "waiting for certificates\n")
        missing.clear()
        async with client.get("/readyz") as answer:
            assert answer.status == 200
        async with client.get("/metrics") as answer:
            assert "kubectl_serve_leading 0.0" in await answer.text()


# --- Reviews that take long


def a_review(size: int) -> bytes:
    written = body(object={"metadata": {"name": "iris"}})
    return written + b" " * (size - len(written))


SMALL, LARGE = a_review(1024), a_review(scheduling.INLINE_BYTES + 1)


@pytest.fixture
async def judges() -> AsyncIterator[ReviewExecutor]:
    made = ReviewExecutor()
    yield made
    await made.close()


@pytest.mark.attack(18, 22)
async def test_others_are_answered_while_a_large_review_is_judged(judges: ReviewExecutor) -> None:
    answered = threading.Event()

    def takes_long(_: review.AdmissionRequest) -> review.AdmissionResponse:
        return review.AdmissionResponse(warnings=(str(answered.wait(timeout=10)),))

    large = asyncio.create_task(judges.judge(LARGE, takes_long))
    await asyncio.sleep(0.01)
    await judges.judge(SMALL, lambda _: review.AdmissionResponse())
    answered.set()
    assert b'"warnings": ["True"]' in (await large)[0]


@pytest.mark.attack(10, 22)
async def test_one_large_review_is_judged_at_a_time(judges: ReviewExecutor) -> None:
    """Each takes memory of its own."""
    busy, most = 0, 0

    def counted(_: review.AdmissionRequest) -> review.AdmissionResponse:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        time.sleep(0.01)
        busy -= 1
        return review.AdmissionResponse()

    await asyncio.gather(*(judges.judge(LARGE, counted) for _ in range(4)))
    assert most == 1


@pytest.mark.attack(18, 22)
async def test_of_waiting_reviews_the_smallest_is_judged_first(judges: ReviewExecutor) -> None:
    started, go, order = threading.Event(), threading.Event(), []

    def first(_: review.AdmissionRequest) -> review.AdmissionResponse:
        started.set()
        return review.AdmissionResponse(problems=(str(go.wait(timeout=10)),))

    async def judge(size: int) -> None:
        await judges.judge(a_review(size), lambda _: review.AdmissionResponse())
        order.append(size)

    waiting: list[asyncio.Task[Any]] = [asyncio.create_task(judges.judge(LARGE, first))]
    await asyncio.to_thread(started.wait)
    waiting += [asyncio.create_task(judge(size)) for size in (3_000_000, 40_000, 1_000_000, 50_000)]
    await asyncio.sleep(0)
    waiting[-1].cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [40_000, 1_000_000, 3_000_000]


@pytest.mark.attack(18, 22)
async def test_a_review_that_waits_too_long_is_refused(judges: ReviewExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "WAIT_SECONDS", 0.05)
    answered = threading.Event()
    first = asyncio.create_task(
        judges.judge(LARGE, lambda _: review.AdmissionResponse(problems=(str(answered.wait(10)),)))
    )
    await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        await judges.judge(LARGE, lambda _: review.AdmissionResponse())
    answered.set()
    await first
    assert (await judges.judge(LARGE, lambda _: review.AdmissionResponse()))[1] == "allowed"


@pytest.mark.attack(18, 22)
async def test_many_small_reviews_let_everything_else_have_its_turn(
    judges: ReviewExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "WAIT_SECONDS", 60.0)

    def takes_a_while(_: review.AdmissionRequest) -> review.AdmissionResponse:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return review.AdmissionResponse()

    held: list[float] = []

    async def tick() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            held.append(time.thread_time() - before)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(judges.judge(SMALL, takes_a_while) for _ in range(30)))
    ticking.cancel()
    assert max(held) < 0.1, "of 0.6 s that they take together"


@pytest.mark.attack(18)
async def test_many_small_reviews_of_one_peer_do_not_delay_other_peers(
    judges: ReviewExecutor,
) -> None:
    started, go, order = threading.Event(), threading.Event(), []

    def first(_: review.AdmissionRequest) -> review.AdmissionResponse:
        started.set()
        return review.AdmissionResponse(problems=(str(go.wait(timeout=10)),))

    async def judge(size: int, peer: str) -> None:
        await judges.judge(a_review(size), lambda _: review.AdmissionResponse(), peer)
        order.append(peer)

    waiting = [asyncio.create_task(judges.judge(LARGE, first, "many"))]
    await asyncio.to_thread(started.wait)
    crowd = [asyncio.create_task(judge(scheduling.INLINE_BYTES + 1, "many")) for _ in range(20)]
    crowd += [asyncio.create_task(judge(500_000, "other"))]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*waiting, *crowd)
    assert order.index("other") <= 1


@pytest.mark.attack(18)
async def test_a_peer_that_keeps_all_connections_busy_loses_one_to_another(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(http, "READ_SECONDS", 60)
    head = "POST /deployments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
    busy = [await speak(running, head, "127.0.0.9") for _ in range(3)]
    await asyncio.sleep(0.05)
    for _ in range(2):
        assert (await running.post("/deployments", body()))[0] == 200
    async with asyncio.timeout(5):
        with suppress(ConnectionError):
            assert await busy[2][0].read() == b"", "its newest is cut off"
    for reader, writer in busy[:2]:
        assert not reader.at_eof()
        writer.close()


@pytest.mark.attack(18)
async def test_a_disconnect_before_the_body_is_not_logged(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    head = "POST /deployments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{{"
    sizes = [90, http.MAX_IN_FLIGHT_BYTES // 2 - 90, 1000, 1000]
    for _, writer in [await speak(running, head.format(size)) for size in sizes]:
        await asyncio.sleep(0.01)
        writer.transport.abort()
    assert (await running.post("/deployments", body()))[0] == 200
    await asyncio.sleep(0.05)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.attack(10)
@pytest.mark.parametrize("known", [True, False])
async def test_of_what_was_turned_away_nothing_is_kept_while_its_connection_stays_open(
    known: bool, running: Running
) -> None:
    head = "POST /policies HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    running.context = running.context if known else None
    open_ones, answers = [], set()
    tracemalloc.start()
    try:
        for _ in range(10):
            reader, writer = await speak(running, head.format(2**20) + "[" + " " * (2**20 - 1))
            answers.add((await reader.readline()).split()[1])
            open_ones.append(writer)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answers == {b"400" if known else b"503"}
    assert kept < 6 * 2**20, "of 10 MiB"
    for writer in open_ones:
        writer.close()
