"""A running Deployment is annotated, and an annotated one is given back: somebody serves all the time."""

import copy

import pytest

from serve_core.admission.decide import judge
from serve_core.admission.handover import finish, is_back, wanted_replicas
from serve_core.api import annotations
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext, LoaderConfig

FACTS = ClusterContext(LoaderConfig("example.com/loader:1"))
PLAIN: JsonObject = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "iris"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "iris"}},
        "template": {
            "metadata": {"labels": {"app": "iris"}},
            "spec": {"containers": [{"name": "app", "image": "example.com/app:1", "ports": [{"containerPort": 8080}]}]},
        },
    },
}


def annotated(deployment: JsonObject) -> JsonObject:
    made = copy.deepcopy(deployment)
    made["metadata"].setdefault("annotations", {})[annotations.MODEL] = "s3://models/iris/model.joblib"
    return made


def accepted(deployment: JsonObject, previous: JsonObject | None) -> JsonObject:
    verdict = judge(deployment, FACTS, previous)
    assert verdict.deployment is not None, verdict.problems
    return verdict.deployment


def handover(deployment: JsonObject) -> str | None:
    note: str | None = deployment["metadata"].get("annotations", {}).get(annotations.HANDOVER)
    return note


def test_a_running_deployment_keeps_its_pods_until_the_knative_service_is_ready() -> None:
    served = accepted(annotated(PLAIN), PLAIN)
    assert (served["spec"]["replicas"], served["spec"]["paused"], handover(served)) == (2, True, "to-knative")
    again = accepted(served, served)
    assert again == served
    patch = finish()
    assert patch["spec"] == {"paused": None, "replicas": 0}
    assert patch["metadata"]["annotations"] == {annotations.HANDOVER: None}


@pytest.mark.parametrize(
    "previous", [None, {**PLAIN, "spec": {**PLAIN["spec"], "replicas": 0}}], ids=["new", "at zero"]
)
def test_what_does_not_run_is_parked_at_once(previous: JsonObject | None) -> None:
    served = accepted(annotated(PLAIN), previous)
    assert (served["spec"]["replicas"], handover(served)) == (0, None)


@pytest.mark.parametrize(
    ("noted", "replicas"),
    [("3", 3), ("0", 0), ("4294967295", 2**31 - 1), ("9" * 50, 2**31 - 1), ("-1", 0), ("many", 0), ("\u0663", 0)],
)
def test_the_way_back_gives_as_many_replicas_as_can_be(noted: str, replicas: int) -> None:
    served = accepted(annotated(PLAIN), None)
    served["metadata"]["annotations"][annotations.REPLICAS] = noted
    del served["metadata"]["annotations"][annotations.MODEL]
    assert accepted(served, served)["spec"]["replicas"] == replicas


def test_a_number_that_is_not_written_is_the_one_that_was_kept() -> None:
    """Whoever replaces the object need not say it, and parked it is none."""
    metadata = {"name": "iris", "annotations": {annotations.REPLICAS: "3"}}
    for spec, replicas in (({}, 3), ({"replicas": 0}, 3), ({"replicas": 5}, 5)):
        assert wanted_replicas({"metadata": metadata, "spec": spec}) == replicas


def test_the_way_back_keeps_the_label_for_the_reconciler() -> None:
    served = accepted(annotated(PLAIN), None)
    del served["metadata"]["annotations"][annotations.MODEL]
    back = accepted(served, None)
    assert (back["spec"]["replicas"], handover(back)) == (2, "from-knative")


def test_the_annotation_comes_and_goes_before_the_handover_ends() -> None:
    served = accepted(annotated(PLAIN), PLAIN)
    without = copy.deepcopy(served)
    del without["metadata"]["annotations"][annotations.MODEL]
    back = accepted(without, served)
    assert (back["spec"], handover(back)) == (PLAIN["spec"], "from-knative")
    again = accepted(annotated(back), back)
    assert (again["spec"]["replicas"], again["spec"]["paused"], handover(again)) == (2, True, "to-knative")


def test_a_handover_that_mode_deployment_ends_leaves_nothing_behind() -> None:
    served = accepted(annotated(PLAIN), PLAIN)
    changed = copy.deepcopy(served)
    changed["metadata"]["annotations"][annotations.MODE] = "deployment"
    for previous in (served, None):
        made = accepted(changed, previous)
        assert (made["spec"]["replicas"], "paused" in made["spec"], handover(made)) == (2, False, None)
        assert annotations.REPLICAS not in made["metadata"]["annotations"]


def test_a_deployment_that_leaves_mode_deployment_keeps_its_pods_until_the_knative_service_is_ready() -> None:
    plain = annotated(PLAIN)
    plain["metadata"]["annotations"][annotations.MODE] = "deployment"
    plain = accepted(plain, None)
    changed = copy.deepcopy(plain)
    del changed["metadata"]["annotations"][annotations.MODE]
    served = accepted(changed, plain)
    assert (served["spec"]["replicas"], served["spec"]["paused"], handover(served)) == (2, True, "to-knative")
    plain["spec"]["replicas"] = 0
    parked = accepted(changed, plain)
    assert (parked["spec"]["replicas"], handover(parked)) == (0, None), "none of its own that serve"


def test_annotated_again_it_is_what_it_was() -> None:
    """The label by which the reconciler finds it is still there from before, or written by somebody."""
    served = accepted(annotated(PLAIN), None)
    del served["metadata"]["annotations"][annotations.MODEL]
    back = accepted(served, None)
    strange = copy.deepcopy(PLAIN)
    strange["metadata"]["labels"] = {"kubectl-serve.dev/served": "false"}
    for again in (back, strange):
        made = accepted(annotated(again), None)
        assert made["metadata"] == accepted(annotated(PLAIN), None)["metadata"]


def test_replacing_the_whole_object_forgets_nothing() -> None:
    served = accepted(annotated(PLAIN), PLAIN)
    served["metadata"]["annotations"] |= {annotations.SERVICE: "iris-model", annotations.HANDOVER: "to-knative"}
    assert accepted(annotated(PLAIN), served) == served


@pytest.mark.parametrize(
    ("status", "back"),
    [
        ({"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2}, True),
        ({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2}, False),
        ({"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 2}, False),
        ({"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 1}, False),
        ({"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2, "replicas": 3}, False),
        ({}, False),
    ],
)
def test_it_is_back_with_all_its_pods(status: JsonObject, back: bool) -> None:
    assert is_back({**PLAIN, "metadata": {"name": "iris", "generation": 2}, "status": status}) is back
