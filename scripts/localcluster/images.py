"""A cluster's containerd: its state, and importing images into it.

The cluster's own images are imported once, into a folder of the cache. A new cluster gets hard links to it, which needs
no time or disk space; importing half a gigabyte takes half a minute on a small machine.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster import archives, build, node, pins
from localcluster.build import Binaries
from localcluster.commands import run, succeeds
from localcluster.product import Product
from localcluster.progress import Progress
from localcluster.sandbox import Sandbox

LOADED_FROM = "localcluster/loaded-from"
"""containerd label of an image: the archive that it was imported from."""

# A temporary containerd for the imports, without the part for the kubelet.
IMPORT = """
mount -t tmpfs tmpfs /run
PATH="$1:$PATH"
printf 'version = 3\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' > /run/containerd.toml
containerd --root "$2" --state /run/containerd --address /run/containerd.sock --config /run/containerd.toml &
until ctr --address /run/containerd.sock version; do kill -0 $!; sleep 0.1; done
shift 2
for archive; do ctr --address /run/containerd.sock --namespace k8s.io images import "$archive"; done
kill $!
wait
"""


async def containerd_is_ready(sandbox: Sandbox) -> bool:
    """Return whether containerd responds."""
    return await succeeds(*node.ctr(sandbox, "version"))


async def running_containers(sandbox: Sandbox) -> set[str]:
    """Return the ids of the running containers."""
    return set((await run(*node.ctr(sandbox, "tasks", "list", "--quiet"))).split())


async def load(sandbox: Sandbox, archive: Path) -> None:
    """Import an archive (docker-archive or OCI)."""
    # Piped, because the sandbox has its own /run and may not see the caller's path.
    await run(*node.ctr(sandbox, "images", "import", "-"), file=archive)


async def load_built(sandbox: Sandbox, reference: str, archive: Path) -> None:
    """Import an archive of `build-image` unless containerd has it: the archive's name identifies its content."""
    label = f"{LOADED_FROM}={archive.name}"
    if label not in await run(*node.ctr(sandbox, "images", "list", f"name=={reference}")):
        await load(sandbox, archive)
        await run(*node.ctr(sandbox, "images", "label", reference, label))


async def tag(sandbox: Sandbox, reference: str, other: str) -> None:
    """Give a loaded image another name, such as the public one that a manifest has."""
    await run(*node.ctr(sandbox, "images", "tag", "--force", reference, other))


async def imported(product: Product, binaries: Binaries, progress: Progress) -> Path:
    """Return a containerd folder in the cache that has the cluster's own images; make it if needed."""
    parts = [folder.name for folder in binaries.folders.values()]
    parts += [product.reference(image) for image in pins.IMAGES]
    target = product.cache / f"containerd-{build.fingerprint(part.encode() for part in parts)}"
    if not _exists(target):
        async with progress.step("images of the cluster's own programs"):
            with _unfinished(target) as folder:
                files = [
                    await asyncio.to_thread(
                        archives.write, image, product.reference(image), binaries, folder / f"{image.name}.tar"
                    )
                    for image in pins.IMAGES
                ]
                await run(
                    "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc",
                    "sh", "-euc", IMPORT, "sh", binaries.folders["containerd"], folder / "root", *files,
                )  # fmt: skip
    return target


def _exists(folder: Path) -> bool:
    return folder.is_dir()


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """Yield a scratch folder. Its folder `root` becomes `target` if the block succeeds."""
    with tempfile.TemporaryDirectory(prefix=".import-", dir=target.parent) as folder:
        yield Path(folder)
        (Path(folder) / "root").rename(target)


async def give(source: Path, target: Path) -> None:
    """Make `target`, the containerd folder of a new cluster, from the imported images. Keep an existing one."""
    if _exists(target):
        return
    unfinished = target.with_name(f".{target.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    # Layers and blobs are never modified, so clusters can share them; databases are.
    if not await succeeds("cp", "-a", "--link", source, unfinished):
        shutil.rmtree(unfinished, ignore_errors=True)
        await run("cp", "-a", source, unfinished)
    for database in unfinished.rglob("*.db"):
        copy = database.with_suffix(".copy")
        shutil.copy2(database, copy)
        copy.replace(database)
    unfinished.rename(target)
