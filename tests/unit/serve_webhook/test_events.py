"""Events: few, and a repeated one becomes a series with a count."""

from typing import Any

import pytest

import serve_webhook.reconcile.events
from serve_kube.errors import ApiError
from serve_kube.resources import EVENTS
from serve_webhook.reconcile.events import MAX_NOTE, Recorder
from support.fake_api import Clock, MemoryApi

DEPLOYMENT = {"metadata": {"name": "iris", "namespace": "default", "uid": "d-1"}}


def events(api: MemoryApi) -> list[Any]:
    return [found for where, found in api.objects.items() if where[0] == EVENTS.plural]


async def test_an_event_is_about_the_deployment(api: MemoryApi, clock: Clock) -> None:
    recorder = Recorder(api, "server-1", clock)
    await recorder.record(DEPLOYMENT, warning=True, reason="NotFound", note="né" * 5000)
    (event,) = events(api)
    assert (event["type"], event["reason"], event["action"]) == ("Warning", "NotFound", "Serve")
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "default", "name": "iris", "uid": "d-1"}
    assert event["regarding"] == deployment
    assert (event["reportingController"], event["reportingInstance"]) == ("kubectl-serve.dev/server", "server-1")
    assert event["eventTime"] == "2026-01-01T00:00:00.000000Z"
    assert event["note"] == "né" * 341 + "n", f"{MAX_NOTE} bytes, and no half of a character"


@pytest.mark.attack(39)
@pytest.mark.parametrize("command", ["\x1b]52;c;aWQ=\x07", "\x9b2J", "\u202e", "\r", "\b", "\0"])
async def test_what_a_pod_says_is_no_command_to_a_terminal(api: MemoryApi, clock: Clock, command: str) -> None:
    await Recorder(api, "server-1", clock).record(DEPLOYMENT, warning=True, reason="NotFound", note=f"it{command}ends")
    (event,) = events(api)
    assert event["note"].isprintable()
    assert event["note"].startswith("it\\")


async def test_the_same_again_is_counted_and_seldom_written(api: MemoryApi, clock: Clock) -> None:
    recorder = Recorder(api, "server-1", clock)
    for _ in range(100):
        await recorder.record(DEPLOYMENT, warning=True, reason="NotFound", note="gone")
        clock.move(seconds=5)
    (event,) = events(api)
    assert event["series"] == {"count": 97, "lastObservedTime": "2026-01-01T00:08:00.000000Z"}
    assert len(api.writes) <= 1 + 100 / 4


async def test_after_a_while_it_is_a_new_event(api: MemoryApi, clock: Clock) -> None:
    recorder = Recorder(api, "server-1", clock)
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="yes")
    clock.move(minutes=10)
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="yes")
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="otherwise")
    assert [event["type"] for event in events(api)] == ["Normal"] * 3


async def test_another_deployment_or_reason_makes_another_event(api: MemoryApi, clock: Clock) -> None:
    recorder = Recorder(api, "server-1", clock)
    other = {"metadata": DEPLOYMENT["metadata"] | {"uid": "d-2"}}
    for regarding, reason in ((DEPLOYMENT, "A"), (other, "A"), (DEPLOYMENT, "B"), (DEPLOYMENT, "A")):
        await recorder.record(regarding, warning=True, reason=reason, note="gone")
    assert len(events(api)) == 3


async def test_of_many_events_the_last_ones_are_remembered(
    api: MemoryApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_webhook.reconcile.events, "MAX_SERIES", 2)
    recorder = Recorder(api, "server-1", clock)
    for note in ("a", "b", "c", "b", "c", "a"):
        await recorder.record(DEPLOYMENT, warning=True, reason="NotFound", note=note)
    assert [event["note"] for event in events(api)] == ["a", "b", "c", "a"]


async def test_an_event_that_cannot_be_written_stops_nothing(api: MemoryApi, clock: Clock) -> None:
    api.failures["create events"] = ApiError("forbidden", 403)
    recorder = Recorder(api, "server-1", clock)
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="yes")
    assert events(api) == []
    api.failures.clear()
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="yes")
    assert len(events(api)) == 1, "it is written as soon as it can be"


async def test_a_deleted_event_is_written_again(api: MemoryApi, clock: Clock) -> None:
    recorder = Recorder(api, "server-1", clock)
    await recorder.record(DEPLOYMENT, warning=True, reason="NotFound", note="gone")
    (event,) = events(api)
    api.remove(EVENTS, "default", event["metadata"]["name"])
    clock.move(seconds=60)
    for _ in range(2):
        await recorder.record(DEPLOYMENT, warning=True, reason="NotFound", note="gone")
    (recreated,) = events(api)
    assert recreated["eventTime"] == "2026-01-01T00:01:00.000000Z"
