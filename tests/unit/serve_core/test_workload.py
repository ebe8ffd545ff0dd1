"""The view of a workload reads what is there now; a part that is missing or null is empty."""

import pytest

from serve_core.base.json import JsonObject
from serve_core.base.workload import Workload

OBJECTS = ("annotations", "labels", "match_labels", "template_annotations", "template_labels")
LISTS = ("containers", "init_containers", "volumes")


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"spec": None},
        {"spec": {"selector": None, "template": None}},
        {"spec": {"template": {"metadata": None, "spec": None}}},
        {"spec": {"template": {"spec": dict.fromkeys(("containers", "initContainers", "volumes"))}}},
    ],
)
def test_a_missing_part_is_empty(rest: JsonObject) -> None:
    workload = Workload({"metadata": {"name": "iris", "annotations": None, "labels": None}, **rest})
    assert (workload.name, workload.namespace) == ("iris", "")
    assert [getattr(workload, part) for part in OBJECTS] == [{}] * len(OBJECTS)
    assert [getattr(workload, part) for part in LISTS] == [[]] * len(LISTS)
    assert workload.pod_labels == {"kubectl-serve.dev/deployment": "iris"}


def test_a_change_of_the_object_shows() -> None:
    manifest: JsonObject = {"metadata": {"name": "iris"}}
    workload = Workload(manifest)
    manifest["spec"] = {"template": {"metadata": {"labels": {"app": "iris"}}, "spec": {"volumes": [{"name": "model"}]}}}
    assert (workload.template_labels, workload.volumes) == ({"app": "iris"}, [{"name": "model"}])


def test_pods_get_the_labels_of_selector_and_template_and_the_name() -> None:
    selector, labels = {"matchLabels": {"app": "iris", "tier": "web"}}, {"tier": "ml"}
    spec = {"selector": selector, "template": {"metadata": {"labels": labels}}}
    pod_labels = Workload({"metadata": {"name": "iris"}, "spec": spec}).pod_labels
    assert pod_labels == {"app": "iris", "tier": "ml", "kubectl-serve.dev/deployment": "iris"}
