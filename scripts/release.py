"""Makes a release: the same files from the same commit, on any machine.

- the wheel and the source distribution
- `kubectl-serve-linux-amd64.tar.gz` (or of this machine's system): the command with its own Python. It is made for the
  system that runs this script; the workflow runs it once on each
- `serve.yaml`: the manifest for krew, if `--url` says where the archives will be
- SBOMs in CycloneDX of the command and of the server: each locked distribution with its hashes
- `SHA256SUMS`
"""

import argparse
import asyncio
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "plugin"), str(ROOT / "scripts")]

from kubectl_serve import __version__  # noqa: E402
from localcluster import prerequisites  # noqa: E402  # how the scripts install what they need
from localcluster.errors import ClusterError  # noqa: E402
from localcluster.progress import Progress  # noqa: E402

PROGRAM, COMPLETION = "kubectl-serve", "kubectl_complete-serve"
ENTRY = """import sys

from kubectl_serve.__main__ import run, run_completion

if sys.argv[1:2] == ["__complete"]:
    del sys.argv[1]
    run_completion()
run()
"""
COMPLETE = f"""#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/{PROGRAM}" __complete "$@"
"""
"""krew unpacks no links, and a copy of the program would be as large as the program."""
SYSTEMS = {"Linux": "linux", "Darwin": "darwin", "Windows": "windows"}
MACHINES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
"""Names of the systems and machines, as krew spells them."""
OF_THE_CLUSTER = ("serve_webhook", "model_cache")
"""What runs in the cluster only."""


class ReleaseError(Exception):
    """What the caller has to change."""


def archive_name() -> str:
    """The name of this machine's archive, without the end. Raises ReleaseError for an unknown machine."""
    try:
        return f"{PROGRAM}-{SYSTEMS[platform.system()]}-{MACHINES[platform.machine()]}"
    except KeyError as unknown:
        raise ReleaseError(f"no release is made for {unknown}") from None


def commit_time() -> int:
    """Seconds since the epoch of the commit: the time of everything in the release."""
    shown = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, check=True, capture_output=True, text=True)
    return int(shown.stdout)


def run(*command: object, time: int, cwd: Path = ROOT) -> None:
    """Run a build tool that has to write the same bytes each time."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(time), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(map(str, command[:4]))} failed:\n{done.stdout}{done.stderr}")


def packages(out: Path, time: int) -> None:
    """The wheel and the source distribution."""
    run(sys.executable, "-m", "hatchling", "build", "--directory", out, time=time)


def command(out: Path, time: int) -> None:
    """The command with its own Python, as an archive of a folder: a file that unpacks itself starts later."""
    asyncio.run(prerequisites.need(needed_packages(), Progress(sys.stderr)))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "entry.py").write_text(ENTRY)
        options = [
            "--onedir",
            "--name",
            PROGRAM,
            "--noconfirm",
            "--log-level",
            "WARN",
            "--strip",
            "--distpath",
            work / "dist",
        ]
        options += ["--workpath", work / "build", "--specpath", work, "--paths", ROOT / "plugin", "--paths"]
        options += [ROOT / "webhook", "--add-data", f"{ROOT / 'manifests'}{os.pathsep}kubectl_serve/manifests"]
        options += ["--hidden-import", "kubectl_serve.completion"]
        for package in ("kubectl_serve", "serve_core", "serve_kube", "model_loader", "model_uri"):
            options += ["--collect-submodules", package]
        for name in (*OF_THE_CLUSTER, *foreign_modules()):
            options += ["--exclude-module", name]
        run(sys.executable, "-m", "PyInstaller", *options, work / "entry.py", time=time, cwd=work)
        made = work / "dist" / PROGRAM
        (made / COMPLETION).write_text(COMPLETE)
        (made / COMPLETION).chmod(0o755)
        shutil.copy(ROOT / "LICENSE", made / "LICENSE")
        write_archive(out / f"{archive_name()}.tar.gz", made, time)


def needed_packages() -> dict[str, str]:
    """What PyInstaller needs beside its own distribution: by command or file, the package of Debian."""
    if platform.system() != "Linux":
        return {}
    packages = {"objdump": "binutils", "strip": "binutils"}  # it reads libraries, and makes them smaller
    if sys.base_prefix == "/usr":  # Debian's Python comes without its library
        library = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/{sysconfig.get_config_var('INSTSONAME')}"
        packages[library] = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
    return packages


def foreign_modules() -> list[str]:
    """The modules in this environment that do not belong to the command or to what it depends on."""
    needed, waiting = set(), [PROGRAM]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in needed:
            continue
        needed.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    owners = metadata.packages_distributions()
    return sorted(
        module for module, names in owners.items() if not needed & {canonicalize_name(name) for name in names}
    )


def write_archive(file: Path, folder: Path, time: int) -> None:
    """A tar.gz whose bytes depend on the content of the folder and the time only, without links: krew refuses them."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = time
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with (
        file.open("wb") as stream,
        gzip.GzipFile("", "wb", 9, stream, mtime=time) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, dereference=True) as archive,
    ):
        for path in sorted(folder.rglob("*")):
            archive.add(path, f"{folder.name}/{path.relative_to(folder)}", recursive=False, filter=plain)


def krew_manifest(out: Path, url: str) -> None:
    """The manifest for krew, of all archives in the folder: those of other systems are put there before."""
    platforms = []
    for file in sorted(out.glob(f"{PROGRAM}-*.tar.gz")):
        system, machine = file.name.removesuffix(".tar.gz").split("-")[-2:]
        platforms.append(
            {
                "selector": {"matchLabels": {"os": system, "arch": machine}},
                "uri": f"{url.rstrip('/')}/{file.name}",
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "files": [{"from": f"{PROGRAM}/*", "to": "."}],
                "bin": f"{PROGRAM}.exe" if system == "windows" else PROGRAM,
            }
        )
    if not platforms:
        raise ReleaseError("the krew manifest needs an archive of the command: leave out --only, or add `command`")
    manifest = {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "serve"},
        "spec": {
            "version": f"v{__version__}",
            "homepage": url.partition("/releases/")[0],
            "shortDescription": "Serve a model with one line",
            "description": "Serves a machine-learning model: writes an ordinary Deployment with an annotation, which\n"
            "kubectl-serve in the cluster turns into a Knative Service that scales from zero.\n",
            "caveats": "The cluster needs kubectl-serve, too: kubectl serve install\n",
            "platforms": platforms,
        },
    }
    (out / "serve.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def sboms(out: Path, time: int) -> None:
    """CycloneDX documents of what is locked for the server and the images of the loader."""
    for name, lock in LOCKS.items():
        file = out / f"{name}.cdx.json"
        options: list[str | Path] = [
            "requirements",
            ROOT / lock,
            "--output-reproducible",
            "--output-format",
            "JSON",
            "-o",
            file,
        ]
        options += ["--pyproject", ROOT / "pyproject.toml"]
        run(sys.executable, "-m", "cyclonedx_py", *options, time=time)
        if not json.loads(file.read_text()).get("components"):
            raise ReleaseError(f"the SBOM of {lock} is empty")


LOCKS = {
    "server": "requirements.lock",
    "model-loader": "webhook/model_loader/requirements.lock",
    "model-loader-signing": "webhook/model_loader/requirements-signing.lock",
    "model-cache": "webhook/model_loader/requirements-cache.lock",
}
"""The locked requirements of each image."""


def checksums(out: Path) -> None:
    """``SHA256SUMS`` of everything in the folder, for ``sha256sum -c``."""
    files = sorted(path for path in out.iterdir() if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(lines))


PARTS: dict[str, Callable[[Path, int], None]] = {"packages": packages, "command": command, "sboms": sboms}


def release(version: str, out: Path, parts: Iterable[str], url: str | None) -> None:
    """Make the parts. Raises ReleaseError."""
    if version != __version__:
        raise ReleaseError(f"this is {__version__}, not {version}: change plugin/kubectl_serve/__init__.py")
    out.mkdir(parents=True, exist_ok=True)
    time = commit_time()
    for part in parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        PARTS[part](out, time)
    if url:
        krew_manifest(out, url)
    checksums(out)
    for file in sorted(out.iterdir()):
        print(f"{file.stat().st_size / 1e6:8.1f} MB  {file.name}")


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version")
    parser.add_argument("--url", help="folder of the published files; without it, no krew manifest is made")
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; repeat it for more")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    try:
        release(options.version, options.out, options.only or PARTS, options.url)
    except (ReleaseError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
