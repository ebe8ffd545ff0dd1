"""The reconciler with an API in memory: its writes for a served Deployment, and what it does not change."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from serve_core.admission.decide import judge, render_stored
from serve_core.api import annotations
from serve_core.api import state as model_state
from serve_core.api.state import State
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_READY, DEPLOYMENT_LABEL, FIELD_MANAGER
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.context.services import ServiceSummary
from serve_core.knative.traffic import MIN_SCALE
from serve_kube.errors import ForbiddenError, InvalidError, NotFoundError, UnavailableError
from serve_kube.resources import (
    AUTHORIZATION_POLICIES,
    AUTOSCALERS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    EVENTS,
    KNATIVE_SERVICES,
    OWNED,
    PODS,
    REVISIONS,
    Resource,
    key,
)
from serve_webhook import failure_policy
from serve_webhook.cache.informers import Informer
from serve_webhook.cache.services import ServiceChange
from serve_webhook.metrics import Metrics
from serve_webhook.reconcile import plan, pod_reports, reconciler
from serve_webhook.reconcile.conditions import stored
from serve_webhook.reconcile.events import Recorder
from serve_webhook.reconcile.reconciler import Reconciler
from support.fake_api import Clock, MemoryApi
from support.istio_installation import installation
from support.recorded_state import with_state
from support.replica_sets import of_revision
from support.waiting import until

FACTS = ClusterContext(LoaderConfig("loader:1"))
IN_THE_MESH = {name: {"istio-injection": "enabled"} for name in ("default", "knative-serving")}
MESH = ClusterContext(LoaderConfig("loader:1"), istio=installation(namespaces=IN_THE_MESH))


def served(**notes: str) -> Any:
    """As admission leaves it and the API server stores it."""
    written = DEPLOYMENTS.identity("default", "iris")
    written["metadata"]["annotations"] = {annotations.MODEL: "https://example.com/model.joblib", **notes}
    written["spec"] = {
        "selector": {"matchLabels": {"app": "iris"}},
        "template": {
            "metadata": {"labels": {"app": "iris"}},
            "spec": {"containers": [{"name": "app", "image": "app:1", "ports": [{"containerPort": 8080}]}]},
        },
    }
    verdict = judge(written, MESH if annotations.AUTH in notes else FACTS, written)
    assert verdict.deployment, verdict.problems
    return verdict.deployment


@pytest.fixture(autouse=True)
def _without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "REST_SECONDS", 0.0)


@asynccontextmanager
async def running(
    api: MemoryApi,
    clock: Clock,
    context: Callable[[], ClusterContext] = lambda: FACTS,
    metrics: Metrics | None = None,
) -> AsyncIterator[Reconciler]:
    deployments = Informer(api, DEPLOYMENTS, selectors={"labelSelector": "kubectl-serve.dev/served=true"})
    ours = {"labelSelector": "kubectl-serve.dev/deployment"}
    owned = {resource: Informer(api, resource, selectors=ours, optional=True) for resource in OWNED}
    pods = Informer(api, PODS, selectors=ours)
    worker = Reconciler(
        api,
        deployments=deployments,
        owned=owned,
        pods=pods,
        context=context,
        recorder=Recorder(api, "server-1", clock),
        metrics=metrics or Metrics(),
        now=clock,
    )
    informers = (deployments, *owned.values(), pods)
    tasks = [asyncio.create_task(run()) for run in (*(informer.run for informer in informers), worker.run)]
    try:
        async with asyncio.timeout(10):
            yield worker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def deployment(api: MemoryApi) -> Any:
    return copy.deepcopy(api.objects["deployments", "default", "iris"])


def service(api: MemoryApi) -> Any:
    return copy.deepcopy(api.objects.get(("services", "default", "iris")))


def ready(api: MemoryApi) -> str:
    condition = stored(deployment(api), CONDITION_READY)
    return condition.reason if condition else ""


def knative_makes_a_revision(api: MemoryApi) -> None:
    made = service(api)
    made["status"] = {"observedGeneration": 1, "latestCreatedRevisionName": "iris-00001"}
    api.put(KNATIVE_SERVICES, made)


def knative_makes_it_ready(api: MemoryApi) -> None:
    made = service(api)
    made["status"] = {
        "observedGeneration": made["metadata"]["generation"],
        "latestCreatedRevisionName": "iris-00001",
        "latestReadyRevisionName": "iris-00001",
        "url": "http://iris.default.example.com",
        "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "ConfigurationsReady")],
    }
    api.put(KNATIVE_SERVICES, made)


def settled(api: MemoryApi) -> bool:
    return ready(api) == "Ready" and model_state.is_current(deployment(api))


def recorded(api: MemoryApi) -> State:
    return model_state.read(deployment(api))


async def test_from_an_annotated_deployment_to_ready(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api) == "Progressing")
        (owner,) = service(api)["metadata"]["ownerReferences"]
        assert owner["uid"] == deployment(api)["metadata"]["uid"]
        knative_makes_it_ready(api)
        await until(lambda: settled(api))
    assert recorded(api).url == "http://iris.default.example.com"
    assert {found["reason"] for where, found in api.objects.items() if where[0] == "events"} == {"Ready"}


async def test_a_new_leader_writes_nothing_where_all_is_well(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        knative_makes_it_ready(api)
        await until(lambda: settled(api))
    api.writes.clear()
    clock.move(hours=1)
    async with running(api, clock):
        api.put(PODS, PODS.identity("default", "other"))
        changed = deployment(api)
        changed["status"]["observedGeneration"] = 99
        api.put(DEPLOYMENTS, changed)
        for _ in range(200):
            await asyncio.sleep(0)
    assert api.writes == []


async def test_ready_is_taken_back_before_the_knative_service_changes(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``kubectl wait`` looks right after the change, and would take the model before it for the new one."""
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api))
        knative_makes_it_ready(api)
        await until(lambda: settled(api))
        apply, said = api.apply, []

        async def noted(resource: Any, manifest: Any, **options: Any) -> Any:
            if resource is KNATIVE_SERVICES:
                said.append(ready(api))
            return await apply(resource, manifest, **options)

        monkeypatch.setattr(api, "apply", noted)
        changed = deployment(api)
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = "app:2"
        api.put(DEPLOYMENTS, changed)
        await until(lambda: said)
        assert said[0] == "Progressing"


async def test_a_new_knative_service_does_not_route_to_the_revisions_of_the_deleted_one(
    api: MemoryApi, clock: Clock
) -> None:
    known: Any = {"previous": "iris-00002", "promoted": "iris-00003", "revision": "iris-00003", "model_bytes": 7}
    api.put(DEPLOYMENTS, with_state(served(**{annotations.CANARY: "20%"}), 1, **known))
    async with running(api, clock):
        await until(lambda: service(api))
        assert "traffic" not in service(api)["spec"]
        knative_makes_it_ready(api)
        await until(lambda: recorded(api).promoted)
        await until(lambda: "traffic" in service(api)["spec"])
        # It is deleted by hand, and created again.
        api.remove(KNATIVE_SERVICES, "default", "iris")
        await until(lambda: service(api) and "traffic" not in service(api)["spec"])
    state = recorded(api)
    assert (state.previous, state.promoted, state.revision) == ("", "", "")
    assert state.model_bytes == 7, "the model is the same"


def put_revision(api: MemoryApi, name: str, of: str = "iris") -> None:
    made = REVISIONS.identity("default", name)
    made["metadata"] |= {"labels": {DEPLOYMENT_LABEL: of}, "annotations": {MIN_SCALE: "2", "note": "x"}}
    api.put(REVISIONS, made | {"spec": {"containers": [{"image": "app:1"}]}})


def minimum(api: MemoryApi, revision: str) -> str:
    found: str = api.objects["revisions", "default", revision]["metadata"]["annotations"][MIN_SCALE]
    return found


def knative_moves_the_traffic(api: MemoryApi, latest: str, **shares: int) -> None:
    knative_makes_it_ready(api)
    made = service(api)
    traffic = [{"revisionName": name.replace("_", "-"), "percent": share} for name, share in shares.items()]
    made["status"] |= {"latestCreatedRevisionName": latest, "latestReadyRevisionName": latest, "traffic": traffic}
    api.put(KNATIVE_SERVICES, made)


async def test_a_revision_has_its_minimum_while_it_has_traffic(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served(**{annotations.SCALE: "2"}))
    for name in ("iris-00001", "iris-00002"):
        put_revision(api, name)
    async with running(api, clock):
        await until(lambda: service(api))
        knative_makes_it_ready(api)
        await until(lambda: settled(api))
        knative_moves_the_traffic(api, "iris-00002", iris_00002=100)
        await until(lambda: "traffic" in service(api)["spec"])
        assert minimum(api, "iris-00001") == "0", "before the tag makes Knative keep it"
        knative_moves_the_traffic(api, "iris-00002", iris_00002=100, iris_00001=0)
        await until(lambda: settled(api))
        assert minimum(api, "iris-00002") == "2"
        # A rollback.
        pinned = deployment(api)
        pinned["metadata"]["annotations"][annotations.PIN] = "iris-00001"
        api.put(DEPLOYMENTS, pinned)
        await until(lambda: minimum(api, "iris-00001") == "2")
        assert minimum(api, "iris-00002") == "2", "it has the traffic still"
        await until(lambda: ready(api) == "Progressing")
        assert service(api)["spec"]["traffic"][0] == {"latestRevision": True, "percent": 100}
        pod = PODS.identity("default", "iris-1")
        pod["metadata"] |= of_revision("iris-00001")
        api.put(PODS, pod | {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        await until(lambda: service(api)["spec"]["traffic"][0] == {"revisionName": "iris-00001", "percent": 100})
        knative_moves_the_traffic(api, "iris-00002", iris_00001=100, iris_00002=0)
        await until(lambda: minimum(api, "iris-00002") == "0")
        assert minimum(api, "iris-00001") == "2"
    assert api.objects["revisions", "default", "iris-00001"]["metadata"]["annotations"]["note"] == "x"


async def test_a_pin_gives_no_power_over_the_revision_of_another_model(api: MemoryApi, clock: Clock) -> None:
    put_revision(api, "other-00001", of="other")
    put_revision(api, "iris-00001")
    api.put(DEPLOYMENTS, served(**{annotations.SCALE: "5", annotations.PIN: "other-00001"}))
    async with running(api, clock):
        await until(lambda: service(api))
        knative_moves_the_traffic(api, "iris-00001", other_00001=100, iris_00001=0)
        await until(lambda: minimum(api, "iris-00001") == "0")
        await until(lambda: settled(api))
    assert minimum(api, "other-00001") == "2"


async def test_a_model_is_ready_although_a_revision_cannot_be_changed(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = api.merge

    async def refused(resource: Resource, *arguments: Any, **options: Any) -> Any:
        if resource is REVISIONS:
            raise ForbiddenError("not allowed", 403)
        return await merge(resource, *arguments, **options)

    monkeypatch.setattr(api, "merge", refused)
    put_revision(api, "iris-00001")
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api))
        knative_makes_it_ready(api)
        await until(lambda: settled(api))
        knative_moves_the_traffic(api, "iris-00002", iris_00002=100)
        await until(lambda: "traffic" in service(api)["spec"])
        knative_moves_the_traffic(api, "iris-00002", iris_00002=100, iris_00001=0)
        await until(lambda: settled(api))


async def test_a_knative_service_of_another_owner_is_not_changed(api: MemoryApi, clock: Clock) -> None:
    theirs = api.put(KNATIVE_SERVICES, KNATIVE_SERVICES.identity("default", "iris") | {"spec": {"theirs": True}})
    api.put(DEPLOYMENTS, served())
    metrics = Metrics()
    async with running(api, clock, metrics=metrics):
        await until(lambda: ready(api) == "NameTaken")
        await until(lambda: b'result="blocked"' in metrics.render())  # the next look at it takes longer and longer
    assert service(api) == theirs


async def test_an_object_created_at_the_same_time_is_not_overwritten(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = api.get

    async def just_before(*arguments: Any) -> Any:
        try:
            return await get(*arguments)
        finally:
            if arguments == (KNATIVE_SERVICES, "default", "iris") and service(api) is None:
                api.put(KNATIVE_SERVICES, KNATIVE_SERVICES.identity("default", "iris") | {"spec": {"theirs": True}})

    monkeypatch.setattr(api, "get", just_before)
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: ready(api) == "NameTaken")
    assert service(api)["spec"] == {"theirs": True}


async def test_an_object_replaced_at_the_same_time_is_not_overwritten(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, theirs = api.apply, KNATIVE_SERVICES.identity("default", "iris") | {"spec": {"theirs": True}}

    async def too_late(resource: Any, manifest: Any, **more: Any) -> Any:
        if resource is KNATIVE_SERVICES and more["force"]:
            api.remove(KNATIVE_SERVICES, "default", "iris")
            api.put(KNATIVE_SERVICES, theirs)
        return await apply(resource, manifest, **more)

    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        monkeypatch.setattr(api, "apply", too_late)
        changed = deployment(api)
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = "app:2"
        api.put(DEPLOYMENTS, changed)
        await until(lambda: ready(api) == "NameTaken")
    assert service(api)["spec"] == {"theirs": True}


async def test_a_just_deleted_object_is_created_again_without_a_report(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        before = service(api)["metadata"]["uid"]
        del api.objects["services", "default", "iris"]  # unseen as yet
        changed = deployment(api)
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = "app:2"
        api.put(DEPLOYMENTS, changed)
        await until(lambda: service(api))
    assert service(api)["metadata"]["uid"] != before
    assert not [where for where in api.objects if where[0] == EVENTS.plural]


@pytest.mark.attack(26)
@pytest.mark.parametrize(
    "managers",
    [
        [{"manager": "kn", "operation": "Update", "fieldsV1": {"f:spec": {"f:traffic": {}}}}],
        [{"manager": FIELD_MANAGER, "operation": "Update", "fieldsV1": {"f:spec": {"f:traffic": {}}}}],
        [{"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:traffic": {}}}}] * 2,
        [{"manager": FIELD_MANAGER, "operation": "Apply", "subresource": "status", "fieldsV1": {"f:spec": {}}}],
        [{}],
        [],
        None,
    ],
    ids=["another's", "ours, by an update", "ours, twice", "ours, of a subresource", "taken off", "none", "not there"],
)
async def test_changes_of_a_spec_are_reverted_whatever_the_field_managers(
    api: MemoryApi, clock: Clock, managers: Any
) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        changed = service(api)
        wanted, changed["spec"] = changed["spec"], {"traffic": [{"tag": "theirs"}], "template": {}}
        changed["metadata"]["managedFields"] = managers
        api.put(KNATIVE_SERVICES, changed)
        await until(lambda: service(api)["spec"] == wanted)
    assert [write for write in api.writes if write.endswith(" services")] == ["apply services", "merge services"]


class Defaulting(MemoryApi):
    """As Knative does it: what is not said is filled in, whatever the request; one field when it is made alone."""

    def filled(self, resource: Resource, manifest: Any) -> Any:
        if resource is not KNATIVE_SERVICES:
            return manifest
        spec = manifest["spec"]
        spec.setdefault("traffic", [{"latestRevision": True, "percent": 100}])
        pod = spec["template"].setdefault("spec", {})
        if (resource.plural, *key(manifest)) not in self.objects:
            pod.setdefault("enableServiceLinks", False)
        for container in pod.get("containers", []):
            container.setdefault("resources", {})
            container.setdefault("readinessProbe", {}).setdefault("successThreshold", 1)
        return manifest


@pytest.mark.attack(26)
@pytest.mark.parametrize(
    "drift",
    [
        lambda spec: spec["traffic"].append({"tag": "theirs", "percent": 0}),
        lambda spec: spec["template"]["spec"]["containers"].append({"name": "theirs", "image": "evil:1"}),
        lambda spec: spec["template"]["spec"].update(serviceAccountName="theirs", hostAliases=[{"ip": "10.0.0.1"}]),
        lambda spec: spec["template"]["spec"]["containers"][0].update(env=[{"name": "A", "value": "b"}]),
        lambda spec: spec["template"].update(metadata=7),
        lambda spec: spec.update(template={}),
        lambda spec: spec.update(anything={"deep": {"a": [1]}}),
    ],
)
async def test_drift_goes_once_and_what_is_filled_in_is_none(clock: Clock, drift: Any) -> None:
    api = Defaulting()
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        changed = service(api)
        wanted = copy.deepcopy(changed["spec"])
        assert wanted["traffic"][0]["percent"] == 100
        drift(changed["spec"])
        api.put(KNATIVE_SERVICES, changed)
        if "enableServiceLinks" not in service(api)["spec"]["template"].get("spec", {}):
            del wanted["template"]["spec"]["enableServiceLinks"]  # it is not filled in again
        await until(lambda: service(api)["spec"] == wanted)
        for _ in range(300):
            await asyncio.sleep(0)
        count = len(api.writes)
    async with running(api, clock):  # another leader knows nothing of what was applied
        for _ in range(300):
            await asyncio.sleep(0)
    assert service(api)["spec"] == wanted
    assert [write for write in api.writes[count:] if "services" in write] == [], "no write changes anything"


@pytest.mark.attack(26)
async def test_a_write_of_others_between_our_two_writes_does_not_count_as_ours(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put(DEPLOYMENTS, served())
    merge, raced = api.merge, [False]

    async def racing(resource: Resource, namespace: str, name: str, patch: Any) -> Any:
        answer = await merge(resource, namespace, name, patch)
        if resource is KNATIVE_SERVICES and not raced[0]:
            raced[0] = True
            changed = service(api)
            changed["spec"]["theirs"] = True
            api.put(KNATIVE_SERVICES, changed)
        return answer

    monkeypatch.setattr(api, "merge", racing)
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        changed = service(api)
        wanted, changed["spec"] = changed["spec"], {"template": {}}
        api.put(KNATIVE_SERVICES, changed)
        await until(lambda: raced[0] and service(api)["spec"] == wanted)


@pytest.mark.attack(26)
async def test_an_annotation_that_another_manager_has_set_as_well_is_removed(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        left = deployment(api)
        left["metadata"]["annotations"] = dict.fromkeys((annotations.SERVICE, *annotations.EARLIER_STATE), "theirs")
        left["metadata"]["labels"] = {"kubectl-serve.dev/served": "true"}
        api.put(
            DEPLOYMENTS, left | {"status": {"observedGeneration": 99, "updatedReplicas": 9, "availableReplicas": 9}}
        )
        await until(lambda: not deployment(api)["metadata"]["annotations"])


async def test_no_model_is_there_without_its_guards(api: MemoryApi, clock: Clock) -> None:
    api.put(AUTHORIZATION_POLICIES, AUTHORIZATION_POLICIES.identity("default", "iris") | {"spec": {"theirs": True}})
    api.put(DEPLOYMENTS, served(**{annotations.AUTH: "mtls"}))
    async with running(api, clock, lambda: MESH):
        await until(lambda: ready(api) == "NameTaken")
        assert service(api) is None
        api.remove(AUTHORIZATION_POLICIES, "default", "iris")
        await until(lambda: service(api))
    applied = [write for write in api.writes if write.startswith("apply") and "deployments" not in write]
    assert [write.split()[1] for write in applied] == ["peerauthentications", "authorizationpolicies", "services"]


async def test_a_namespace_that_leaves_the_mesh_is_reported_on_models_with_auth(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served(**{annotations.AUTH: "mtls"}))
    context = [MESH]
    async with running(api, clock, lambda: context[0]) as reconciler:
        await until(lambda: service(api) and ready(api))
        for _ in range(100):
            await asyncio.sleep(0)
        context[0] = replace(MESH, istio=installation(namespaces={**IN_THE_MESH, "default": {}}))
        reconciler.refresh("other")
        for _ in range(100):
            await asyncio.sleep(0)
        assert ready(api) == "Progressing"
        reconciler.refresh("default")
        await until(lambda: ready(api) == "NeedsSidecar")
        context[0] = MESH
        reconciler.refresh()
        await until(lambda: ready(api) == "Progressing")
    assert ("authorizationpolicies", "default", "iris") in api.objects, "it guards again when the label is back"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidError("admission webhook denied the request: no", 400), "NotAccepted"),
        (UnavailableError("failed calling webhook: connection refused", 500), "Progressing"),
    ],
)
async def test_what_the_api_server_refuses_is_said(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    api.failures["apply services"] = error
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: ready(api) == reason)
        condition = stored(deployment(api), CONDITION_READY)
        assert condition
        assert str(error) in condition.message
        del api.failures["apply services"]
        await until(lambda: service(api))


@pytest.mark.parametrize(
    ("kind", "reason", "named"),
    [
        ("services", "KnativeMissing", "no Knative"),
        ("authorizationpolicies", "NotAccepted", "AuthorizationPolicy iris"),
    ],
)
async def test_what_the_cluster_has_no_resource_for_is_named(
    api: MemoryApi, clock: Clock, kind: str, reason: str, named: str
) -> None:
    api.failures[f"apply {kind}"] = NotFoundError("the server could not find the requested resource", 404)
    api.put(DEPLOYMENTS, served(**{annotations.AUTH: "mtls"}))
    async with running(api, clock, lambda: MESH):
        await until(lambda: ready(api) == reason)
    condition = stored(deployment(api), CONDITION_READY)
    assert condition
    assert named in condition.message


async def test_the_last_output_of_a_running_loader_is_reported(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_reports, "LOADING_SECONDS", 0.01)
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        knative_makes_a_revision(api)
        api.put(PODS, loader_pod("iris-00001-x", {"running": {}}))
        api.logs["iris-00001-x"] = '{"event": "retry", "code": "Unreachable", "message": "No route to the store."}'
        await until(lambda: "No route to the store." in str(deployment(api)["status"]))
        api.logs["iris-00001-x"] = '{"event": "progress", "bytes": 5, "total": 10}'
        await until(lambda: "50 %" in str(deployment(api)["status"]))


async def test_of_many_loaders_some_are_asked(api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()

    async def log(_: str, pod: str, *__: Any, **___: Any) -> str:
        asked.add(pod)
        return '{"event": "retry", "code": "Unreachable", "message": "No route to the store."}'

    monkeypatch.setattr(api, "log", log)
    for number in range(9):
        api.put(PODS, loader_pod(f"iris-00001-{number}", {"running": {}}))
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        knative_makes_a_revision(api)
        await until(lambda: "No route to the store." in str(deployment(api)["status"]))
    assert len(asked) == pod_reports.MAX_PODS


async def test_how_long_each_loader_took_is_counted_once(api: MemoryApi, clock: Clock) -> None:
    metrics = Metrics()
    ended = {"terminated": {"exitCode": 0, "message": '{"code": "Loaded", "seconds": 7}'}}
    api.put(PODS, loader_pod("ended-before-the-watch", ended))
    api.put(PODS, loader_pod("iris-00001-x", {"running": {}}))
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, metrics=metrics):
        await until(lambda: service(api) and ready(api))
        for number in range(2):
            pod = loader_pod("iris-00001-x", ended)
            pod["metadata"]["labels"]["turn"] = str(number)
            api.put(PODS, pod)
        api.put(PODS, loader_pod("iris-00001-y", {"running": {}}))
        for _ in range(100):
            await asyncio.sleep(0)
    (reported,) = (line for line in metrics.render().decode().splitlines() if "load_seconds_sum" in line)
    assert reported.endswith('{code="Loaded"} 7.0')


async def test_nothing_is_said_before_everything_was_read(api: MemoryApi, clock: Clock) -> None:
    api.failures["list pods"] = UnavailableError("not yet")
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        for _ in range(100):
            await asyncio.sleep(0)
        assert api.writes == []
        api.failures.clear()
        await until(lambda: service(api))


def loader_pod(name: str, state: Any) -> Any:
    """One of the first revision."""
    pod = PODS.identity("default", name)
    pod["metadata"] |= of_revision("iris-00001")
    return pod | {"status": {"initContainerStatuses": [{"name": "model-loader", "state": state}]}}


def waiting_pod(api: MemoryApi, clock: Clock) -> Any:
    """A pod that was given to its node just now."""
    pod = PODS.identity("default", "iris-00001-x")
    pod["metadata"] |= of_revision("iris-00001")
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": clock().isoformat()}
    pod["status"] = {"conditions": [scheduled]}
    return api.put(PODS, pod)


def says(api: MemoryApi, pod: Any, note: str) -> None:
    """What the kubelet says of a pod."""
    about = {"regarding": {"uid": pod["metadata"]["uid"]}, "type": "Warning", "note": note}
    api.put(EVENTS, EVENTS.identity("default", f"{pod['metadata']['name']}.1") | about)


async def test_a_missing_secret_is_found_in_the_events_of_the_pod(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_reports, "LOADING_SECONDS", 0.01)
    monkeypatch.setattr(plan, "MESSAGE_SECONDS", 0.0)
    monkeypatch.setattr(pod_reports, "MAX_INTERVAL_SECONDS", 0.01)
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        knative_makes_a_revision(api)
        pod = waiting_pod(api, clock)
        says(api, pod, 'MountVolume.SetUp failed for volume "credentials" : secret "store" not found')
        await until(lambda: "Waiting for the pod's containers" in str(deployment(api)["status"]))
        assert not [each for each in api.lists if each.startswith("events")], "it may be about to start"

        clock.move(seconds=pod_reports.STUCK_SECONDS)
        await until(lambda: ready(api) == "ModelNotLoaded")
        loaded = stored(deployment(api), CONDITION_MODEL_LOADED)
        assert loaded
        assert (loaded.reason, loaded.status) == ("SecretNotFound", "False")
        assert "kubectl create secret generic store -n default" in loaded.message
        asked = {each for each in api.lists if each.startswith("events")}
        assert asked == {f"events regarding.uid={pod['metadata']['uid']}"}

        pod["status"]["initContainerStatuses"] = [{"name": "model-loader", "state": {"running": {}}}]
        api.put(PODS, pod)
        await until(lambda: ready(api) == "Progressing")


async def test_without_the_right_to_read_events_a_pod_just_waits(
    api: MemoryApi, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    api.failures["list events"] = ForbiddenError("events is forbidden", 403)
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        pod = waiting_pod(api, clock)
        clock.move(seconds=60)
        with caplog.at_level("INFO"):
            knative_makes_a_revision(api)
            await until(lambda: "events is forbidden" in caplog.text)
        await until(lambda: "Waiting for the pod's containers" in str(deployment(api)["status"]))
    assert pod["metadata"]["name"] in caplog.text


async def test_what_is_noted_of_a_deployment_that_runs_its_pods_itself_takes_nothing_back(
    api: MemoryApi, clock: Clock
) -> None:
    """Each note makes a generation that the Deployment's controller has not seen yet."""
    own = api.put(DEPLOYMENTS, served(**{annotations.MODE: annotations.DEPLOYMENT}) | {"status": {}})
    own["status"] = {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 1, "availableReplicas": 1}
    said: list[str] = []
    async with running(api, clock):
        api.put(DEPLOYMENTS, own)
        await until(lambda: settled(api))
        for _ in range(200):
            await asyncio.sleep(0)
            said.append(ready(api))
        assert set(said) == {"Ready"}
        changed = deployment(api)
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = "app:2"
        api.put(DEPLOYMENTS, changed)
        await until(lambda: ready(api) == "Progressing")


async def test_removing_the_annotation_removes_everything_of_the_server(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        knative_makes_it_ready(api)
        await until(lambda: settled(api))
        written = deployment(api)
        del written["metadata"]["annotations"][annotations.MODEL]
        back = judge(written, FACTS, written).deployment
        assert back
        assert back["spec"]["replicas"] == 1
        api.put(DEPLOYMENTS, back)
        for _ in range(100):
            await asyncio.sleep(0)
        assert service(api), "its own pods are not back yet"
        back = deployment(api)
        back["status"] |= {"observedGeneration": 99, "updatedReplicas": 1, "availableReplicas": 1}
        api.put(DEPLOYMENTS, back)
        await until(lambda: service(api) is None)
        await until(lambda: "kubectl-serve.dev/served" not in deployment(api)["metadata"].get("labels", {}))


async def test_the_objects_of_a_deleted_deployment_go_at_once(api: MemoryApi, clock: Clock) -> None:
    """Garbage collection would take seconds for each of many."""
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        api.remove(DEPLOYMENTS, "default", "iris")
        await until(lambda: service(api) is None)


async def test_an_orphan_stays_although_the_watch_has_not_brought_that_it_is_one(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        asked, delete = [], api.delete

        async def late(*arguments: Any, **more: Any) -> Any:
            # `kubectl delete --cascade=orphan`: the owner went from the object before the Deployment was gone.
            orphan = service(api)
            if orphan["metadata"].pop("ownerReferences", None):
                api.put(KNATIVE_SERVICES, orphan)
            asked.append(arguments)
            await delete(*arguments, **more)

        monkeypatch.setattr(api, "delete", late)
        api.remove(DEPLOYMENTS, "default", "iris")
        await until(lambda: asked)
        for _ in range(200):
            await asyncio.sleep(0)
        assert service(api)
        assert len(asked) == 1


@pytest.mark.parametrize("reference", [{"kind": "Application", "controller": False}, {"name": "lily"}])
async def test_what_others_own_as_well_is_left_to_garbage_collection(
    api: MemoryApi, clock: Clock, reference: Any
) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        shared = service(api)
        (owner,) = shared["metadata"]["ownerReferences"]
        others = [owner | reference] if "name" in reference else [owner, owner | reference]
        shared["metadata"]["ownerReferences"] = others
        api.writes.clear()
        api.put(KNATIVE_SERVICES, shared)
        api.remove(DEPLOYMENTS, "default", "iris")
        for _ in range(200):
            await asyncio.sleep(0)
    assert service(api)
    assert "delete services" not in api.writes


async def test_a_service_makes_a_turn_of_the_models_that_it_can_matter_to(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "SETTLE_SECONDS", 0)
    rendered = []

    def render(found: Any, context: ClusterContext) -> Any:
        rendered.append(found["metadata"]["name"])
        return render_stored(found, context)

    monkeypatch.setattr(reconciler, "render_stored", render)
    api.put(DEPLOYMENTS, served())
    async with running(api, clock) as worker:
        await until(lambda: service(api) and ready(api))
        for _ in range(100):
            await asyncio.sleep(0)
        rendered.clear()
        worker.service_changed(ServiceChange("default", "lily", (ServiceSummary("lily"),)))
        worker.service_changed(ServiceChange("other", "iris", (ServiceSummary("lily"),)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert rendered == []
        worker.service_changed(ServiceChange("default", "lily", (ServiceSummary(selector={"app": "lily"}),)))
        await until(lambda: rendered == ["iris"])


async def test_what_lost_its_label_on_the_way_back_is_looked_at_until_its_own_pods_serve(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "UNWATCHED_SECONDS", 0.01)
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        back = deployment(api)
        del back["metadata"]["annotations"][annotations.MODEL]
        del back["metadata"]["labels"]
        back["spec"]["replicas"] = 1
        api.put(DEPLOYMENTS, back)
        for _ in range(100):
            await asyncio.sleep(0)
        assert service(api), "its own pods are not back yet"
        back["status"] |= {"observedGeneration": 99, "updatedReplicas": 1, "availableReplicas": 1}
        api.put(DEPLOYMENTS, back)  # no watch brings that
        await until(lambda: service(api) is None)


async def test_a_handover_ends_only_as_it_was_seen(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user takes the model off at the very moment at which the Deployment would be parked."""
    handed = served(**{annotations.HANDOVER: "to-knative"})
    handed["spec"] |= {"paused": True, "replicas": 1}
    api.put(DEPLOYMENTS, handed)
    merge, parked = api.merge, asyncio.Event()

    async def late(*arguments: Any) -> Any:
        if not parked.is_set():
            parked.set()
            changed = deployment(api)
            del changed["metadata"]["annotations"][annotations.MODEL]
            back = judge(changed, FACTS, changed).deployment
            assert back
            api.put(DEPLOYMENTS, back)
        return await merge(*arguments)

    monkeypatch.setattr(api, "merge", late)
    async with running(api, clock):
        await until(lambda: service(api) and ready(api))
        knative_makes_it_ready(api)
        await until(parked.is_set)
        for _ in range(100):
            await asyncio.sleep(0)
    assert deployment(api)["spec"]["replicas"] == 1
    assert annotations.HANDOVER in deployment(api)["metadata"]["annotations"], "it is not back yet"


async def test_what_is_served_again_while_it_is_released_keeps_its_label(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = served()
    changed = copy.deepcopy(again)
    del changed["metadata"]["annotations"][annotations.MODEL]
    back = judge(changed, FACTS, again).deployment
    assert back
    back["spec"]["replicas"] = 0
    back["status"] = {
        "observedGeneration": 9,
        "conditions": [{"type": CONDITION_READY, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }
    api.put(DEPLOYMENTS, back)
    apply, taken_off = api.apply, asyncio.Event()

    async def late(resource: Any, manifest: Any, **more: Any) -> Any:
        if more.get("subresource") and not taken_off.is_set():
            taken_off.set()
            api.put(DEPLOYMENTS, again | {"status": back["status"]})
        return await apply(resource, manifest, **more)

    monkeypatch.setattr(api, "apply", late)
    async with running(api, clock):
        await until(lambda: service(api))
    assert taken_off.is_set()
    assert deployment(api)["metadata"]["labels"] == {"kubectl-serve.dev/served": "true"}


async def test_while_no_api_server_answers_nothing_is_said_and_everything_tried_again(
    api: MemoryApi, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    api.failures["apply services"] = UnavailableError("connection refused")
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: "is tried again" in caplog.text)
        assert ready(api) == ""
        api.failures.clear()
        await until(lambda: service(api) and ready(api))


async def test_one_deployments_defect_does_not_stop_the_others(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    defects = ["broken"]

    def render(found: Any, context: ClusterContext) -> Any:
        if found["metadata"]["name"] in defects:
            raise KeyError("oops")
        return render_stored(found, context)

    monkeypatch.setattr(reconciler, "render_stored", render)
    broken = served()
    broken["metadata"]["name"] = "broken"
    api.put(DEPLOYMENTS, broken)
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api))
        await until(lambda: "default/broken cannot be reconciled" in caplog.text)
        defects.clear()  # nothing changes in the cluster: it is tried again all the same
        await until(lambda: ("services", "default", "broken") in api.objects)


def test_flux_does_not_treat_the_server_as_an_interactive_user() -> None:
    """It takes over and takes off whatever a manager has that begins with ``kubectl``."""
    for manager in (FIELD_MANAGER, failure_policy.MANAGER):
        assert not manager.startswith("kubectl")


def autoscaler(**spec: Any) -> Any:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "iris"}
    return AUTOSCALERS.identity("default", "scaler") | {"spec": {"scaleTargetRef": target, "maxReplicas": 6, **spec}}


def told(api: MemoryApi) -> list[tuple[str, str]]:
    return [(each["reason"], each["note"]) for where, each in api.objects.items() if where[0] == "events"]


async def test_an_autoscaler_beside_the_deployment_becomes_an_event_once_a_change(api: MemoryApi, clock: Clock) -> None:
    api.put(AUTOSCALERS, autoscaler())
    budget = {"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "iris"}}}}
    api.put(DISRUPTION_BUDGETS, DISRUPTION_BUDGETS.identity("default", "keep") | budget)
    api.put(DEPLOYMENTS, served())
    async with running(api, clock) as worker:
        await until(lambda: service(api) and ready(api) == "Progressing")
        assert [reason for reason, _ in told(api)] == ["BoundsLost", "EvictionBlocked"]
        assert "Write kubectl-serve.dev/scale: 1..6, and delete HorizontalPodAutoscaler scaler." in told(api)[0][1]
        knative_makes_it_ready(api)
        await until(lambda: settled(api))
        api.lists.clear()
        worker.refresh()
        api.put(AUTOSCALERS, autoscaler(minReplicas=3))
        await asyncio.sleep(0.05)
        assert api.lists == [], "nothing of the Deployment has changed"
        changed = deployment(api)
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = "app:2"
        api.put(DEPLOYMENTS, changed)
        await until(lambda: any("scale: 3..6" in note for _, note in told(api)))


async def test_without_the_right_to_list_budgets_the_model_is_served_all_the_same(
    api: MemoryApi, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    api.failures["list poddisruptionbudgets"] = ForbiddenError("budgets are forbidden", 403)
    api.put(AUTOSCALERS, autoscaler())
    api.put(DEPLOYMENTS, served())
    async with running(api, clock):
        await until(lambda: service(api) and ready(api) == "Progressing")
    assert [reason for reason, _ in told(api)] == ["BoundsLost"]
    assert "Going on without the poddisruptionbudgets of namespace default" in caplog.text
