"""A large model gets time and room by its size, and a size that becomes known rolls nothing out."""

from typing import Any

import pytest

from serve_core.admission.completion.completion_record import RENEW
from serve_core.admission.decide import judge
from serve_core.api import sizing
from serve_core.api.annotation_values import Format
from serve_core.api.annotations import COMPLETED_WITH, MODEL, SIZE
from serve_core.api.runtimes import Runtime
from serve_core.base.json import JsonObject
from serve_core.base.patch import json_patch
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.knative.limits import PROGRESS_DEADLINE
from serve_core.syntax import quantity
from support.recorded_state import with_state

GIB = 2**30
FACTS = ClusterContext(
    LoaderConfig("example.com/loader:1"), (Runtime("server", (Format("sklearn"),), ("v2",), {"image": "server:1"}),)
)


def user_wrote(model: str = "s3://models/large/model.joblib", **notes: str) -> JsonObject:
    metadata = {"name": "iris", "annotations": {MODEL: model, **notes}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}


def completed(document: JsonObject, previous: JsonObject | None = None) -> JsonObject:
    verdict = judge(document, FACTS, previous)
    assert verdict.problems == ()
    assert verdict.deployment is not None
    return verdict.deployment


def sized(deployment: JsonObject) -> tuple[str | None, str | None]:
    """The deadline and the ephemeral storage that it asks for."""
    template = deployment["spec"]["template"]
    requests = template["spec"]["initContainers"][0]["resources"]["requests"]
    return (template["metadata"].get("annotations") or {}).get(PROGRESS_DEADLINE), requests.get("ephemeral-storage")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param("1023Mi", (None, None), id="small: as of unknown size"),
        pytest.param("1Gi", ("703s", "2Gi"), id="from a GiB on"),
        pytest.param("100Gi", ("10840s", "110Gi"), id="a slow download takes hours"),
        pytest.param("1e12", ("95968s", "1025Gi"), id="any quantity"),
    ],
)
def test_deadline_and_storage_grow_with_the_size(written: str, expected: tuple[str | None, str | None]) -> None:
    assert sized(completed(user_wrote(**{SIZE: written}))) == expected


def test_storage_is_written_as_the_api_server_stores_it() -> None:
    """Another spelling of the same would be taken for the user's own at the next admission."""
    for size in (GIB, 931 * GIB, 1024 * GIB):
        text = sizing.storage(size)
        assert text is not None
        assert quantity.text(quantity.parse(text)) == text
        assert quantity.parse(text) >= size


def test_a_size_that_becomes_known_changes_nothing_until_another_model_is_asked_for() -> None:
    stored = completed(user_wrote())
    stored = with_state(stored, model_bytes=100 * GIB)
    assert json_patch(stored, completed(stored, stored)) == []

    changed = completed(user_wrote("s3://models/larger/model.joblib"), stored)
    assert sized(changed) == ("10840s", "110Gi")

    changed = with_state(changed, model_bytes=300 * GIB)
    assert json_patch(changed, completed(changed, changed)) == []


def test_it_is_sized_anew_when_told_to() -> None:
    stored = completed(user_wrote())
    stored["metadata"]["annotations"][COMPLETED_WITH] = RENEW
    stored = with_state(stored, model_bytes=100 * GIB)
    assert sized(completed(stored, stored)) == ("10840s", "110Gi")


def test_what_the_user_says_comes_first_and_stays_when_it_is_taken_away() -> None:
    stored = with_state(completed(user_wrote(**{SIZE: "100Gi"})), model_bytes=5 * GIB)
    assert sized(stored) == ("10840s", "110Gi")
    without = {key: value for key, value in stored["metadata"]["annotations"].items() if key != SIZE}
    edited = stored | {"metadata": stored["metadata"] | {"annotations": without}}
    assert json_patch(edited, completed(edited, stored)) == []


def test_the_users_own_deadline_and_requests_stay() -> None:
    document = user_wrote(**{SIZE: "100Gi"})
    resources = {"requests": {"ephemeral-storage": "1Ti"}}
    containers = {"initContainers": [{"name": "model-loader", "resources": resources}], "containers": []}
    document["spec"] = {"progressDeadlineSeconds": 900, "template": {"spec": containers}}
    service = judge(document, FACTS).service
    assert service is not None
    template = service["spec"]["template"]
    assert template["metadata"]["annotations"][PROGRESS_DEADLINE] == "900s"
    assert template["spec"]["initContainers"][0]["resources"]["requests"]["ephemeral-storage"] == "1Ti"


def test_a_model_in_a_claim_is_not_sized() -> None:
    problems = judge(user_wrote("pvc://claim/model.joblib", **{SIZE: "100Gi"}), FACTS).problems
    assert [each.code for each in problems] == ["ConflictingAnnotations"]


def test_a_size_in_a_submitted_status_does_not_count() -> None:
    stored = completed(user_wrote())
    submitted = with_state(user_wrote("s3://models/larger/model.joblib"), model_bytes=100 * GIB)
    assert sized(completed(submitted, stored)) == (None, None)
    assert sized(completed(submitted)) == (None, None)


@pytest.mark.parametrize("noted", [-1, 10**20, True, "many", "", None, 1.5, []])
def test_a_recorded_size_that_is_no_number_counts_as_missing(noted: Any) -> None:
    stored = with_state(completed(user_wrote()), model_bytes=noted)
    stored["metadata"]["annotations"][COMPLETED_WITH] = RENEW
    assert sized(completed(stored, stored)) == (None, None)
