"""The plugin's client against the real API server of KUBECONFIG."""

import argparse
import asyncio
import io
import json
import os
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Output, Streams
from kubectl_serve.cli.verbs import BY_NAME
from kubectl_serve.cluster import Cluster
from kubectl_serve.connection import connect
from kubectl_serve.diff import threeway
from kubectl_serve.errors import for_user
from kubectl_serve.status.follow import watch_states
from serve_core.base.json import JsonObject
from serve_kube import errors
from serve_kube.resources import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, PODS

pytestmark = pytest.mark.cluster


def flags(*argv: str) -> argparse.Namespace:
    parser = options.Parser(BY_NAME["get"])
    options.namespace(parser)
    options.connection(parser)
    return parser.read(argv)


def kubeconfig() -> JsonObject:
    """The kubeconfig in use, to be changed."""
    found: JsonObject = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    return found


def write(path: Path, config: JsonObject) -> None:
    path.write_text(yaml.safe_dump(config))


def streams(stderr: io.StringIO | None = None) -> Streams:
    return Streams(io.StringIO(), Output(io.StringIO()), Output(stderr or io.StringIO()), os.environ)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with connect(flags(), streams()) as opened:
        yield opened


@pytest.fixture
async def namespace(cluster: Cluster) -> AsyncIterator[str]:
    name = f"plugin-{uuid.uuid4().hex[:8]}"
    await cluster.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    await cluster.delete(NAMESPACES, None, name)


def notes(namespace: str, name: str, **data: str) -> JsonObject:
    metadata = {"name": name, "namespace": namespace, "labels": {"of": "test"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def test_objects_are_made_read_listed_and_deleted(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, notes(namespace, "a", x="1"))
    assert (await cluster.get(CONFIG_MAPS, namespace, "a"))["data"] == {"x": "1"}
    listed, _ = await cluster.list(CONFIG_MAPS, namespace, labels="of=test")
    assert [(each["kind"], each["metadata"]["name"]) for each in listed] == [("ConfigMap", "a")]
    await cluster.delete(CONFIG_MAPS, namespace, "a")
    with pytest.raises(errors.NotFoundError, match='"a" not found'):
        await cluster.get(CONFIG_MAPS, namespace, "a")


async def test_a_dry_run_makes_nothing(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, notes(namespace, "a"), dry_run=True)
    await cluster.apply(CONFIG_MAPS, notes(namespace, "a"), manager="test", dry_run=True)
    assert (await cluster.list(CONFIG_MAPS, namespace, labels="of=test"))[0] == []


async def test_a_dry_run_deletes_nothing(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, notes(namespace, "a"))
    await cluster.delete(CONFIG_MAPS, namespace, "a", dry_run=True)
    assert (await cluster.get(CONFIG_MAPS, namespace, "a"))["metadata"]["name"] == "a"


async def test_creating_an_object_twice_is_distinct_from_other_conflicts(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, notes(namespace, "a"))
    with pytest.raises(errors.AlreadyExistsError):
        await cluster.create(CONFIG_MAPS, notes(namespace, "a"))


async def test_applying_the_same_again_changes_nothing(cluster: Cluster, namespace: str) -> None:
    first = await cluster.apply(CONFIG_MAPS, notes(namespace, "a", x="1"), manager="test")
    again = await cluster.apply(CONFIG_MAPS, notes(namespace, "a", x="1"), manager="test")
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def container(name: str, **more: object) -> JsonObject:
    return {"name": name, "image": f"example.com/{name}:1", **more}


def deployment(pod: JsonObject, annotations: dict[str, str] | None = None, **spec: object) -> JsonObject:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"} | ({} if annotations is None else {"annotations": annotations}),
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template, **spec},
    }


def kubectl_apply(manifest: JsonObject, namespace: str, *argv: str) -> JsonObject:
    command = ["kubectl", "apply", "-n", namespace, *argv, "-o", "json", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(manifest), capture_output=True, text=True, check=True, timeout=60)
    found: JsonObject = json.loads(done.stdout)
    return found


VARIABLES = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
APPLIED = deployment(
    {
        "containers": [container("a", env=VARIABLES, args=["x"], ports=[{"containerPort": 80}]), container("b")],
        "initContainers": [container("i")],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}],
        "tolerations": [{"key": "t", "operator": "Exists"}],
    },
    {"one": "1", "two": "2"},
    minReadySeconds=5,
)
"""What is applied, before each of these is."""
CHANGES = {
    "nothing": APPLIED,
    "all but the least": deployment({"containers": [container("a")]}),
    "elements": deployment(
        {
            "containers": [container("c"), container("a", env=[{"name": "C", "value": "3"}, VARIABLES[0]])],
            "initContainers": [container("i", command=["y"])],
            "volumes": [{"name": "v", "configMap": {"name": "c"}}],
        },
        {"two": "3"},
    ),
    "strategy": deployment({"containers": [container("b"), container("a")]}, strategy={"type": "Recreate"}),
    "ports": deployment({"containers": [container("a", ports=[{"containerPort": 81}, {"containerPort": 80}])]}),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_deployment_is_changed_as_kubectl_changes_it(cluster: Cluster, namespace: str, change: str) -> None:
    """Also what others have added stays, or goes, as it does with kubectl."""
    wanted = CHANGES[change]
    kubectl_apply(APPLIED, namespace)
    added: JsonObject = {"metadata": {"annotations": {"by": "others"}}, "spec": {"template": {"spec": {}}}}
    added["spec"]["template"]["spec"] = {
        "containers": [{"name": "a", "env": [{"name": "OTHER", "value": "1"}]}],
        "initContainers": [container("other")],
    }
    live = await cluster.merge(DEPLOYMENTS, namespace, "web", added, strategic=True)
    patch = threeway.patch(wanted, live)
    ours = await cluster.merge(DEPLOYMENTS, namespace, "web", patch, dry_run=True, strategic=True)
    theirs = kubectl_apply(wanted, namespace, "--dry-run=server")
    for found in (ours, theirs):
        # The first is kubectl's own note, the other comes from the Deployment's controller at any time.
        for key in (threeway.LAST_APPLIED, "deployment.kubernetes.io/revision"):
            found["metadata"]["annotations"].pop(key, None)
    assert ours["spec"] == theirs["spec"]
    assert ours["metadata"]["annotations"] == theirs["metadata"]["annotations"]


async def test_what_the_schema_refuses_is_invalid(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(errors.InvalidError, match=r"metadata\.name"):
        await cluster.create(CONFIG_MAPS, notes(namespace, "Not_A_Name"))


async def test_long_lists_come_page_by_page(cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_kube.http_client.FIRST_PAGE", 2)
    monkeypatch.setattr("serve_kube.paging.LARGEST_PAGE", 2)
    for name in "abcde":
        await cluster.create(CONFIG_MAPS, notes(namespace, name))
    listed, _ = await cluster.list(CONFIG_MAPS, namespace, labels="of=test")
    assert [each["metadata"]["name"] for each in listed] == list("abcde")


async def test_a_watch_brings_every_state(cluster: Cluster, namespace: str) -> None:
    seen = watch_states(cluster, CONFIG_MAPS, namespace, labels="of=test")
    async with asyncio.timeout(20):
        assert await anext(seen) == {}
        await cluster.create(CONFIG_MAPS, notes(namespace, "a"))
        assert list(await anext(seen)) == [(namespace, "a")]
        await cluster.merge(CONFIG_MAPS, namespace, "a", {"data": {"x": "2"}})
        assert (await anext(seen))[namespace, "a"]["data"] == {"x": "2"}
        await cluster.delete(CONFIG_MAPS, namespace, "a")
        assert await anext(seen) == {}
    await seen.aclose()  # type: ignore[attr-defined]


async def test_impersonation_is_passed_on(namespace: str) -> None:
    argv = ("--as", "somebody", "--as-group", "readers", "--as-group", "writers")
    async with connect(flags(*argv), streams()) as opened:
        with pytest.raises(errors.ForbiddenError, match='User "somebody" cannot list'):
            await opened.list(DEPLOYMENTS, namespace)


async def test_warnings_of_the_api_server_are_shown_once(namespace: str) -> None:
    shown = io.StringIO()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": namespace},
        "spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{"name": "a", "image": "a"}]},
    }
    async with connect(flags(), streams(shown)) as opened:
        for _ in range(2):
            await opened.create(PODS, pod, dry_run=True)
    lines = shown.getvalue().splitlines()
    assert lines
    assert len(set(lines)) == len(lines)
    assert all(line.startswith("Warning: ") for line in lines)


async def test_a_token_that_is_not_valid_says_how_to_go_on(tmp_path: Path) -> None:
    config = kubeconfig()
    config["users"] = [{"name": each["name"], "user": {"token": "wrong"}} for each in config["users"]]
    write(tmp_path / "config", config)
    async with connect(flags("--kubeconfig", str(tmp_path / "config")), streams()) as opened:
        with pytest.raises(errors.ForbiddenError) as refused:
            await opened.list(DEPLOYMENTS, "default")
    assert for_user(refused.value).hint.startswith("Log in to the cluster again")


async def test_the_flags_choose_cluster_user_and_namespace(tmp_path: Path) -> None:
    config = kubeconfig()
    config["clusters"][0]["name"] = "here"
    config["users"][0]["name"] = "admin"
    config["contexts"] = [{"name": "elsewhere", "context": {"cluster": "gone", "user": "nobody", "namespace": "team"}}]
    config["current-context"] = "elsewhere"
    write(tmp_path / "config", config)
    argv = ("--kubeconfig", str(tmp_path / "config"), "--cluster", "here", "--user", "admin")
    async with connect(flags(*argv), streams()) as opened:
        assert opened.namespace == "team"
        await opened.get(NAMESPACES, None, "default")


async def test_an_untrusted_certificate_is_said(tmp_path: Path) -> None:
    config = kubeconfig()
    config["clusters"][0]["cluster"].pop("certificate-authority-data")
    write(tmp_path / "config", config)
    async with connect(flags("--kubeconfig", str(tmp_path / "config")), streams()) as opened:
        with pytest.raises(errors.UnreachableError, match="is not trusted"):
            await opened.get(NAMESPACES, None, "default")
    argv = ("--kubeconfig", str(tmp_path / "config"), "--insecure-skip-tls-verify")
    async with connect(flags(*argv), streams()) as opened:
        await opened.get(NAMESPACES, None, "default")


async def test_a_port_of_a_pod_is_carried_through_the_api_server(cluster: Cluster) -> None:
    pods, _ = await cluster.list(PODS, "kube-system", labels="k8s-app=kube-dns")
    done = asyncio.Event()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await cluster.forward("kube-system", pods[0]["metadata"]["name"], 8080, reader, writer)
        writer.close()
        done.set()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"GET /health HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(20):
        assert (await reader.read()).startswith(b"HTTP/1.0 200")
        writer.close()
        await done.wait()
    server.close()
    await server.wait_closed()
