"""The cases of ``tests/golden/convert``: objects of KServe, what they become, and the messages."""

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
    "InferenceService": "Deployment",
    "LLMInferenceService": "Deployment",
    "ServingRuntime": "ModelRuntime",
    "ClusterServingRuntime": "ModelRuntime",
}
"""What becomes of each kind."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exit_code_is_0_exactly_when_all_is_converted_and_accepted(case: Path, run: Run) -> None:
    screen = run("convert", "-f", "-", stdin=golden.input_of(case))
    given = [each for each in yaml.safe_load_all(golden.input_of(case)) if each]
    made = {(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(screen.out) if each}
    wanted = {
        (MADE_OF.get(str(each["kind"])), each["metadata"].get("name"))
        for each in convert.objects_of(given)
        if each["kind"] != "LLMInferenceServiceConfig"
    }
    accepted = bool(made) and wanted <= made and run("render", "-f", "-", stdin=screen.out).code == 0
    assert (screen.code == 0) is accepted


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
    convert.convert_all([document], CONTEXT)
