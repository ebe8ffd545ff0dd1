"""The work queue of the reconciler."""

import asyncio
import logging

import pytest

from serve_kube.errors import UnavailableError
from serve_webhook import work_queue
from serve_webhook.work_queue import WorkQueue, backoff, run_forever


async def taken(queue: WorkQueue[str]) -> str:
    async with asyncio.timeout(10):
        return await queue.get()


async def test_a_name_waits_once_however_often_it_is_added() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for name in ("a", "b", "a", "a"):
        queue.add(name)
    assert len(queue) == 2
    assert [await taken(queue), await taken(queue)] == ["a", "b"]
    assert len(queue) == 0
    queue.add("c")
    assert await taken(queue) == "c", "nothing was handed out twice"


async def test_a_name_that_is_added_while_it_is_handled_comes_again_afterwards() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("a")
    queue.add("b")
    assert await taken(queue) == "b"
    queue.done("a")
    assert await taken(queue) == "a"


async def test_the_sooner_of_two_turns_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 60)
    queue.add_after("a", 0.01)
    queue.add_after("a", 60)
    assert await taken(queue) == "a"
    queue.add_after("b", 60)
    queue.add("b")
    assert await taken(queue) == "b"
    queue.close()


async def test_of_several_reasons_for_a_turn_there_is_one() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("at once")
    queue.add_after("at once", 0.01)
    queue.add_after("sooner than thought", 0.01)
    queue.add("sooner than thought")
    queue.add_after("soon", 0.02)
    queue.add_after("soon", 0)
    for name in ("at once", "sooner than thought", "soon"):
        assert await taken(queue) == name
        queue.done(name)
    queue.add_after("something else", 0.05)
    assert await taken(queue) == "something else"


async def test_what_was_to_be_added_later_is_forgotten_when_the_queue_is_closed() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 0)
    queue.close()
    queue.add_after("b", 0.01)
    assert await taken(queue) == "b"
    queue.add_after("a", 0.01)
    assert await taken(queue) == "a", "a new term of leadership starts without back-off"


async def test_changes_that_come_together_make_one_turn_after_the_first() -> None:
    queue: WorkQueue[str] = WorkQueue(rest=0.02)
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("a")
    queue.done("a")
    queue.add("a")
    queue.add("b")
    assert await taken(queue) == "b", "another name does not wait"
    assert await taken(queue) == "a"
    queue.done("a")
    queue.add("c")
    assert [await taken(queue), len(queue)] == ["c", 0], "nothing was handed out twice"
    queue.close()


async def test_retries_wait_longer_and_longer_until_the_name_is_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(delay=lambda attempt: 100.0 * 2**attempt)
    assert [queue.retry("a"), queue.retry("a"), queue.retry("b")] == [100, 200, 100]
    queue.forget("a")
    assert queue.retry("a") == 100
    queue.close()


def test_the_back_off_doubles_up_to_a_bound_with_jitter() -> None:
    assert [backoff(attempt, chance=lambda: 1.0) for attempt in (0, 1, 2, 50)] == [0.2, 0.4, 0.8, 30.0]
    assert backoff(50, chance=lambda: 0.0) == 15.0


async def test_what_is_kept_right_waits_no_longer_for_what_failed_before_it_succeeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts: list[int] = []

    def at_once(attempt: int) -> float:
        attempts.append(attempt)
        return 0

    monkeypatch.setattr(work_queue, "backoff", at_once)
    changed, finished, fails = asyncio.Event(), asyncio.Event(), [True, True, False, True, False]

    async def right() -> None:
        if fails.pop(0):
            raise UnavailableError("connection refused")
        if fails:
            changed.set()
        else:
            finished.set()

    keeping = asyncio.create_task(run_forever("It", right, changed, logging.getLogger()))
    async with asyncio.timeout(10):
        await finished.wait()
    keeping.cancel()
    assert attempts == [0, 1, 0]


@pytest.mark.attack(18)
async def test_an_owner_of_thousands_of_names_does_not_delay_others() -> None:
    queue: WorkQueue[tuple[str, str]] = WorkQueue(owner=lambda name: name[0])
    for number in range(1000):
        queue.add(("many", str(number)))
    queue.add(("few", "a"))
    queue.add(("other", "a"))
    queue.add(("few", "b"))
    found = [await asyncio.wait_for(queue.get(), 10) for _ in range(6)]
    assert found == [("many", "0"), ("few", "a"), ("other", "a"), ("many", "1"), ("few", "b"), ("many", "2")]
    assert len(queue) == 997


@pytest.mark.attack(18)
async def test_slow_names_of_one_owner_leave_a_worker_to_the_others() -> None:
    queue: WorkQueue[tuple[str, str]] = WorkQueue(owner=lambda name: name[0], most=3)
    for number in range(10):
        queue.add(("slow", str(number)))
    slow = [await asyncio.wait_for(queue.get(), 10) for _ in range(3)]
    free = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not free.done(), "three are being handled"
    queue.add(("other", "a"))
    assert await asyncio.wait_for(free, 10) == ("other", "a")
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.done(slow[0])
    assert await asyncio.wait_for(waiting, 10) == ("slow", "3")
    queue.add(slow[1])
    queue.done(slow[1])
    assert [(await asyncio.wait_for(queue.get(), 10))[1]] == ["4"], "what is added while it is handled waits as well"
