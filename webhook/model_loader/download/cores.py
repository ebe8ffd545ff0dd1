"""How many cores the loader may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> float:
    """Return the number of cores that this process may use: by its affinity, and by the limits of its control groups.

    A container's CPU limit is such a limit, and can be a part of a core. Source: cgroups(7), and the kernel's
    Documentation/admin-guide/cgroup-v2.rst (`cpu.max`) and scheduler/sched-bwc.rst (`cpu.cfs_quota_us`).
    """
    return min(len(os.sched_getaffinity(0)), *_limits(groups, membership), math.inf)


def _limits(groups: Path, membership: Path) -> Iterator[float]:
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / "cpu" if controllers else groups
        # In a container, the path can be the node's, and the mounted folder the container's own group.
        inside = PurePosixPath(path.lstrip("/"))
        for group in (inside, *inside.parents):
            if ".." not in group.parts:
                yield _limit(root / group)


def _limit(group: Path) -> float:
    """Return the cores of one control group, infinite without a limit."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except OSError:
        try:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
