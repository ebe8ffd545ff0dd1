"""One object of a user ends no process, keeps no other from being handled, and counts again when it is
corrected."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from serve_core.admission.decide import judge
from serve_core.api import annotations
from serve_core.audit.stored_objects import Auditor
from serve_core.base.constants import CONDITION_COMPLIANT, CONDITION_READY, SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_core.context.cluster import REQUIRED_FEATURES, ClusterContext, LoaderConfig
from serve_kube.access import Connection
from serve_kube.http_client import HttpClient
from serve_kube.paging import Unread
from serve_kube.resources import (
    CONFIG_MAPS,
    CONFIGURATIONS,
    DAEMON_SETS,
    DEPLOYMENTS,
    DOMAIN_MAPPINGS,
    EVENTS,
    INFERENCE_SERVICES,
    KNATIVE_SERVICES,
    MODEL_RUNTIMES,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    NODES,
    OWNED,
    PODS,
    POLICIES,
    POLICY_EXCEPTIONS,
    POLICY_REPORTS,
    REVISIONS,
    ROUTES,
    SECRETS,
    SERVICE_ENTRIES,
    SERVICES,
    VALIDATING_WEBHOOKS,
)
from serve_webhook.app import FEATURES, Replica, ReplicaOptions
from serve_webhook.cache import informers
from serve_webhook.cache.informers import Informer
from serve_webhook.connection import client
from serve_webhook.reconcile import plan
from serve_webhook.reconcile.conditions import stored as condition
from serve_webhook.settings import Configuration
from serve_webhook.work_queue import WorkQueue
from support.fake_api import MemoryApi
from support.http_api import serving
from support.replica_sets import of_revision
from support.reviews import STORES, document
from support.stored import DEEP, READABLE, UNREADABLE, stored, text, with_value
from support.waiting import running, until

pytestmark = pytest.mark.attack(23)


# What the module that talks to the cluster makes of it.


@asynccontextmanager
async def answering(body: bytes) -> AsyncIterator[HttpClient]:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body)

    async with serving(handler) as host, client(Connection(host=host)) as api:
        yield api


@pytest.mark.parametrize("bad", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_of_a_list_the_others_are_read(bad: bytes) -> None:
    good = [text(stored(name=name)) for name in ("before", "after")]
    body = b'{"metadata":{"resourceVersion":"9"},"items":[' + b",".join([good[0], bad, good[1]]) + b"]}"
    async with answering(body) as api:
        pages = [page async for page in api.pages(SERVICES)]
    assert [each["metadata"]["name"] for page in pages for each in page.items] == ["before", "after"]
    assert (len([each for page in pages for each in page.unread]), pages[-1].version) == (1, "9")


@pytest.mark.parametrize("bad", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_of_a_watch_the_events_after_it_come(bad: bytes) -> None:
    lines = [b'{"type":"MODIFIED","object":' + each + b"}\n" for each in (bad, text(stored(name="after")))]
    async with answering(b"".join(lines)) as api:
        first, second = [event.object async for event in api.watch(SERVICES, "", {}, "1", 5)]
    assert isinstance(first, Unread)
    assert not isinstance(second, Unread)


@pytest.mark.parametrize("odd", READABLE.values(), ids=READABLE.keys())
async def test_unused_fields_change_nothing(odd: bytes) -> None:
    async with answering(b'{"metadata":{"resourceVersion":"9"},"items":[' + odd + b"]}") as api:
        pages = [page async for page in api.pages(SERVICES)]
    assert [each["metadata"]["name"] for page in pages for each in page.items] == ["evil"]


# Informers.


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informers, "backoff", lambda _: 0.0)
    monkeypatch.setattr("serve_webhook.audit.background.SETTLE_SECONDS", 0.01)
    monkeypatch.setattr("serve_webhook.audit.background.PAUSE_FACTOR", 0)


async def test_what_cannot_be_read_is_skipped_said_once_and_there_again_when_it_is_corrected(
    api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    skipped: list[str] = []
    evil, fine = stored("evil"), stored("fine")
    api.texts["services", "default", "evil"] = with_value(DEEP, "spec", "a")
    api.put(SERVICES, evil)
    informer = Informer(api, SERVICES, skipped=skipped.append)
    seen: list[Any] = []
    informer.subscribe(lambda old, new: seen.append((bool(old), bool(new))))
    async with running(informer):
        assert (informer.names(), skipped) == ([], ["services"])
        api.put(SERVICES, fine)
        await until(lambda: informer.get("default", "fine"))
        for _ in range(3):
            informer.synced.clear()
            api.forget_history()
            await informer.synced.wait()
        assert skipped == ["services"], "once for each version, not for each list"
        api.put(SERVICES, evil)
        await until(lambda: len(skipped) == 2)
        del api.texts["services", "default", "evil"]
        api.put(SERVICES, evil)
        await until(lambda: informer.get("default", "evil"))
        api.texts["services", "default", "evil"] = with_value(DEEP, "spec", "a")
        api.put(SERVICES, evil)
        await until(lambda: informer.get("default", "evil") is None)
        api.remove(SERVICES, "default", "evil")
        api.remove(SERVICES, "default", "fine")
        await until(lambda: not len(informer))
    assert seen == [(False, True), (False, True), (True, False), (True, False)]
    assert caplog.text.count("Service default/evil is skipped: it is nested more than 100 levels deep.") == 3


async def test_a_handler_that_fails_at_one_object_handles_the_others(
    api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: JsonObject | None, new: JsonObject | None) -> None:
        if new and new["metadata"]["name"] == "evil":
            raise TypeError("unhashable type: 'list'")
        handled.append(new and new["metadata"]["name"])

    handled: list[Any] = []
    skipped: list[str] = []
    also: list[Any] = []
    informer = Informer(api, SERVICES, skipped=skipped.append)
    informer.subscribe(fails)
    informer.subscribe(lambda _, new: also.append(new and new["metadata"]["name"]))
    for name in ("before", "evil", "later"):
        api.put(SERVICES, stored(name))
    async with running(informer):
        await until(lambda: len(also) == 3)
    assert (handled, also, skipped) == (["before", "later"], ["before", "evil", "later"], ["services"])
    assert "Service default/evil cannot be handled." in caplog.text


async def test_what_cannot_be_trimmed_or_is_too_large_is_skipped(api: MemoryApi) -> None:
    def trim(manifest: JsonObject) -> JsonObject:
        return manifest | {"spec": manifest["spec"]["ports"]}

    noise = [str(hash(str(number) * 9)) for number in range(60_000)]
    api.put(SERVICES, stored("null", spec=None))
    api.put(SERVICES, stored("noise", spec={"ports": noise}))
    api.put(SERVICES, stored("fine", spec={"ports": []}))
    informer = Informer(api, SERVICES, trim=trim)
    async with running(informer):
        assert informer.names() == [("default", "fine")]


async def test_a_policy_that_cannot_be_read_at_all_refuses_everything(api: MemoryApi, tmp_path: Path) -> None:
    api.put(POLICIES, document("ServingPolicy", STORES))
    body = json.dumps(document("ServingPolicy", STORES) | {"spec": "<here>"}, separators=(",", ":")).encode()
    body = body.replace(b'"<here>"', DEEP).replace(b'"metadata":{', b'"metadata":{"resourceVersion":"7",')
    api.texts["servingpolicies", "", "stores"] = body
    async with started(api, tmp_path) as made:
        (policy,) = made._policies.policies
        assert policy.fault


# The whole process.


@asynccontextmanager
async def started(api: MemoryApi, folder: Path) -> AsyncIterator[Replica]:
    api.put(CONFIG_MAPS, CONFIG_MAPS.identity(*FEATURES) | {"data": dict(REQUIRED_FEATURES)})
    options = ReplicaOptions("server-1", folder / "settings.yaml", folder / "runtimes", "127.0.0.1", 0, 0, 0.01)
    made, stop = Replica(api, options, Configuration(LoaderConfig("loader:1"), ())), asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        await until(lambda: task.done() or not made.missing())
        yield made
        assert not task.done(), task.exception()
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await task


def metrics(made: Replica) -> str:
    return made._metrics.render().decode()


def served(name: str = "iris", **notes: str) -> Any:
    """As admission leaves it."""
    written = DEPLOYMENTS.identity("default", name)
    written["metadata"]["annotations"] = {annotations.MODEL: "https://example.com/model.joblib", **notes}
    written["spec"] = {
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "app", "image": "app:1", "ports": [{"containerPort": 8080}]}]},
        },
    }
    verdict = judge(written, ClusterContext(LoaderConfig("loader:1")))
    assert verdict.deployment, verdict.problems
    return verdict.deployment


WATCHED = {
    *OWNED, DEPLOYMENTS, PODS, CONFIG_MAPS, SECRETS, DAEMON_SETS, NODES, NAMESPACES, SERVICE_ENTRIES, POLICIES,
    POLICY_EXCEPTIONS, MODEL_RUNTIMES, MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS, INFERENCE_SERVICES, CONFIGURATIONS,
    REVISIONS, ROUTES, DOMAIN_MAPPINGS, POLICY_REPORTS, EVENTS,
}  # fmt: skip
PARTS = ("spec", "status", "data", "webhooks", "summary", "results", "metadata.annotations")
ANYTHING: tuple[Any, ...] = (None, 7, "x", [], {"name": [], "type": {}, "state": 7, "targetPort": []})
MEMBERS = (
    "template", "ports", "selector", "conditions", "hosts", "traffic", "nodeInfo", "mesh", "values",
    "containerStatuses", "initContainerStatuses", "predictor", "ref", "scaleTargetRef", "formats", "rules",
)  # fmt: skip
SHAPES: dict[str, Any] = {
    "null": None, "a number": 7, "a list": [7, None, [], {}], "a text": "x", "nothing": {},
    "members of the wrong type": dict.fromkeys(MEMBERS, 7),
    "members that are lists of anything": {key: list(ANYTHING) for key in MEMBERS},
    "a template of anything": {"template": {"metadata": 7, "spec": {"containers": [None, {"name": 7}], "volumes": {}}},
                               "selector": {"matchLabels": [1]}, "predictor": {"model": [], "containers": [7]}},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_whatever_shape_anything_has_the_others_are_served(api: MemoryApi, tmp_path: Path, shape: Any) -> None:
    api.put(NAMESPACES, {"metadata": {"name": "default"}})
    for resource in WATCHED:
        for part in PARTS:
            at = (resource.plural, "default", f"evil-{part}".replace(".", "-"))
            manifest = resource.identity("default", at[2]) | stored(at[2])
            manifest["metadata"]["labels"] |= {SERVED_LABEL: "true", "app.kubernetes.io/managed-by": "kubectl-serve"}
            manifest["metadata"]["annotations"] = {annotations.MODEL: "s3://models/a"}
            if part == "metadata.annotations":
                manifest["spec"] = {}
                manifest["metadata"]["annotations"] = {annotations.MODEL: "", annotations.SCALE: "x" * 1000}
            else:
                manifest[part] = shape
            del manifest["metadata"]["uid"]
            api.put(resource, manifest)
    api.put(DEPLOYMENTS, served())
    api.put(POLICIES, document("ServingPolicy", STORES))
    async with started(api, tmp_path) as made:
        await until(lambda: ("services", "default", "iris") in api.objects)
        await until(lambda: "kubectl_serve_audit_timestamp_seconds 0.0" not in metrics(made))
        await until(lambda: ready(api, CONDITION_COMPLIANT) == "PolicyViolated")
    api.beyond.clear()  # no policy can be judged for a Deployment of such a shape


async def test_a_poisoned_service_is_counted_and_its_name_stays_taken(api: MemoryApi, tmp_path: Path) -> None:
    evil = stored("evil")
    del evil["metadata"]["labels"]
    api.texts["services", "default", "evil"] = text(evil)[:-1] + b',"spec":' + DEEP + b"}"
    api.put(SERVICES, evil)
    api.put(DEPLOYMENTS, served())
    async with started(api, tmp_path) as made:
        await until(lambda: ("services", "default", "iris") in api.objects)
        assert 'kubectl_serve_objects_skipped_total{resource="services"}' in metrics(made)
        assert "evil" in made._services["default"]


async def test_an_unreadable_owned_object_is_reported_on_the_deployment_until_it_is_corrected(
    api: MemoryApi, tmp_path: Path
) -> None:
    api.put(DEPLOYMENTS, served())
    at = (KNATIVE_SERVICES.plural, "default", "iris")
    async with started(api, tmp_path):
        await until(lambda: at in api.objects)
        made = api.objects[at]
        body = text(made | {"metadata": made["metadata"] | {"resourceVersion": "7"}})
        api.texts[at] = body[:-1] + b',"status":' + DEEP + b"}"
        api.put(KNATIVE_SERVICES, made | {"spec": {**made["spec"], "drift": True}})
        await until(lambda: ready(api) == "Unreadable")
        said = condition(api.objects["deployments", "default", "iris"], CONDITION_READY)
        assert said
        assert "The server cannot read the Knative Service iris." in said.message
        assert "more than 100 levels deep" in said.message
        del api.texts[at]
        api.put(KNATIVE_SERVICES, made | {"spec": {**made["spec"], "drift": True}})
        await until(lambda: ready(api) == "Progressing")


def ready(api: MemoryApi, kind: str = CONDITION_READY) -> str:
    found = condition(api.objects["deployments", "default", "iris"], kind)
    return found.reason if found else ""


async def test_a_defect_at_one_deployment_is_said_on_it_and_stops_no_other(
    api: MemoryApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, fails = plan.required_apply, [True]

    def planned(observed: Any, wanted: Any) -> Any:
        if fails[0] and observed.deployment["metadata"]["name"] == "iris":
            raise RecursionError("maximum recursion depth exceeded")
        return change(observed, wanted)

    monkeypatch.setattr(plan, "required_apply", planned)
    monkeypatch.setattr(WorkQueue, "retry", lambda self, name: self.add_after(name, 0.01))
    api.put(DEPLOYMENTS, served())
    api.put(DEPLOYMENTS, served("wine"))
    async with started(api, tmp_path) as made:
        await until(lambda: ready(api) == "Defect" and ("services", "default", "wine") in api.objects)
        assert 'kubectl_serve_reconciles_total{result="defect"}' in metrics(made)
        fails[0] = False
        await until(lambda: ready(api) == "Progressing")


async def test_what_cannot_be_judged_is_said_and_everything_else_is_judged(
    api: MemoryApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = Auditor.judge

    def fails(self: Auditor, found: JsonObject) -> Any:
        if "evil" in found["metadata"]["name"] or (found["kind"] == "Deployment" and broken[0]):
            raise RecursionError("maximum recursion depth exceeded")
        return judged(self, found)

    broken = [True]
    monkeypatch.setattr(Auditor, "judge", fails)
    api.put(NAMESPACES, {"metadata": {"name": "default"}})
    api.put(POLICIES, document("ServingPolicy", STORES))
    api.put(DEPLOYMENTS, served())
    api.put(KNATIVE_SERVICES, KNATIVE_SERVICES.identity("default", "evil") | {"spec": {}})
    async with started(api, tmp_path) as made:
        await until(lambda: ready(api, CONDITION_COMPLIANT) == "Defect")
        await until(lambda: 'objects_skipped_total{resource="services"} 1.0' in metrics(made))
        broken[0] = False
        api.put(DEPLOYMENTS, served() | {"spec": {**served()["spec"], "paused": False}})
        await until(lambda: ready(api, CONDITION_COMPLIANT) == "PolicyViolated")


LIES = [
    '{"code": [], "seconds": 1}', '{"code": {"a": 1}, "seconds": 1}', '{"code": "Loaded", "seconds": "1", "bytes": []}',
    '{"code": "NotFound", "seconds": 1e308, "bytes": -1}', "[" * 5000, '{"code":' + "9" * 5000 + "}", "\x1b[2J", "",
    json.dumps({"code": "Ready", "seconds": 10**400, "message": [], "hint": {}}),
]  # fmt: skip


@pytest.mark.attack(24)
@pytest.mark.parametrize("lie", LIES)
async def test_whatever_a_pod_says_the_leader_goes_on(api: MemoryApi, tmp_path: Path, lie: str) -> None:
    def says(state: str, **more: Any) -> JsonObject:
        status = {"name": "model-loader", "state": {state: {"message": lie, **more}}, "lastState": {}}
        return {"initContainerStatuses": [status, {"name": "model-loader", "state": {}}], "containerStatuses": [status]}

    api.put(DEPLOYMENTS, served())
    api.logs["liar"] = lie
    async with started(api, tmp_path):
        await until(lambda: ("services", "default", "iris") in api.objects)
        liar = stored("liar", spec={"initContainers": [{"name": "model-loader"}]})
        liar["metadata"] |= of_revision("iris-00001")
        made = api.objects["services", "default", "iris"]
        status = {"observedGeneration": made["metadata"]["generation"], "latestCreatedRevisionName": "iris-00001"}
        api.put(KNATIVE_SERVICES, made | {"status": status})
        for found in (says("running"), says("terminated", exitCode=0), says("terminated", exitCode=1), says("waiting")):
            api.put(PODS, liar | {"status": found})
            await asyncio.sleep(0.01)
        api.put(DEPLOYMENTS, served("wine"))
        await until(lambda: ("services", "default", "wine") in api.objects)


@pytest.mark.attack(25)
async def test_a_served_deployment_that_is_too_large_says_so_and_is_left_as_it_is(
    api: MemoryApi, tmp_path: Path
) -> None:
    api.put(DEPLOYMENTS, served())
    at = ("deployments", "default", "iris")
    async with started(api, tmp_path):
        await until(lambda: ("services", "default", "iris") in api.objects and ready(api) == "Progressing")
        made = api.objects["services", "default", "iris"]
        noise = "".join(str(hash(str(number))) for number in range(20_000))
        large = copy.deepcopy(api.objects[at])
        large["metadata"]["annotations"]["noise"] = noise
        api.put(DEPLOYMENTS, large)
        await until(lambda: ready(api) == "Unreadable")
        count = len(api.writes)
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert len(api.writes) == count, "what is said of it is said once"
        said = condition(api.objects[at], CONDITION_READY)
        assert said
        assert "it takes more than 64 KiB" in said.message
        assert api.objects["services", "default", "iris"] == made
        small = copy.deepcopy(api.objects[at])
        del small["metadata"]["annotations"]["noise"]
        api.put(DEPLOYMENTS, small)
        await until(lambda: ready(api) == "Progressing")
