"""get: the table, other formats, and the watch."""

import asyncio
import copy
import json

import pytest
import yaml

from kubectl_serve.commands import get
from kubectl_serve.io import tables
from kubectl_serve.status import model
from kubectl_serve.status.follow import WaitPolicy
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_READY
from serve_core.base.json import JsonObject
from serve_kube.resources import PODS, Resource
from support.fake_cluster import FakeCluster, Happens, at_the_end, recorded
from unit.kubectl_serve.conftest import Run


@pytest.fixture
def models() -> FakeCluster:
    """A cluster with a model that answers and one whose download fails, 5 minutes after they were made."""
    return FakeCluster(objects=[*at_the_end("iris"), *at_the_end("nope")], namespace="models", elapsed=300)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get, "WAIT_POLICY", WaitPolicy(0.05, 0.05, 0.05))


def test_on_a_terminal_the_models_uri_is_cut(run: Run, models: FakeCluster) -> None:
    screen = run("get", cluster=models, terminal=True)
    assert (screen.code, screen.err) == (0, "")
    assert screen.out == (
        "NAME  READY  REPLICAS  MODEL           URL                                    REASON    AGE\n"
        "iris  True   1         …/model.joblib  http://iris.models.kubectl-serve.test  Ready     5m\n"
        "nope  False  0         …/nope.joblib   http://nope.models.kubectl-serve.test  NotFound  4m43s\n"
    )
    assert run("get", "iris", cluster=models, terminal=True).out == (
        "NAME  READY  REPLICAS  MODEL             URL                                    AGE\n"
        "iris  True   1         …is/model.joblib  http://iris.models.kubectl-serve.test  5m\n"
    )


def test_elsewhere_the_model_is_whole(run: Run, models: FakeCluster) -> None:
    assert "  http://store.example.com/iris/nope.joblib  " in run("get", cluster=models).out


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["s3://models/iris/model.joblib", "s3://models/wine/model.joblib"], ["…/iris/…", "…/wine/…"]),
        (["s3://a/team-a/iris.joblib", "s3://a/team-a/wine.joblib"], ["…/iris.joblib", "…/wine.joblib"]),
        (["hf://organisation/model@one", "hf://organisation/model@two"], ["…/model@one", "…/model@two"]),
        (["s3://a/b/c/iris.joblib"] * 2, ["…/b/c/iris.joblib"] * 2),
    ],
)
def test_what_models_have_in_common_gives_way_first(texts: list[str], shown: list[str]) -> None:
    assert tables.distinct(texts, 17) == shown


def test_wide_cuts_nothing_and_shows_the_reason(run: Run, models: FakeCluster) -> None:
    lines = run("get", "-o", "wide", cluster=models).out.splitlines()
    assert lines[0].split() == (
        ["NAME", "READY", "REPLICAS", "MODEL", "URL", "REASON", "REVISION", "TRAFFIC", "FORMAT", "IMAGE", "AGE"]
    )
    assert "http://store.example.com/iris/model.joblib" in lines[1]
    assert "iris-00001=100%" in lines[1]
    assert "  NotFound  " in lines[2]


def test_all_namespaces_put_the_namespace_first(run: Run, models: FakeCluster) -> None:
    models.namespace = "default"
    lines = run("get", "-A", cluster=models).out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAMESPACE", "models", "models"]


def test_json_has_all_that_the_wide_screen_shows(run: Run, models: FakeCluster) -> None:
    document = json.loads(run("get", "iris", "-o", "json", cluster=models).out)
    assert document["name"] == "iris"
    assert document["traffic"] == [{"revision": "iris-00001", "percent": 100, "latest": True}]
    row = run("get", "iris", "-o", "wide", cluster=models).out.splitlines()[1]
    for key in ("ready", "replicas", "model", "url", "reason", "revision", "format", "image"):
        assert str(document[key]) in row
    assert [each["name"] for each in json.loads(run("get", "-o", "json", cluster=models).out)["items"]] == [
        "iris",
        "nope",
    ]
    assert yaml.safe_load(run("get", "iris", "-o", "yaml", cluster=models).out) == document


def test_names_and_urls_are_for_scripts(run: Run, models: FakeCluster) -> None:
    assert run("get", "-o", "name", cluster=models).out == "deployment.apps/iris\ndeployment.apps/nope\n"
    assert run("get", "iris", "-o", "url", cluster=models).out == "http://iris.models.kubectl-serve.test\n"


def test_nothing_served_is_said_on_standard_error(run: Run) -> None:
    screen = run("get", cluster=FakeCluster())
    assert (screen.code, screen.out, screen.err) == (0, "", "No served models found in default namespace.\n")
    assert json.loads(run("get", "-o", "json", cluster=FakeCluster()).out) == {"items": []}


def test_an_unknown_name_is_an_error(run: Run, models: FakeCluster) -> None:
    screen = run("get", "wine", cluster=models)
    assert screen.code == 1
    assert screen.err.startswith("error: there is no Deployment wine in namespace models.\nhint: ")


def test_a_deployment_that_is_not_served_is_an_error(run: Run) -> None:
    plain: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
    }
    assert run("get", "web", cluster=FakeCluster([plain])).err == (
        "error: the Deployment web is not served.\n"
        "hint: `kubectl annotate deployment web -n default kubectl-serve.dev/model=URI` serves a model with it.\n"
    )


def register(cluster: FakeCluster, name: str) -> None:
    """Nothing of this model has been started yet."""
    for each in cluster.objects:
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", name):
            for condition in each["status"]["conditions"]:
                if condition["type"] in (CONDITION_MODEL_LOADED, CONDITION_READY):
                    condition |= {"status": "Unknown", "reason": "Registered", "message": "not started."}


def test_models_that_are_registered_and_not_started_are_counted(run: Run, models: FakeCluster) -> None:
    register(models, "iris")
    screen = run("get", cluster=models)
    assert screen.err == "1 of 2 not started: the first request to each starts it.\n"
    assert screen.out.splitlines()[1].split()[1] == "Unknown"
    assert "Registered" in screen.out.splitlines()[1]
    watched = run("get", "iris", "-w", cluster=models)
    assert watched.code == 0, "there is nothing to wait for"


def test_without_the_right_to_see_pods_the_rest_is_shown(run: Run, models: FakeCluster) -> None:
    models.hidden = frozenset({"pods"})
    screen = run("get", cluster=models)
    assert screen.out.splitlines()[1].startswith("iris  True   0 ")
    assert screen.err == "You are not allowed to see pods: the number of replicas is unknown and shown as 0.\n"


def test_conditions_that_are_out_of_date_say_nothing(models: FakeCluster) -> None:
    deployment = next(each for each in models.objects if each["kind"] == "Deployment")
    assert model.readiness(deployment).status == "True"
    deployment["metadata"]["generation"] += 1
    assert (model.readiness(deployment).status, model.readiness(deployment).reason) == ("Unknown", "Progressing")


def test_watching_one_name_ends_when_it_is_ready(run: Run) -> None:
    first, *rest = recorded("iris")
    cluster = FakeCluster([first], [Happens(0.5, each) for each in rest], namespace="models")
    cluster.log = {(each["metadata"]["name"], "model-loader"): [] for each in rest if each["kind"] == "Pod"}
    screen = run("get", "iris", "-w", cluster=cluster)
    assert (screen.code, screen.err) == (0, "")
    rows = [line.split() for line in screen.out.splitlines()]
    assert rows[0][0] == "NAME"
    assert (rows[1][1], rows[-1][1]) == ("Unknown", "True")
    assert len({tuple(row[:-1]) for row in rows}) == len(rows)


def test_watching_one_name_ends_when_it_has_failed(run: Run) -> None:
    cluster = FakeCluster(at_the_end("nope"), namespace="models")
    screen = run("get", "nope", "-w", cluster=cluster)
    assert screen.code == 1
    assert screen.err.startswith("error: nope is not ready: NotFound: ")


def test_on_a_terminal_the_watch_is_written_in_place(run: Run) -> None:
    first, *rest = recorded("iris")
    cluster = FakeCluster([first], [Happens(0.5, each) for each in rest], namespace="models")
    cluster.log = {(each["metadata"]["name"], "model-loader"): [] for each in rest if each["kind"] == "Pod"}
    screen = run("get", "iris", "-w", cluster=cluster, terminal=True, width=60)
    assert "\x1b[2A\x1b[J" in screen.out
    assert max(len(line) for line in screen.out.replace("\x1b[2A\x1b[J", "").splitlines()) <= 60


def test_a_watch_has_no_other_form(run: Run) -> None:
    assert "-w cannot be combined with -o json" in run("get", "-w", "-o", "json").err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (125, "2m5s"), (600, "10m"), (3 * 3600 + 60, "3h1m"), (86400, "24h"), (3 * 86400, "3d")],
)
def test_ages_are_written_as_kubectl_writes_them(seconds: int, text: str) -> None:
    assert tables.age_text("1970-01-01T00:00:00Z", seconds) == text


@pytest.mark.parametrize(
    ("width", "short"),
    [
        (43, "s3://models/a/long/way/to/iris/model.joblib"),
        (26, "s3://…to/iris/model.joblib"),
        (16, "…is/model.joblib"),
    ],
)
def test_a_long_uri_keeps_its_end_and_its_scheme_if_there_is_room(width: int, short: str) -> None:
    assert tables.shortened("s3://models/a/long/way/to/iris/model.joblib", width) == short


def test_the_objects_of_the_cluster_are_not_changed(models: FakeCluster) -> None:
    deployment = next(each for each in models.objects if each["kind"] == "Deployment")
    before = copy.deepcopy(deployment)
    model.status_of(deployment, models.objects)
    assert deployment == before


class SlowToListPods(FakeCluster):
    """As a real one: not every list is answered at the same time."""

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], str]:
        if resource is PODS:
            for _ in range(10):
                await asyncio.sleep(0)
        return await super().list(resource, namespace, labels=labels, fields=fields)


def test_a_watch_of_one_that_is_ready_shows_its_replicas(run: Run) -> None:
    screen = run("get", "iris", "-w", cluster=SlowToListPods(at_the_end("iris"), namespace="models"))
    assert screen.code == 0
    headings, row = (line.split() for line in screen.out.splitlines())
    assert dict(zip(headings, row, strict=True))["REPLICAS"] == "1"
