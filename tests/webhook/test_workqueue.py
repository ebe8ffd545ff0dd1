"""The queue of names."""

import asyncio

from serve_webhook.workqueue import WorkQueue, backoff


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


async def test_retries_wait_longer_and_longer_until_the_name_is_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(delay=lambda attempt: 100.0 * 2**attempt)
    assert [queue.retry("a"), queue.retry("a"), queue.retry("b")] == [100, 200, 100]
    queue.forget("a")
    assert queue.retry("a") == 100
    queue.close()


def test_the_back_off_doubles_up_to_a_bound_with_jitter() -> None:
    assert [backoff(attempt, chance=lambda: 1.0) for attempt in (0, 1, 2, 50)] == [0.2, 0.4, 0.8, 30.0]
    assert backoff(50, chance=lambda: 0.0) == 15.0
