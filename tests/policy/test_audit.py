"""The audit: bounded reports, conditions, metrics, and exceptions that end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from kubectl_serve.manifests import default_facts
from serve_core.facts import PlatformFacts
from serve_core.json import JsonObject
from serve_core.names import NAMESPACE
from serve_core.policy.documents import read_exception, read_policy
from serve_core.policy.trial import run as try_documents
from serve_core.verdict import judge
from serve_webhook import audit
from serve_webhook.api import DEPLOYMENTS, KNATIVE_SERVICES, POLICIES, POLICY_EXCEPTIONS, POLICY_REPORTS
from serve_webhook.audit import Audit
from serve_webhook.events import Recorder
from serve_webhook.informers import Informer
from serve_webhook.metrics import Metrics
from serve_webhook.policies import Policies
from webhook_api import Clock, MemoryApi

NOW = datetime(2026, 11, 18, tzinfo=UTC)
BASE = default_facts()


def document(kind: str, name: str, spec: str, **metadata: str) -> JsonObject:
    head = {"apiVersion": "kubectl-serve.dev/v1alpha1", "kind": kind, "metadata": {"name": name, **metadata}}
    return head | {"spec": yaml.safe_load(spec)}


STORES = document("ServingPolicy", "stores", "rules: [{name: places, sources: {allow: ['s3://models']}}]")
WATCHED = document("ServingPolicy", "watched", "{action: Audit, rules: [{name: owner, label: {key: owner}}]}")
EXCEPTION = document(
    "PolicyException",
    "late",
    "{policy: stores, rules: [places], match: {namespace: ml, name: bad}, expires: '2026-11-18T00:05:00Z',"
    " reason: we move, ticket: OPS-1}",
    namespace=NAMESPACE,
)


def facts(*policies: JsonObject) -> PlatformFacts:
    return PlatformFacts(BASE.loader, BASE.runtimes, policies=tuple(map(read_policy, policies)))


def deployment(name: str, uri: str = "s3://models/a.joblib", namespace: str = "ml") -> JsonObject:
    metadata = {"name": name, "namespace": namespace, "annotations": {"kubectl-serve.dev/model": uri}}
    made = judge({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}, BASE).deployment
    assert made is not None
    return made


def audited(objects: list[JsonObject], *policies: JsonObject, exceptions: Any = (), now: datetime = NOW) -> Any:
    return list(audit.audit(objects, facts(*policies), tuple(map(read_exception, exceptions)), now))


@pytest.mark.attack(11)
def test_a_report_has_a_bounded_number_of_entries_the_worst_first_and_counts_all() -> None:
    many = [deployment(f"m{i:03}", "s3://elsewhere/a.joblib" if i % 2 else "s3://models/a.joblib") for i in range(150)]
    (report,) = audit.reports(audited(many, STORES, WATCHED))
    assert len(report["results"]) == audit.MOST_RESULTS
    assert report["summary"] == {"pass": 75, "fail": 225, "warn": 0, "error": 0, "skip": 0}
    assert [entry["severity"] for entry in report["results"][:76]] == ["high"] * 75 + ["low"]


def test_a_namespace_in_which_all_is_well_has_no_report() -> None:
    assert audit.reports(audited([deployment("good")], STORES)) == []


@pytest.mark.attack(19)
def test_an_exception_that_has_expired_stops_to_count() -> None:
    bad = [deployment("bad", "s3://elsewhere/a.joblib")]
    (during,) = audit.reports(audited(bad, STORES, exceptions=[EXCEPTION]))
    assert during["results"][0]["result"] == "skip"
    later = NOW + timedelta(minutes=5)
    (after,) = audit.reports(audited(bad, STORES, exceptions=[EXCEPTION], now=later))
    assert after["results"][0]["result"] == "fail"


def test_the_next_audit_is_when_the_next_exception_ends() -> None:
    exceptions = [read_exception(EXCEPTION)]
    assert audit.seconds_to_next(exceptions, NOW) == 300.1
    assert audit.seconds_to_next(exceptions, NOW + timedelta(minutes=6)) == audit.INTERVAL.total_seconds() + 0.1


def test_the_condition_says_what_is_broken_and_how_to_read_more() -> None:
    bad, good = audited([deployment("bad", "s3://elsewhere/a.joblib"), deployment("good")], STORES)
    told = audit.compliance(bad)
    assert told is not None
    assert (told.status, told.reason) == ("False", "PolicyViolated")
    assert "stores/places does not allow models from s3://elsewhere/a.joblib" in told.message
    assert told.message.endswith("Read `kubectl serve policy explain bad`.")
    fine = audit.compliance(good)
    assert fine is not None
    assert fine.status == "True"
    (untouched,) = audited([deployment("other", namespace="x")])
    assert audit.compliance(untouched) is None


def test_the_audit_and_the_desk_say_the_same() -> None:
    objects = [deployment("bad", "s3://elsewhere/a.joblib"), deployment("good")]
    ours = [one.verdict for one in audited(objects, STORES, WATCHED)]
    desk = try_documents([STORES, WATCHED, *objects], BASE, NOW, stored=True)
    assert ours == [each.verdict for each in desk.tried]


@asynccontextmanager
async def auditing(api: MemoryApi, clock: Clock) -> AsyncIterator[tuple[Audit, Informer, Metrics]]:
    """The audit of what ``api`` has, its Deployments as they are watched, and its metrics."""

    def informer(resource: Any, **arguments: Any) -> Informer:
        return Informer(api, resource, **arguments)

    metrics, policies = Metrics(), Policies(informer, lambda: None)
    deployments = informer(DEPLOYMENTS)
    tasks = [asyncio.create_task(part) for part in (*policies.parts(), deployments.run())]
    await policies.wait()
    await deployments.synced.wait()
    made = Audit(
        api,
        deployments=deployments,
        policies=policies,
        facts=lambda: PlatformFacts(BASE.loader, BASE.runtimes, policies=policies.policies),
        recorder=Recorder(api, "server-1", clock),
        metrics=metrics,
        now=clock,
    )
    yield made, deployments, metrics
    for task in tasks:
        task.cancel()


def compliant(api: MemoryApi) -> tuple[str, str]:
    (condition,) = api.objects[DEPLOYMENTS.plural, "ml", "bad"]["status"]["conditions"]
    assert condition["type"] == "kubectl-serve.dev/PolicyCompliant"
    return condition["status"], condition["lastTransitionTime"]


async def test_it_writes_what_it_found_and_nothing_twice(api: MemoryApi) -> None:
    api.put(POLICIES, STORES)
    api.put(DEPLOYMENTS, deployment("bad", "s3://elsewhere/a.joblib"))
    api.put(KNATIVE_SERVICES, {
        "apiVersion": "serving.knative.dev/v1", "kind": "Service",
        "metadata": {"name": "by-hand", "namespace": "other"},
        "spec": {"template": {"spec": {"containers": [
            {"image": "a", "env": [{"name": "STORAGE_URI", "value": "s3://elsewhere/b"}]}]}}},
    })  # fmt: skip
    clock = Clock()
    clock.now = NOW
    async with auditing(api, clock) as (made, deployments, metrics):
        await made.once()
        assert compliant(api)[0] == "False"
        assert api.objects[POLICY_REPORTS.plural, "ml", "kubectl-serve"]["summary"]["fail"] == 1
        (entry,) = api.objects[POLICY_REPORTS.plural, "other", "kubectl-serve"]["results"]
        assert entry["resources"][0]["name"] == "by-hand"
        assert b'policy_violations{policy="stores",rule="places",verdict="Deny"} 2.0' in metrics.render()
        async with asyncio.timeout(5):
            while not deployments.get("ml", "bad")["status"]:  # type: ignore[index] # noqa: ASYNC110 - the watch brings it
                await asyncio.sleep(0)
        api.writes.clear()
        await made.once()
        assert api.writes == []


@pytest.mark.attack(19)
async def test_when_an_exception_ends_the_condition_turns_and_an_event_says_so(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock alone: nobody writes anything, and the audit looks again by itself."""
    monkeypatch.setattr(audit, "SETTLE_SECONDS", 0)
    ends = datetime(2026, 11, 18, 0, 5, tzinfo=UTC)
    api.put(POLICIES, STORES)
    api.put(POLICY_EXCEPTIONS, EXCEPTION)
    api.put(DEPLOYMENTS, deployment("bad", "s3://elsewhere/a.joblib"))
    clock = Clock()
    clock.now = ends - timedelta(milliseconds=100)
    async with auditing(api, clock) as (made, _, metrics), asyncio.timeout(10):

        async def reported(kind: str) -> None:
            report = (POLICY_REPORTS.plural, "ml", "kubectl-serve")
            while api.objects.get(report, {}).get("summary", {}).get(kind) != 1:  # noqa: ASYNC110 - it is written last
                await asyncio.sleep(0)

        running = asyncio.create_task(made.run())
        await reported("skip")
        assert compliant(api) == ("True", "2026-11-18T00:04:59Z")
        clock.now = ends
        await reported("fail")
        assert compliant(api) == ("False", "2026-11-18T00:05:00Z")
        assert [each["reason"] for where, each in api.objects.items() if where[0] == "events"] == ["PolicyViolated"]
        assert b'policy_violations{policy="stores",rule="places",verdict="Deny"} 1.0' in metrics.render()
        running.cancel()
