"""Leader election by one Lease, as in client-go: the holder reconciles, the other replicas wait.

Each replica measures with its own clock how long the Lease is unchanged, so clocks may differ. A leader that cannot
renew the Lease stops before another replica can acquire it.
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
    """In seconds, as in client-go: ``retry_period`` < ``renew_deadline`` < ``lease_duration``."""

    lease_duration: int = 15
    """How long a holder that does not renew keeps the Lease."""
    renew_deadline: float = 10.0
    """How long a holder tries to renew before it stops leading."""
    retry_period: float = 2.0
    """Between two reads or renewals of the Lease."""


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
        """While this candidate leads, run ``work``; otherwise cancel it and try to acquire the Lease again.

        Ends only by cancellation, which releases the Lease, or by an exception of ``work``.
        """
        try:
            while True:
                if not await self._acquire_or_renew():
                    await asyncio.sleep(self._timing.retry_period)
                    continue
                logger.info("Leading as %s.", self._identity)
                await self._lead(work)
                logger.warning("Stopped leading: the Lease could not be renewed.")
        finally:
            await self._release()

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await work()

        task = asyncio.create_task(run(), name="leading")
        loop = asyncio.get_running_loop()
        try:
            while loop.time() - self._renewed < self._timing.renew_deadline:
                await asyncio.wait({task}, timeout=self._timing.retry_period)
                if task.done():
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(self._renewed + self._timing.renew_deadline):
                        if not await self._acquire_or_renew() and self._held_by_another():
                            return
        finally:
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def _acquire_or_renew(self) -> bool:
        """Acquire or renew the Lease if possible. Returns whether this candidate holds it now."""
        asked = asyncio.get_running_loop().time()
        is_ours = await self._write()
        if is_ours:
            # The other candidates count from the write, which may be long before its response.
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
        duration = (self._lease or {}).get("spec", {}).get("leaseDurationSeconds") or self._timing.lease_duration
        return asyncio.get_running_loop().time() < self._seen + float(duration)

    def _spec(self) -> JsonObject:
        spec = dict((self._lease or {}).get("spec", {}))
        now = self._now().astimezone(UTC).strftime(_TIME)
        if self._holder() != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        return spec | {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._timing.lease_duration,
            "renewTime": now,
        }

    async def _release(self) -> None:
        """So that the next one need not wait for it to run out."""
        if self._lease is None or self._holder() != self._identity:
            return
        spec = self._spec() | {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(self._timing.retry_period):
                await self._api.replace(LEASES, self._lease | {"spec": spec})
        except (ApiError, TimeoutError) as error:
            logger.warning("The Lease was not released: %s", error)
