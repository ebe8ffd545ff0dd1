"""The address and the credentials of an API server, read by kubernetes-asyncio without its model classes."""

import base64
import json
import ssl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from aiohttp import web

from serve_kube import errors
from serve_kube.access import ConfigException, Connection, config
from serve_kube.http_client import HttpClient
from serve_kube.resources import PODS
from serve_webhook.connection import client
from support.http_api import serving


def python(code: str) -> list[str]:
    """The words that a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_no_model_class_of_the_library_is_imported() -> None:
    seen = python(
        "import sys\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append(args[0]) if event == 'import' else None)\n"
        "import serve_kube.http_client\n"
        "print(*seen, *sys.modules)\n"
    )
    parts = {name for name in seen if name.startswith("kubernetes_asyncio")}
    assert "kubernetes_asyncio.config.kube_config" in parts
    assert {name.split(".")[1] for name in parts if "." in name} == {"config"}
    assert not {"urllib3", "dateutil", "six"} & set(seen)


def test_another_import_of_the_library_gets_all_of_it() -> None:
    code = "import serve_kube.access\nfrom kubernetes_asyncio import client, config\n"
    code += "print(client.CoreV1Api.__name__, config.kube_config.Configuration is client.Configuration)\n"
    assert python(code) == ["CoreV1Api", "True"]


def test_a_version_of_the_library_that_cannot_be_imported_so_is_imported_whole() -> None:
    code = "import importlib.util, sys\nimportlib.util.find_spec = lambda name: None\nimport serve_kube.access\n"
    code += "print('kubernetes_asyncio.client.models' in sys.modules, serve_kube.access.Connection().host)\n"
    assert python(code) == ["True", "http://localhost"]


def kubeconfig(folder: Path, user: dict[str, Any], current: str = "a", **cluster: str) -> str:
    file = folder / "config"
    document = {
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1/", **cluster}}],
        "users": [{"name": "a", "user": user}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": current,
    }
    file.write_text(yaml.safe_dump(document))
    return str(file)


async def test_a_token_of_a_kubeconfig_is_sent(tmp_path: Path) -> None:
    connection = await Connection.of_kubeconfig(kubeconfig(tmp_path, {"token": "secret"}))
    assert (connection.host, await connection.authorization()) == ("http://127.0.0.1:1", "Bearer secret")


async def test_an_exec_plugin_gives_the_token(tmp_path: Path) -> None:
    version = "client.authentication.k8s.io/v1"
    credential = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": "from-plugin"}}
    plugin = {"apiVersion": version, "command": sys.executable, "args": ["-c", f"print('{json.dumps(credential)}')"]}
    connection = await Connection.of_kubeconfig(kubeconfig(tmp_path, {"exec": plugin}))
    assert await connection.authorization() == "Bearer from-plugin"


async def test_a_kubeconfig_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, {}, current="b")
    with pytest.raises(ConfigException):
        await Connection.of_kubeconfig(file)


async def test_a_pods_token_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first")
    authority.write_text("pem")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setitem(config.load_incluster_config.__globals__, "TOKEN_REFRESH_PERIOD", timedelta(0))
    connection = Connection()
    config.load_incluster_config(connection, token_filename=str(token), cert_filename=str(authority))
    assert (connection.host, await connection.authorization()) == ("https://10.0.0.1:443", "Bearer first")
    token.write_text("second")
    assert await connection.authorization() == "Bearer second"


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, *, asks_client: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if asks_client:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    return context


async def answer(_: web.BaseRequest) -> web.Response:
    return web.json_response({"gitVersion": "v1.35.0"})


def blob(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_the_authority_of_the_kubeconfig_is_trusted(tmp_path: Path, authority: trustme.CA) -> None:
    async with serving(answer, server_tls(authority)) as host:
        trust = {"certificate-authority-data": blob(authority.cert_pem.bytes())}
        async with client(await Connection.of_kubeconfig(kubeconfig(tmp_path, {}, server=host, **trust))) as api:
            assert (await api.version())["gitVersion"] == "v1.35.0"
        async with client(Connection(host=host, verify_ssl=False)) as api:
            assert (await api.version())["gitVersion"] == "v1.35.0"
        async with client(Connection(host=host)) as api:
            with pytest.raises(errors.UntrustedCertificateError, match="is not trusted"):
                await api.version()


async def test_a_client_certificate_of_the_kubeconfig_is_shown(tmp_path: Path, authority: trustme.CA) -> None:
    own = authority.issue_cert("user@example.com")
    user = {
        "client-certificate-data": blob(own.cert_chain_pems[0].bytes()),
        "client-key-data": blob(own.private_key_pem.bytes()),
    }
    async with serving(answer, server_tls(authority, asks_client=True)) as host:
        trust = {"certificate-authority-data": blob(authority.cert_pem.bytes())}
        async with client(await Connection.of_kubeconfig(kubeconfig(tmp_path, user, server=host, **trust))) as api:
            assert (await api.version())["gitVersion"] == "v1.35.0"


async def test_a_certificate_can_be_for_another_name(authority: trustme.CA, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("kubernetes.default").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    async with serving(answer, context) as host:
        connection = Connection(host=host, ssl_ca_cert=str(tmp_path / "ca.crt"), tls_server_name="kubernetes.default")
        async with client(connection) as api:
            assert (await api.version())["gitVersion"] == "v1.35.0"


async def test_a_certificate_that_cannot_be_read_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        client(Connection(host="https://127.0.0.1:1", ssl_ca_cert=str(tmp_path / "missing")))


async def test_a_token_that_cannot_be_read_makes_the_request_fail() -> None:
    def refresh(_: Connection) -> None:
        raise OSError("no token")

    connection = Connection(host="http://127.0.0.1:1", refresh_api_key_hook=refresh)
    async with client(connection) as api:
        with pytest.raises(errors.UnavailableError, match="no token"):
            await api.get(PODS, "default", "a")
    assert isinstance(api, HttpClient)
