"""Following a model: broken watches lose nothing, and a failure must last before it counts."""

import math
from collections.abc import AsyncIterator

import pytest

from kubectl_serve.status import follow
from kubectl_serve.status.follow import Follower, WaitPolicy, watch_states
from kubectl_serve.status.model import name_of
from kubectl_serve.status.wait import WaitResult
from serve_core.api.annotations import SERVICE
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject
from serve_kube import errors
from serve_kube.resources import CONFIG_MAPS, Resource
from serve_kube.watch import WatchEvent
from support.fake_cluster import FakeCluster


def note(name: str) -> JsonObject:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}


class Breaking(FakeCluster):
    """A cluster whose first watch ends in an error, and with an unseen change meanwhile."""

    error: errors.ApiError

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[JsonObject]]:
        if len(self.objects) == 1:
            self.objects.append(note("missed"))
            raise self.error
        async for event in super().watch(resource, namespace, version, labels=labels, fields=fields):
            yield event


@pytest.mark.parametrize("error", [errors.GoneError("too old"), errors.UnreachableError("broke off")])
async def test_after_a_broken_watch_objects_are_listed_again(
    error: errors.ApiError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_AGAIN_SECONDS", 0)
    cluster = Breaking([note("first")])
    cluster.error = error
    seen = watch_states(cluster, CONFIG_MAPS, "default")
    assert [name for _, name in await anext(seen)] == ["first"]
    assert [name for _, name in await anext(seen)] == ["first", "missed"]


def served(**notes: str) -> list[JsonObject]:
    """A Deployment, the Knative Services of two names, and a pod."""
    labels = {DEPLOYMENT_LABEL: "iris"}
    metadata = {"namespace": "default", "resourceVersion": "1", "labels": labels}
    head = {"apiVersion": "serving.knative.dev/v1", "kind": "Service"}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata | {"name": "iris", "annotations": notes}},
        *(head | {"metadata": metadata | {"name": name}} for name in ("iris", "iris-model")),
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata | {"name": "iris-x"}},
    ]


@pytest.mark.parametrize(("notes", "name"), [({}, "iris"), ({SERVICE: "iris-model"}, "iris-model")])
async def test_the_picture_has_the_knative_service_under_the_name_that_was_chosen(
    notes: dict[str, str], name: str
) -> None:
    async with Follower(FakeCluster(served(**notes)), "default", "iris") as follower:
        snapshot = await follower.snapshot(10)
    assert snapshot.service
    assert (name_of(snapshot.service), [name_of(pod) for pod in snapshot.pods]) == (name, ["iris-x"])


async def test_with_permission_for_the_deployment_alone_it_is_followed() -> None:
    cluster = FakeCluster(served(), hidden=frozenset({"services", "pods"}))
    async with Follower(cluster, "default", "iris") as follower:
        snapshot = await follower.snapshot(10)
    assert snapshot.deployment
    assert (snapshot.service, snapshot.pods) == (None, ())


async def test_without_permission_for_the_deployment_there_is_an_error() -> None:
    cluster = FakeCluster(served(), hidden=frozenset({"deployments"}))
    async with Follower(cluster, "default", "iris") as follower:
        with pytest.raises(errors.ForbiddenError):
            await follower.snapshot(10)


FAILED = WaitResult(False, code="NotFound")
PASSING = WaitResult(False, definite=False, code="Unreachable")


@pytest.mark.parametrize(("end", "seconds"), [(FAILED, 3), (PASSING, 60)])
def test_a_cause_is_believed_once_it_has_lasted(end: WaitResult, seconds: float) -> None:
    doubt = follow._FailureTimer(WaitPolicy(3, 60, 10))
    assert doubt.see(end, 100) is None
    assert doubt.look_again_at == 100 + seconds
    assert doubt.see(end, 99.9 + seconds) is None
    assert doubt.see(end, 100 + seconds) is end


def test_another_cause_takes_its_own_time_and_one_that_may_pass_is_no_other() -> None:
    doubt = follow._FailureTimer(WaitPolicy(3, 60, 10))
    doubt.see(FAILED, 0)
    crashed = WaitResult(False, code="ServerCrashed")
    assert doubt.see(crashed, 2) is None
    assert doubt.see(crashed, 4.9) is None
    assert doubt.see(crashed, 5) is crashed
    doubt.see(PASSING, 10)
    again = WaitResult(False, definite=False, code="ServerError")
    assert doubt.see(again, 70) is again


def test_a_short_calm_between_two_failures_is_no_recovery() -> None:
    """A restarted loader looks healthy until it fails again."""
    doubt = follow._FailureTimer(WaitPolicy(3, 60, 10))
    doubt.see(PASSING, 0)
    for now in (20, 40):
        assert doubt.see(None, now) is None
        assert doubt.see(PASSING, now + 9) is None
    assert doubt.see(PASSING, 60) is PASSING


def test_a_long_calm_is() -> None:
    doubt = follow._FailureTimer(WaitPolicy(3, 60, 10))
    doubt.see(PASSING, 0)
    doubt.see(None, 20)
    assert doubt.look_again_at == 30
    doubt.see(None, 30)
    assert doubt.look_again_at == math.inf
    assert doubt.see(PASSING, 70) is None
