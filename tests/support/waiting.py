"""What asynchronous tests wait for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from serve_webhook.cache.informers import Informer


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition that several parts can change is true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)


async def until_changed(informer: Informer, condition: Callable[[], object]) -> None:
    """Wait until a condition on an informer's objects is true."""
    changed = asyncio.Event()
    stop = informer.subscribe(lambda _old, _new: changed.set())
    async with asyncio.timeout(10):
        while not condition():
            changed.clear()
            await changed.wait()
    stop()


@asynccontextmanager
async def running(informer: Informer) -> AsyncIterator[None]:
    """Run an informer that has all objects; it must not end by itself."""
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(5):
            await informer.synced.wait()
            yield
            assert not task.done()
    finally:
        task.cancel()
