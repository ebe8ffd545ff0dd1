"""What an operator asks of the driver, and who is none."""

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_cache import mounts, operator_endpoint
from model_cache.models import Models
from model_cache.mounts import Mount
from model_cache.request import Request
from support import loader_harness as harness


@pytest.fixture
def port(models: Models) -> Iterator[int]:
    server = operator_endpoint.serve(models, 0)
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(port: int, method: str, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def loaded(models: Models, web: harness.WebServer, query: str = "") -> str:
    """The name of a model on the node."""
    web.files["/model.bin"] = b"weights"
    request = Request(("--", f"{web.url}/model.bin{query}"), {})
    with models.model(request, lambda _: None) as folder:
        return folder.name


def test_the_content_has_sources_without_what_can_be_a_secret(
    models: Models, web: harness.WebServer, port: int
) -> None:
    name = loaded(models, web, "?X-Amz-Signature=secret")
    status, answer = ask(port, "GET", "/models")
    (found,) = answer.pop("models")
    assert status == 200
    assert answer == {"limit": models.store.limit, "used": models.store.used()}
    assert found.pop("used") > 0
    assert found.pop("verified") > 0
    assert found.pop("digest").startswith("sha256:")
    source = f"{web.url}/model.bin"
    assert found == {"name": name, "sources": [source], "bytes": 7, "files": 1, "pods": []}


def test_a_model_that_a_pod_uses_is_listed_with_the_pod_and_stays(
    models: Models, web: harness.WebServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = loaded(models, web)
    device = models.store.root.stat().st_dev
    target = "/var/lib/kubelet/pods/0a-1b/volumes/kubernetes.io~csi/model/mount"
    numbers = f"{os.major(device)}:{os.minor(device)}"
    monkeypatch.setattr(mounts, "present", lambda: [Mount(f"/x/trees/{name}", target, numbers)])
    (found,) = ask(port, "GET", "/models")[1]["models"]
    assert found["pods"] == ["0a-1b"]
    assert ask(port, "DELETE", f"/models/{name}") == (409, {"message": "a pod uses the model"})
    assert models.store.path(name).exists()


def test_a_model_is_evicted(models: Models, web: harness.WebServer, port: int) -> None:
    name = loaded(models, web)
    assert ask(port, "DELETE", f"/models/{name}") == (200, {"evicted": True})
    assert not models.store.path(name).exists()
    assert ask(port, "DELETE", f"/models/{name}")[0] == 404


def test_a_model_is_verified_and_a_changed_one_is_removed(models: Models, web: harness.WebServer, port: int) -> None:
    name = loaded(models, web)
    assert ask(port, "POST", f"/models/{name}") == (200, {"verified": True})
    file = models.store.path(name) / "model" / "model.bin"
    file.chmod(0o600)
    file.write_bytes(b"changed")
    assert ask(port, "POST", f"/models/{name}") == (200, {"verified": False})
    assert ask(port, "GET", "/models")[1]["models"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/models/" + "0" * 64),
        ("POST", "/models"),
        ("DELETE", "/models"),
        ("DELETE", "/models/../trees"),
        ("DELETE", "/models/" + "0" * 64),
        ("DELETE", "/models/" + "0" * 63 + "/"),
    ],
)
def test_nothing_else_is_answered(port: int, method: str, path: str) -> None:
    assert ask(port, method, path)[0] == 404


@pytest.mark.attack(46)
def test_only_the_drivers_own_user_is_answered(models: Models, web: harness.WebServer) -> None:
    """A download has another user, whether it is taken over or its URI leads to the driver."""
    name = loaded(models, web)
    server = operator_endpoint.serve(models, 0, uid=os.geteuid() + 1)
    try:
        port = server.server_address[1]
        for method, path in (("GET", "/models"), ("DELETE", f"/models/{name}"), ("POST", f"/models/{name}")):
            assert ask(port, method, path) == (403, {"message": "only an operator can do this"})
    finally:
        server.shutdown()
        server.server_close()
    assert models.store.path(name).exists()


@pytest.mark.attack(46)
def test_the_user_is_that_of_the_clients_socket() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    row = "   1: 0100007F:{:04X} {}:{:04X} 01 00000000:00000000 00:00000000 00000000 {:>5}        0 1\n"
    servers = row.format(8081, "0100007F", 40000, 0)
    clients = row.format(40000, "0100007F", 8081, 2_000_000)
    assert not operator_endpoint.is_own(8081, 40000, head + servers + clients, 0)
    assert operator_endpoint.is_own(8081, 40000, head + servers + clients, 2_000_000)
    assert not operator_endpoint.is_own(8081, 40000, head + servers, 0)
    elsewhere = row.format(40000, "0200007F", 8081, 0)
    assert not operator_endpoint.is_own(8081, 40000, head + servers + elsewhere, 0)


@pytest.mark.attack(46)
def test_the_endpoint_is_on_the_loopback_address_only(models: Models, tmp_path: Path) -> None:
    server = operator_endpoint.serve(models, 0)
    try:
        assert server.server_address[0] == "127.0.0.1"
    finally:
        server.shutdown()
        server.server_close()
