"""The reconciler loads a model on nodes in advance, and moves a new revision only when they have it."""

import copy
from typing import Any

import pytest

from serve_core.admission.decide import judge
from serve_core.api import annotations
from serve_core.api import state as model_state
from serve_core.base.constants import CONDITION_PREFETCHED, CONDITION_READY, PREFETCH_LABEL
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.workload.prefetch import is_prefetch
from serve_kube.errors import ForbiddenError
from serve_kube.resources import DAEMON_SETS, DEPLOYMENTS, EVENTS, PODS, STATEFUL_SETS, Resource
from serve_webhook.reconcile import plan, reconciler
from serve_webhook.reconcile.conditions import stored
from support.fake_api import Clock, MemoryApi
from support.waiting import until
from unit.serve_webhook.test_reconciler import knative_makes_it_ready, running, service, settled

FEATURES = {"kubernetes.podspec-volumes-csi": "enabled", "kubernetes.podspec-init-containers": "enabled"}
FACTS = ClusterContext(LoaderConfig("loader:1"), features=FEATURES, node_cache=True)


@pytest.fixture(autouse=True)
def _without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "REST_SECONDS", 0.0)
    monkeypatch.setattr(plan, "MESSAGE_SECONDS", 0.0)


def served(model: str = "https://example.com/model.joblib", image: str = "app:1", **notes: str) -> JsonObject:
    written = DEPLOYMENTS.identity("default", "iris")
    asked = {annotations.MODEL: model, annotations.CACHE: "node", annotations.PREFETCH: "2"}
    written["metadata"]["annotations"] = asked | {f"kubectl-serve.dev/{key}": value for key, value in notes.items()}
    written["spec"] = {
        "selector": {"matchLabels": {"app": "iris"}},
        "template": {
            "metadata": {"labels": {"app": "iris"}},
            "spec": {"containers": [{"name": "app", "image": image, "ports": [{"containerPort": 8080}]}]},
        },
    }
    verdict = judge(written, FACTS, written)
    assert verdict.deployment, verdict.problems
    return verdict.deployment


def deployment(api: MemoryApi) -> JsonObject:
    return copy.deepcopy(api.objects["deployments", "default", "iris"])


def change(api: MemoryApi, **asked: str) -> None:
    """As a user changes the Deployment, through admission."""
    now = deployment(api)
    wanted = served(**asked)
    now["metadata"]["annotations"] = wanted["metadata"]["annotations"]
    now["spec"] = wanted["spec"]
    api.put(DEPLOYMENTS, now)


def found(api: MemoryApi) -> JsonObject | None:
    """What loads the model in advance."""
    made = [each for each in api.objects.values() if each["kind"] in ("StatefulSet", "DaemonSet") and is_prefetch(each)]
    return copy.deepcopy(made[0]) if made else None


def reason(api: MemoryApi, kind: str = CONDITION_PREFETCHED) -> str:
    condition = stored(deployment(api), kind)
    return condition.reason if condition else ""


def message(api: MemoryApi, kind: str = CONDITION_PREFETCHED) -> str:
    condition = stored(deployment(api), kind)
    return condition.message if condition else ""


def nodes_have_it(api: MemoryApi, ready: int, wanted: int = 2) -> None:
    made = found(api)
    assert made is not None
    seen = {"observedGeneration": made["metadata"]["generation"]}
    if made["kind"] == "DaemonSet":
        api.put(DAEMON_SETS, made | {"status": seen | {"numberReady": ready, "desiredNumberScheduled": wanted}})
    else:
        api.put(STATEFUL_SETS, made | {"status": seen | {"readyReplicas": ready, "replicas": wanted}})


@pytest.mark.parametrize(("value", "kind"), [("2", "StatefulSet"), ("all", "DaemonSet")])
async def test_from_the_annotation_to_all_nodes_and_nothing_left(
    api: MemoryApi, clock: Clock, value: str, kind: str
) -> None:
    api.put(DEPLOYMENTS, served(prefetch=value))
    async with running(api, clock, lambda: FACTS):
        await until(lambda: found(api) and service(api))
        made = found(api)
        assert made is not None
        assert made["kind"] == kind
        (owner,) = made["metadata"]["ownerReferences"]
        assert owner["uid"] == deployment(api)["metadata"]["uid"]
        knative_makes_it_ready(api)
        await until(lambda: reason(api) == "Prefetching" and settled(api))
        nodes_have_it(api, 1)
        await until(lambda: "1 of 2 nodes" in message(api))
        nodes_have_it(api, 2)
        await until(lambda: reason(api) == "Prefetched" and found(api) is None)
        assert message(api) == "2 of 2 nodes have the model."
    assert api.beyond == []


async def test_the_first_revision_waits_for_nothing(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await until(lambda: service(api))
        knative_makes_it_ready(api)
        await until(lambda: settled(api))
        assert found(api)


def volume(api: MemoryApi) -> str:
    return str(service(api)["spec"]["template"]["spec"]["volumes"][0])


async def loaded(api: MemoryApi) -> None:
    """The first model is served, and on the nodes."""
    await until(lambda: service(api) and found(api))
    knative_makes_it_ready(api)
    nodes_have_it(api, 2)
    await until(lambda: settled(api) and found(api) is None)


def caught_up(api: MemoryApi) -> bool:
    """Whether Knative has seen each change of its Service."""
    made = service(api)
    if made["status"]["observedGeneration"] != made["metadata"]["generation"]:
        knative_makes_it_ready(api)
    return True


async def test_a_new_model_moves_when_the_nodes_have_it(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await loaded(api)
        change(api, model="https://example.com/model-2.joblib")
        await until(lambda: "Waiting for nodes to load the new model" in message(api, CONDITION_READY))
        assert "model-2" in str(found(api))
        assert "model-2" not in volume(api)
        nodes_have_it(api, 1)
        await until(lambda: "1 of 2 nodes" in message(api, CONDITION_READY))
        assert "model-2" not in volume(api)
        nodes_have_it(api, 2)
        await until(lambda: "model-2" in volume(api))
        await until(lambda: caught_up(api) and settled(api) and found(api) is None)
        assert reason(api) == "Prefetched"


async def test_a_change_that_keeps_the_model_waits_for_nothing(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await loaded(api)
        change(api, image="app:2")
        await until(lambda: "app:2" in str(service(api)["spec"]))
        assert found(api) is None


def pod(api: MemoryApi, **status: Any) -> JsonObject:
    made = found(api)
    assert made is not None
    owner = {"apiVersion": "apps/v1", "kind": made["kind"], "name": made["metadata"]["name"], "controller": True}
    manifest = PODS.identity("default", f"{made['metadata']['name']}-x")
    manifest["metadata"] |= {
        "labels": {PREFETCH_LABEL: "iris"},
        "ownerReferences": [owner | {"uid": made["metadata"]["uid"]}],
    }
    return api.put(PODS, manifest | {"spec": {"containers": []}, "status": status})


def event(api: MemoryApi, about: JsonObject, note: str) -> None:
    manifest = EVENTS.identity("default", f"e-{len(api.objects)}")
    regarding = {"uid": about["metadata"]["uid"], "name": about["metadata"]["name"]}
    api.put(EVENTS, manifest | {"type": "Warning", "note": note, "regarding": regarding, "eventTime": "2026-01-01"})


DENIED = (
    'MountVolume.SetUp failed for volume "model" : rpc error: code = PermissionDenied desc = '
    "Unauthorized: the store said no. Check the Secret."
)


async def test_what_keeps_nodes_from_it_keeps_no_revision_from_moving(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await loaded(api)
        change(api, model="https://example.com/model-2.joblib")
        await until(lambda: found(api) and "Waiting for nodes" in message(api, CONDITION_READY))
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T11:00:00Z"}
        event(api, pod(api, conditions=[scheduled]), DENIED)
        nodes_have_it(api, 0)
        await until(lambda: reason(api) == "Unauthorized")
        assert message(api).startswith("0 of 2 nodes have the model. the store said no")
        await until(lambda: "model-2" in volume(api))
        assert found(api), "the kubelet keeps trying"


async def test_a_quota_is_the_cause_and_the_model_is_served(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await until(lambda: found(api) and service(api))
        made = found(api)
        assert made is not None
        event(api, made, 'Error creating: pods "iris-prefetch-x" is forbidden: exceeded quota: pods')
        nodes_have_it(api, 0)
        await until(lambda: reason(api) == "PrefetchRefused")
        assert "exceeded quota" in message(api)
        knative_makes_it_ready(api)
        await until(lambda: settled(api))


async def test_a_refused_object_is_the_cause_and_the_model_is_served(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = api.apply

    async def refused(resource: Resource, *arguments: Any, **options: Any) -> Any:
        if resource is STATEFUL_SETS:
            raise ForbiddenError("exceeded quota: count/statefulsets.apps", 403)
        return await apply(resource, *arguments, **options)

    monkeypatch.setattr(api, "apply", refused)
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await until(lambda: service(api) and reason(api) == "PrefetchRefused")
        assert "count/statefulsets.apps" in message(api)
        knative_makes_it_ready(api)
        await until(lambda: settled(api))


async def test_after_an_hour_nothing_is_left_and_the_condition_says_why(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await until(lambda: found(api) and service(api))
        made = found(api)
        assert made is not None
        clock.move(hours=2)
        made["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        api.put(STATEFUL_SETS, made)
        nodes_have_it(api, 1)
        await until(lambda: found(api) is None)
        assert reason(api) == "PrefetchEnded"
        assert "1 of 2 nodes have the model." in message(api)


async def test_without_the_annotation_nothing_is_left(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await until(lambda: found(api) and reason(api))
        knative_makes_it_ready(api)
        await until(lambda: settled(api))
        now = deployment(api)
        del now["metadata"]["annotations"][annotations.PREFETCH]
        api.put(DEPLOYMENTS, now)
        await until(lambda: found(api) is None and not reason(api))
        assert model_state.read(deployment(api)).prefetched == ""


async def test_a_crash_of_the_server_leaves_nothing(api: MemoryApi, clock: Clock) -> None:
    """A new leader ends what the earlier one began."""
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await until(lambda: found(api) and service(api))
        knative_makes_it_ready(api)
    nodes_have_it(api, 2)
    async with running(api, clock, lambda: FACTS):
        await until(lambda: reason(api) == "Prefetched" and found(api) is None)
    api.writes.clear()
    async with running(api, clock, lambda: FACTS):
        await until(lambda: settled(api))
    assert not [each for each in api.writes if "statefulsets" in each]


async def test_a_set_of_others_is_never_touched(api: MemoryApi, clock: Clock) -> None:
    """A user can give any labels and owners to them."""
    api.put(DEPLOYMENTS, served(mode="deployment", scale="1..2"))
    own = STATEFUL_SETS.identity("default", "iris-other")
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "iris", "controller": True}
    own["metadata"] |= {
        "labels": {"kubectl-serve.dev/deployment": "iris"},
        "ownerReferences": [owner | {"uid": deployment(api)["metadata"]["uid"]}],
    }
    api.put(STATEFUL_SETS, own)
    async with running(api, clock, lambda: FACTS):
        await until(lambda: found(api) and reason(api))
        nodes_have_it(api, 2)
        await until(lambda: found(api) is None)
    assert ("statefulsets", "default", "iris-other") in api.objects


async def test_an_image_that_the_node_cannot_pull_is_the_cause(api: MemoryApi, clock: Clock) -> None:
    api.put(DEPLOYMENTS, served())
    async with running(api, clock, lambda: FACTS):
        await until(lambda: found(api) and service(api))
        waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
        pod(api, containerStatuses=[{"name": "model-prefetch", **waiting}])
        nodes_have_it(api, 0)
        await until(lambda: reason(api) == "ImagePullFailed")
