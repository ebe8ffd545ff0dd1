"""Builds images from Containerfiles without Docker: mmdebstrap makes a base once, and buildah builds on it."""

import asyncio
import configparser
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from localcluster import build, pins
from localcluster.commands import run, succeeds
from localcluster.errors import ClusterError
from localcluster.product import Product
from localcluster.progress import Progress

# Wheels with C++ code need libstdc++, which the public Python images have too.
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "libstdc++6")
LEFT_OUT_OF_BASE = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")
CERTIFICATES = Path("/etc/ssl/certs")
PIP_CONFIG = Path("/etc/pip.conf")
KEPT_ARCHIVES = 5
"""Number of archives of one image in the cache: the newest ones, of any version."""

REFERENCE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._/-]*(:\d+/[a-z0-9._/-]+)?):(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})"
)


@dataclass(frozen=True)
class Recipe:
    """The inputs of an image."""

    reference: str
    context: Path
    containerfile: Path
    arguments: Mapping[str, str]
    packages: tuple[str, ...] = ()
    """Debian packages of the base in addition to Python."""

    def check(self) -> None:
        """Check the inputs.

        Raises:
            ClusterError: the name is invalid, or a path is missing.
        """
        if not REFERENCE.fullmatch(self.reference):
            raise ClusterError(f"{self.reference!r} is not an image's NAME:TAG", "For example: dev.local/app/server:1")
        if not self.context.is_dir():
            raise ClusterError(f"the build context {self.context} is not a folder")
        if not self.containerfile.is_file():
            raise ClusterError(f"there is no Containerfile at {self.containerfile}", "Name it with -f.")


def _archives(cache: Path) -> Path:
    return cache / "built-images"


def _slug(text: str) -> str:
    return text.replace("/", "__").replace(":", "@")


def archive_of(cache: Path, reference: str) -> Path:
    """Return the file of this name, or the newest archive of the image with this name.

    Raises:
        ClusterError: there is neither.
    """
    if Path(reference).is_file():
        return Path(reference)
    found = sorted(_archives(cache).glob(f"{_slug(reference)}@*.tar"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ClusterError(
            f"{reference} is no file, and no image of this name has been built",
            f"Build it: scripts/cluster build-image {reference} CONTEXT_DIR",
        )
    return found[-1]


async def build_image(recipe: Recipe, product: Product, progress: Progress) -> Path:
    """Build the image if an input has changed, and return its archive.

    Raises:
        ClusterError: an input is missing, or the build failed.
    """
    recipe.check()
    base = base_reference(product.name, recipe.packages)
    files = await _context_files(recipe.context)
    key = await asyncio.to_thread(key_of, recipe, base, files)
    target = _archives(product.cache) / f"{_slug(recipe.reference)}@{key}.tar"
    if _is_fresh(target):
        return target
    async with _storage(product.cache) as storage:
        # Remove the container of an interrupted build.
        await run(*storage.buildah("rm", "--all"))
        if not await succeeds(*storage.buildah("inspect", "--type=image", base)):
            async with progress.step(f"made the base image: Debian {pins.DEBIAN_SUITE} with Python"):
                await _make_base(storage, base, recipe.packages)
        async with progress.step(f"built {recipe.reference}"):
            await _build(storage, recipe, base, files)
            unfinished = storage.scratch / "archive.tar"
            await run(*storage.buildah("push", recipe.reference, f"docker-archive:{unfinished}:{recipe.reference}"))
            unfinished.replace(target)
        await _forget_old(storage, recipe.reference)
    return target


def _is_fresh(archive: Path) -> bool:
    """Return whether the archive exists; if so, mark it as the newest of its name."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.exists():
        archive.touch()
    return archive.exists()


@dataclass(frozen=True)
class _Storage:
    """buildah's storage in the cache, with a scratch folder for one run."""

    driver: str
    cache: Path
    scratch: Path

    def buildah(self, *arguments: str | Path) -> list[str]:
        # In separate namespaces: the mounts and processes of an interrupted build end with them.
        return [
            "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc",
            "buildah", f"--root={self.cache / f'buildah-{self.driver}'}", f"--runroot={self.scratch / 'run'}",
            f"--storage-driver={self.driver}", *map(str, arguments),
        ]  # fmt: skip


@asynccontextmanager
async def _storage(cache: Path) -> AsyncIterator[_Storage]:
    # In the cache, so that a finished archive only needs a rename.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache) as folder:
        scratch = Path(folder)
        yield _Storage("overlay" if await _overlay_works(scratch) else "vfs", cache, scratch)


async def _overlay_works(scratch: Path) -> bool:
    """Return whether the cache's file system can be an upper layer. An overlay file system cannot."""
    layers = {name: scratch / name for name in ("lowerdir", "upperdir", "workdir")}
    for folder in layers.values():
        folder.mkdir()
    options = ",".join(f"{name}={folder}" for name, folder in layers.items())
    return await succeeds("unshare", "--mount", "mount", "-t", "overlay", "-o", options, "overlay", layers["lowerdir"])


def base_reference(product: str, packages: tuple[str, ...]) -> str:
    """Return the name of the base with those packages in addition to Python."""
    recipe = [pins.DEBIAN_SUITE, *BASE_PACKAGES, *sorted(packages), *LEFT_OUT_OF_BASE, BASE_CONTAINERFILE]
    return f"localhost/{product}-base:{build.fingerprint(part.encode() for part in recipe)}"


# The empty file is the mount point for this machine's pip configuration during a build.
BASE_CONTAINERFILE = f"""FROM scratch
ADD base.tar /
RUN : > {PIP_CONFIG}
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


async def _make_base(storage: _Storage, reference: str, packages: tuple[str, ...]) -> None:
    context = storage.scratch / "base"
    context.mkdir()
    sources = await _apt_sources()
    await run(
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--include={','.join((*BASE_PACKAGES, *packages))}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT_OF_BASE),
        pins.DEBIAN_SUITE,
        context / "base.tar",
        *sources,
    )
    (context / "Containerfile").write_text(BASE_CONTAINERFILE)
    await run(*storage.buildah("bud", "--isolation=chroot", "-f", context / "Containerfile", "-t", reference, context))
    shutil.rmtree(context)


async def _apt_sources() -> list[str]:
    """Return apt lines for the base from this machine's mirrors, or none on other systems than Debian."""
    fields = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"
    output = await run("apt-get", "indextargets", "--format", fields, "Identifier: Packages")
    mirrors = {
        label: uri
        for origin, label, component, uri in (line.split("|") for line in output.splitlines())
        if origin == "Debian" and component == "main"
    }
    if "Debian" not in mirrors:
        return []
    suite = pins.DEBIAN_SUITE
    lines = [f"deb {mirrors['Debian']} {name} main" for name in (suite, f"{suite}-updates")]
    if "Debian-Security" in mirrors:
        lines.append(f"deb {mirrors['Debian-Security']} {suite}-security main")
    return lines


async def _build(storage: _Storage, recipe: Recipe, base: str, files: list[Path]) -> None:
    # Copy only what git tracks: no bytecode or virtual environment of the checkout gets into the image.
    context = storage.scratch / "context"
    await asyncio.to_thread(_copy, recipe.context, files, context)
    pip_config = storage.scratch / "pip.conf"
    mounts = {CERTIFICATES: CERTIFICATES, pip_config: PIP_CONFIG, **_write_pip_config(pip_config)}
    await run(
        *storage.buildah(
            "bud",
            "--isolation=chroot",
            "--layers",
            "--pull=false",
            *(f"--volume={here}:{there}:ro" for here, there in mounts.items()),
            *(f"--build-arg={name}={value}" for name, value in {"BASE": base, **recipe.arguments}.items()),
            "-f",
            recipe.containerfile,
            "-t",
            recipe.reference,
            context,
        )
    )


def _copy(source: Path, files: list[Path], target: Path) -> None:
    for file in files:
        copied = target / file
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / file, copied)
        os.utime(copied, (0, 0))  # for buildah, another time is a change of the file
        copied.chmod(0o755 if os.access(source / file, os.X_OK) else 0o644)


def _write_pip_config(target: Path) -> dict[Path, Path]:
    """Write this machine's pip configuration; return folders of wheels to mount."""
    config = configparser.RawConfigParser()
    home = Path.home()
    config.read([PIP_CONFIG, home / ".pip/pip.conf", home / ".config/pip/pip.conf"])
    config.read(os.environ.get("PIP_CONFIG_FILE", ""))
    if not config.has_section("global"):
        config.add_section("global")
    for name, value in os.environ.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            config.set("global", name.removeprefix("PIP_").lower().replace("_", "-"), value)
    config.set("global", "cert", str(CERTIFICATES / "ca-certificates.crt"))
    mounts = {}
    wheels = Path(config.get("global", "find-links", fallback=""))
    if wheels.is_absolute():
        # /mnt is an empty folder of every base, so the mount leaves nothing in the image.
        config.set("global", "find-links", "/mnt")
        if wheels.is_dir():
            mounts[wheels] = Path("/mnt")
    with target.open("w") as file:
        config.write(file)
    return mounts


async def _context_files(context: Path) -> list[Path]:
    """Return the files of the context, relative to it: those that git tracks or would track; without git, all."""
    # The checkout may belong to another user than root.
    git = ("git", "-c", "safe.directory=*", "-C", context)
    if await succeeds(*git, "rev-parse", "--git-dir"):
        output = await run(*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard", ".")
        listed = {context / name for name in output.split("\0") if name}
    else:
        listed = await asyncio.to_thread(lambda: set(context.rglob("*")))
    return sorted(path.relative_to(context) for path in listed if path.is_file())


def key_of(recipe: Recipe, base: str, files: list[Path]) -> str:
    text = recipe.containerfile.read_text()
    copied = copied_paths(text)
    parts = [recipe.reference, base, text, repr(sorted(recipe.arguments.items()))]
    contents: list[bytes] = [part.encode() for part in parts]
    for file in files:
        if copied is None or any(file == source or source in file.parents for source in copied):
            mode = b"x" if os.access(recipe.context / file, os.X_OK) else b"-"
            contents += [str(file).encode(), mode, (recipe.context / file).read_bytes()]
    return build.fingerprint(contents)


def copied_paths(containerfile: str) -> set[Path] | None:
    """Return the paths of the context that a Containerfile copies, or None (all) if it uses patterns or variables."""
    lines = containerfile.replace("\\\n", " ").splitlines()
    sources: set[Path] = set()
    for words in (line.split() for line in lines):
        if not words or words[0].upper() not in {"COPY", "ADD"}:
            continue
        flags = [word for word in words[1:] if word.startswith("--")]
        if any(flag.startswith("--from=") for flag in flags):
            continue
        paths = [word for word in words[1:] if not word.startswith("--")][:-1]
        if any(re.search(r"[][*?$\"']", path) for path in paths):
            return None
        sources |= {Path(path.lstrip("/")) for path in paths}
    return None if Path() in sources else sources


def _variant(tag: str) -> str:
    """Return the variant of an image: the part of the tag after a dash. Old images are compared within a variant."""
    return tag.partition("-")[2]


async def _forget_old(storage: _Storage, reference: str) -> None:
    name, _, tag = reference.rpartition(":")
    listed = await run(*storage.buildah("images", "--format", "{{.Name}}:{{.Tag}}"))
    old = [
        line
        for line in listed.split()
        if line.startswith(f"{name}:") and line != reference and _variant(line.rpartition(":")[2]) == _variant(tag)
    ]
    if old:
        await run(*storage.buildah("rmi", *old))
    found = sorted(_archives(storage.cache).glob(f"{_slug(name)}@*.tar"), key=lambda path: path.stat().st_mtime)
    found = [path for path in found if _variant(path.name.rsplit("@", 2)[1]) == _variant(tag)]
    for archive in found[:-KEPT_ARCHIVES]:
        archive.unlink(missing_ok=True)
