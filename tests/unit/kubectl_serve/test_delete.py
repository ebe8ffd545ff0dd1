"""delete: what is deleted, and that nothing is deleted by mistake."""

import pytest

from support.fake_cluster import FakeCluster, Happens, at_the_end
from unit.kubectl_serve.conftest import Run


@pytest.fixture
def models() -> FakeCluster:
    return FakeCluster([*at_the_end("iris"), *at_the_end("nope")], namespace="models")


def left(cluster: FakeCluster) -> set[str]:
    return {each["metadata"]["name"] for each in cluster.objects if each["kind"] == "Deployment"}


def test_it_waits_until_pods_and_knative_service_are_gone(run: Run, models: FakeCluster) -> None:
    models.happens = [Happens(1, each, "DELETED") for each in models.objects if each["kind"] != "Deployment"]
    screen = run("delete", "iris", cluster=models)
    assert (screen.code, screen.out, screen.err) == (0, "deployment.apps/iris deleted\n", "")
    assert not [each for each in models.objects if each["metadata"]["name"].startswith("iris")]


def test_it_need_not_wait(run: Run, models: FakeCluster) -> None:
    assert run("delete", "iris", "nope", "--wait=false", cluster=models).code == 0
    assert left(models) == set()


@pytest.mark.parametrize(("flag", "said"), [("--dry-run", "(dry run)"), ("--dry-run=server", "(server dry run)")])
def test_a_dry_run_deletes_nothing(run: Run, models: FakeCluster, flag: str, said: str) -> None:
    screen = run("delete", "iris", flag, cluster=models)
    assert (screen.code, screen.out) == (0, f"deployment.apps/iris deleted {said}\n")
    assert left(models) == {"iris", "nope"}
    assert [verb for verb, _, _ in models.wrote] == (["dry-run"] if "server" in flag else [])


def test_the_wait_is_bounded(run: Run, models: FakeCluster) -> None:
    screen = run("delete", "iris", "--timeout", "50ms", cluster=models)
    assert screen.code == 1
    assert "error: the deletion did not finish within 0 s." in screen.err


def test_a_wrong_name_deletes_nothing(run: Run, models: FakeCluster) -> None:
    screen = run("delete", "iris", "irsi", "--no-wait", cluster=models)
    assert (screen.code, screen.out) == (1, "")
    assert "there is no Deployment irsi" in screen.err
    assert left(models) == {"iris", "nope"}


def test_a_deployment_that_is_not_served_is_not_deleted(run: Run, models: FakeCluster) -> None:
    models.objects.append(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "models"}}
    )
    assert run("delete", "web", cluster=models).code == 1
    assert "web" in left(models)


def test_labels_choose_among_the_served(run: Run, models: FakeCluster) -> None:
    for each in models.objects:
        if each["metadata"]["name"] == "iris":
            each["metadata"].setdefault("labels", {})["team"] = "ml"
    assert run("delete", "-l", "team=ml", "--no-wait", cluster=models).out == "deployment.apps/iris deleted\n"


def test_what_is_gone_already_can_be_tolerated(run: Run, models: FakeCluster) -> None:
    screen = run("delete", "wine", "--ignore-not-found", cluster=models)
    assert (screen.code, screen.out) == (0, "")


def test_it_wants_either_names_or_labels(run: Run) -> None:
    assert "delete needs either names or -l" in run("delete").err
    assert "delete needs either names or -l" in run("delete", "iris", "-l", "a=b").err
