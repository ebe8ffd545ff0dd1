"""One replica from start to end."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import trustme

from serve_core.admission.completion import snapshots
from serve_core.api.annotations import MODEL, TIMEOUT
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject
from serve_core.context.cluster import REQUIRED_FEATURES, LoaderConfig
from serve_core.policy.v1alpha1 import ServingPolicy
from serve_kube.errors import UnavailableError
from serve_kube.resources import (
    CONFIG_MAPS,
    KNATIVE_SERVICES,
    LEASES,
    MODEL_RUNTIMES,
    NAMESPACES,
    PODS,
    POLICIES,
    POLICY_REPORTS,
    VALIDATING_WEBHOOKS,
)
from serve_webhook.app import DEFAULTS, FEATURES, Replica, ReplicaOptions
from serve_webhook.certs import authority
from serve_webhook.certs.rotation import SECRET, WEBHOOKS, read_secret
from serve_webhook.settings import Configuration
from support.fake_api import MemoryApi
from support.reviews import FACTS, MEMORY, STORES, document, knative, pod, request
from support.waiting import until

REVIEW = json.dumps(
    {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "u-1", "operation": "DELETE", "userInfo": {}},
    }
).encode()
CONFIGURATION = Configuration(FACTS.loader, ())


def replica(api: MemoryApi, folder: Path, name: str = "server-1", certificate: Path | None = None) -> Replica:
    options = ReplicaOptions(
        identity=name,
        settings=folder / "settings.yaml",
        runtimes=folder / "runtimes",
        host="127.0.0.1",
        port=0,
        health_port=0,
        drain_seconds=0.05,
        certificate=certificate,
    )
    return Replica(api, options, CONFIGURATION)


@asynccontextmanager
async def started(made: Replica, stop: asyncio.Event) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(made.run(stop))
    async with asyncio.timeout(10):
        yield task


async def ask(api: MemoryApi, caplog: pytest.LogCaptureFixture, body: bytes, path: str = "policies") -> tuple[int, str]:
    name, headers = authority.SERVER_NAMES[0], {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(ssl=trusting(api))
    async with (
        aiohttp.ClientSession(f"https://127.0.0.1:{port_of(caplog)}", connector=connector) as client,
        client.post(f"/{path}", data=body, server_hostname=name, headers=headers) as answer,
    ):
        return answer.status, await answer.text()


def reported(made: Replica) -> str:
    """Its metrics."""
    return made._metrics.render().decode()


async def ready(made: Replica) -> None:
    while made.missing():  # noqa: ASYNC110 - it is asked, as the kubelet asks
        await asyncio.sleep(0.01)


def port_of(caplog: pytest.LogCaptureFixture) -> int:
    """Where a replica that is ready said that it answers."""
    said = next(line for line in caplog.messages if "Answering reviews on port" in line)
    return int(said.split()[-1].rstrip("."))


def trusting(api: MemoryApi) -> ssl.SSLContext:
    material = read_secret(api.objects["secrets", NAMESPACE, SECRET])
    assert material
    return ssl.create_default_context(cadata=material.bundle.decode())


async def test_it_becomes_ready_leads_and_gives_the_lease_back_at_the_end(api: MemoryApi, tmp_path: Path) -> None:
    made, stop = replica(api, tmp_path), asyncio.Event()
    assert made.missing() == [
        "certificates",
        "Knative's feature flags",
        "Knative's defaults",
        "Knative's autoscaler",
        "Knative's images",
        "the node cache",
        "Deployments",
        "Istio's configuration",
        "policies",
        "runtimes",
        "Services",
        "what models are completed with",
    ]
    async with started(made, stop) as task:
        await ready(made)
        assert ("secrets", NAMESPACE, SECRET) in api.objects
        stop.set()
        while not made.missing():  # noqa: ASYNC110 - it is asked, as the kubelet asks
            await asyncio.sleep(0)
        assert made.missing() == ["its end"]
        await task
    assert api.objects[LEASES.plural, NAMESPACE, "kubectl-serve"]["spec"]["holderIdentity"] == ""


async def test_requests_in_flight_are_answered_after_the_stop_signal(
    api: MemoryApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        await ready(made)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port_of(caplog), ssl=trusting(api), server_hostname=authority.SERVER_NAMES[0]
        )
        head = "POST /deployments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
        writer.write(head.format(len(REVIEW)).encode() + REVIEW[:10])
        await writer.drain()
        stop.set()
        while not made.missing():  # noqa: ASYNC110 - it is asked, as the kubelet asks
            await asyncio.sleep(0)
        writer.write(REVIEW[10:])
        answer = await reader.read()  # up to its end: the server closes the connection
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer
        writer.close()
        await task


async def test_with_a_certificate_of_another_issuer_it_writes_no_secret_and_no_bundle(
    api: MemoryApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    issuer = trustme.CA()
    leaf = issuer.issue_cert(authority.SERVER_NAMES[0])
    (tmp_path / "tls.crt").write_bytes(leaf.cert_chain_pems[0].bytes())
    (tmp_path / "tls.key").write_bytes(leaf.private_key_pem.bytes())
    configuration = VALIDATING_WEBHOOKS.identity(name=WEBHOOKS)
    configuration["webhooks"] = [{"name": "policies-pods.kubectl-serve.dev", "clientConfig": {"caBundle": "issuer's"}}]
    api.put(VALIDATING_WEBHOOKS, configuration)
    made, stop = replica(api, tmp_path, certificate=tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        await ready(made)
        trust = ssl.create_default_context(cadata=issuer.cert_pem.bytes().decode())
        name = authority.SERVER_NAMES[0]
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(caplog), ssl=trust, server_hostname=name)
        writer.close()
        await until(lambda: webhook_of(api).get("failurePolicy"))
        stop.set()
        await task
    assert webhook_of(api)["clientConfig"] == {"caBundle": "issuer's"}
    assert ("secrets", NAMESPACE, SECRET) not in api.objects


def webhook_of(api: MemoryApi) -> JsonObject:
    found: JsonObject = api.objects[VALIDATING_WEBHOOKS.plural, "", WEBHOOKS]["webhooks"][0]
    return found


async def test_a_second_replica_serves_without_leading(api: MemoryApi, tmp_path: Path) -> None:
    first, second, stop = replica(api, tmp_path), replica(api, tmp_path, "server-2"), asyncio.Event()
    async with started(first, stop) as one, started(second, stop) as two:
        await ready(first)
        await ready(second)
        stop.set()
        await asyncio.gather(one, two)


@pytest.mark.attack(20)
async def test_it_waits_for_an_api_server_that_is_away(
    api: MemoryApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_webhook.cache.informers.backoff", lambda _: 0.01)
    api.failures["list configmaps"] = UnavailableError("not yet")
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        while "certificates" in made.missing():  # noqa: ASYNC110 - it is asked, as the kubelet asks
            await asyncio.sleep(0.01)
        assert made.missing() == [
            "Knative's feature flags",
            "Knative's defaults",
            "Knative's autoscaler",
            "Knative's images",
            "Istio's configuration",
            "what models are completed with",
        ]
        api.failures.clear()
        await ready(made)
        stop.set()
        await task


@pytest.mark.attack(20)
@pytest.mark.parametrize(
    ("unread", "lacking"),
    [
        (
            "configmaps",
            [
                "Knative's feature flags",
                "Knative's defaults",
                "Knative's autoscaler",
                "Knative's images",
                "Istio's configuration",
                "what models are completed with",
            ],
        ),
        ("deployments", ["Deployments"]),
        ("namespaces", ["Istio's configuration"]),
        ("servingpolicies", ["policies"]),
        ("policyexceptions", ["policies"]),
        ("modelruntimes", ["runtimes", "what models are completed with"]),
        ("services", ["Services"]),
    ],
)
async def test_nothing_is_answered_while_one_thing_was_not_read(
    api: MemoryApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    unread: str,
    lacking: list[str],
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("serve_webhook.cache.informers.backoff", lambda _: 0.01)
    api.put(NAMESPACES, {"metadata": {"name": "ml"}})
    api.failures[f"list {unread}"] = UnavailableError("not yet")
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        while made.missing() != lacking:  # noqa: ASYNC110 - it is asked, as the kubelet asks
            await asyncio.sleep(0.01)
        assert (await ask(api, caplog, request(knative())))[0] == 503
        api.failures.clear()
        await ready(made)
        assert (await ask(api, caplog, request(knative())))[0] == 200
        stop.set()
        await task


@pytest.mark.attack(20)
async def test_who_leads_before_the_policies_were_read_opens_no_webhook(
    api: MemoryApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_webhook.cache.informers.backoff", lambda _: 0.01)
    known: list[list[str]] = []

    def wanted(policies: Iterable[ServingPolicy]) -> Mapping[str, str]:
        known.append([policy.name for policy in policies])
        return {}

    monkeypatch.setattr("serve_webhook.failure_policy.wanted", wanted)
    api.put(VALIDATING_WEBHOOKS, VALIDATING_WEBHOOKS.identity(name=WEBHOOKS) | {"webhooks": []})
    api.put(POLICIES, document("ServingPolicy", STORES))
    api.failures["list servingpolicies"] = UnavailableError("not yet")
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        while made.missing() != ["policies"] or "kubectl_serve_leading 1.0" not in reported(made):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        for _ in range(50):
            await asyncio.sleep(0)
        api.failures.clear()
        while not known:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        stop.set()
        await task
    assert known[0] == ["stores"]


async def test_a_defect_ends_the_process_so_that_it_restarts(
    api: MemoryApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr("serve_webhook.certs.rotation.CertificateRotation.run", broken)
    with pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="oops"))):
        await replica(api, tmp_path).run(asyncio.Event())


@pytest.mark.attack(4)
async def test_a_namespace_as_new_as_what_is_made_in_it_is_waited_for(
    api: MemoryApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a policy that selects namespaces by label would not be about it yet."""
    caplog.set_level("INFO")
    policy = document("ServingPolicy", "match: {namespaceSelector: {matchLabels: {tier: production}}}\n" + STORES)
    api.put(POLICIES, policy)
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        await ready(made)
        assert (await ask(api, caplog, request(knative(), namespace="never")))[0] == 429
        asked = asyncio.create_task(ask(api, caplog, request(knative())))
        done, _ = await asyncio.wait({asked}, timeout=0.05)
        assert not done
        api.put(NAMESPACES, {"metadata": {"name": "ml", "labels": {"tier": "production"}}})
        assert "SourceNotAllowed" in (await asked)[1]
        stop.set()
        await task


async def test_settings_that_change_count_from_then_on_and_everything_is_audited_by_them(
    api: MemoryApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_webhook.settings.POLL_SECONDS", 0.01)
    monkeypatch.setattr("serve_webhook.audit.background.SETTLE_SECONDS", 0.01)
    api.put(NAMESPACES, {"metadata": {"name": "ml"}})
    api.put(CONFIG_MAPS, {"metadata": {"namespace": "knative-serving", "name": "config-deployment"},
                          "data": {"queue-sidecar-image": "platform.example/queue:1"}})  # fmt: skip
    beside = [{"name": name, "image": f"platform.example/{name}:1", **MEMORY} for name in ("queue", "sidecar")]
    served = pod("s3://models/a")
    served["spec"]["containers"] += beside
    api.put(PODS, served)
    api.put(POLICIES, document("ServingPolicy", STORES))
    report = (POLICY_REPORTS.plural, "ml", "kubectl-serve")
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        while report not in api.objects:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        (entry,) = api.objects[report]["results"]
        assert "platform.example/sidecar:1" in entry["message"]
        assert "platform.example/queue:1" not in entry["message"]
        settings = f"{{loader: {{image: '{FACTS.loader.image}'}}, sidecarImages: ['platform.example/sidecar:1']}}"
        (tmp_path / "settings.yaml").write_text(settings)
        while report in api.objects:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        stop.set()
        await task


async def test_a_namespace_that_comes_under_a_policy_by_its_label_is_audited_at_once(
    api: MemoryApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_webhook.audit.background.SETTLE_SECONDS", 0.01)
    api.put(NAMESPACES, {"metadata": {"name": "ml"}})
    api.put(KNATIVE_SERVICES, knative())
    api.put(POLICIES, document("ServingPolicy", "match: {namespaceSelector: {matchLabels: {tier: high}}}\n" + STORES))
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        while POLICY_REPORTS.plural not in {each.partition(" ")[0] for each in api.lists}:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        report = (POLICY_REPORTS.plural, "ml", "kubectl-serve")
        assert report not in api.objects
        api.put(NAMESPACES, {"metadata": {"name": "ml", "labels": {"tier": "high"}}})
        while report not in api.objects:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        violated = 'kubectl_serve_policy_violations{policy="stores"'
        assert violated in reported(made)
        stop.set()
        await task
    assert violated not in reported(made), "it no longer leads, and the next leader reports it"
    assert "kubectl_serve_audit_timestamp_seconds 0.0" in reported(made)
    assert "kubectl_serve_leading 0.0" in reported(made)


async def test_admission_names_only_what_is_kept_and_a_dry_run_writes_nothing(
    api: MemoryApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    api.put(NAMESPACES, {"metadata": {"name": "ml"}})
    runtime = {"formats": [{"name": "sklearn"}], "protocols": ["v2"], "container": {"image": "example.com/server:1"}}
    api.put(MODEL_RUNTIMES, {"apiVersion": "kubectl-serve.dev/v1alpha1", "kind": "ModelRuntime",
                             "metadata": {"name": "server"}, "spec": runtime})  # fmt: skip
    features = {"namespace": FEATURES[0], "name": FEATURES[1]}
    api.put(CONFIG_MAPS, {"metadata": features, "data": dict(REQUIRED_FEATURES)})
    notes = {MODEL: "s3://models/iris/model.joblib"}
    new = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris", "namespace": "ml", "annotations": notes},
    }
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        await ready(made)
        while "kubectl_serve_leading 1.0" not in reported(made):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        written = list(api.writes)
        status, text = await ask(api, caplog, request(new), "deployments")
        assert (status, api.writes) == (200, written)
        patch = json.loads(base64.b64decode(json.loads(text)["response"]["patch"]))
        record = next(json.loads(each["value"]) for each in patch if each["path"].endswith("completed-with"))
        for digest in (record["loader"], record["runtime"]["digest"]):
            assert (CONFIG_MAPS.plural, NAMESPACE, f"completion-{digest}") in api.objects
        stop.set()
        await task


async def test_the_leader_deletes_what_no_model_was_completed_with(
    api: MemoryApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_webhook.cache.snapshots.PASS_SECONDS", 0.01)
    monkeypatch.setattr("serve_webhook.cache.snapshots.GRACE", timedelta(0))
    earlier = snapshots.config_map(LoaderConfig("loader:0"))
    api.put(CONFIG_MAPS, earlier)
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        await ready(made)
        while (CONFIG_MAPS.plural, NAMESPACE, earlier["metadata"]["name"]) in api.objects:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        stop.set()
        await task


async def test_the_maximum_timeout_is_that_of_knatives_defaults_at_the_time(
    api: MemoryApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    api.put(NAMESPACES, {"metadata": {"name": "ml"}})
    notes = {MODEL: "s3://models/iris/model.joblib", TIMEOUT: "30m"}
    pod_spec = {"containers": [{"name": "server", "image": "example.com/server:1", "ports": [{"containerPort": 8080}]}]}
    new = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris", "namespace": "ml", "annotations": notes},
        "spec": {"template": {"spec": pod_spec}},
    }
    defaults = {"namespace": DEFAULTS[0], "name": DEFAULTS[1]}
    made, stop = replica(api, tmp_path), asyncio.Event()
    async with started(made, stop) as task:
        await ready(made)
        assert "TimeoutTooLong" in (await ask(api, caplog, request(new), "deployments"))[1]
        api.put(CONFIG_MAPS, {"metadata": defaults, "data": {"max-revision-timeout-seconds": "3600"}})
        while "TimeoutTooLong" in (await ask(api, caplog, request(new), "deployments"))[1]:  # noqa: ASYNC110 - it is asked, as users ask
            await asyncio.sleep(0.01)
        api.put(CONFIG_MAPS, {"metadata": defaults, "data": {"max-revision-timeout-seconds": "1200"}})
        while "TimeoutTooLong" not in (await ask(api, caplog, request(new), "deployments"))[1]:  # noqa: ASYNC110 - it is asked, as users ask
            await asyncio.sleep(0.01)
        stop.set()
        await task
