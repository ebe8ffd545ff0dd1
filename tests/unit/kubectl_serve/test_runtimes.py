"""runtimes: the cluster's runtimes, outdated models, and their rollout."""

import json
from dataclasses import replace

import pytest

from kubectl_serve.commands.runtimes import Outdated
from kubectl_serve.install import manifests
from serve_core.admission.completion import snapshots
from serve_core.admission.completion.completion_record import RENEW
from serve_core.admission.decide import judge
from serve_core.api import annotations, runtimes
from serve_core.base.json import JsonObject
from serve_core.context.cluster import LoaderConfig
from serve_kube.resources import CONFIG_MAPS
from support.fake_cluster import FakeCluster
from unit.kubectl_serve.conftest import Run

FACTS = manifests.default_context()


def installed() -> list[JsonObject]:
    features: JsonObject = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-features", "namespace": "knative-serving"},
        "data": dict(FACTS.features),
    }
    return [features, *(each for each in manifests.all_objects() if each["kind"] == CONFIG_MAPS.kind)]


def iris(loader: str = FACTS.loader.image) -> JsonObject:
    """A Deployment as it was completed with that loader."""
    document: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "namespace": "default",
            "annotations": {annotations.MODEL: "s3://models/iris/model.joblib"},
        },
    }
    completed = judge(document, replace(FACTS, loader=LoaderConfig(loader))).deployment
    assert completed is not None
    return completed


def own_runtime(image: str) -> JsonObject:
    spec = {"formats": [{"name": "sklearn"}], "protocols": ["v2"], "container": {"image": image}, "priority": 99}
    metadata = {"name": "ours"}
    return {"apiVersion": runtimes.API_VERSION, "kind": runtimes.KIND, "metadata": metadata, "spec": spec}


def test_the_table_fits_the_screen_and_has_every_runtime(run: Run) -> None:
    screen = run("runtimes", cluster=FakeCluster([*installed(), iris()]))
    assert (screen.code, screen.err) == (0, "")
    lines = screen.out.splitlines()
    assert lines[0].split() == ["NAME", "FORMATS", "PROTOCOLS"]
    assert [line.split()[0] for line in lines[1:]] == sorted(each.name for each in FACTS.runtimes)
    assert max(map(len, lines)) <= 80


def test_a_modelruntime_has_the_cluster_as_origin(run: Run) -> None:
    document = json.loads(
        run("runtimes", "-o", "json", cluster=FakeCluster([*installed(), own_runtime("example.com/ours:1")])).out
    )
    origins = {each["name"]: each["origin"] for each in document["runtimes"]}
    assert (origins["ours"], origins["triton"]) == ("cluster", "kubectl-serve")


def test_outdated_models_are_shown_with_their_change(run: Run) -> None:
    earlier = snapshots.config_map(LoaderConfig("example.com/model-loader:0.0.9"))
    cluster = FakeCluster([*installed(), earlier, iris(loader="example.com/model-loader:0.0.9")])
    assert "1 model is on an earlier runtime or loader" in run("runtimes", cluster=cluster).err
    screen = run("runtimes", "--outdated", cluster=cluster)
    tag = FACTS.loader.image.rpartition("/")[2]
    assert screen.out.splitlines()[1].split(maxsplit=1) == ["iris", f"model-loader: model-loader:0.0.9 -> {tag}"]
    assert not cluster.wrote


def test_what_the_server_keeps_no_more_would_change_too(run: Run) -> None:
    cluster = FakeCluster([*installed(), iris(loader="example.com/model-loader:0.0.9")])
    assert "model-loader:0.0.9 ->" in run("runtimes", "--outdated", cluster=cluster).out


def test_a_new_runtime_that_would_be_chosen_now_is_a_change_too(run: Run) -> None:
    cluster = FakeCluster([*installed(), iris(), own_runtime("example.com/ours:1")])
    assert "model-server: mlserver-sklearn:1.7.1 -> ours:1" in run("runtimes", "--outdated", "-A", cluster=cluster).out


def test_no_model_is_outdated(run: Run) -> None:
    screen = run("runtimes", "--outdated", cluster=FakeCluster([*installed(), iris()]))
    assert (screen.code, screen.out, screen.err) == (0, "", "No model would change.\n")


def test_a_rollout_lets_the_webhook_complete_again(run: Run) -> None:
    cluster = FakeCluster([*installed(), iris()])
    screen = run("runtimes", "--roll-out", "iris", cluster=cluster)
    assert (screen.code, screen.out) == (0, "deployment.apps/iris rolled out\n")
    assert cluster.wrote == [
        ("merge", "deployments", {"metadata": {"annotations": {annotations.COMPLETED_WITH: RENEW}}})
    ]


def test_a_name_that_is_not_there_stops_it_before_anything_is_written(run: Run) -> None:
    cluster = FakeCluster([*installed(), iris()])
    screen = run("runtimes", "--roll-out", "iris", "--roll-out", "isir", cluster=cluster)
    assert screen.code == 1
    assert not cluster.wrote


def test_a_dry_run_of_the_client_writes_nothing(run: Run) -> None:
    cluster = FakeCluster([*installed(), iris()])
    assert run("runtimes", "--roll-out", "iris", "--dry-run", cluster=cluster).out.endswith("rolled out (dry run)\n")
    assert not cluster.wrote


@pytest.mark.parametrize("flag", ["-A", "--outdated"])
def test_rolling_out_is_about_names(run: Run, flag: str) -> None:
    assert run("runtimes", "--roll-out", "iris", flag, cluster=FakeCluster()).code == 1


def test_without_an_installation_it_says_so(run: Run) -> None:
    screen = run("runtimes", cluster=FakeCluster())
    assert screen.code == 1
    assert screen.err.startswith("error: there is no ConfigMap kubectl-serve in namespace kubectl-serve.\nhint: ")


def test_a_model_that_would_be_refused_is_reported(run: Run) -> None:
    stored = iris()
    without = [each for each in installed() if each["metadata"]["name"] != manifests.RUNTIMES_CONFIG_MAP]
    empty = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": manifests.RUNTIMES_CONFIG_MAP, "namespace": "kubectl-serve"},
        "data": {},
    }
    cluster = FakeCluster([*without, empty, stored])
    (found,) = json.loads(run("runtimes", "-o", "json", cluster=cluster).out)["outdated"]
    assert Outdated(**found).change.startswith("it would be refused: NoRuntime")
