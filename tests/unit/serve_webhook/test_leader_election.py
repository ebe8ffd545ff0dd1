"""Leader election: at most one leader, and always a next one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from serve_core.base.constants import NAMESPACE
from serve_kube.errors import ConflictError, UnavailableError
from serve_kube.resources import LEASES
from serve_webhook.leader_election import NAME, Election, Timing
from support.fake_api import MemoryApi

QUICK = Timing(lease_duration=1, renew_deadline=0.2, retry_period=0.02)


class Work:
    """Notes when it runs."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.runs = 0

    async def __call__(self) -> None:
        self.runs += 1
        self.started.set()
        self.ended.clear()
        try:
            await asyncio.Event().wait()
        finally:
            self.started.clear()
            self.ended.set()


@asynccontextmanager
async def candidate(
    api: MemoryApi, name: str, work: Callable[[], Awaitable[None]], timing: Timing = QUICK
) -> AsyncIterator[asyncio.Task[None]]:
    election = Election(api, name, lambda: datetime.now(UTC), timing=timing)
    task = asyncio.create_task(election.campaign(work))
    try:
        async with asyncio.timeout(10):
            yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


def holder(api: MemoryApi) -> str:
    return str(api.objects["leases", NAMESPACE, NAME]["spec"]["holderIdentity"])


async def test_one_of_two_leads_and_the_other_takes_over_when_it_leaves(api: MemoryApi) -> None:
    one, two = Work(), Work()
    async with candidate(api, "two", two):
        async with candidate(api, "one", one):
            await asyncio.wait(
                {asyncio.create_task(one.started.wait()), asyncio.create_task(two.started.wait())},
                return_when=asyncio.FIRST_COMPLETED,
            )
            assert one.started.is_set() != two.started.is_set()
        # The one that left has given the Lease back, so the other need not wait for it to run out.
        async with asyncio.timeout(0.5):
            await two.started.wait()
    assert holder(api) == ""


async def test_a_lease_whose_holder_says_nothing_runs_out(api: MemoryApi) -> None:
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2020-01-01T00:00:00.000000Z"}
    api.put(LEASES, LEASES.identity(NAMESPACE, NAME) | {"spec": spec})
    work, start = Work(), asyncio.get_running_loop().time()
    async with candidate(api, "alive", work, Timing(lease_duration=60, renew_deadline=30, retry_period=0.02)):
        await work.started.wait()
        # Its time counts from when we first saw it: the holder's clock may be wrong.
        assert asyncio.get_running_loop().time() - start >= 0.9
        assert holder(api) == "alive"


@pytest.mark.parametrize("verb", ["create", "replace"])
async def test_who_comes_second_does_not_work(api: MemoryApi, verb: str) -> None:
    if verb == "replace":
        api.put(LEASES, LEASES.identity(NAMESPACE, NAME) | {"spec": {"holderIdentity": ""}})
    api.failures[f"{verb} leases"] = ConflictError("another write was first", 409)
    work = Work()
    async with candidate(api, "one", work):
        await asyncio.sleep(5 * QUICK.retry_period)
        assert work.runs == 0
        api.failures.clear()
        await work.started.wait()


async def test_a_leader_that_renews_keeps_leading_whatever_others_write_to_the_lease(api: MemoryApi) -> None:
    work, other, timing = Work(), Work(), Timing(lease_duration=1, renew_deadline=0.8, retry_period=0.1)
    async with candidate(api, "one", work, timing):
        await work.started.wait()
        labelled = await api.get(LEASES, NAMESPACE, NAME)
        labelled["metadata"]["labels"] = {"team": "a"}
        api.put(LEASES, labelled)
        async with candidate(api, "two", other, timing):
            while api.writes.count("replace leases") * timing.retry_period <= 1.5 * timing.lease_duration:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(timing.retry_period)
            assert (work.runs, other.runs) == (1, 0)
    assert api.objects["leases", NAMESPACE, NAME]["metadata"]["labels"] == {"team": "a"}


async def test_a_leader_that_cannot_renew_stops_before_another_can_start(api: MemoryApi) -> None:
    work = Work()
    async with candidate(api, "one", work):
        await work.started.wait()
        start = asyncio.get_running_loop().time()
        for verb in ("get", "replace"):
            api.failures[f"{verb} leases"] = UnavailableError("away")
        await work.ended.wait()
        assert asyncio.get_running_loop().time() - start < QUICK.lease_duration
        api.failures.clear()
        await work.started.wait()


async def test_an_answer_that_comes_late_makes_the_lease_no_longer(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing, clock = Timing(lease_duration=1, renew_deadline=0.6, retry_period=0.02), asyncio.get_running_loop().time
    replace, written = api.replace, []

    async def slow(*arguments: Any) -> Any:
        answer = await replace(*arguments)
        written.append(clock())
        for verb in ("get", "replace"):
            api.failures[f"{verb} leases"] = UnavailableError("away")
        await asyncio.sleep(0.55)
        return answer

    monkeypatch.setattr(api, "replace", slow)
    work = Work()
    async with candidate(api, "one", work, timing):
        await work.started.wait()
        await work.ended.wait()
        assert clock() - written[0] < timing.lease_duration, "another candidate may start from then on"


async def test_a_lease_that_was_taken_away_ends_the_work_at_once(api: MemoryApi) -> None:
    work, patient = Work(), Timing(lease_duration=1, renew_deadline=60, retry_period=0.02)
    async with candidate(api, "one", work, patient):
        await work.started.wait()
        stolen = await api.get(LEASES, NAMESPACE, NAME)
        stolen["spec"]["holderIdentity"] = "thief"
        api.put(LEASES, stolen)
        await work.ended.wait()
        assert holder(api) == "thief"


async def test_the_works_own_failure_is_not_swallowed(api: MemoryApi) -> None:
    async def broken() -> None:
        raise RuntimeError("oops")

    async with candidate(api, "one", broken) as task:
        with pytest.raises(RuntimeError, match="oops"):
            await task
