"""``kubectl serve cache``: what nodes have, seen by an operator through the API server, and what others see."""

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_serve.node_cache import drivers, prefetch
from model_cache import operator_endpoint
from model_cache.models import Models
from model_cache.process import Settings
from model_cache.request import Request
from model_cache.store import Store
from serve_core.admission.decide import judge
from serve_core.api.annotations import PREFETCH
from serve_core.base.constants import (
    CONDITION_PREFETCHED,
    DEPLOYMENT_LABEL,
    NODE_CACHE_NAMESPACE,
    PREFETCH_LABEL,
    PREFIX,
)
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_kube import errors
from support import loader_harness as harness
from support.fake_cluster import FakeCluster, Happens
from support.paths import ROOT
from support.recorded_state import with_state
from unit.kubectl_serve.conftest import Run

FEATURES = {"kubernetes.podspec-volumes-csi": "enabled", "kubernetes.podspec-init-containers": "enabled"}
FACTS = ClusterContext(LoaderConfig("loader:1"), features=FEATURES, node_cache=True)


@dataclass
class Cluster(FakeCluster):
    """Forwards to the drivers' ports on this machine."""

    ports: dict[str, int] = field(default_factory=dict)
    """By pod."""
    forwards: list[tuple[str, str, int]] = field(default_factory=list)
    refused: errors.ApiError | None = None

    async def forward(self, namespace: str, pod: str, port: int, reader: StreamReader, writer: StreamWriter) -> None:
        self.forwards.append((namespace, pod, port))
        if self.refused:
            raise self.refused
        there, back = await asyncio.open_connection("127.0.0.1", self.ports[pod])

        async def carry(source: StreamReader, target: StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            if target.can_write_eof():
                target.write_eof()

        try:
            await asyncio.gather(carry(reader, back), carry(there, writer))
        finally:
            back.close()


def pod(name: str, node: str, *, ready: bool = True) -> JsonObject:
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    labels = {"app.kubernetes.io/name": NODE_CACHE_NAMESPACE}
    metadata = {"name": name, "namespace": NODE_CACHE_NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": node}, "status": status}


@dataclass
class Node:
    models: Models
    web: harness.WebServer

    def load(self, name: str, content: bytes = b"weights", query: str = "") -> str:
        """Load a model; returns its name in the cache."""
        self.web.files[f"/{name}"] = content
        request = Request(("--", f"{self.web.url}/{name}{query}"), {})
        with self.models.model(request, lambda _: None) as folder:
            return folder.name


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Node, Cluster]]:
    """A node with a driver, and its cluster."""
    (tmp_path / "secrets").mkdir()
    settings = Settings((harness.LOOPBACK,), None, 2, tmp_path / "secrets", {})
    models = Models(Store(tmp_path / "cache", 1 << 30, "1"), settings)
    server = operator_endpoint.serve(models, 0)
    web = harness.WebServer()
    yield Node(models, web), Cluster(objects=[pod("driver-1", "n1")], ports={"driver-1": server.server_address[1]})
    web.close()
    server.shutdown()
    server.server_close()
    models.store.close()


def test_an_operator_lists_what_the_nodes_have(node: tuple[Node, Cluster], run: Run) -> None:
    on_node, cluster = node
    name = on_node.load("iris.bin", query="?X-Amz-Signature=secret")
    shown = run("cache", "list", cluster=cluster, width=200)
    assert shown.code == 0, shown.err
    head, row = shown.out.splitlines()
    assert head.split() == ["NODE", "NAME", "SOURCE", "SIZE", "FILES", "PODS", "USED", "VERIFIED"]
    assert row.split()[:3] == ["n1", name[:12], f"{on_node.web.url}/iris.bin"]
    assert "secret" not in shown.out + shown.err
    assert "Node n1: " in shown.err
    assert cluster.forwards == [(NODE_CACHE_NAMESPACE, "driver-1", drivers.PORT)]


def test_all_formats_have_the_whole_content(node: tuple[Node, Cluster], run: Run) -> None:
    on_node, cluster = node
    name = on_node.load("iris.bin")
    document = json.loads(run("cache", "list", "-o", "json", cluster=cluster).out)
    assert yaml.safe_load(run("cache", "list", "-o", "yaml", cluster=cluster).out) == document
    (found,) = document["nodes"]
    assert found["limit"] == 1 << 30
    (model,) = found["models"]
    assert (model["name"], model["bytes"], model["files"], model["pods"]) == (name, 7, 1, [])
    assert run("cache", "list", "-o", "name", cluster=cluster).out == f"n1/{name}\n"
    wide = run("cache", "list", "-o", "wide", cluster=cluster, width=300)
    assert model["digest"] in wide.out


def test_the_pods_that_use_a_model_have_their_names(
    node: tuple[Node, Cluster], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_node, cluster = node
    name, other = on_node.load("iris.bin"), on_node.load("other.bin")
    monkeypatch.setattr(Store, "pods", lambda _: {name: {"u-1", "u-2"}})
    user = pod("iris-1", "n1")
    user["metadata"] |= {"namespace": "ml", "uid": "u-1", "labels": {}}
    cluster.objects.append(user)
    wide = run("cache", "list", "-o", "wide", cluster=cluster, width=300).out
    assert "ml/iris-1,u-2" in wide
    listed = run("cache", "list", "-o", "name", "-n", "ml", cluster=cluster)
    assert listed.out == f"n1/{name}\n"
    assert run("cache", "list", "-n", "shop", cluster=cluster).out == ""
    # What pods use stays, whatever is asked.
    evicted = run("cache", "evict", "--all", cluster=cluster)
    assert (evicted.code, evicted.out.split()[0]) == (0, f"n1/{other[:12]}")
    kept = run("cache", "evict", name[:8], cluster=cluster)
    assert kept.code == 1
    assert "2 pods use it" in kept.err
    assert on_node.models.store.path(name).exists()


def test_a_model_is_evicted_by_its_source_or_name_and_not_in_a_dry_run(node: tuple[Node, Cluster], run: Run) -> None:
    on_node, cluster = node
    name = on_node.load("iris.bin")
    dry = run("cache", "evict", f"{on_node.web.url}/iris.bin", "--dry-run", cluster=cluster)
    assert dry.out == f"n1/{name[:12]} evicted (7 B) (dry run)\n"
    assert on_node.models.store.path(name).exists()
    assert run("cache", "evict", name[:6], cluster=cluster).out == f"n1/{name[:12]} evicted (7 B)\n"
    assert not on_node.models.store.path(name).exists()
    unknown = run("cache", "evict", name[:6], cluster=cluster)
    assert (unknown.code, unknown.out) == (1, "")
    assert "no node has a model" in unknown.err


def test_a_changed_model_is_found_and_removed(node: tuple[Node, Cluster], run: Run) -> None:
    on_node, cluster = node
    names = [on_node.load("good.bin"), on_node.load("bad.bin")]
    file = on_node.models.store.path(names[1]) / "model" / "bad.bin"
    file.chmod(0o600)
    file.write_bytes(b"changed")
    shown = run("cache", "verify", cluster=cluster)
    assert shown.code == 1
    assert f"n1/{names[0][:12]} verified" in shown.out
    assert f"n1/{names[1][:12]} changed: removed" in shown.out
    assert run("cache", "verify", cluster=cluster).code == 0


def test_the_manifest_has_the_port_that_the_command_asks() -> None:
    text = (ROOT / "manifests/cache/driver.yaml").read_text()
    assert f"--operator={drivers.PORT}\n" in text
    (container,) = (
        each["spec"]["template"]["spec"]["containers"][0]
        for each in yaml.safe_load_all(text)
        if each["kind"] == "DaemonSet"
    )
    assert drivers.PORT not in [port["containerPort"] for port in container["ports"]], "it is not for other pods"


@pytest.mark.attack(46)
@pytest.mark.parametrize("hidden", [frozenset({"pods"}), frozenset()])
def test_who_is_no_operator_learns_nothing(node: tuple[Node, Cluster], run: Run, hidden: frozenset[str]) -> None:
    on_node, cluster = node
    on_node.load("iris.bin")
    cluster.hidden = hidden
    cluster.refused = errors.ForbiddenError("pods/portforward is forbidden", 403)
    for words in (["list"], ["verify"], ["evict", "--all"]):
        shown = run("cache", *words, cluster=cluster)
        assert (shown.code, shown.out) == (1, "")
        assert "only operators see what the nodes keep" in shown.err
        assert "iris" not in shown.err


def test_a_node_without_a_ready_driver_is_named(node: tuple[Node, Cluster], run: Run) -> None:
    _, cluster = node
    cluster.objects.append(pod("driver-2", "n2", ready=False))
    shown = run("cache", "list", cluster=cluster)
    assert shown.code == 0
    assert "The driver on node n2 is not ready" in shown.err
    assert "Nodes: n1, n2." in run("cache", "list", "--node", "n3", cluster=cluster).err


def test_without_the_node_cache_the_command_shows_how_to_install_it(run: Run) -> None:
    shown = run("cache", "list", cluster=Cluster())
    assert shown.code == 1
    assert "kubectl serve install --cache" in shown.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["list", "--all"], "--all cannot be combined with list"),
        (["list", "--nodes", "2"], "--nodes cannot be combined with list"),
        (["verify", "--dry-run"], "--dry-run cannot be combined with verify"),
        (["evict", "-o", "json", "--all"], "-o cannot be combined with evict"),
        (["evict"], "evict needs a MODEL, or --all"),
        (["evict", "--all", "abcd"], "--all cannot be combined with a MODEL"),
        (["prefetch"], "prefetch needs the NAME of one Deployment"),
        (["prefetch", "a", "b"], "prefetch needs the NAME of one Deployment"),
        (["prefetch", "A_b"], "is not a valid Deployment name"),
        (["prefetch", "iris", "--nodes", "none"], "neither a number of nodes nor all"),
        (["prefetch", "iris", "--node", "n1"], "--node cannot be combined with prefetch"),
    ],
)
def test_a_wrong_command_line_says_what_to_write(run: Run, words: list[str], why: str) -> None:
    shown = run("cache", *words)
    assert shown.code == 1
    assert why in shown.err


# --- Prefetch


def served(**notes: str) -> JsonObject:
    asked = {"model": "https://example.com/model.joblib", "cache": "node", **notes}
    annotations = {f"{PREFIX}{key}": value for key, value in asked.items()}
    container = {"name": "app", "image": "app:1", "ports": [{"containerPort": 8080}]}
    written = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris", "namespace": "default", "annotations": annotations},
        "spec": {
            "selector": {"matchLabels": {"app": "iris"}},
            "template": {"metadata": {"labels": {"app": "iris"}}, "spec": {"containers": [container]}},
        },
    }
    made = judge(written, FACTS).deployment
    assert made is not None
    made["metadata"] |= {"generation": 1, "uid": "u-1"}
    return made


def with_condition(made: JsonObject, generation: int, status: str, reason: str, message: str) -> JsonObject:
    entry = {"type": CONDITION_PREFETCHED, "status": status, "reason": reason, "message": message}
    changed = with_state(made, generation)
    others = [each for each in changed["status"]["conditions"] if each["type"] != CONDITION_PREFETCHED]
    changed["status"]["conditions"] = [*others, entry]
    return changed | {"metadata": changed["metadata"] | {"generation": generation}}


def values(cluster: Cluster) -> list[Any]:
    return [patch["metadata"]["annotations"][PREFETCH] for verb, _, patch in cluster.wrote if verb == "merge"]


def test_a_model_is_loaded_on_nodes_by_its_annotation(run: Run) -> None:
    made = served()
    loading = with_condition(made, 2, "Unknown", "Prefetching", "1 of 2 nodes have the model.")
    loaded = with_condition(made, 2, "True", "Prefetched", "2 of 2 nodes have the model.")
    cluster = Cluster(objects=[made], happens=[Happens(1, loading), Happens(1, loaded)])
    shown = run("cache", "prefetch", "iris", "--nodes", "2", cluster=cluster)
    assert shown.code == 0, shown.err
    assert values(cluster) == ["2"]
    assert "1 of 2 nodes have the model." in shown.err
    assert "in your manifest as well" in shown.err
    assert shown.out == "deployment.apps/iris prefetched: 2 of 2 nodes have the model.\n"


def test_what_was_loaded_before_is_loaded_again(run: Run) -> None:
    """The server does it again for a new value only."""
    made = with_condition(served(prefetch="all"), 1, "True", "Prefetched", "2 of 2 nodes have the model.")
    without = with_state(served(), 2)
    without["metadata"] |= {"generation": 2}
    again = with_condition(made, 3, "True", "Prefetched", "3 of 3 nodes have the model.")
    cluster = Cluster(objects=[made], happens=[Happens(1, without), Happens(1, again)])
    shown = run("cache", "prefetch", "iris", cluster=cluster)
    assert shown.code == 0, shown.err
    assert values(cluster) == [None, "all"]
    assert shown.out.endswith("3 of 3 nodes have the model.\n")


def test_a_cause_that_stays_ends_the_wait(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "FAILED_SECONDS", 0.05)
    made = served()
    failed = with_condition(made, 2, "False", "Unauthorized", "0 of 2 nodes have the model. The store said no.")
    shown = run("cache", "prefetch", "iris", cluster=Cluster(objects=[made], happens=[Happens(1, failed)]))
    assert shown.code == 1
    assert "Unauthorized: 0 of 2 nodes have the model. The store said no." in shown.err


def test_without_waiting_and_in_a_dry_run(run: Run) -> None:
    cluster = Cluster(objects=[served()])
    assert run("cache", "prefetch", "iris", "--wait=false", cluster=cluster).out == "deployment.apps/iris annotated\n"
    dry = run("cache", "prefetch", "iris", "--nodes", "2", "--dry-run", cluster=cluster)
    assert dry.out == "deployment.apps/iris prefetched (dry run)\n"
    assert values(cluster) == ["all"]


def test_a_model_that_nodes_do_not_keep_cannot_be_loaded_there(run: Run) -> None:
    shown = run("cache", "prefetch", "iris", cluster=Cluster(objects=[served(cache="none")]))
    assert shown.code == 1
    assert "kubectl-serve.dev/cache=node" in shown.err


def test_uninstall_leaves_nothing_that_loads_models_in_advance(run: Run) -> None:
    labels = {PREFETCH_LABEL: "iris", DEPLOYMENT_LABEL: "iris"}
    metadata = {"name": "iris-prefetch-0123456789", "namespace": "default", "labels": labels}
    made = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata}
    own = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "iris-5d8f", "namespace": "default"}}
    cluster = Cluster(objects=[made, own])
    assert "statefulset.apps/iris-prefetch-0123456789 deleted" in run("uninstall", "--no-wait", cluster=cluster).out
    assert cluster.objects == [own]
