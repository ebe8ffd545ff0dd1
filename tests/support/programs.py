"""Programs that only tests need, at the versions that scripts/localcluster pins."""

import subprocess
from functools import cache

from support.paths import ROOT


@cache
def program(name: str) -> str:
    """The path of a program; the first time, scripts/cluster builds it, which takes minutes."""
    command = [str(ROOT / "scripts/cluster"), "program", name]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
