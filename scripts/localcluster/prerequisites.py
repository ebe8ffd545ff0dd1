"""What the machine needs: root, and Debian packages, which are installed if possible."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from localcluster.commands import run
from localcluster.errors import ClusterError
from localcluster.progress import Progress

SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def prepare_environment() -> None:
    """Extend PATH to the system's programs, and make new files readable for the sandbox's users."""
    # A user's PATH may lack the folders of iptables, runc and ip.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_FOLDERS}"
    os.umask(0o022)


def need_root() -> None:
    """Check that the user is root.

    Raises:
        ClusterError: the user is not root.
    """
    if os.geteuid() != 0:
        raise ClusterError(
            "a cluster needs root: it makes namespaces, mounts and network links", "Run it with sudo, or as root."
        )


async def need(packages: Mapping[str, str], progress: Progress) -> None:
    """Install the packages whose command or file (the key) is missing.

    Raises:
        ClusterError: something is missing and cannot be installed; the message names it.
    """
    missing = _missing(packages)
    if not missing:
        return
    names = sorted({packages[thing] for thing in missing})
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(
            f"missing on this machine: {', '.join(sorted(missing))}", f"Install (Debian's names): {' '.join(names)}"
        )
    async with progress.step(f"installed {' '.join(names)}"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        await run("apt-get", "update", "-q", environment=quiet)
        await run("apt-get", "install", "-q", "-y", "--no-install-recommends", *names, environment=quiet)
    missing = _missing(packages)
    if missing:
        raise ClusterError(f"missing although {' '.join(names)} is installed: {', '.join(sorted(missing))}")


def _missing(packages: Mapping[str, str]) -> list[str]:
    return [thing for thing in packages if not (Path(thing).exists() if "/" in thing else shutil.which(thing))]
