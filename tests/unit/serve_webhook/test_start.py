"""What the server keeps in memory from its start: guarded by what is imported, not by a measurement."""

import subprocess
import sys


def test_the_server_imports_no_model_classes_of_kubernetes() -> None:
    code = "import sys, serve_webhook.app, serve_webhook.connection\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert "aiohttp" in names
    assert not names & {"kubernetes_asyncio", "urllib3", "dateutil"}
