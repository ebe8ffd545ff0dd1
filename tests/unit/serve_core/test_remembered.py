"""A changed catalogue or loader rolls out nobody's model by surprise."""

import copy
import json
from dataclasses import replace

import pytest

from serve_core.admission.completion import completion_record, snapshots
from serve_core.admission.decide import Verdict, judge
from serve_core.api import annotations, runtimes
from serve_core.api.annotation_values import Format
from serve_core.api.runtimes import Runtime
from serve_core.base import overlay
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject, canonical
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.knative.features import ENABLED, FIELD_FLAGS

OLD = Runtime("server", (Format("sklearn"),), ("v2",), {"image": "example.com/server:1"})
NEW = replace(OLD, container={"image": "example.com/server:2"})
BETTER = replace(OLD, name="better", container={"image": "example.com/better:1"}, priority=1, protocols=("v2", "v1"))
THEN = ClusterContext(LoaderConfig("example.com/loader:1"), (OLD,))
NOW = ClusterContext(
    LoaderConfig("example.com/loader:2"), (NEW, BETTER), snapshots=snapshots.present(THEN.loader, THEN.runtimes)
)


def user_wrote(**asked: str) -> JsonObject:
    notes = {annotations.MODEL: "s3://models/iris/model.joblib"}
    notes |= {PREFIX + key: value for key, value in asked.items()}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "iris", "annotations": notes}}


def images(verdict: Verdict) -> list[str]:
    assert verdict.problems == ()
    assert verdict.deployment is not None
    pod = verdict.deployment["spec"]["template"]["spec"]
    return [container["image"] for container in (*pod["initContainers"], *pod["containers"])]


@pytest.fixture
def stored() -> JsonObject:
    document = judge(user_wrote(), THEN).deployment
    assert document is not None
    return document


def test_an_unrelated_edit_keeps_runtime_and_loader(stored: JsonObject) -> None:
    stored["metadata"]["labels"]["team"] = "a"
    verdict = judge(stored, NOW, stored)
    assert images(verdict) == ["example.com/loader:1", "example.com/server:1"]
    assert "CompletedEarlier" in {choice.code for choice in verdict.explanations}


def test_another_model_keeps_them_too(stored: JsonObject) -> None:
    stored["metadata"]["annotations"][annotations.MODEL] = "s3://models/other/model.joblib"
    verdict = judge(stored, NOW, stored)
    assert images(verdict) == ["example.com/loader:1", "example.com/server:1"]
    assert verdict.deployment is not None
    assert (
        "s3://models/other/model.joblib" in verdict.deployment["spec"]["template"]["spec"]["initContainers"][0]["args"]
    )


def test_a_write_that_replaces_the_whole_object_keeps_them(stored: JsonObject) -> None:
    assert images(judge(user_wrote(), NOW, stored)) == ["example.com/loader:1", "example.com/server:1"]


def test_what_is_unchanged_is_not_said_to_be_from_earlier(stored: JsonObject) -> None:
    assert "CompletedEarlier" not in {choice.code for choice in judge(stored, THEN, stored).explanations}


@pytest.mark.parametrize(
    "now", [replace(NOW, runtimes=THEN.runtimes), replace(NOW, loader=THEN.loader)], ids=["loader", "runtime"]
)
def test_it_is_said_where_one_of_the_two_would_be_another_by_now(stored: JsonObject, now: ClusterContext) -> None:
    verdict = judge(stored, now, stored)
    assert images(verdict) == ["example.com/loader:1", "example.com/server:1"]
    assert "CompletedEarlier" in {choice.code for choice in verdict.explanations}


@pytest.mark.parametrize("change", [{"protocol": "v1"}, {"runtime": "better"}, {"format": "sklearn:1"}])
def test_what_concerns_the_choice_chooses_anew(stored: JsonObject, change: dict[str, str]) -> None:
    stored["metadata"]["annotations"] |= {PREFIX + key: value for key, value in change.items()}
    assert images(judge(stored, NOW, stored)) == ["example.com/loader:2", "example.com/better:1"]


def test_who_asks_for_signatures_gets_the_loader_that_can_verify_them(stored: JsonObject) -> None:
    now = replace(THEN, loader=replace(THEN.loader, signing_image="example.com/loader:1-signing"))
    assert images(judge(stored, now, stored))[0] == "example.com/loader:1"

    stored["metadata"]["annotations"][annotations.SIGNATURE_KEY] = "team"
    verdict = judge(stored, now, stored)
    assert images(verdict)[0] == "example.com/loader:1-signing"
    asked = verdict.deployment
    assert asked is not None
    again = judge(asked, now, asked)
    assert images(again)[0] == "example.com/loader:1-signing"
    assert "CompletedEarlier" not in {choice.code for choice in again.explanations}

    del asked["metadata"]["annotations"][annotations.SIGNATURE_KEY]
    assert images(judge(asked, now, asked))[0] == "example.com/loader:1"


@pytest.mark.parametrize(
    "change",
    [
        {"cache": "pvc://models-cache"},
        {"files": "*.joblib"},
        {"model": "mlflow://mlflow.example.com/iris/3", "format": "sklearn"},
        {"model": "git+https://git.example.com/team/models", "format": "sklearn"},
        {"model": "hf://team/models/iris.joblib"},
        {"model": "oci://team/iris:1", "format": "sklearn"},
    ],
    ids=lambda change: next(iter(change.values())),
)
def test_what_an_earlier_loader_may_not_know_gets_the_present_one(change: dict[str, str]) -> None:
    stored = judge(user_wrote(format="sklearn"), THEN).deployment
    assert stored is not None
    stored["metadata"]["annotations"] |= {PREFIX + key: value for key, value in change.items()}
    now = replace(NOW, features=dict.fromkeys(FIELD_FLAGS, ENABLED))
    assert images(judge(stored, now, stored))[0] == "example.com/loader:2"


def test_a_platform_without_that_loader_tries_the_one_that_it_has(stored: JsonObject) -> None:
    stored["metadata"]["annotations"][annotations.SIGNATURE_KEY] = "team"
    assert images(judge(stored, THEN, stored))[0] == "example.com/loader:1"


def test_it_is_completed_anew_when_told_to(stored: JsonObject) -> None:
    told = copy.deepcopy(stored)
    told["metadata"]["annotations"][annotations.COMPLETED_WITH] = completion_record.RENEW
    verdict = judge(told, NOW, stored)
    assert images(verdict) == ["example.com/loader:2", "example.com/better:1"]
    assert judge(verdict.deployment or {}, NOW, told).deployment == verdict.deployment


def test_a_container_of_ones_own_keeps_its_loader() -> None:
    document = user_wrote() | {
        "spec": {
            "template": {"spec": {"containers": [{"name": "a", "image": "mine", "ports": [{"containerPort": 8080}]}]}}
        }
    }
    stored = judge(document, THEN).deployment
    assert stored is not None
    assert images(judge(stored, NOW, stored)) == ["example.com/loader:1", "mine"]


def test_taking_the_annotation_off_forgets_it(stored: JsonObject) -> None:
    stored["spec"]["template"]["spec"]["containers"].append({"name": "mine", "image": "mine"})
    del stored["metadata"]["annotations"][annotations.MODEL]
    given_back = judge(stored, NOW, stored).deployment
    assert given_back is not None
    assert annotations.COMPLETED_WITH not in given_back["metadata"]["annotations"]


def test_the_record_can_be_read_by_people(stored: JsonObject) -> None:
    record = json.loads(stored["metadata"]["annotations"][annotations.COMPLETED_WITH])
    assert (record["runtime"]["name"], record["runtime"]["protocol"]) == ("server", "v2")
    assert record["loader"] in snapshots.present(THEN.loader, ())


def test_what_is_not_known_any_more_is_completed_again_and_said(stored: JsonObject) -> None:
    """A backup was restored, or an administrator deleted what the server keeps."""
    verdict = judge(stored, replace(NOW, snapshots={}), stored)
    assert images(verdict) == ["example.com/loader:2", "example.com/better:1"]
    assert [warning.code for warning in verdict.warnings] == ["CompletedAgain"]
    assert "CompletedEarlier" not in {choice.code for choice in verdict.explanations}


@pytest.mark.parametrize("missing", [0, 1], ids=["loader", "runtime"])
def test_one_of_the_two_alone_is_not_kept(stored: JsonObject, missing: int) -> None:
    kept = dict(NOW.snapshots)
    del kept[list(kept)[missing]]
    verdict = judge(stored, replace(NOW, snapshots=kept), stored)
    assert images(verdict) == ["example.com/loader:2", "example.com/better:1"]


def of_version_0_1(deployment: JsonObject, context: ClusterContext) -> JsonObject:
    """As the first version noted it: what it was completed with in full, and the paths of what was filled in."""
    made = copy.deepcopy(deployment)
    notes = made["metadata"]["annotations"]
    (runtime,) = context.runtimes
    record = json.loads(notes[annotations.COMPLETED_WITH])
    record["runtime"] = {"name": runtime.name, "spec": runtimes.spec_document(runtime)}
    record["loader"] = {"image": context.loader.image, "allowNetworks": list(context.loader.allow_networks)}
    notes[annotations.COMPLETED_WITH] = canonical(record)
    notes[annotations.FILLED] = canonical(overlay.decode(notes[annotations.FILLED], deployment))
    return made


def test_records_of_the_first_version_become_small_ones(stored: JsonObject) -> None:
    before = of_version_0_1(stored, THEN)
    assert judge(before, THEN, before).deployment == stored


def test_records_of_the_first_version_count_where_what_they_say_is_known(stored: JsonObject) -> None:
    before = of_version_0_1(stored, THEN)
    assert images(judge(before, NOW, before)) == ["example.com/loader:1", "example.com/server:1"]
    again = judge(before, replace(NOW, snapshots={}), before)
    assert images(again) == ["example.com/loader:2", "example.com/better:1"]
    assert [warning.code for warning in again.warnings] == ["CompletedAgain"]
