"""The parts of describe that come from the Deployment alone."""

from kubectl_serve.install import manifests
from kubectl_serve.status.describe import filled_fields
from serve_core.admission.decide import judge
from serve_core.api import annotations
from serve_core.base.json import JsonObject


def completed() -> JsonObject:
    metadata = {"name": "iris", "annotations": {annotations.MODEL: "s3://models/iris/model.joblib"}}
    made = judge({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}, manifests.default_context())
    assert made.deployment
    return made.deployment


def test_what_was_filled_in_is_shown_by_where_it_stands() -> None:
    lines = dict(line.split(": ", 1) for line in filled_fields(completed()))
    assert lines["Deployment"] == "labels, selector"
    assert {"env", "image", "readinessProbe"} <= set(lines["container model-server"].split(", "))
    assert "args" in lines["init container model-loader"].split(", ")


def test_what_the_user_has_changed_since_is_not_shown_as_filled_in() -> None:
    deployment = completed()
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    server["image"] = "example.com/mine:1"
    lines = dict(line.split(": ", 1) for line in filled_fields(deployment))
    assert "image" not in lines["container model-server"].split(", ")


def test_a_note_that_cannot_be_read_shows_nothing() -> None:
    deployment = completed()
    deployment["metadata"]["annotations"][annotations.FILLED] = "[]"
    assert filled_fields(deployment) == []
