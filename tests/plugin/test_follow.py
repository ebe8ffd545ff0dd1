"""Following: nothing is missed when a watch breaks, and doubts take their time."""

import math
from collections.abc import AsyncIterator

import pytest

from kubectl_serve import errors, follow
from kubectl_serve.api import CONFIG_MAPS, Resource, WatchEvent
from kubectl_serve.follow import Patience, states
from kubectl_serve.waiting import End
from plugin.fake import FakeCluster
from serve_core.json import JsonObject


def note(name: str) -> JsonObject:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}


class Breaking(FakeCluster):
    """A cluster whose first watch ends in an error, while something happens that nobody sees."""

    error: errors.ApiError

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        if len(self.objects) == 1:
            self.objects.append(note("missed"))
            raise self.error
        async for event in super().watch(resource, namespace, version, labels=labels, fields=fields):
            yield event


@pytest.mark.parametrize("error", [errors.GoneError("too old"), errors.UnreachableError("broke off")])
async def test_a_watch_that_breaks_is_listed_anew(error: errors.ApiError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_AGAIN_SECONDS", 0)
    cluster = Breaking([note("first")])
    cluster.error = error
    seen = states(cluster, CONFIG_MAPS, "default")
    assert [name for _, name in await anext(seen)] == ["first"]
    assert [name for _, name in await anext(seen)] == ["first", "missed"]


FAILED = End(False, code="NotFound")
PASSING = End(False, definite=False, code="Unreachable")


@pytest.mark.parametrize(("end", "seconds"), [(FAILED, 3), (PASSING, 60)])
def test_a_cause_is_believed_once_it_has_lasted(end: End, seconds: float) -> None:
    doubt = follow._Doubt(Patience(3, 60, 10))
    assert doubt.see(end, 100) is None
    assert doubt.look_again_at == 100 + seconds
    assert doubt.see(end, 99.9 + seconds) is None
    assert doubt.see(end, 100 + seconds) is end


def test_a_short_calm_between_two_failures_is_no_recovery() -> None:
    """A loader that starts anew looks well until it fails again."""
    doubt = follow._Doubt(Patience(3, 60, 10))
    doubt.see(PASSING, 0)
    for now in (20, 40):
        assert doubt.see(None, now) is None
        assert doubt.see(PASSING, now + 9) is None
    assert doubt.see(PASSING, 60) is PASSING


def test_a_long_calm_is() -> None:
    doubt = follow._Doubt(Patience(3, 60, 10))
    doubt.see(PASSING, 0)
    doubt.see(None, 20)
    assert doubt.look_again_at == 30
    doubt.see(None, 30)
    assert doubt.look_again_at == math.inf
    assert doubt.see(PASSING, 70) is None
