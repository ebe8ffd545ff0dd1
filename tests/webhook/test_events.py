"""Events: few, and the same one twice is one with a count."""

from typing import Any

from serve_webhook.api import EVENTS, ApiError
from serve_webhook.events import LONGEST_NOTE, Recorder
from webhook_api import Clock, MemoryApi

DEPLOYMENT = {"metadata": {"name": "iris", "namespace": "default", "uid": "d-1"}}


def events(api: MemoryApi) -> list[Any]:
    return [found for where, found in api.objects.items() if where[0] == EVENTS.plural]


async def test_an_event_is_about_the_deployment(api: MemoryApi, clock: Clock) -> None:
    recorder = Recorder(api, "server-1", clock)
    await recorder.record(DEPLOYMENT, warning=True, reason="NotFound", note="né" * 5000)
    (event,) = events(api)
    assert (event["type"], event["reason"], event["regarding"]["uid"]) == ("Warning", "NotFound", "d-1")
    assert event["eventTime"] == "2026-01-01T00:00:00.000000Z"
    assert event["note"] == "né" * 341 + "n", f"{LONGEST_NOTE} bytes, and no half of a character"


async def test_the_same_again_is_counted_and_seldom_written(api: MemoryApi, clock: Clock) -> None:
    recorder = Recorder(api, "server-1", clock)
    for _ in range(100):
        await recorder.record(DEPLOYMENT, warning=True, reason="NotFound", note="gone")
        clock.move(seconds=5)
    (event,) = events(api)
    assert event["series"]["count"] >= 96
    assert len(api.writes) <= 1 + 100 / 4


async def test_after_a_while_it_is_a_new_event(api: MemoryApi, clock: Clock) -> None:
    recorder = Recorder(api, "server-1", clock)
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="yes")
    clock.move(minutes=10)
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="yes")
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="otherwise")
    assert len(events(api)) == 3


async def test_an_event_that_cannot_be_written_stops_nothing(api: MemoryApi, clock: Clock) -> None:
    api.failures["create events"] = ApiError("forbidden", 403)
    recorder = Recorder(api, "server-1", clock)
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="yes")
    assert events(api) == []
    api.failures.clear()
    await recorder.record(DEPLOYMENT, warning=False, reason="Ready", note="yes")
    assert len(events(api)) == 1, "it is written as soon as it can be"


async def test_an_event_that_was_deleted_is_written_anew(api: MemoryApi, clock: Clock) -> None:
    recorder = Recorder(api, "server-1", clock)
    await recorder.record(DEPLOYMENT, warning=True, reason="NotFound", note="gone")
    (event,) = events(api)
    api.remove(EVENTS, "default", event["metadata"]["name"])
    clock.move(seconds=60)
    for _ in range(2):
        await recorder.record(DEPLOYMENT, warning=True, reason="NotFound", note="gone")
    (anew,) = events(api)
    assert anew["eventTime"] == "2026-01-01T00:01:00.000000Z"
