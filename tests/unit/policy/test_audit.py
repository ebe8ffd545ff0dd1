"""The audit: bounded reports, conditions, metrics, and exceptions that end."""

import asyncio
import copy
import itertools
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge
from serve_core.audit import stored_objects as existing_module
from serve_core.audit.dry_run import run as try_documents
from serve_core.audit.stored_objects import AuditedObject, Auditor
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.parse import read_exception, read_policy
from serve_kube.errors import UnavailableError
from serve_kube.paging import Page
from serve_kube.resources import (
    CONFIGURATIONS,
    DEPLOYMENTS,
    DOMAIN_MAPPINGS,
    KNATIVE_SERVICES,
    PODS,
    POLICIES,
    POLICY_EXCEPTIONS,
    POLICY_REPORTS,
    REVISIONS,
    ROUTES,
    key,
)
from serve_webhook.audit import background, policy_report
from serve_webhook.audit.background import BackgroundAudit
from serve_webhook.audit.findings import AuditFindings
from serve_webhook.cache.informers import Informer
from serve_webhook.cache.policies import PolicyCache
from serve_webhook.metrics import Metrics
from serve_webhook.reconcile.events import Recorder
from support.cpu_time import at_most
from support.fake_api import Clock, MemoryApi
from support.reviews import leading

NOW = datetime(2026, 11, 18, tzinfo=UTC)
BASE = default_context()


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


def context(*policies: JsonObject) -> ClusterContext:
    return ClusterContext(BASE.loader, BASE.runtimes, policies=tuple(map(read_policy, policies)))


def deployment(name: str, uri: str = "s3://models/a.joblib", namespace: str = "ml") -> JsonObject:
    metadata = {"name": name, "namespace": namespace, "annotations": {"kubectl-serve.dev/model": uri}}
    made = judge({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}, context(STORES)).deployment
    assert made is not None
    return made


FORBIDDEN = deployment("bad", "s3://elsewhere/a.joblib")


def audited(
    objects: list[JsonObject], *policies: JsonObject, exceptions: Any = (), now: datetime = NOW
) -> list[AuditedObject]:
    existing = Auditor(context(*policies), tuple(map(read_exception, exceptions)), now)
    return [judged for judged in map(existing.judge, objects) if judged is not None]


def reports_about(found: list[AuditedObject]) -> list[JsonObject]:
    kept = AuditFindings()
    for judged in found:
        kept.add(judged)
    return policy_report.reports(kept)


@pytest.mark.attack(11)
def test_a_report_has_a_bounded_number_of_entries_the_worst_first_and_counts_all() -> None:
    many = [deployment(f"m{i:03}", "s3://elsewhere/a.joblib" if i % 2 else "s3://models/a.joblib") for i in range(150)]
    (report,) = reports_about(audited(many, STORES, WATCHED))
    assert len(report["results"]) == policy_report.MAX_ENTRIES
    assert report["summary"] == {"pass": 75, "fail": 225, "warn": 0, "error": 0, "skip": 0}
    assert [entry["severity"] for entry in report["results"][:76]] == ["high"] * 75 + ["low"]


@pytest.mark.attack(25)
def test_thousands_of_bad_pods_are_counted_and_few_are_kept() -> None:
    rules = ", ".join(f"{{name: r{n}, images: {{allow: [registry{n}.example]}}}}" for n in range(20))
    broken = [document("ServingPolicy", f"p{n}", f"rules: [{rules}]") for n in range(5)]
    existing, found = Auditor(context(*broken), (), NOW), AuditFindings()
    objects = [(pod(f"evil-{n}"), deployment(f"large-{n}")) for n in range(40)]
    judged = [existing.judge(each) for each in itertools.chain.from_iterable(objects)]
    tracemalloc.start()
    for number in range(25):
        for one in judged:
            assert one is not None
            found.add(replace(one, name=f"{one.name}-{number}"))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.violations().total() == 25 * 80 * 100
    assert kept < 3 * 2**20, "of 200,000 results"
    with at_most(0.1):  # it runs beside the answers
        policy_report.reports(found)


@pytest.mark.attack(25)
def test_the_memory_of_reported_findings_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing_module, "MAX_REPORTED", 30)
    monkeypatch.setattr(existing_module, "MAX_COMPARED", 10_000)
    existing = Auditor(context(WATCHED, STORES), (), NOW)
    for number in range(100):
        assert existing.judge(deployment(f"m{number}", "s3://elsewhere/a.joblib"))
    assert len(existing._wholes) < 6
    assert sum(map(len, existing._reported.values())) < 40
    assert existing.judge(deployment("other", "s3://elsewhere/a.joblib", "other"))
    assert ("Deployment", "other", "other") in existing._wholes, "another namespace has room of its own"


@pytest.mark.attack(25)
def test_a_deployment_that_is_judged_again_is_counted_once_and_makes_room() -> None:
    found = AuditFindings()
    for _ in range(3):
        found.remove("ml", "bad")
        for judged in audited([FORBIDDEN], STORES, WATCHED):
            found.add(judged)
    (report,) = policy_report.reports(found)
    assert (report["summary"]["fail"], len(report["results"])) == (2, 2)
    found.remove("ml", "bad")
    assert policy_report.reports(found) == []


def test_an_entry_says_what_is_broken_where_and_how_bad_it_is() -> None:
    warned = document("ServingPolicy", "warned", "{action: Warn, rules: [{name: team, label: {key: team}}]}")
    others = [deployment("bad", "s3://elsewhere/a.joblib"), deployment("worse", "s3://elsewhere/a.joblib")]
    (report,) = reports_about(audited(others, STORES, WATCHED, warned, exceptions=[EXCEPTION]))
    assert [(each["resources"][0]["name"], each["result"], each["severity"]) for each in report["results"]] == [
        ("worse", "fail", "high"), ("bad", "warn", "medium"), ("worse", "warn", "medium"), ("bad", "fail", "low"),
        ("worse", "fail", "low"), ("bad", "skip", "info"),
    ]  # fmt: skip
    assert report["summary"] == {"pass": 0, "fail": 3, "warn": 2, "error": 0, "skip": 1}
    assert report["results"][0] | {"message": ""} == {
        "source": "kubectl-serve",
        "policy": "stores",
        "rule": "places",
        "result": "fail",
        "severity": "high",
        "message": "",
        "resources": [{"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "ml", "name": "worse"}],
    }
    assert "exception late suspends stores/places until 2026-11-18T00:05:00Z" in report["results"][-1]["message"]


@pytest.mark.attack(11)
def test_an_entry_of_a_report_has_a_bounded_length() -> None:
    images = [{"name": f"c{i}", "image": f"evil.example/{'a' * 200}{i}"} for i in range(20)]
    many = pod("many")
    many["spec"]["containers"] += images
    denied = document("ServingPolicy", "images", "rules: [{name: r, images: {deny: [evil.example]}}]")
    (report,) = reports_about(audited([many], denied))
    assert len(report["results"][0]["message"]) == 1024


def test_a_namespace_without_findings_has_no_report() -> None:
    assert reports_about(audited([deployment("good")], STORES)) == []


@pytest.mark.attack(19)
def test_an_expired_exception_does_not_apply() -> None:
    bad = [deployment("bad", "s3://elsewhere/a.joblib")]
    (during,) = reports_about(audited(bad, STORES, exceptions=[EXCEPTION]))
    assert during["results"][0]["result"] == "skip"
    later = NOW + timedelta(minutes=5)
    (after,) = reports_about(audited(bad, STORES, exceptions=[EXCEPTION], now=later))
    assert after["results"][0]["result"] == "fail"


def test_the_next_audit_is_when_the_next_exception_ends() -> None:
    exceptions = [read_exception(EXCEPTION)]
    assert background.next_audit(exceptions, NOW) == NOW + timedelta(minutes=5)
    later = NOW + timedelta(minutes=6)
    assert background.next_audit(exceptions, later) == later + background.INTERVAL


def test_the_condition_says_what_is_broken_and_how_to_read_more() -> None:
    bad, good = audited([deployment("bad", "s3://elsewhere/a.joblib"), deployment("good")], STORES)
    said = background.compliance(bad)
    assert said is not None
    assert (said.status, said.reason) == ("False", "PolicyViolated")
    assert "stores/places does not allow models from s3://elsewhere/a.joblib" in said.message
    assert said.message.endswith("Run `kubectl serve policy explain bad -n ml`.")
    fine = background.compliance(good)
    assert fine is not None
    assert fine.status == "True"
    (untouched,) = audited([deployment("other", namespace="x")])
    assert background.compliance(untouched) is None


def test_the_audit_and_the_command_agree() -> None:
    objects = [deployment("bad", "s3://elsewhere/a.joblib"), deployment("good")]
    ours = [one.verdict for one in audited(objects, STORES, WATCHED)]
    desk = try_documents([STORES, WATCHED, *objects], BASE, NOW, stored=True)
    assert ours == [each.verdict for each in desk.tried]


@asynccontextmanager
async def auditing(api: MemoryApi, clock: Clock) -> AsyncIterator[tuple[BackgroundAudit, Informer, Metrics]]:
    """The audit of what ``api`` has, its Deployments as they are watched, and its metrics."""

    def informer(resource: Any, **arguments: Any) -> Informer:
        return Informer(api, resource, **arguments)

    metrics, policies = Metrics(), PolicyCache(informer, lambda: None)
    deployments = informer(DEPLOYMENTS)
    tasks = [asyncio.create_task(part) for part in (*policies.parts(), deployments.run())]
    await policies.wait()
    await deployments.synced.wait()
    made = BackgroundAudit(
        api,
        deployments=deployments,
        policies=policies,
        context=lambda: ClusterContext(BASE.loader, BASE.runtimes, policies=policies.policies),
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
        await made.audit_all()
        assert compliant(api)[0] == "False"
        assert api.objects[POLICY_REPORTS.plural, "ml", "kubectl-serve"]["summary"]["fail"] == 1
        (entry,) = api.objects[POLICY_REPORTS.plural, "other", "kubectl-serve"]["results"]
        assert entry["resources"][0]["name"] == "by-hand"
        assert b'policy_violations{policy="stores",rule="places",verdict="Deny"} 2.0' in metrics.render()
        async with asyncio.timeout(5):
            while not deployments.get("ml", "bad").get("status"):  # type: ignore[union-attr] # noqa: ASYNC110 - the watch brings it
                await asyncio.sleep(0)
        api.writes.clear()
        await made.audit_all()
        assert api.writes == []


def pod(name: str) -> JsonObject:
    """One with the loader that was made by hand."""
    spec = copy.deepcopy(FORBIDDEN["spec"]["template"]["spec"])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ml"}, "spec": spec}


def by_hand(kind: str, name: str) -> JsonObject:
    template = {"spec": pod(name)["spec"]}
    head = {"apiVersion": "serving.knative.dev/v1", "kind": kind, "metadata": {"name": name, "namespace": "ml"}}
    return head | {"spec": template["spec"] if kind == "Revision" else {"template": template}}


def reported(api: MemoryApi) -> list[tuple[str, str]]:
    report = api.objects.get((POLICY_REPORTS.plural, "ml", "kubectl-serve"), {"results": []})
    return [(each["resources"][0]["kind"], each["resources"][0]["name"]) for each in report["results"]]


def reports_of(api: MemoryApi) -> list[str]:
    """The namespaces that have one."""
    return sorted(where[1] for where in api.objects if where[0] == POLICY_REPORTS.plural)


async def until_reported(api: MemoryApi, *wanted: tuple[str, str]) -> None:
    while reported(api) != list(wanted):  # noqa: ASYNC110 - it is written last
        await asyncio.sleep(0)


@pytest.mark.attack(2)
async def test_objects_that_users_make_are_found_until_they_are_deleted(api: MemoryApi) -> None:
    kinds = {CONFIGURATIONS: "Configuration", REVISIONS: "Revision", KNATIVE_SERVICES: "Service"}
    api.put(POLICIES, STORES)
    for resource, kind in kinds.items():
        api.put(resource, by_hand(kind, f"a-{kind.lower()}"))
    api.put(PODS, pod("a-pod"))
    api.put(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": "ml"}, "spec": {}})
    async with auditing(api, Clock()) as (made, _, metrics):
        await made.audit_all()
        assert reported(api) == [("Configuration", "a-configuration"), ("Pod", "a-pod"), ("Revision", "a-revision"),
                                 ("Service", "a-service")]  # fmt: skip
        assert b'policy_violations{policy="stores",rule="places",verdict="Deny"} 4.0' in metrics.render()
        for resource, kind in kinds.items():
            api.remove(resource, "ml", f"a-{kind.lower()}")
        await made.audit_all()
        assert reported(api) == [("Pod", "a-pod")]
        api.remove(PODS, "ml", "a-pod")
        await made.audit_all()
        assert (POLICY_REPORTS.plural, "ml", "kubectl-serve") not in api.objects


@pytest.mark.attack(2)
async def test_routes_and_domain_mappings_are_found(api: MemoryApi) -> None:
    api.put(POLICIES, document("ServingPolicy", "private", "rules: [{name: r, visibility: {allow: [cluster-local]}}]"))
    api.put(ROUTES, leading("Route") | {"metadata": {"name": "r", "namespace": "ml"}})
    api.put(DOMAIN_MAPPINGS, leading("DomainMapping"))
    async with auditing(api, Clock()) as (made, _, metrics):
        await made.audit_all()
        assert reported(api) == [("DomainMapping", "s"), ("Route", "r")]
        assert b'policy_violations{policy="private",rule="r",verdict="Deny"} 2.0' in metrics.render()


async def test_a_deployment_that_changes_is_judged_without_listing_the_pods_of_the_cluster(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "SETTLE_SECONDS", 0)
    api.put(POLICIES, STORES)
    api.put(PODS, pod("a-pod"))
    async with auditing(api, Clock()) as (made, _, _), asyncio.timeout(10):
        running = asyncio.create_task(made.run())
        await until_reported(api, ("Pod", "a-pod"))
        api.lists.clear()
        api.put(DEPLOYMENTS, deployment("bad", "s3://elsewhere/b.joblib"))
        await until_reported(api, ("Deployment", "bad"), ("Pod", "a-pod"))
        api.put(DEPLOYMENTS, deployment("bad"))
        await until_reported(api, ("Pod", "a-pod"))
        assert {each.partition(" ")[0] for each in api.lists} == {POLICY_REPORTS.plural}
        api.put(POLICIES, STORES | {"spec": {"rules": [{"name": "r", "sources": {"deny": ["s3://other"]}}]}})
        made.refresh()
        await until_reported(api)
        running.cancel()


async def test_only_a_changed_deployment_is_judged_again(api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "SETTLE_SECONDS", 0)
    api.put(POLICIES, STORES)
    for name, namespace in (("bad", "ml"), ("worse", "ml"), ("bad", "other")):
        api.put(DEPLOYMENTS, deployment(name, "s3://elsewhere/a.joblib", namespace))
    judged: list[tuple[str, str]] = []
    judge_one = Auditor.judge

    def noted(self: Auditor, document: JsonObject) -> AuditedObject | None:
        judged.append(key(document))
        return judge_one(self, document)

    monkeypatch.setattr(Auditor, "judge", noted)
    async with auditing(api, Clock()) as (made, _, metrics), asyncio.timeout(10):
        running = asyncio.create_task(made.run())
        await until_reported(api, ("Deployment", "bad"), ("Deployment", "worse"))
        judged.clear()
        api.lists.clear()
        api.put(DEPLOYMENTS, deployment("bad"))
        await until_reported(api, ("Deployment", "worse"))
        assert set(judged) == {("ml", "bad")}
        assert (POLICY_REPORTS.plural, "other", "kubectl-serve") in api.objects
        assert b'policy_violations{policy="stores",rule="places",verdict="Deny"} 2.0' in metrics.render()
        api.remove(DEPLOYMENTS, "ml", "worse")
        while (POLICY_REPORTS.plural, "ml", "kubectl-serve") in api.objects:  # noqa: ASYNC110 - it is written last
            await asyncio.sleep(0)
        running.cancel()


async def test_after_changes_in_several_namespaces_the_reports_are_listed_once(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "SETTLE_SECONDS", 0)
    api.put(POLICIES, STORES)
    for namespace in ("ml", "other", "third"):
        api.put(DEPLOYMENTS, deployment("bad", "s3://elsewhere/a.joblib", namespace))
    async with auditing(api, Clock()) as (made, deployments, _), asyncio.timeout(10):
        running = asyncio.create_task(made.run())
        while len(reports_of(api)) < 3:  # noqa: ASYNC110 - they are written last
            await asyncio.sleep(0)
        api.lists.clear()
        for namespace in ("ml", "other"):
            api.put(DEPLOYMENTS, deployment("bad", namespace=namespace))
        while len(reports_of(api)) > 1:  # noqa: ASYNC110 - they go last
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})
        await made.audit_changed()
        assert reports_of(api) == ["third"]
        assert [each.partition(" ")[0] for each in api.lists] == [POLICY_REPORTS.plural]

        api.put(DEPLOYMENTS, deployment("good"))
        while deployments.get("ml", "good") is None:  # noqa: ASYNC110 - the watch brings it
            await asyncio.sleep(0)
        await made.audit_changed()
        assert len(api.lists) == 1, "a replica that no longer leads reads nothing"


async def test_the_audits_own_writes_start_no_new_audit(api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "SETTLE_SECONDS", 0)
    api.put(POLICIES, STORES)
    api.put(DEPLOYMENTS, deployment("bad", "s3://elsewhere/a.joblib"))
    async with auditing(api, Clock()) as (made, deployments, _), asyncio.timeout(10):
        running = asyncio.create_task(made.run())
        while not (deployments.get("ml", "bad") or {}).get("status") or reported(api) != [("Deployment", "bad")]:  # noqa: ASYNC110 - the watch brings it
            await asyncio.sleep(0)
        api.lists.clear()
        for _ in range(100):
            await asyncio.sleep(0)
        assert api.lists == []
        running.cancel()


async def test_the_pause_between_audits_grows_with_their_size(api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(background, "PAUSE_FACTOR", 10**6)
    api.put(POLICIES, STORES)
    async with auditing(api, Clock()) as (made, _, _), asyncio.timeout(10):
        running = asyncio.create_task(made.run())
        while PODS.plural not in api.lists:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0)
        made.refresh()
        api.put(DEPLOYMENTS, deployment("bad", "s3://elsewhere/b.joblib"))
        await until_reported(api, ("Deployment", "bad"))
        assert api.lists.count(PODS.plural) == 1
        running.cancel()


async def test_an_audit_that_fails_is_repeated_soon(api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.01)
    api.put(POLICIES, STORES)
    api.put(PODS, pod("a-pod"))
    api.failures["list pods"] = UnavailableError("storage is (re)initializing", 429)
    async with auditing(api, Clock()) as (made, _, _), asyncio.timeout(10):
        running = asyncio.create_task(made.run())
        while api.lists.count(REVISIONS.plural) < 2:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0)
        api.failures.clear()
        await until_reported(api, ("Pod", "a-pod"))
        running.cancel()


class Spec(dict[str, Any]):
    """A pod's spec, which can be watched as it goes."""


async def test_the_audit_holds_one_page_of_pods_in_memory(api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: set[int] = set()
    most: list[int] = []

    size = 50

    async def listed(resource: Any, *_: Any) -> AsyncIterator[Page]:
        for page in range(2000 // size if resource is PODS else 0):
            objects = [pod(f"p-{page}-{number}") for number in range(size)]
            for each in objects:
                each["spec"] = Spec(each["spec"])
                alive.add(id(each["spec"]))
                weakref.finalize(each["spec"], alive.discard, id(each["spec"]))
            most.append(len(alive))
            yield Page(objects, "1")
            del objects, each

    api.put(POLICIES, STORES)
    async with auditing(api, Clock()) as (made, _, metrics):
        monkeypatch.setattr(api, "pages", listed)
        await made.audit_all()
    assert b'policy_violations{policy="stores",rule="places",verdict="Deny"} 2000.0' in metrics.render()
    assert max(most) <= 2 * size
    assert not alive


@pytest.mark.attack(19)
async def test_when_an_exception_ends_the_condition_turns_and_an_event_says_so(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock alone starts the next audit; no object changes."""
    monkeypatch.setattr(background, "SETTLE_SECONDS", 0)
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
