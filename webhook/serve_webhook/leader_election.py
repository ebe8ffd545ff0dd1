"""Leader election by one Lease, as in client-go: who holds it reconciles, everybody else waits.

Only changes seen by one's own clock count, so clocks may differ; who cannot renew stops before anybody else may start.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject
from serve_kube.client import Client
from serve_kube.errors import ApiError, ConflictError, NotFoundError
from serve_kube.resources import LEASES

NAME = "kubectl-serve"
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """In seconds: ``renew`` must be shorter than ``give_up``, and that than ``duration``."""

    duration: int = 15
    """How long a holder that says nothing keeps the Lease."""
    give_up: float = 10.0
    """How long a holder tries to renew before it stops working."""
    retry: float = 2.0
    """Between two looks at the Lease, or two renewals."""


class Election:
    """One candidate."""

    def __init__(
        self,
        api: Client,
        identity: str,
        now: Callable[[], datetime],
        *,
        namespace: str = NAMESPACE,
        timing: Timing | None = None,
    ) -> None:
        self._api = api
        self._identity = identity
        self._now = now
        self._namespace = namespace
        self._timing = timing or Timing()
        self._lease: JsonObject | None = None
        self._seen = 0.0
        self._renewed = 0.0

    async def campaign(self, work: Callable[[], Awaitable[None]]) -> None:
        """Whenever this candidate leads, run ``work``; when it leads no more, cancel it and stand again.

        Ends only by cancellation, when the Lease is given back, or by an exception of ``work``.
        """
        try:
            while True:
                if not await self._try():
                    await asyncio.sleep(self._timing.retry)
                    continue
                logger.info("Leading as %s.", self._identity)
                await self._lead(work)
                logger.warning("Not leading any more: the Lease could not be renewed.")
        finally:
            await self._give_back()

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await work()

        task = asyncio.create_task(run(), name="leading")
        loop = asyncio.get_running_loop()
        try:
            while loop.time() - self._renewed < self._timing.give_up:
                await asyncio.wait({task}, timeout=self._timing.retry)
                if task.done():
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(self._renewed + self._timing.give_up):
                        if not await self._try() and self._held_by_another():
                            return
        finally:
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def _try(self) -> bool:
        """Take or renew the Lease if that is allowed; whether it is ours now."""
        asked = asyncio.get_running_loop().time()
        is_ours = await self._write()
        if is_ours:
            # The others count from when it was written: that may be long before the answer came.
            self._renewed = asked
        return is_ours

    async def _write(self) -> bool:
        try:
            lease = self._lease
            if lease is None or self._holder() != self._identity:
                self._observe(lease := await self._api.get(LEASES, self._namespace, NAME))
            if self._held_by_another():
                return False
            self._observe(await self._api.replace(LEASES, lease | {"spec": self._spec()}))
        except NotFoundError:
            return await self._create()
        except ConflictError:
            self._lease = None
            return False
        except ApiError as error:
            logger.warning("The Lease cannot be reached: %s", error)
            return False
        return True

    async def _create(self) -> bool:
        try:
            lease = LEASES.identity(self._namespace, NAME) | {"spec": self._spec()}
            self._observe(await self._api.create(LEASES, lease))
        except ApiError as error:
            logger.info("The Lease was not created: %s", error)
            return False
        return True

    def _observe(self, lease: JsonObject) -> None:
        if self._lease is None or lease["spec"] != self._lease["spec"]:
            self._seen = asyncio.get_running_loop().time()
        self._lease = lease

    def _holder(self) -> str:
        return str((self._lease or {}).get("spec", {}).get("holderIdentity") or "")

    def _held_by_another(self) -> bool:
        if self._holder() in ("", self._identity):
            return False
        duration = (self._lease or {}).get("spec", {}).get("leaseDurationSeconds") or self._timing.duration
        return asyncio.get_running_loop().time() < self._seen + float(duration)

    def _spec(self) -> JsonObject:
        spec = dict((self._lease or {}).get("spec", {}))
        now = self._now().astimezone(UTC).strftime(_TIME)
        if self._holder() != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        return spec | {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._timing.duration,
            "renewTime": now,
        }

    async def _give_back(self) -> None:
        """So that the next one need not wait for it to run out."""
        if self._lease is None or self._holder() != self._identity:
            return
        spec = self._spec() | {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(self._timing.retry):
                await self._api.replace(LEASES, self._lease | {"spec": spec})
        except (ApiError, TimeoutError) as error:
            logger.warning("The Lease was not given back: %s", error)
