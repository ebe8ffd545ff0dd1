"""The writes for one Deployment, from its observed state: no cluster, no clock."""

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_core.admission.decide import Verdict
from serve_core.api import annotations, loader_protocol
from serve_core.api import state as model_state
from serve_core.api.loader_protocol import LoaderOutput
from serve_core.api.state import State
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_READY, CONDITION_STATE
from serve_core.base.escaping import is_visible
from serve_core.base.json import JsonObject
from serve_core.base.ownership import identity
from serve_core.base.reasons import Diagnostic, diagnostic, explanation
from serve_core.knative import traffic
from serve_webhook.cache import trimming
from serve_webhook.reconcile import conditions, plan
from serve_webhook.reconcile.actions import Apply, Delete, Merge, SetConditions, SetScaling
from serve_webhook.reconcile.conditions import MAX_MESSAGE, MAX_REASON, Condition
from serve_webhook.reconcile.observed import LastApplied, Observed
from serve_webhook.reconcile.plan import required_apply
from support.recorded_state import entry
from support.replica_sets import of_revision, of_template

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OWNER = {"kind": "Deployment", "name": "iris", "uid": "d-1", "controller": True}
LOADER = {"name": "model-loader", "image": "loader:1"}


def deployment(
    *,
    replicas: int = 0,
    generation: int = 4,
    notes: Any = None,
    state: Any = None,
    conditions: Any = (),
    **status: Any,
) -> Any:
    """``state``: fields of what is recorded of this generation."""
    recorded = [] if state is None else [entry(generation, **state)]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "namespace": "default",
            "uid": "d-1",
            "generation": generation,
            "resourceVersion": "10",
            "labels": {"kubectl-serve.dev/served": "true"},
            "annotations": {annotations.MODEL: "https://example.com/model.joblib", **(notes or {})},
        },
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [], "initContainers": [LOADER]}}},
        "status": {"conditions": [*conditions, *recorded], **status},
    }


WANTED: Any = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Service",
    "metadata": {"name": "iris", "namespace": "default", "labels": {"kubectl-serve.dev/deployment": "iris"}},
    "spec": {"template": {"spec": {"containers": [{"image": "server:1"}], "initContainers": [LOADER]}}},
}
EXTRA: Any = {
    "apiVersion": "serving.knative.dev/v1beta1",
    "kind": "DomainMapping",
    "metadata": {"name": "iris.example.com", "namespace": "default"},
    "spec": {},
}


def live(
    ready: str = "True",
    *,
    latest: str = "iris-00001",
    serving: str = "iris-00001",
    generation: int = 1,
    observed: int = 1,
    owner: Any = OWNER,
    configuration: str | None = None,
    message: str = "",
) -> Any:
    made = copy.deepcopy(WANTED)
    made["metadata"] |= {"uid": "s-1", "generation": generation, "ownerReferences": [owner] if owner else []}
    made["metadata"]["annotations"] = {"serving.knative.dev/creator": "somebody"}
    made["status"] = {
        "observedGeneration": observed,
        "latestCreatedRevisionName": latest,
        "latestReadyRevisionName": serving,
        "url": "http://iris.default.example.com",
        "conditions": [
            {"type": "Ready", "status": ready, "message": message},
            {"type": "ConfigurationsReady", "status": configuration or ready, "message": message},
        ],
    }
    return made


def loader_pod(exit_code: int | None, code: str, revision: str = "iris-00001", name: str = "a") -> Any:
    message = json.dumps({"code": code, "message": "what happened", "hint": "what to do"})
    state = {"running": {}} if exit_code is None else {"terminated": {"exitCode": exit_code, "message": message}}
    return {
        "metadata": {"name": name, "namespace": "default", **of_revision(revision)},
        "status": {"initContainerStatuses": [{"name": "model-loader", "state": state}]},
    }


def server_pod(**state: Any) -> Any:
    """One that has the model."""
    pod = loader_pod(0, "Loaded")
    pod["status"]["containerStatuses"] = [{"name": "model-server", **state}]
    return pod


CRASHED = server_pod(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": {"exitCode": 3}})
NOT_STARTED = server_pod(state={"waiting": {"reason": "CreateContainerError", "message": "no such device"}})


def observed(
    of: Any = None, service: Any = None, *, verdict: Verdict | None = None, applied: bool = True, **more: Any
) -> Observed:
    state = Observed(
        of or deployment(),
        verdict or Verdict(service=WANTED),
        {identity(service): service} if service else {},
        **more,
    )
    if not (service and applied):
        return state
    first = required_apply(state, WANTED)
    fingerprint = first.fingerprint if first else ""
    return Observed(
        state.deployment,
        state.verdict,
        state.live,
        applied={identity(service): LastApplied(fingerprint, "s-1", plan.fingerprint(WANTED["spec"]))},
        **more,
    )


def conditions_of(state: Observed) -> dict[str, Condition]:
    for action in plan.status_writes(state, NOW).actions:
        if isinstance(action, SetConditions):
            return {
                entry["type"]: Condition(entry["type"], entry["status"], entry["reason"], entry["message"])
                for entry in action.entries
            }
    return {}


def conditions_entries(state: Observed) -> Any:
    """The conditions as they are stored then."""
    return next(
        action.entries for action in plan.status_writes(state, NOW).actions if isinstance(action, SetConditions)
    )


def ready(state: Observed) -> Condition:
    return conditions_of(state)[CONDITION_READY]


def loaded(state: Observed) -> Condition:
    return conditions_of(state)[CONDITION_MODEL_LOADED]


def recorded(state: Observed) -> State:
    """The state of the Deployment after the writes."""
    entries = [a.entries for a in plan.status_writes(state, NOW).actions if isinstance(a, SetConditions)]
    return model_state.read({"status": {"conditions": entries[0]}} if entries else state.deployment)


def settled(**more: Any) -> Any:
    """A Deployment on which everything is said already."""
    return deployment(conditions=conditions_entries(observed(service=live())), **more)


# The objects.


def test_a_missing_service_is_applied_with_its_owner_and_without_force() -> None:
    apply = required_apply(observed(), WANTED)
    assert apply is not None
    assert apply.uid is None
    (owner,) = apply.manifest["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("d-1", True, True)


def test_nothing_is_written_where_nothing_changed_whatever_knative_fills_in() -> None:
    assert required_apply(observed(service=live()), WANTED) is None


@pytest.mark.parametrize(
    "drifted",
    [
        pytest.param(live() | {"spec": WANTED["spec"] | {"traffic": []}}, id="its spec"),
        pytest.param(
            live() | {"metadata": live()["metadata"] | {"labels": {}}},
            id="its labels",
        ),
        pytest.param(live(owner=None), id="its owner"),
    ],
)
def test_a_changed_object_is_corrected(drifted: Any) -> None:
    state = observed(service=live())
    now = Observed(state.deployment, state.verdict, {identity(drifted): drifted}, applied=state.applied)
    apply = required_apply(now, WANTED)
    assert isinstance(apply, Apply)
    assert apply.uid == "s-1"


def test_after_a_restart_it_is_applied_once_more() -> None:
    assert required_apply(observed(service=live(), applied=False), WANTED) is not None


def without_label(manifest: Any) -> Any:
    return manifest | {"metadata": manifest["metadata"] | {"labels": {}}}


@pytest.mark.parametrize("found", [without_label(live(owner=None)), live(owner=OWNER | {"uid": "d-0"})])
def test_an_object_of_another_owner_is_reported_and_not_changed(found: Any) -> None:
    state = observed(service=found)
    assert required_apply(state, WANTED) is None
    assert plan.deletions(state) == ()
    assert ready(state).reason == "NameTaken"
    assert "The Knative Service iris exists already, and kubectl-serve does not own it." in ready(state).message
    assert recorded(state).url == "", "it is the URL of another owner's object"


@pytest.mark.parametrize("owner", [None, OWNER | {"controller": False}])
def test_an_orphan_with_our_label_is_adopted(owner: Any) -> None:
    state = observed(service=live(owner=owner))
    apply = required_apply(state, WANTED)
    assert isinstance(apply, Apply)
    assert (apply.uid, apply.manifest["metadata"]["ownerReferences"][0]["uid"]) == ("s-1", "d-1")
    assert state.name_conflict is None


def test_a_deployment_on_its_way_out_is_left_to_the_garbage_collector() -> None:
    going = deployment()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    state = observed(going, live(), verdict=Verdict(service=WANTED))
    assert (required_apply(state, WANTED), required_apply(observed(going), WANTED)) == (None, None)
    assert plan.status_writes(state, NOW).actions == ()
    going["status"]["observedGeneration"] = 4
    assert plan.deletions(replace(state, verdict=Verdict())) == ()


def test_an_extra_that_is_wanted_no_more_goes() -> None:
    extra = EXTRA | {"metadata": EXTRA["metadata"] | {"uid": "m-1", "ownerReferences": [OWNER]}}
    state = observed(service=live())
    with_extra = Observed(state.deployment, state.verdict, {**state.live, identity(extra): extra})
    assert plan.deletions(with_extra) == (Delete(extra),)
    wanted = Observed(state.deployment, Verdict(service=WANTED, extras=(EXTRA,)), with_extra.live)
    assert plan.deletions(wanted) == ()


def test_the_knative_service_goes_only_when_the_deployments_own_pods_are_back() -> None:
    unserved = Verdict()
    starting = deployment(replicas=2, observedGeneration=4, updatedReplicas=2, availableReplicas=1)
    assert plan.deletions(observed(starting, live(), verdict=unserved)) == ()
    back = deployment(replicas=2, observedGeneration=4, updatedReplicas=2, availableReplicas=2)
    for service in (live(), live("False")):
        assert plan.deletions(observed(back, service, verdict=unserved)) == (Delete(service),)


def test_an_orphan_of_knatives_goes_as_well_or_its_service_would_keep_the_name_for_ever() -> None:
    """``kubectl delete --cascade=orphan`` left it, and the Deployment was created again in mode deployment."""
    plain = Verdict(extras=({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "iris"}},), name="iris")
    back = deployment(replicas=1, observedGeneration=4, updatedReplicas=1, availableReplicas=1)
    orphan = live(owner=None)
    assert plan.deletions(observed(back, orphan, verdict=plain)) == (Delete(orphan),)
    assert plan.deletions(observed(back, without_label(orphan), verdict=plain)) == (), "it has another owner"
    assert plan.deletions(observed(back, orphan, verdict=Verdict())) == (), "it is no conflict"


def test_the_service_before_its_own_pods_goes_when_knative_needs_nothing_but_its_name() -> None:
    metadata = {"name": "iris", "uid": "p-1", "ownerReferences": [OWNER]}
    plain: Any = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    scaler: Any = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata}
    before = {identity(each): each for each in (plain, scaler)}
    for service, gone in (
        (None, [scaler]),
        (live("Unknown"), [scaler]),
        (live("False", configuration="True", generation=2), [scaler]),
        (live("False", configuration="True"), [plain, scaler]),
        (live("True"), [plain, scaler]),
    ):
        state = observed(service=service)
        state = replace(state, live={**state.live, **before})
        assert [delete.manifest for delete in plan.deletions(state)] == gone


@pytest.mark.parametrize("owner", [OWNER | {"uid": "d-0"}, OWNER | {"controller": False}, None])
def test_an_object_of_another_owner_with_our_label_is_not_deleted(owner: Any) -> None:
    labelled = EXTRA["metadata"] | {"labels": WANTED["metadata"]["labels"], "uid": "m-1"}
    theirs = EXTRA | {"metadata": labelled | {"ownerReferences": [owner] if owner else []}}
    back = deployment(replicas=1, observedGeneration=4, updatedReplicas=1, availableReplicas=1)
    for of, verdict in ((deployment(), Verdict(service=WANTED)), (back, Verdict())):
        state = observed(of, live(), verdict=verdict)
        assert Delete(theirs) not in plan.deletions(replace(state, live={**state.live, identity(theirs): theirs}))


def test_what_is_on_its_way_out_is_neither_written_nor_deleted_again() -> None:
    going = live()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert required_apply(observed(service=going, applied=False), WANTED) is None
    back = deployment(replicas=1, observedGeneration=4, updatedReplicas=1, availableReplicas=1)
    assert plan.deletions(observed(back, going, verdict=Verdict())) == ()


def test_an_object_that_replaced_ours_is_applied_again() -> None:
    state, another = observed(service=live()), live()
    another["metadata"]["uid"] = "s-2"
    assert required_apply(replace(state, live={identity(another): another}), WANTED) is not None


def test_a_refusal_deletes_nothing() -> None:
    refused = Verdict(problems=(diagnostic("Parked", "spec"),))
    parked = deployment(observedGeneration=4)
    assert plan.deletions(observed(parked, live(), verdict=refused)) == ()
    assert plan.deletions(observed(parked, live(), verdict=Verdict())) != (), "it would go, were it not for the refusal"


def test_the_release_removes_conditions_annotations_and_label() -> None:
    actions = plan.release(settled())
    assert isinstance(actions[0], SetConditions)
    assert actions[0].entries == ()
    assert isinstance(actions[1], Merge)
    noted = deployment(notes=dict.fromkeys((annotations.SERVICE, *annotations.EARLIER_STATE), "x"))
    (merge,) = plan.release(noted)
    assert isinstance(merge, Merge)
    assert merge.patch["metadata"]["annotations"].keys() == {annotations.SERVICE, *annotations.EARLIER_STATE}
    bare = deployment()
    del bare["metadata"]["labels"]
    assert plan.release(bare) == ()
    for left in (
        ("labels", {"kubectl-serve.dev/served": "true"}),
        ("annotations", {annotations.HANDOVER: "from-knative"}),
    ):
        one = bare | {"metadata": bare["metadata"] | dict([left])}
        assert [type(action) for action in plan.release(one)] == [Merge], "either of the two may have been lost"


# What is said.


def test_ready_with_url_revision_and_generation() -> None:
    state = observed(service=live())
    assert ready(state).status == "True"
    assert recorded(state) == State(
        observed_generation=4,
        url="http://iris.default.example.com",
        revision="iris-00001",
        promoted="iris-00001",
        started="iris-00001",
        template=plan.template_digest(WANTED),
    )


def test_before_knative_has_a_url_none_is_noted() -> None:
    service = live("Unknown")
    del service["status"]["url"]
    assert recorded(observed(service=service)).url == ""


def test_nothing_is_said_twice() -> None:
    assert plan.status_writes(observed(settled(), live()), NOW).actions == ()


def test_a_generation_without_a_relevant_change_is_observed_as_well() -> None:
    """Whoever waits for the conditions waits for this."""
    later = settled()
    later["metadata"]["generation"] += 1
    generation = later["metadata"]["generation"]
    assert recorded(observed(later, live())).observed_generation == generation


def test_all_that_is_known_is_one_write() -> None:
    for service in (live(), live("False"), live("Unknown")):
        assert [type(action) for action in plan.status_writes(observed(service=service), NOW).actions] == [
            SetConditions
        ]


def test_what_an_earlier_build_noted_in_annotations_is_recorded_and_then_removed() -> None:
    values = {
        "url": "http://iris.default.example.com", "ready-revision": "iris-00002", "model-size": str(2**31),
        "promoted": "iris-00002", "previous": "iris-00001", "observed-generation": "4",
    }  # fmt: skip
    noted = {f"kubectl-serve.dev/{key}": value for key, value in values.items()}
    before = observed(deployment(notes=noted), live(latest="iris-00002", serving="iris-00002"))
    assert plan.preparation(before, Apply(WANTED, "", "s-1"), NOW) is None
    write, *_, removal = plan.status_writes(before, NOW).actions
    assert isinstance(write, SetConditions)
    assert recorded(before) == State(
        4,
        "http://iris.default.example.com",
        "iris-00002",
        2**31,
        "iris-00002",
        "iris-00001",
        "iris-00002",
        plan.template_digest(WANTED),
    )
    assert removal == Merge({"metadata": {"annotations": dict.fromkeys(noted)}}, "upgrade")
    after = observed(deployment(conditions=write.entries), before.service)
    assert not [action for action in plan.status_writes(after, NOW).actions if not isinstance(action, SetScaling)]


def test_the_time_of_transition_stays_while_the_status_does() -> None:
    before = settled()
    later = NOW.replace(hour=13)
    service = live()
    service["status"]["url"] = "http://elsewhere.example.com"
    (conditions,) = (
        a for a in plan.status_writes(observed(before, service), later).actions if isinstance(a, SetConditions)
    )
    entry = next(entry for entry in conditions.entries if entry["type"] == CONDITION_READY)
    assert entry["lastUpdateTime"] == "2026-01-01T13:00:00Z"
    assert entry["lastTransitionTime"] == "2026-01-01T12:00:00Z"
    assert conditions.events == []
    (conditions,) = (
        a for a in plan.status_writes(observed(before, live("False")), later).actions if isinstance(a, SetConditions)
    )
    times = {entry["type"]: entry["lastTransitionTime"] for entry in conditions.entries}
    assert times.pop(CONDITION_STATE) == "2026-01-01T12:00:00Z"
    assert times == {CONDITION_READY: "2026-01-01T13:00:00Z", CONDITION_MODEL_LOADED: "2026-01-01T12:00:00Z"}


def test_a_message_alone_is_written_some_seconds_after_the_last_write() -> None:
    def loading(size: int, before: Any = None) -> Observed:
        line = LoaderOutput(event="progress", size=size, total=10)
        of = deployment(conditions=conditions_entries(before)) if before else None
        return observed(of, live("Unknown", serving=""), pods=[loader_pod(None, "")], outputs={"a": line})

    first = loading(1)
    assert plan.status_writes(first, NOW).wait is None
    assert plan.status_writes(loading(1, first), NOW) == ((), None)
    later = loading(5, first)
    assert plan.status_writes(later, NOW) == ((), 10.0)
    assert plan.status_writes(later, NOW + timedelta(seconds=9)) == ((), 1.0)
    writes = plan.status_writes(later, NOW + timedelta(seconds=10))
    assert ([type(action) for action in writes.actions], writes.wait) == ([SetConditions], None)
    loaded_now = replace(later, pods=[loader_pod(0, "Loaded")])
    assert plan.status_writes(loaded_now, NOW).actions, "another reason does not wait"


def test_knatives_word_counts_only_for_the_present_generation() -> None:
    unseen = observed(settled(), live(generation=2, observed=1), pods=[loader_pod(11, "NotFound")])
    assert ready(unseen).reason == "Progressing"
    assert loaded(unseen).reason == "Loaded", "what was said stays until then"


def test_what_failed_of_the_revision_before_is_not_said_of_the_one_that_knative_has_yet_to_make() -> None:
    mended = live("Unknown", generation=2, observed=2)
    mended["status"]["conditions"][1]["reason"] = "OutOfDate"
    assert ready(observed(settled(), mended, pods=[loader_pod(11, "NotFound")])).reason == "Progressing"


def test_events_report_success_and_failure_not_progress() -> None:
    def reported(state: Observed) -> list[str]:
        (action,) = (a for a in plan.status_writes(state, NOW).actions if isinstance(a, SetConditions))
        return [condition.reason for condition in action.events]

    assert reported(observed()) == []
    assert reported(observed(service=live())) == ["Ready"]
    failing = observed(service=live("Unknown", serving=""), pods=[loader_pod(11, "NotFound")])
    assert reported(failing) == ["NotFound"], "one Event for one cause"
    assert reported(observed(service=live("False", serving="", message="no"))) == ["RevisionFailed"]


def test_a_failing_download_is_the_cause_of_not_ready() -> None:
    state = observed(service=live("Unknown", serving=""), pods=[loader_pod(11, "NotFound")])
    assert (loaded(state).status, loaded(state).reason) == ("False", "NotFound")
    assert (ready(state).status, ready(state).reason) == ("False", "ModelNotLoaded")
    assert "goes on serving" not in ready(state).message


def test_a_new_revision_that_fails_names_the_one_that_still_serves() -> None:
    state = observed(settled(), live("Unknown", latest="iris-00002"), pods=[loader_pod(11, "NotFound", "iris-00002")])
    assert (ready(state).status, ready(state).reason) == ("False", "ModelNotLoaded")
    assert "Revision iris-00001 keeps serving." in ready(state).message
    failed = observed(settled(), live("False", latest="iris-00002", message="crash"))
    assert ready(failed).reason == "RevisionFailed"
    assert "crash" in ready(failed).message
    assert "Revision iris-00001 keeps serving." in ready(failed).message


def test_a_new_revision_without_a_pod_is_loading_whatever_the_one_before_it_did() -> None:
    assert loaded(observed(settled(), live("Unknown", latest="iris-00002"))).reason == "Loading"


def test_the_cause_stays_when_the_pods_of_a_revision_that_failed_are_gone() -> None:
    starting = live("Unknown", serving="")
    failed = conditions_entries(observed(service=starting, pods=[loader_pod(11, "NotFound")]))
    given_up = live("False", serving="", message="the deadline has passed")
    assert conditions_of(observed(deployment(conditions=failed), given_up)) == {}, "what was said stays"
    assert loaded(observed(deployment(conditions=failed), starting)).reason == "Loading", "it is tried again"
    waiting = conditions_entries(observed(service=starting))
    assert loaded(observed(deployment(conditions=waiting), given_up)).reason == "Loading", (
        "nothing is known of the model"
    )


def test_a_loader_that_tries_again_says_more_than_one_that_is_loading() -> None:
    pods = [loader_pod(None, ""), loader_pod(None, "", name="b")]
    for loading, retrying in (("a", "b"), ("b", "a")):
        lines = {loading: LoaderOutput(event="progress"), retrying: LoaderOutput(event="retry", code="Unreachable")}
        assert loaded(observed(service=live("Unknown"), pods=pods, outputs=lines)).reason == "Unreachable"


def test_while_it_progresses_ready_says_what_is_waited_for() -> None:
    waits = live("Unknown", serving="", message="waiting for the ingress")
    line = LoaderOutput(event="progress", size=5, total=10)
    assert "50 %" in ready(observed(service=waits, pods=[loader_pod(None, "")], outputs={"a": line})).message
    message = ready(observed(service=waits, pods=[loader_pod(0, "Loaded")])).message
    assert ("waiting for the ingress" in message, "Downloaded" in message) == (True, False)


def test_a_server_that_ends_is_reported_before_knative_gives_up() -> None:
    state = observed(service=live("Unknown", serving=""), pods=[CRASHED])
    assert (ready(state).status, ready(state).reason) == ("False", "RevisionFailed")
    assert "exit code 3" in ready(state).message
    assert "Run `kubectl serve logs iris -n default`." in ready(state).message


def test_a_temporary_cause_is_reported_and_is_not_a_failure() -> None:
    state = observed(service=live("Unknown", serving=""), pods=[NOT_STARTED])
    assert (ready(state).status, ready(state).reason) == ("Unknown", "Progressing")
    assert "no such device" in ready(state).message
    assert ready(observed(service=live(), pods=[CRASHED])).status == "True", "Knative has another one that serves"


def test_ready_reports_services_that_bypass_knative_or_lose_the_pods_and_no_other_warning() -> None:
    services = (
        diagnostic("PastKnative", "spec", service="old"),
        diagnostic("PortByName", "spec", service="web", port="http"),
    )
    other = diagnostic("Parked", "spec")
    state = observed(service=live(), verdict=Verdict(service=WANTED, warnings=(*services, other)))
    assert all(warning.message in ready(state).message for warning in services)
    assert other.message not in ready(state).message


def test_a_route_that_fails_is_the_services_fault() -> None:
    broken = live("False", latest="iris-00002", configuration="True", message="no certificate")
    broken["status"]["conditions"][0]["reason"] = "CertificateMissing"
    state = observed(service=broken)
    assert ready(state).reason == "ServiceNotReady"
    assert "CertificateMissing: no certificate" in ready(state).message
    assert "Revision iris-00001 keeps serving." in ready(state).message


def test_a_deleted_previous_revision_gets_no_traffic() -> None:
    said = 'Revision "iris-00001" referenced in traffic not found.'
    gone = live("False", latest="iris-00003", serving="iris-00003", configuration="True", message=said)
    gone["status"]["conditions"].append(
        {"type": "RoutesReady", "status": "False", "reason": "RevisionMissing", "message": said}
    )
    known = {"promoted": "iris-00003", "previous": "iris-00001"}
    assert recorded(observed(deployment(state=known), gone)).previous == ""
    there = live(latest="iris-00003", serving="iris-00003")
    assert recorded(observed(deployment(state=known), there)).previous == "iris-00001"
    # What has most of the traffic is another matter: all of it would go to the canary.
    canary = deployment(notes={annotations.CANARY: "10%"}, state={"promoted": "iris-00001"})
    assert recorded(observed(canary, gone)).promoted == "iris-00001"


def changed(image: str = "server:2", traffic: Any = None) -> Any:
    made = copy.deepcopy(WANTED)
    made["spec"]["template"]["spec"]["containers"] = [{"image": image}]
    return made | {"spec": made["spec"] | ({"traffic": traffic} if traffic else {})}


def prepared(before: Any, service: Any, wanted: Any) -> Any:
    """The Deployment as it is when its Knative Service is applied."""
    state = observed(before, service, verdict=Verdict(service=wanted))
    first = plan.preparation(state, Apply(wanted, "", "s-1"), NOW)
    assert isinstance(first, SetConditions)
    return before | {"status": {"conditions": list(first.entries)}}


def test_an_update_makes_the_promoted_revision_the_previous_one_in_the_same_change() -> None:
    """A tag that moves when the new revision answers would make Knative's Route unready once more."""
    known = {"promoted": "iris-00002", "previous": "iris-00001", "template": plan.template_digest(WANTED)}
    before = deployment(state=known)
    before["metadata"]["generation"] += 1
    now = live(latest="iris-00002", serving="iris-00002")
    after = prepared(before, now, changed())
    state = model_state.read(after)
    assert (state.promoted, state.previous, state.observed_generation) == ("", "iris-00002", 5)
    rolling = live("Unknown", latest="iris-00003", serving="iris-00002")
    verdict = Verdict(service=changed())
    on_its_way = recorded(observed(after, rolling, verdict=verdict))
    assert (on_its_way.promoted, on_its_way.previous) == ("", "iris-00002")
    there = observed(after, live(latest="iris-00003", serving="iris-00003"), verdict=verdict)
    assert ready(there).status == "True", "without another change"
    assert (recorded(there).promoted, recorded(there).previous) == ("iris-00003", "iris-00002")


def test_after_a_revision_that_failed_the_one_that_still_serves_is_the_previous_one() -> None:
    after = deployment(state={"previous": "iris-00001", "template": plan.template_digest(WANTED)})
    failed = live("False", latest="iris-00002", serving="iris-00001")
    mended = prepared(after, failed, changed())
    assert (model_state.read(mended).promoted, model_state.read(mended).previous) == ("", "iris-00001")
    there = observed(mended, live(latest="iris-00003", serving="iris-00003"), verdict=Verdict(service=changed()))
    assert (recorded(there).promoted, recorded(there).previous) == ("iris-00003", "iris-00001")


def test_a_change_that_knative_refuses_is_prepared_once() -> None:
    known = {"promoted": "iris-00001", "template": plan.template_digest(WANTED)}
    state = observed(prepared(deployment(state=known), live(), changed()), live(), verdict=Verdict(service=changed()))
    refused = replace(state, fault=Condition(CONDITION_READY, "False", "NotAccepted", "no"))
    said = deployment(conditions=conditions_entries(refused))
    again = observed(said, live(), verdict=Verdict(service=changed()))
    assert plan.preparation(again, Apply(changed(), "", "s-1"), NOW) is None


def test_a_promotion_moves_the_traffic_in_one_change() -> None:
    known = {"promoted": "iris-00001", "template": plan.template_digest(WANTED)}
    after = prepared(deployment(state=known), live(latest="iris-00002", serving="iris-00002"), WANTED)
    assert (model_state.read(after).promoted, model_state.read(after).previous) == ("", "iris-00001")


def test_a_correction_moves_no_traffic() -> None:
    known = {"promoted": "iris-00001", "previous": "iris-00000", "template": plan.template_digest(WANTED)}
    assert plan.preparation(observed(deployment(state=known), live()), Apply(WANTED, "", "s-1"), NOW) is None


def test_what_was_not_prepared_is_set_right_before_ready() -> None:
    """Such as a revision that was on its way during an upgrade: its tag changes the Knative Service once more."""
    newest = live(latest="iris-00002", serving="iris-00002")
    moving = observed(deployment(state={"promoted": "iris-00001"}), newest)
    assert ready(moving).status == "Unknown"
    assert (recorded(moving).promoted, recorded(moving).previous) == ("iris-00002", "iris-00001")
    again = observed(deployment(conditions=conditions_entries(moving)), newest)
    assert ready(again).status == "True"
    assert SetScaling("s-1", "iris-00001", traffic.SCALING) in plan.status_writes(again, NOW).actions


def test_a_rollback_keeps_the_traffic_until_the_revision_has_a_pod() -> None:
    """With its minimum, it has no pods before; its requests would wait for the download."""
    asked = copy.deepcopy(WANTED)
    asked["spec"]["template"]["metadata"] = {"annotations": {"autoscaling.knative.dev/min-scale": "1"}}
    asked["spec"]["traffic"] = [{"revisionName": "iris-00001", "percent": 100}, {"latestRevision": True, "percent": 0}]
    newest = live(latest="iris-00002", serving="iris-00002")
    newest["spec"]["traffic"] = [{"latestRevision": True, "percent": 100}, {"revisionName": "iris-00001", "percent": 0}]
    newest["status"]["traffic"] = [
        {"revisionName": "iris-00002", "percent": 100},
        {"revisionName": "iris-00001", "percent": 0},
    ]
    pinned = deployment(notes={annotations.PIN: "iris-00001", annotations.SCALE: "1.."})
    starts = observed(pinned, newest, verdict=Verdict(service=asked))
    assert plan.held_back(starts, asked)["spec"]["traffic"] == newest["spec"]["traffic"]
    assert ready(starts).status == "Unknown"
    assert [each.revision for each in plan.status_writes(starts, NOW).actions if isinstance(each, SetScaling)]
    pod = {"metadata": {"name": "p", "namespace": "default", **of_revision("iris-00001")}}
    pod["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert plan.held_back(replace(starts, pods=[trimming.pod(pod)]), asked) == asked, "as the cache has it"
    # From zero, a request starts it.
    asked["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] = "0"
    assert plan.held_back(replace(starts, verdict=Verdict(service=asked)), asked) == asked


def test_the_scaling_of_a_revision_is_set_once() -> None:
    known_revisions = {"promoted": "iris-00002", "previous": "iris-00001"}
    newest = live(latest="iris-00002", serving="iris-00002")

    def scaling(known: Any) -> list[SetScaling]:
        state = observed(deployment(state=known_revisions), newest, scaling=known)
        return [each for each in plan.status_writes(state, NOW).actions if isinstance(each, SetScaling)]

    first = scaling({})
    own = dict.fromkeys(traffic.SCALING)
    assert first == [SetScaling("s-1", "iris-00002", own), SetScaling("s-1", "iris-00001", traffic.SCALING)]
    assert scaling({("s-1", each.revision): each.annotations for each in first}) == []
    assert scaling({("s-0", each.revision): each.annotations for each in first}) == first, (
        "of a deleted Knative Service"
    )


def test_only_a_new_knative_service_forgets_the_revisions() -> None:
    state = observed(deployment(state={"promoted": "iris-00003", "url": "http://iris"}))
    assert plan.preparation(state, Apply(EXTRA, ""), NOW) is None
    assert plan.preparation(state, Apply(WANTED, "", "s-1"), NOW) is None
    assert plan.preparation(observed(), Apply(WANTED, ""), NOW) is None
    first = plan.preparation(state, Apply(WANTED, ""), NOW)
    assert isinstance(first, SetConditions)
    after = model_state.read({"status": {"conditions": first.entries}})
    assert (after.promoted, after.url) == ("", "http://iris")


def test_only_a_knative_service_that_changes_with_its_deployment_takes_ready_back() -> None:
    before = settled()
    state, apply = observed(before, live()), Apply(WANTED, "", "s-1")
    assert plan.preparation(state, apply, NOW) is None, "it is set right, and the model is the same"
    before["metadata"]["generation"] += 1
    assert plan.preparation(state, Apply(EXTRA, "", "m-1"), NOW) is None
    said = plan.preparation(state, apply, NOW)
    assert isinstance(said, SetConditions)
    assert [(entry["reason"], entry["status"]) for entry in said.entries] == [
        ("Loaded", "True"),
        ("Progressing", "Unknown"),
        ("ObservedGeneration5", "True"),
    ]
    assert said.events == ()
    taken_back = deployment(conditions=said.entries)
    assert plan.preparation(observed(taken_back, live()), apply, NOW) is None, "once"


def test_a_knative_service_that_does_not_go_says_what_keeps_it() -> None:
    going = live(generation=2)
    going["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["orphan"]}
    state = observed(settled(), going)
    assert (ready(state).status, ready(state).reason) == ("Unknown", "Progressing")
    assert "being deleted" in ready(state).message
    assert "orphan" in ready(state).message


def test_after_the_scale_to_zero_what_was_said_stays() -> None:
    said = Condition(CONDITION_MODEL_LOADED, "True", "Loaded", "Downloaded 8 B in 1 file in 0.0 s.")
    before = settled()
    next(c for c in before["status"]["conditions"] if c["type"] == said.type)["message"] = said.message
    assert plan.status_writes(observed(before, live()), NOW).actions == ()


def test_before_there_is_a_revision_nothing_is_loaded_whatever_was_said_of_those_of_another() -> None:
    before = deployment(conditions=settled()["status"]["conditions"])
    refused = live("False", latest="", serving="", message="the quota is exceeded")
    assert loaded(observed(before, refused)).reason == "Loading"
    assert "the quota is exceeded" in ready(observed(before, refused)).message


def test_a_revision_that_is_ready_has_its_model_although_it_was_loading_when_it_was_last_seen() -> None:
    before = settled()
    next(c for c in before["status"]["conditions"] if c["type"] == CONDITION_MODEL_LOADED).update(
        status="Unknown", reason="Loading"
    )
    assert conditions_of(observed(before, live()))[CONDITION_MODEL_LOADED].reason == "Loaded"


def test_a_pod_that_wakes_up_says_nothing_against_a_loaded_model() -> None:
    waking = observed(settled(), live(), pods=[loader_pod(None, "")])
    assert plan.status_writes(waking, NOW).actions == ()


def test_a_failed_cold_start_is_reported() -> None:
    assert ready(observed(settled(), live(), pods=[loader_pod(11, "NotFound")])).reason == "ModelNotLoaded"


def test_one_pod_with_the_model_is_enough() -> None:
    both = [loader_pod(11, "NotFound"), loader_pod(0, "Loaded", name="b")]
    assert loaded(observed(service=live(), pods=both)).status == "True"


def test_a_model_in_a_claim_needs_no_loader() -> None:
    service = live()
    del service["spec"]["template"]["spec"]["initContainers"]
    assert loaded(observed(service=service)).reason == "NotNeeded"


def test_a_model_that_is_an_image_is_pulled_and_then_there() -> None:
    def found(*own_pods: JsonObject) -> Condition:
        service = live("Unknown", serving="")
        spec = service["spec"]["template"]["spec"]
        del spec["initContainers"]
        spec["containers"] = [{"name": "model-server"}]
        spec["volumes"] = [{"name": "model", "image": {"reference": "registry.example.com/iris:1"}}]
        return loaded(observed(service=service, pods=own_pods))

    assert found().reason == "PullingModel"
    assert found(server_pod(state={"waiting": {"reason": "ContainerCreating"}})).reason == "PullingModel"
    failed = {"reason": "ErrImagePull", "message": "registry.example.com/iris:1: 401 Unauthorized"}
    assert found(server_pod(state={"waiting": failed})).reason == "ModelNotPulled"
    assert found(server_pod(state={"running": {}})).status == "True"


def test_the_reason_why_each_pod_downloads_the_model_is_on_the_deployment_once() -> None:
    def reported(*why: str, before: Condition | None = None) -> Condition:
        explanations = tuple(explanation("ModelNotOnNode", why=each) for each in why)
        return conditions.explained(before or conditions.from_code("ModelLoaded", "True", "Loaded"), explanations)

    plain = conditions.from_code("ModelLoaded", "True", "Loaded").message
    first = reported("it is signed")
    assert (
        first.message == f"{plain} Init container model-loader downloads the model for each pod, because it is signed."
    )
    assert reported("it is signed", before=first) == first
    assert reported("it is pinned", before=first).message.endswith("because it is pinned.")
    assert reported(before=first).message == plain


def test_a_stored_deployment_that_cannot_be_rendered_says_why_and_is_not_parked() -> None:
    refused = Verdict(problems=(diagnostic("FeatureDisabled", "spec", flag="f", state="disabled"),))
    state = observed(deployment(replicas=2), verdict=refused)
    assert ready(state).reason == "FeatureDisabled"
    assert not any(isinstance(action, Merge) for action in plan.status_writes(state, NOW).actions)


def test_annotations_that_are_refused_later_are_reported_while_the_model_answers() -> None:
    refused = Verdict(problems=(diagnostic("Parked", "spec"),))
    often = deployment(notes={annotations.CANARY: "often"}, state={"promoted": "iris-00001"})
    state = observed(often, live(), verdict=refused)
    mapping = EXTRA | {"metadata": EXTRA["metadata"] | {"ownerReferences": [OWNER]}}
    state = replace(state, live={identity(mapping): mapping, **state.live}, pods=[loader_pod(0, "Loaded")])
    assert (loaded(state).reason, ready(state).reason) == ("Loaded", "Parked")
    assert (recorded(state).url, recorded(state).promoted) == ("http://iris.default.example.com", "iris-00001")


def test_what_was_scaled_past_the_webhook_is_parked_again() -> None:
    (action,) = plan.status_writes(observed(deployment(replicas=3), live()), NOW).actions
    assert action == Merge({"spec": {"replicas": 0}}, "park")


@pytest.mark.parametrize(("status", "handed_over"), [("Unknown", False), ("True", True)])
def test_a_running_deployment_keeps_its_pods_until_knative_is_ready(status: str, handed_over: bool) -> None:
    running = deployment(replicas=3, notes={annotations.HANDOVER: "to-knative"})
    actions = plan.status_writes(observed(running, live(status)), NOW).actions
    assert [a.why for a in actions if isinstance(a, Merge)] == (["handover"] if handed_over else [])


def test_while_a_handover_waits_for_the_name_of_its_service_nothing_has_failed() -> None:
    waits = live("False", configuration="True")
    waits["status"]["conditions"].append({"type": "RoutesReady", "status": "False", "reason": "NotOwned"})
    handed = deployment(replicas=3, notes={annotations.HANDOVER: "to-knative"})
    assert ready(observed(handed, waits)).reason == "Progressing"
    assert ready(observed(deployment(), waits)).reason == "ServiceNotReady", "another owner's Service has it"


def test_a_fault_of_the_apply_is_what_ready_says() -> None:
    fault = Condition(CONDITION_READY, "False", "NotAccepted", "no")
    state = observed()
    assert ready(Observed(state.deployment, state.verdict, fault=fault)) == fault


def mapped(ready: str, *, claimed: str = "True", observed: int = 1, message: str = "") -> Any:
    """The DomainMapping of ``EXTRA``, as Knative has it."""
    metadata = EXTRA["metadata"] | {"uid": "m-1", "generation": 1, "ownerReferences": [OWNER]}
    entries = [{"type": "Ready", "status": ready, "message": message}, {"type": "DomainClaimed", "status": claimed}]
    status = {"observedGeneration": observed, "url": "https://iris.example.com", "conditions": entries}
    return EXTRA | {"metadata": metadata, "status": status}


def with_domain(mapping: Any) -> Observed:
    state = observed(service=live(), verdict=Verdict(service=WANTED, extras=(EXTRA,)))
    return replace(state, live={**state.live, identity(mapping): mapping})


def test_a_model_with_a_host_name_of_its_own_is_ready_under_it() -> None:
    state = with_domain(mapped("True"))
    assert ready(state).status == "True"
    assert "https://iris.example.com" in ready(state).message
    assert recorded(state).url == "https://iris.example.com"


@pytest.mark.parametrize(
    ("mapping", "status", "reason"),
    [
        pytest.param(mapped("Unknown"), "Unknown", "Progressing", id="not yet"),
        pytest.param(mapped("True", observed=0), "Unknown", "Progressing", id="of an earlier generation"),
        pytest.param(mapped("False", observed=0), "Unknown", "Progressing", id="failed in an earlier generation"),
        pytest.param(mapped("False", claimed="False"), "False", "DomainNotClaimed", id="unclaimed"),
        pytest.param(mapped("False", message="no certificate"), "False", "DomainNotReady", id="failed"),
    ],
)
def test_until_its_host_name_answers_a_model_is_not_ready_and_has_knatives_url(
    mapping: Any, status: str, reason: str
) -> None:
    state = with_domain(mapping)
    assert (ready(state).status, ready(state).reason) == (status, reason)
    assert recorded(state).url == "http://iris.default.example.com"
    assert recorded(state).promoted == "iris-00001", "the traffic does not wait for a host name"


def test_a_host_name_that_answers_makes_no_model_ready() -> None:
    state = replace(with_domain(mapped("True")), pods=[loader_pod(11, "NotFound")])
    assert ready(state).reason == "ModelNotLoaded"


def test_without_a_host_name_the_reason_and_knatives_url_are_reported() -> None:
    fault = Condition(CONDITION_READY, "False", "NotAccepted", "no")
    state = replace(observed(service=live(), verdict=Verdict(service=WANTED, extras=(EXTRA,))), fault=fault)
    assert ready(state) == fault
    assert recorded(state).url == "http://iris.default.example.com"


def test_knatives_own_words_are_kept_where_it_knows_why_a_host_name_fails() -> None:
    assert "no certificate" in ready(with_domain(mapped("False", message="no certificate"))).message


def test_a_deployment_that_runs_its_pods_itself_is_ready_with_all_of_them() -> None:
    plain = Verdict(extras=({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "iris"}},), name="iris")
    waiting = Observed(deployment(replicas=2, observedGeneration=4, updatedReplicas=2), plain)
    assert ready(waiting).reason == "Progressing"
    waiting.deployment["spec"]["template"]["spec"]["initContainers"] = []
    assert loaded(waiting).reason == "NotNeeded"
    there = deployment(replicas=2, observedGeneration=4, updatedReplicas=2, availableReplicas=2)
    assert ready(Observed(there, plain)).status == "True"
    assert recorded(Observed(there, plain)).url == "http://iris.default.svc"


def test_in_deployment_mode_the_reason_for_not_serving_is_reported() -> None:
    plain = Verdict(extras=({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "iris"}},), name="iris")
    stuck = {"type": "Progressing", "status": "False", "message": "the deadline has passed"}
    going_on = {"type": "Progressing", "status": "True", "message": "a ReplicaSet was made"}
    for found, condition, status, reason, said in (
        (CRASHED, going_on, "False", "RevisionFailed", "exit code 3"),
        (NOT_STARTED, going_on, "Unknown", "Progressing", "Waiting"),
        (NOT_STARTED, stuck, "False", "RevisionFailed", "no such device"),
        (server_pod(state={"running": {}}), stuck, "False", "RevisionFailed", "the deadline has passed"),
    ):
        pod = copy.deepcopy(found)
        pod["metadata"] |= of_template("a")
        state = Observed(deployment(replicas=1, conditions=[condition]), plain, pods=[pod])
        assert (ready(state).status, ready(state).reason) == (status, reason)
        assert said in ready(state).message


def test_during_a_rollout_of_its_own_the_pods_of_the_new_template_count() -> None:
    """The ones before them serve on, and have their model: that says nothing of the one that is asked for."""

    def own(name: str, template: str, second: int, exit_code: int, code: str) -> Any:
        pod = loader_pod(exit_code, code, name=name)
        pod["metadata"] |= {
            **of_template(template),
            "creationTimestamp": f"2026-01-01T00:00:0{second}Z",
        }
        return pod

    plain = Verdict(extras=({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "iris"}},), name="iris")
    rolling = deployment(replicas=2, observedGeneration=4, updatedReplicas=1, availableReplicas=2)
    before, after = own("b", "old", 1, 0, "Loaded"), own("a", "new", 2, 11, "NotFound")
    failing = Observed(rolling, plain, pods=[after, before])
    assert (loaded(failing).reason, ready(failing).reason) == ("NotFound", "ModelNotLoaded")
    mended = Observed(rolling, plain, pods=[own("b", "old", 1, 11, "NotFound"), own("a", "new", 2, 0, "Loaded")])
    assert (loaded(mended).reason, ready(mended).reason) == ("Loaded", "Progressing")


def test_while_a_deployment_comes_back_from_knative_its_own_pods_are_asked() -> None:
    """The Knative Service stays until they serve: just while something keeps them from it."""
    own, knatives = loader_pod(None, ""), loader_pod(0, "Loaded", name="b")
    own["metadata"] |= of_template("a")
    plain = Verdict(extras=({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "iris"}},), name="iris")
    state = Observed(deployment(replicas=1), plain, {identity(WANTED): live()}, pods=[own, knatives])
    assert state.own_pods == [own]
    assert replace(state, verdict=Verdict(service=WANTED)).own_pods == [knatives]
    starting = replace(state, verdict=Verdict(service=WANTED), live={identity(WANTED): live(latest="")})
    assert starting.own_pods == [], "the first revision is not there yet"


def test_the_service_of_the_previous_knative_service_is_no_conflict() -> None:
    """A mode that changes: it goes with the Knative Service, which goes when the Deployment's own pods are there."""
    wanted: Any = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "iris"}}
    plain = Verdict(extras=(wanted,), name="iris")
    labels = {"serving.knative.dev/route": "iris", "kubectl-serve.dev/deployment": "iris"}
    owner = {"kind": "Route", "uid": "r-1", "controller": True}
    before = wanted | {"metadata": wanted["metadata"] | {"labels": labels, "ownerReferences": [owner]}}
    there = deployment(replicas=2, observedGeneration=4, updatedReplicas=2, availableReplicas=2)
    for found in (deployment(replicas=2, observedGeneration=4, updatedReplicas=2), there):
        state = Observed(found, plain, {identity(before): before})
        assert (required_apply(state, wanted), state.name_conflict) == (None, None)
        assert ready(state).reason == "Progressing"
    theirs = before | {"metadata": before["metadata"] | {"labels": labels | {"kubectl-serve.dev/deployment": "lily"}}}
    taken = ready(Observed(there, plain, {identity(theirs): theirs}))
    assert taken.reason == "NameTaken"
    assert "The Service iris exists already, and kubectl-serve does not own it." in taken.message


@pytest.mark.parametrize(
    ("pod", "line", "noted"),
    [
        pytest.param(("Loaded", 3 * 2**30), {}, 3 * 2**30, id="loaded"),
        pytest.param(("Loaded", 2**30), {}, 2**30, id="just large enough"),
        pytest.param(("Loaded", 2**30 - 1), {}, None, id="too small to matter"),
        pytest.param(None, {"event": "plan", "bytes": 2**31}, 2**31, id="planned"),
        pytest.param(None, {"event": "progress", "bytes": 1, "total": 2**31}, 2**31, id="under way"),
        pytest.param(None, {"event": "progress", "bytes": 2**31, "total": -1}, 7, id="unknown: what is known stays"),
    ],
)
def test_the_size_of_a_large_model_is_noted(pod: Any, line: Any, noted: int | None) -> None:
    own = loader_pod(None if pod is None else 0, "Loaded")
    if pod is not None:
        message = json.dumps({"code": pod[0], "bytes": pod[1]})
        own["status"]["initContainerStatuses"][0]["state"]["terminated"]["message"] = message
    noted_before = deployment(state={"model_bytes": 7})
    state = observed(noted_before, live("Unknown"), pods=[own], outputs={"a": loader_protocol.from_object(line)})
    assert recorded(state).model_bytes == noted
    assert recorded(state).url == "http://iris.default.example.com"


# The name.


def test_the_name_that_was_chosen_is_noted_on_the_deployment() -> None:
    renamed = copy.deepcopy(WANTED)
    renamed["metadata"]["name"] = "iris-model"
    actions = plan.status_writes(Observed(deployment(), Verdict(service=renamed, name="iris-model")), NOW).actions
    assert actions == (Merge({"metadata": {"annotations": {annotations.SERVICE: "iris-model"}}}, "name"),)


def test_a_noted_name_is_removed_when_the_deployments_own_name_is_used_again() -> None:
    noted = deployment(notes={annotations.SERVICE: "iris-model"})
    actions = plan.status_writes(Observed(noted, Verdict(service=WANTED, name="iris")), NOW).actions
    assert actions == (Merge({"metadata": {"annotations": {annotations.SERVICE: None}}}, "name"),)


def test_a_knative_service_goes_once_the_one_with_the_new_name_answers() -> None:
    old, renamed = live(), copy.deepcopy(WANTED)
    renamed["metadata"]["name"] = "iris-model"
    for status, gone in (("Unknown", ()), ("True", (Delete(old),))):
        new = live(status)
        new["metadata"]["name"] = "iris-model"
        both = {identity(old): old, identity(new): new}
        assert plan.deletions(Observed(deployment(), Verdict(service=renamed, name="iris-model"), both)) == gone


COMMANDS = ["\x1b]52;c;aWQ=\x07", "\x9b2J", "\u202e", "\r", "\b", "\0", "\u2028"]


@pytest.mark.attack(39)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("where", ["loader", "node", "knative", "refusal"])
def test_what_a_condition_repeats_is_no_command_to_a_terminal(where: str, command: str) -> None:
    text = f"it{command}ends"
    state = {
        "loader": lambda: observed(service=live("False", serving=""), pods=[with_words(text)]),
        "node": lambda: observed(
            service=live("Unknown", serving=""),
            pods=[server_pod(state={"waiting": {"reason": "CreateContainerError", "message": text}})],
        ),
        "knative": lambda: observed(service=live("False", serving="", message=text)),
        "refusal": lambda: observed(verdict=Verdict(problems=(Diagnostic("spec", "InvalidObject", text),))),
    }[where]()
    reported = conditions_entries(state)
    assert all(is_visible(each["message"]) and each["reason"].isprintable() for each in reported)
    assert any("ends" in each["message"] for each in reported)


def with_words(text: str) -> Any:
    pod = loader_pod(1, "Failed")
    state = pod["status"]["initContainerStatuses"][0]["state"]
    state["terminated"]["message"] = json.dumps({"code": "NotFound", "message": text, "hint": text})
    return pod


def test_a_condition_is_bounded() -> None:
    made = Condition("Ready", "False", "R" * 10_000, "\x1b" * 10_000)
    assert (len(made.reason), len(made.message)) == (MAX_REASON, MAX_MESSAGE)
