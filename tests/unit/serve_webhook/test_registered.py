"""Models that are registered and not started: Knative reports a revision as ready without a pod."""

import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from serve_core.admission.decide import Verdict
from serve_core.api import annotations
from serve_core.api.state import State
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_READY, CONDITION_STATE
from serve_core.base.json import JsonObject
from serve_core.base.ownership import identity
from serve_webhook.reconcile import conditions, plan
from serve_webhook.reconcile.actions import Merge, SetConditions
from serve_webhook.reconcile.conditions import Condition
from serve_webhook.reconcile.observed import Observed
from support.replica_sets import of_revision

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ZERO = {"allow-zero-initial-scale": "true", "initial-scale": "0"}
URL = "http://iris.default.example.com"
LOADER = {"name": "model-loader", "image": "loader:1"}
WANTED: Any = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Service",
    "metadata": {"name": "iris", "namespace": "default", "labels": {"kubectl-serve.dev/deployment": "iris"}},
    "spec": {"template": {"spec": {"containers": [{"image": "server:1"}], "initContainers": [LOADER]}}},
}


def deployment(*, replicas: int = 0, state: State | None = None, **stored: Condition) -> JsonObject:
    """A stored Deployment with these conditions."""
    found = [*stored.values(), *([conditions.of_state(state)] if state else [])]
    manifest: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "namespace": "default",
            "uid": "d-1",
            "generation": 4,
            "annotations": {annotations.MODEL: "https://example.com/model.joblib"},
        },
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [], "initContainers": [LOADER]}}},
    }
    return manifest | {"status": {"conditions": conditions.entries(found, manifest, NOW)}}


def service(revision: str = "iris-00001", **template: str) -> JsonObject:
    """The Knative Service, ready in this revision."""
    made: JsonObject = copy.deepcopy(WANTED)
    owner = {"kind": "Deployment", "name": "iris", "uid": "d-1", "controller": True}
    made["metadata"] |= {"uid": "s-1", "generation": 1, "ownerReferences": [owner]}
    notes = {f"autoscaling.knative.dev/{key.replace('_', '-')}": value for key, value in template.items()}
    made["spec"]["template"]["metadata"] = {"annotations": notes}
    ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ConfigurationsReady", "RoutesReady")]
    names = {"latestCreatedRevisionName": revision, "latestReadyRevisionName": revision}
    return made | {"status": {"observedGeneration": 1, "url": URL, "conditions": ready, **names}}


def pod(exit_code: int | None = 0, *, ready: bool = False) -> JsonObject:
    state = {"running": {}} if exit_code is None else {"terminated": {"exitCode": exit_code, "message": "{}"}}
    return {
        "metadata": {"name": "a", "namespace": "default", **of_revision("iris-00001")},
        "status": {
            "initContainerStatuses": [{"name": "model-loader", "state": state}],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


def observed(of: JsonObject, live: JsonObject, *pods: JsonObject, autoscaler: Any = ZERO) -> Observed:
    return Observed(of, Verdict(service=WANTED), {identity(live): live}, pods, autoscaler=autoscaler)


def written(state: Observed) -> dict[str, tuple[str, str]]:
    """Status and reason of each written condition."""
    (write,) = (each for each in plan.status_writes(state, NOW).actions if isinstance(each, SetConditions))
    assert not [event for event in write.events if event.reason == "Registered"]
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in write.entries}


def after(state: Observed) -> JsonObject:
    """The Deployment with what is written."""
    (write,) = (each for each in plan.status_writes(state, NOW).actions if isinstance(each, SetConditions))
    return state.deployment | {"status": {"conditions": list(write.entries)}}


REGISTERED = ("Unknown", "Registered")
READY = ("True", "Ready")


@pytest.mark.parametrize(
    ("template", "autoscaler"),
    [
        ({}, ZERO),
        ({"initial_scale": "0"}, {"allow-zero-initial-scale": "true"}),
        ({"initial_scale": "0", "min_scale": "0"}, ZERO),
    ],
    ids=["by the cluster", "by the template", "with a minimum of 0"],
)
def test_a_model_that_never_ran_is_registered(template: dict[str, str], autoscaler: dict[str, str]) -> None:
    found = written(observed(deployment(), service(**template), autoscaler=autoscaler))
    assert found[CONDITION_READY] == found[CONDITION_MODEL_LOADED] == REGISTERED


@pytest.mark.parametrize(
    ("template", "autoscaler"),
    [({}, {}), ({"initial_scale": "1"}, ZERO), ({"min_scale": "1"}, ZERO)],
    ids=["without the setting", "started by its template", "with a minimum"],
)
def test_other_models_are_ready_when_knative_is(template: dict[str, str], autoscaler: dict[str, str]) -> None:
    found = written(observed(deployment(), service(**template), autoscaler=autoscaler))
    assert (found[CONDITION_READY], found[CONDITION_MODEL_LOADED]) == (READY, ("True", "Loaded"))


def test_it_is_ready_once_a_pod_is_and_stays_so_without_pods() -> None:
    registered = after(observed(deployment(), service()))
    loading = after(observed(registered, service(), pod(None)))
    assert written(observed(registered, service(), pod(None)))[CONDITION_READY] == ("Unknown", "Progressing")
    assert written(observed(loading, service(), pod(ready=True)))[CONDITION_READY] == READY
    ready = after(observed(loading, service(), pod(ready=True)))
    assert plan.status_writes(observed(ready, service()), NOW).actions[1:] == (), "nothing but scaling"
    changed = ready | {"metadata": ready["metadata"] | {"generation": 5}}
    again = {each["type"]: each for each in after(observed(changed, service()))["status"]["conditions"]}
    assert again[CONDITION_READY]["status"] == "True"
    for each in changed["status"]["conditions"]:
        if each["type"] == CONDITION_READY:
            each |= {"status": "Unknown", "reason": "Progressing"}
    assert written(observed(changed, service()))[CONDITION_READY] == READY, "also after a change without a revision"


def test_the_next_revision_is_registered_again() -> None:
    before = deployment(state=State(revision="iris-00001", started="iris-00001"))
    assert written(observed(before, service("iris-00002")))[CONDITION_READY] == REGISTERED


def test_what_was_registered_stays_so_when_the_setting_changes() -> None:
    registered = after(observed(deployment(), service()))
    moved = registered | {"metadata": registered["metadata"] | {"generation": 5}}
    assert written(observed(moved, service(), autoscaler={}))[CONDITION_READY] == REGISTERED


def test_models_of_before_the_setting_stay_ready() -> None:
    ready = after(observed(deployment(), service(), autoscaler={}))
    moved = ready | {"metadata": ready["metadata"] | {"generation": 5}}
    assert CONDITION_READY in written(observed(moved, service()))
    assert written(observed(moved, service()))[CONDITION_READY] == READY


def test_a_failure_of_the_first_request_stays_without_pods() -> None:
    registered = after(observed(deployment(), service()))
    failed = after(observed(registered, service(), pod(1)))
    kinds = {each["type"]: each["status"] for each in failed["status"]["conditions"]}
    assert (kinds[CONDITION_READY], kinds[CONDITION_MODEL_LOADED]) == ("False", "False")
    moved = failed | {"metadata": failed["metadata"] | {"generation": 5}}
    assert written(observed(moved, service()))[CONDITION_READY][0] == "False"


def test_a_deployment_that_is_taken_over_does_not_wait_for_a_request() -> None:
    assert isinstance(plan.status_writes(observed(deployment(replicas=2), service()), NOW).actions[0], Merge)


def test_the_revision_is_recorded() -> None:
    found = after(observed(deployment(), service()))
    (state,) = (each for each in found["status"]["conditions"] if each["type"] == CONDITION_STATE)
    assert "iris-00001" in state["message"]
    assert replace(State(), started="iris-00001").without_revisions().started == ""
