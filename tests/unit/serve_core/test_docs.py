"""The generated pages match the code, and the code uses the whole catalogue of messages."""

import subprocess
import sys

import pytest

from serve_core.base.reasons import CATALOGUE
from support.paths import ROOT

SOURCES = "".join(
    path.read_text() for path in (ROOT / "webhook").rglob("*.py") if path != ROOT / "webhook/serve_core/base/reasons.py"
)


def test_the_generated_pages_are_up_to_date() -> None:
    script = ROOT / "scripts/docs"
    made = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_message_of_the_catalogue_is_used(code: str) -> None:
    assert f'"{code}"' in SOURCES
