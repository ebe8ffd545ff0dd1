"""What the server keeps in memory from its start: guarded by what is imported, not by a measurement."""

import re
import subprocess
import sys

from support.paths import ROOT


def imported() -> set[str]:
    code = "import sys, serve_webhook.app, serve_webhook.connection\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_server_imports_no_model_classes_of_kubernetes() -> None:
    names = imported()
    assert "aiohttp" in names
    assert not names & {"kubernetes_asyncio", "urllib3", "dateutil"}


def test_the_image_has_the_packages_that_the_server_imports() -> None:
    copied = set(
        re.findall(r"^COPY webhook/(\w+) ", (ROOT / "webhook/serve_webhook/Containerfile").read_text(), re.MULTILINE)
    )
    assert imported() & {path.name for path in (ROOT / "webhook").iterdir()} == copied
