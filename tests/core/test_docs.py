"""The pages that are made from the code are as the code is."""

import subprocess
import sys
from pathlib import Path


def test_the_generated_pages_are_up_to_date() -> None:
    script = Path(__file__).resolve().parents[2] / "scripts/docs"
    made = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout
