"""Only Knative changes the Deployments that it creates for a served model, so that they run what was judged."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from cel_expr_python import cel

from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject
from support.paths import ROOT

FILE = ROOT / "manifests/base/16-what-knative-runs.yaml"
POLICY, BINDING = yaml.safe_load_all(FILE.read_text())
REVISION_LABEL = "serving.knative.dev/revision"
KNATIVE = "system:serviceaccount:knative-serving:controller"

DEPLOYMENT: JsonObject = {
    "metadata": {
        "name": "iris-00001-deployment",
        "labels": {DEPLOYMENT_LABEL: "iris", REVISION_LABEL: "iris-00001", "serving.knative.dev/deployment-hash": "x"},
    },
    "spec": {
        "replicas": 1,
        "template": {
            "metadata": {"annotations": {"autoscaling.knative.dev/max-scale": "2"}},
            "spec": {"containers": [{"name": "model-server", "image": "example.com/server:1"}]},
        },
    },
}


def selected(document: JsonObject | None) -> bool:
    labels = (document or {}).get("metadata", {}).get("labels", {})
    return all(
        each["key"] in labels for each in POLICY["spec"]["matchConstraints"]["objectSelector"]["matchExpressions"]
    )


def allowed(
    new: JsonObject | None, old: JsonObject | None = DEPLOYMENT, user: str = "alice", operation: str = "UPDATE"
) -> bool:
    if not (selected(new) or selected(old)):
        return True
    data = {"object": new, "oldObject": old, "request": {"operation": operation, "userInfo": {"username": user}}}

    def holds(expression: str) -> bool:
        environment = cel.NewEnv(variables=dict.fromkeys(data, cel.Type.DYN))
        return environment.compile(expression).eval(data=data).plain_value() is True

    spec = POLICY["spec"]
    if not all(holds(condition["expression"]) for condition in spec["matchConditions"]):
        return True
    return all(holds(validation["expression"]) for validation in spec["validations"])


def changed(change: Callable[[Any], object]) -> JsonObject:
    made = copy.deepcopy(DEPLOYMENT)
    change(made)
    return made


CHANGES: dict[str, Callable[[Any], object]] = {
    "another image": lambda d: d["spec"]["template"]["spec"]["containers"][0].update(image="evil.example/server:1"),
    "a container beside": lambda d: d["spec"]["template"]["spec"]["containers"].append({"name": "b", "image": "b:1"}),
    "ports that the sidecar does not see": lambda d: d["spec"]["template"]["metadata"]["annotations"].update(
        {"traffic.sidecar.istio.io/excludeInboundPorts": "8012"}
    ),
    "no sidecar": lambda d: d["spec"]["template"]["metadata"].update(labels={"sidecar.istio.io/inject": "false"}),
    "more replicas": lambda d: d["spec"].update(replicas=50),
    "without our label": lambda d: d["metadata"]["labels"].pop(DEPLOYMENT_LABEL),
    "without Knative's label": lambda d: d["metadata"]["labels"].pop(REVISION_LABEL),
    "another model's label": lambda d: d["metadata"]["labels"].update({DEPLOYMENT_LABEL: "other"}),
    "no labels": lambda d: d["metadata"].pop("labels"),
}


@pytest.mark.attack(29)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("user", ["alice", "system:admin", "system:serviceaccount:ml:default"])
def test_only_knative_changes_what_it_runs(change: Callable[[Any], object], user: str) -> None:
    assert not allowed(changed(change), user=user)
    assert allowed(changed(change), user=KNATIVE)
    unlabelled = copy.deepcopy(DEPLOYMENT) | {"metadata": {"name": "plain", "labels": {"app": "plain"}}}
    assert allowed(unlabelled, unlabelled, user=user)


@pytest.mark.attack(29)
def test_only_controllers_delete_it() -> None:
    assert not allowed(None, operation="DELETE")
    for controller in ("generic-garbage-collector", "namespace-controller"):
        assert allowed(None, operation="DELETE", user=f"system:serviceaccount:kube-system:{controller}")
    assert allowed(None, operation="DELETE", user="system:kube-controller-manager")


def test_notes_of_others_are_theirs() -> None:
    noted = changed(lambda d: d["metadata"].update(annotations={"deployment.kubernetes.io/revision": "2"}))
    assert allowed(noted)
    assert allowed(changed(lambda d: d["metadata"]["labels"].update(team="a")))


def test_it_is_enforced_and_about_nothing_else() -> None:
    assert BINDING["spec"] == {"policyName": POLICY["metadata"]["name"], "validationActions": ["Deny"]}
    (rule,) = POLICY["spec"]["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["deployments"], ["UPDATE", "DELETE"])
    assert not selected({"metadata": {"labels": {REVISION_LABEL: "a-00001"}}})
    assert not selected({"metadata": {"labels": {DEPLOYMENT_LABEL: "a"}}})
