"""The pages that are made from the code are as the code is."""

import subprocess
import sys

from support.paths import ROOT


def test_the_generated_pages_are_up_to_date() -> None:
    script = ROOT / "scripts/docs"
    made = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout
