"""The cases of ``tests/golden/convert``: objects of KServe, what they become, and the messages."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubectl_serve.install import manifests
from kubectl_serve.kserve import convert
from kubectl_serve.kserve.base.names import KIND, VERSION
from serve_core.base.json import JsonObject
from support import golden
from unit.kubectl_serve.conftest import Run

CONTEXT = replace(manifests.default_context(), runtimes=golden.runtimes(golden.runtime_files()))
CASES = golden.cases("convert")
pytestmark = pytest.mark.usefixtures("frozen_runtimes")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_output_is_what_was_reviewed(case: Path, run: Run) -> None:
    screen = run("convert", "-f", "-", stdin=golden.input_of(case))
    made = {"deployment.yaml": screen.out, "messages.txt": screen.err}
    if case.name.startswith("sample-") and screen.code == 0:
        # Cases that follow KServe's own samples show the Knative Service too.
        made["service.yaml"] = run("render", "-f", "-", "--only", "service", stdin=screen.out).out
    golden.compare(case, made)


MADE_OF = {
    "InferenceService": ("Deployment", "Service"),  # a Knative Service if the image contains the model
    "LLMInferenceService": ("Deployment",),
    "ServingRuntime": ("ModelRuntime",),
    "ClusterServingRuntime": ("ModelRuntime",),
}
"""What each kind can become."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exit_code_is_0_exactly_when_all_is_converted_and_accepted(case: Path, run: Run) -> None:
    screen = run("convert", "-f", "-", stdin=golden.input_of(case))
    given = [each for each in yaml.safe_load_all(golden.input_of(case)) if each]
    made = {(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(screen.out) if each}
    are_all_made = all(
        any((kind, each["metadata"].get("name")) in made for kind in MADE_OF.get(str(each["kind"]), ()))
        for each in convert.objects_of(given)
        if each["kind"] != "LLMInferenceServiceConfig"
    )
    accepted = bool(made) and are_all_made and ": refused: " not in screen.err
    assert (screen.code == 0) is accepted
    if accepted:
        assert run("render", "-f", "-", stdin=screen.out).code == 0


def test_json_has_the_notes(run: Run) -> None:
    text = golden.input_of(golden.GOLDEN / "convert/logger-and-batcher")
    document = json.loads(run("convert", "-f", "-", "-o", "json", stdin=text).out)
    assert [item["kind"] for item in document["items"]] == ["Deployment"]
    assert {note["path"] for note in document["notes"]} == {"spec.predictor.batcher", "spec.predictor.logger"}
    assert all(note["object"] == "inferenceservice/batcher" for note in document["notes"])


def test_objects_that_are_not_kserves_are_skipped_and_counted(run: Run) -> None:
    screen = run("convert", "-f", "-", stdin="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    assert (screen.code, screen.out) == (0, "")
    assert screen.err == "1 of 1 objects are not KServe's and are skipped\n"


def test_the_deployment_can_be_rendered(run: Run) -> None:
    converted = run("convert", "-f", str(golden.GOLDEN / "convert/canary/input.yaml"))
    assert run("render", "-f", "-", "--only", "service", stdin=converted.out).code == 0


WORDS = ["spec", "predictor", "model", "sklearn", "env", "args", "containers", "name", "storage", "resources", "limits"]
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@given(metadata=ANYTHING, predictor=ANYTHING, sklearn=ANYTHING)
def test_malformed_input_is_reported_and_never_raises(metadata: object, predictor: object, sklearn: object) -> None:
    inner = {**predictor, "sklearn": sklearn} if isinstance(predictor, dict) else predictor
    document = {
        "apiVersion": VERSION,
        "kind": KIND,
        "metadata": metadata,
        "spec": {"predictor": inner},
    }
    others: list[JsonObject] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}, "secrets": predictor},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "None", "annotations": predictor}, "data": sklearn},
    ]
    convert.convert_all([document], CONTEXT, others)


@given(secrets=ANYTHING, annotations=ANYTHING, keys=ANYTHING)
def test_a_malformed_secret_or_account_is_never_raised(secrets: object, annotations: object, keys: object) -> None:
    predictor = {"serviceAccountName": "models", "sklearn": {"storageUri": "s3://models/iris"}}
    document = {"apiVersion": VERSION, "kind": KIND, "metadata": {"name": "a"}, "spec": {"predictor": predictor}}
    account = {"name": "models", "annotations": annotations}
    secret = {"name": "name", "annotations": annotations}
    others: list[JsonObject] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account, "secrets": secrets},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account, "secrets": [{"name": "name"}]},
        {"apiVersion": "v1", "kind": "Secret", "metadata": secret, "data": keys},
    ]
    for each in (others, others[1:]):
        assert convert.convert_all([document], CONTEXT, each)[0].deployment is not None


@given(entry=ANYTHING, text=st.text(max_size=20))
def test_a_malformed_storage_entry_is_never_raised(entry: object, text: str) -> None:
    predictor = {"sklearn": {"storage": {"key": "a", "path": "iris"}}}
    document = {"apiVersion": VERSION, "kind": KIND, "metadata": {"name": "a"}, "spec": {"predictor": predictor}}
    data: list[JsonObject] = [
        {"stringData": {"a": entry}},
        {"stringData": {"a": json.dumps(entry)}},
        {"data": {"a": text}},
        {"data": {"a": base64.b64encode(json.dumps({"bucket": entry, "type": entry}).encode()).decode()}},
    ]
    for each in data:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage-config"}, **each}
        assert convert.convert_all([document], CONTEXT, [secret])[0].notes


@pytest.mark.parametrize("case", ["secret-of-the-account", "storage-entry-in-the-same-file"])
def test_no_value_of_a_secret_is_shown(run: Run, case: str) -> None:
    screen = run("convert", "-f", str(golden.GOLDEN / "convert" / case / "input.yaml"))
    assert "never-shown" not in screen.out + screen.err


@pytest.mark.parametrize(
    ("annotations", "written"),
    [
        ({"s3-endpoint": "s3.example.com"}, "AWS_ENDPOINT_URL=https://s3.example.com"),
        ({"s3-endpoint": "http://s3.example.com", "s3-verifyssl": "0"}, "AWS_ENDPOINT_URL=http://s3.example.com"),
        ({"s3-endpoint": "https://me:never@s3.example.com"}, "AWS_ENDPOINT_URL"),
        ({"s3-region": "eu-west-3", "s3-useaccelerate": "0"}, "AWS_REGION=eu-west-3"),
        ({"s3-usevirtualbucket": "1"}, "AWS_S3_ADDRESSING_STYLE=virtual"),
        ({"s3-useaccelerate": "true"}, "AWS_S3_USE_ACCELERATE_ENDPOINT=true"),
        ({"s3-useanoncredential": "true"}, "AWS_NO_SIGN_REQUEST=true"),
        ({"s3-cabundle-configmap": "authorities"}, "ca.crt (the authorities in ConfigMap authorities)"),
        ({"s3-verifyssl": "0"}, "ca.crt (the authority of the store: the loader verifies each certificate)"),
    ],
)  # fmt: skip
def test_annotations_of_a_secret_are_named_as_keys(annotations: dict[str, str], written: str) -> None:
    predictor = {"serviceAccountName": "models", "sklearn": {"storageUri": "s3://models/iris"}}
    document = {"apiVersion": VERSION, "kind": KIND, "metadata": {"name": "a"}, "spec": {"predictor": predictor}}
    keyed = {f"serving.kserve.io/{key}": value for key, value in annotations.items()}
    others: list[JsonObject] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "models"}, "secrets": [{"name": "store"}]},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store", "annotations": keyed}},
    ]
    notes = convert.convert_all([document], CONTEXT, others)[0].notes
    assert [note.sentence.rpartition("keys of it: ")[2] for note in notes] == [f"{written}."]
