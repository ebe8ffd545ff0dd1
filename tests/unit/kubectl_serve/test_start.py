"""Fast start: checked by the imported modules, not by a clock."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

HEAVY = {"kubernetes_asyncio", "aiohttp", "pydantic", "cryptography", "asyncio", "tabulate"}


def imported(*argv: str, entry: str = "main", stdin: str = "") -> set[str]:
    """The modules that a command line has imported when it ends."""
    code = (
        "import sys\n"
        f"from kubectl_serve.{'__main__' if entry == 'main' else 'completion'} import main\n"
        f"code = main({list(argv)!r})\n"
        "print(*sys.modules, file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=stdin, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"], ["version", "--client"], ["--version"]])
def test_help_and_version_import_next_to_nothing(argv: list[str]) -> None:
    beyond = imported(*argv) - imported("--help")
    assert not beyond
    assert not imported(*argv) & (HEAVY | {"argparse", "yaml", "json", "dataclasses", "re", "typing", "serve_core"})


@pytest.mark.parametrize(
    "words", [[""], ["cr"], ["create", "--"], ["get", "-"], ["install", "--dry-run="], ["create", "x", "--runtime", ""]]
)
def test_completing_verbs_flags_and_values_imports_next_to_nothing(words: list[str]) -> None:
    assert not imported(*words, entry="completion") & (HEAVY | {"argparse", "yaml", "json", "re", "serve_core"})


def test_render_does_not_import_a_client() -> None:
    manifest = '{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "plain"}}'
    assert not imported("render", "-f", "-", stdin=manifest) & HEAVY


class _Nothing(BaseHTTPRequestHandler):
    """An API server whose lists are empty."""

    def do_GET(self) -> None:
        body = b'{"metadata":{"resourceVersion":"1"},"items":[]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_get_imports_no_model_classes_of_kubernetes() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Nothing) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            names = imported("get", "--server", f"http://127.0.0.1:{server.server_port}", "--kubeconfig=")
        finally:
            server.shutdown()
    assert "aiohttp" in names
    assert not names & {"kubernetes_asyncio", "urllib3", "dateutil", "pydantic", "cryptography"}


def test_render_of_a_model_does_not_import_what_reads_documents_of_a_cluster() -> None:
    annotations = '{"kubectl-serve.dev/model": "s3://models/iris.joblib"}'
    metadata = f'{{"name": "iris", "annotations": {annotations}}}'
    manifest = f'{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {metadata}}}'
    assert not imported("render", "-f", "-", stdin=manifest) & {"pydantic", "kubernetes_asyncio", "aiohttp"}
