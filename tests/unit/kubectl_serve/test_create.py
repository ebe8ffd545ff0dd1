"""create: requests, progress and result. The objects are recorded from a real cluster."""

import json

import pytest
import yaml

from kubectl_serve.commands import create
from kubectl_serve.status.follow import WaitPolicy
from serve_core.api import annotations
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_READY
from serve_core.base.json import JsonObject
from serve_core.base.reasons import condition_message
from serve_kube import errors
from support.fake_cluster import FakeCluster, Happens, at_the_end, recorded
from unit.kubectl_serve.conftest import Run

MODEL = "http://store.example.com/iris/model.joblib"
DIGEST = "sha256:23e052fa7b0c9d4b78c82b64bd76a61a2872e3f7742f07ad72360a606c27aa0a"
ARGV = ("create", "iris", "-n", "models", "--model", MODEL)


def serving(name: str, *, seconds: float = 0.5) -> FakeCluster:
    """A cluster in which happens what was recorded."""
    first, *rest = recorded(name)
    pods = {each["metadata"]["name"] for each in rest if each["kind"] == "Pod"}
    return FakeCluster(
        completes=first,
        happens=[Happens(seconds, each) for each in rest],
        log={(pod, "model-loader"): [] for pod in pods},
    )


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "WAIT_POLICY", WaitPolicy(0.05, 0.05, 0.05))


def test_the_least_deployment_is_sent(run: Run) -> None:
    cluster = serving("iris")
    run(*ARGV, "--scale", "1..5", "--no-wait", cluster=cluster)
    assert cluster.wrote == [
        (
            "create",
            "deployments",
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {
                    "name": "iris",
                    "namespace": "models",
                    "annotations": {annotations.MODEL: MODEL, annotations.SCALE: "1..5"},
                },
            },
        )
    ]


def test_labels_are_the_deployments(run: Run) -> None:
    cluster = serving("iris")
    run(*ARGV, "-l", "team=research,tier=", "--no-wait", cluster=cluster)
    [(_, _, sent)] = cluster.wrote
    assert sent["metadata"]["labels"] == {"team": "research", "tier": ""}


@pytest.mark.parametrize("labels", ["team", "=research", "team=research,", ""])
def test_a_wrong_label_is_reported_before_any_request(labels: str, run: Run) -> None:
    cluster = serving("iris")
    screen = run(*ARGV, "--labels", labels, cluster=cluster)
    assert (screen.code, cluster.wrote) == (1, [])
    assert f'"{labels}" is not KEY=VALUE, or several of them separated by commas' in screen.err


def test_every_annotation_of_the_user_is_a_flag(run: Run) -> None:
    text = run("create", "--help").out
    assert all(f"--{annotation.name} " in text for annotation in annotations.USER)


def test_it_prints_each_step_once_and_ends_with_the_url(run: Run) -> None:
    screen = run(*ARGV, cluster=serving("iris"))
    assert (screen.code, screen.out) == (0, "deployment.apps/iris served\n")
    assert [line[9:] for line in screen.err.splitlines()[:-1]] == [
        "Deployment iris accepted",
        "Knative Service created",
        "revision iris-00001 created",
        "pod scheduled on kubectl-serve",
        "loader starting",
        "model loading",
        f"model loaded: 991 B in 1 file in 0.0 s, {DIGEST}",
        "model server starting",
        "model server ready",
        "ready at http://iris.models.kubectl-serve.test",
    ]
    assert screen.err.splitlines()[-1] == "Next: kubectl serve predict iris -n models '[[...]]'"


def test_a_model_that_is_registered_and_not_started_is_a_success(run: Run) -> None:
    first, *rest = recorded("iris")
    last = next(each for each in reversed(rest) if each["kind"] == "Deployment")
    for condition in last["status"]["conditions"]:
        if condition["type"] in (CONDITION_MODEL_LOADED, CONDITION_READY):
            condition |= {"status": "Unknown", "reason": "Registered", "message": "not started."}
    screen = run(*ARGV, cluster=FakeCluster(completes=first, happens=[Happens(0.5, last)]))
    assert (screen.code, screen.out) == (0, "deployment.apps/iris registered, not started\n")
    *_, step, note = screen.err.splitlines()
    assert step[9:] == "registered, not started"
    assert note == "Next: kubectl serve predict iris -n models '[[...]]', which starts it"


def test_times_count_from_the_start(run: Run) -> None:
    lines = run(*ARGV, cluster=serving("iris")).err.splitlines()
    times = [float(line.split("s")[0]) for line in lines[:-1]]
    assert times == sorted(times)
    assert times[-1] > 10


def test_a_download_that_fails_ends_it_with_cause_and_hint(run: Run) -> None:
    cluster = serving("nope")
    screen = run(
        "create", "nope", "-n", "models", "--model", "http://store.example.com/iris/nope.joblib", cluster=cluster
    )
    assert (screen.code, screen.out) == (1, "")
    assert screen.err.endswith(
        "error: nope is not ready: NotFound: http://store.example.com/iris/nope.joblib answered 404. "
        "Check the URI: the name is case-sensitive and must exist in the store.\n"
        "hint: `kubectl serve describe nope -n models` shows details; the Deployment is kept and keeps retrying.\n"
    )


@pytest.mark.parametrize("secret", ["store", "hub-token", "team.store"])
def test_a_secret_that_comes_later_starts_the_pod_by_itself(secret: str, run: Run) -> None:
    cluster = serving("nope")
    missing = condition_message("SecretNotFound", secret=secret, namespace="models")
    for each in cluster.happens:
        for condition in (each.object.get("status") or {}).get("conditions") or []:
            if each.object["kind"] == "Deployment" and condition["status"] == "False":
                condition |= {"reason": "SecretNotFound", "message": missing}
    uri = "http://store.example.com/iris/nope.joblib"
    screen = run("create", "nope", "-n", "models", "--model", uri, "--credentials", secret, cluster=cluster)
    assert (screen.code, screen.out) == (1, "")
    assert screen.err.endswith(
        f"error: nope is not ready: SecretNotFound: Secret {secret} does not exist. Create it: `kubectl create secret "
        f"generic {secret} -n models --from-env-file=FILE` (for S3: AWS_REGION, AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY; docs/loader.md lists others). The pod then starts automatically.\n"
        "hint: `kubectl serve describe nope -n models` shows details; the Deployment is kept and keeps retrying.\n"
    )


def test_a_short_false_is_no_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "WAIT_POLICY", WaitPolicy(60, 60, 60))
    cluster = serving("iris")
    at = next(i for i, each in enumerate(cluster.happens) if each.object["kind"] == "Deployment") + 1
    failed = yaml.safe_load(yaml.safe_dump(cluster.happens[at - 1].object))
    for each in failed["status"]["conditions"]:
        each["status"] = "False"
    cluster.happens.insert(at, Happens(0.1, failed))
    assert run(*ARGV, cluster=cluster).code == 0


def test_the_wait_ends_when_its_time_has_passed(run: Run) -> None:
    cluster = serving("iris")
    del cluster.happens[5:]
    screen = run(*ARGV, "--wait-timeout", "200ms", cluster=cluster)
    assert screen.code == 1
    assert "error: iris is not ready after 0 s: Loading: " in screen.err


def test_a_deleted_deployment_ends_the_wait(run: Run) -> None:
    cluster = serving("iris")
    cluster.happens[5:] = [Happens(1, recorded("iris")[0], "DELETED")]
    screen = run(*ARGV, cluster=cluster)
    assert screen.code == 1
    assert "iris is not ready: Deleted: the Deployment was deleted." in screen.err


def test_without_the_right_to_see_pods_it_still_waits(run: Run) -> None:
    cluster = serving("iris")
    cluster.hidden = frozenset({"pods"})
    cluster.happens = [each for each in cluster.happens if each.object["kind"] != "Pod"]
    screen = run(*ARGV, cluster=cluster)
    assert (screen.code, screen.out) == (0, "deployment.apps/iris served\n")


def test_progress_is_one_live_line_on_a_terminal(run: Run) -> None:
    cluster = serving("iris")
    pod = next(each.object["metadata"]["name"] for each in cluster.happens if each.object["kind"] == "Pod")
    cluster.log[pod, "model-loader"] = ['{"event": "progress", "bytes": 450, "total": 1000, "rate": 100000}']
    screen = run(*ARGV, cluster=cluster, terminal=True)
    assert "model loading: [#########           ] 45 % of 1000 B, 97.7 KiB/s\r\x1b[2K" in screen.err


def test_a_client_dry_run_sends_no_request(run: Run) -> None:
    assert run(*ARGV, "--dry-run").out == "deployment.apps/iris created (dry run)\n"
    written = yaml.safe_load(run(*ARGV, "--dry-run", "-o", "yaml").out)
    assert written["metadata"]["annotations"] == {annotations.MODEL: MODEL}
    assert json.loads(run(*ARGV, "--dry-run", "-o", "json").out) == written
    assert run(*ARGV, "--dry-run", "-o", "name").out == "deployment.apps/iris\n"


def test_a_server_dry_run_shows_what_the_cluster_makes_of_it(run: Run) -> None:
    cluster = serving("iris")
    screen = run(*ARGV, "--dry-run=server", "-o", "yaml", cluster=cluster)
    assert yaml.safe_load(screen.out)["metadata"]["labels"] == {"kubectl-serve.dev/served": "true"}
    assert [verb for verb, _, _ in cluster.wrote] == ["dry-run"]


def test_all_errors_are_reported_before_any_request(run: Run) -> None:
    screen = run("create", "iris", "--model", "ftp://models/iris", "--scale", "9..1")
    assert (screen.code, screen.out) == (1, "")
    first, *problems = screen.err.splitlines()
    assert first == "error: deployment.apps/iris is refused:"
    assert [line.split(":")[0] for line in problems] == ["UnknownScheme", "InvalidAnnotation"]


def test_a_runtime_that_only_the_cluster_knows_is_left_to_the_cluster(run: Run) -> None:
    screen = run(*ARGV, "--runtime", "our-own", "--no-wait", cluster=serving("iris"))
    assert (screen.code, screen.out) == (0, "deployment.apps/iris created\n")


def test_a_refusal_of_the_cluster_looks_like_one_of_our_own(run: Run) -> None:
    cluster = FakeCluster(refuses=errors.DeniedError("UnknownRuntime: metadata: there is no runtime x."))
    screen = run(*ARGV, cluster=cluster)
    assert (screen.code, screen.err) == (
        1,
        "error: deployment.apps/iris is refused:\nUnknownRuntime: metadata: there is no runtime x.\n",
    )


def test_an_existing_deployment_is_not_touched(run: Run) -> None:
    exists = errors.AlreadyExistsError('deployments.apps "iris" already exists')
    cluster = FakeCluster(at_the_end("iris"), refuses=exists)
    plain: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris", "namespace": "models"},
    }
    assert run(*ARGV, cluster=FakeCluster([plain], refuses=exists)).err == (
        "error: Deployment iris already exists.\n"
        "hint: `kubectl annotate deployment iris -n models kubectl-serve.dev/model=URI` serves a model with it.\n"
    )
    assert run(*ARGV, cluster=cluster).err == (
        "error: Deployment iris already exists.\n"
        "hint: Change what it serves with `kubectl annotate deployment iris -n models --overwrite "
        "kubectl-serve.dev/model=URI`, or remove it with `kubectl serve delete iris -n models`.\n"
    )


@pytest.mark.parametrize(
    "cluster",
    [
        FakeCluster(),
        FakeCluster(refuses=errors.InvalidError("spec.selector: Required value", 422, ("spec.selector",))),
    ],
)
def test_without_the_webhook_it_says_how_to_install_it(run: Run, cluster: FakeCluster) -> None:
    screen = run(*ARGV, cluster=cluster)
    assert screen.code == 1
    assert screen.err.startswith("error: kubectl-serve is not installed in this cluster")
    assert "`kubectl serve install`" in screen.err


def test_the_recording_ends_well() -> None:
    assert any(each["kind"] == "Pod" for each in at_the_end("iris"))
