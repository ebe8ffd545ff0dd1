"""Getting images into a cluster's containerd."""

import asyncio
from pathlib import Path

from localcluster import archives, node, pins
from localcluster.build import Binaries
from localcluster.commands import run, succeeds
from localcluster.sandbox import Sandbox


async def containerd_is_ready(sandbox: Sandbox) -> bool:
    """Whether containerd answers."""
    return await succeeds(*node.ctr(sandbox, "version"))


async def present(sandbox: Sandbox) -> set[str]:
    """The references of the images that containerd has."""
    return set((await run(*node.ctr(sandbox, "images", "list", "--quiet"))).split())


async def load(sandbox: Sandbox, archive: Path) -> str:
    """Import an archive (docker-archive or OCI) and return what containerd says about it."""
    # Piped: the sandbox has a /run of its own, so that it may not see the caller's path.
    return await run(*node.ctr(sandbox, "images", "import", "-"), file=archive)


async def load_own(sandbox: Sandbox, binaries: Binaries) -> None:
    """Import the cluster's own images, those that are missing."""
    there = await present(sandbox)
    missing = [image for image in pins.IMAGES if image.reference not in there]

    async def write_and_load(image: pins.Image) -> None:
        await load(sandbox, await asyncio.to_thread(archives.archive, image, binaries))

    await asyncio.gather(*map(write_and_load, missing))
