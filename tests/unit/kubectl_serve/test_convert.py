"""Every folder of ``tests/golden/convert`` is a case: an InferenceService, the Deployment it becomes, what is told.

``UPDATE_GOLDEN=1 pytest tests/plugin/test_convert.py`` writes what comes out now; the difference is reviewed as prose.
"""

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubectl_serve.install import manifests
from kubectl_serve.kserve import convert
from serve_core.admission.decide import judge
from support.paths import ROOT
from unit.kubectl_serve.conftest import Run

FOLDER = ROOT / "tests/golden/convert"
FACTS = manifests.default_context()
CASES = sorted(path.parent for path in FOLDER.glob("*/input.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_comes_out_is_what_was_reviewed(case: Path, run: Run) -> None:
    text = (case / "input.yaml").read_text()
    assert text.startswith("# "), "the first line says why the case exists"
    screen = run("convert", "-f", "-", stdin=text)
    made = {"output.yaml": screen.out, "notes.txt": screen.err}
    if case.name.startswith("sample-") and screen.code == 0:
        # As KServe's own samples are, in our words: their way is shown to its end.
        made["service.yaml"] = run("render", "-f", "-", "--only", "service", stdin=screen.out).out
    if os.environ.get("UPDATE_GOLDEN"):
        for name, content in made.items():
            (case / name).write_text(content)
    assert made == {name: (case / name).read_text() for name in made}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_succeeds_exactly_when_all_of_it_can_be_served(case: Path, run: Run) -> None:
    screen = run("convert", "-f", "-", stdin=(case / "input.yaml").read_text())
    deployments = list(yaml.safe_load_all(screen.out))
    accepted = bool(deployments) and not any(judge(each, FACTS).refused for each in deployments)
    assert (screen.code == 0) is accepted


def test_json_carries_the_notes(run: Run) -> None:
    text = (FOLDER / "logger-and-batcher/input.yaml").read_text()
    document = json.loads(run("convert", "-f", "-", "-o", "json", stdin=text).out)
    assert [item["kind"] for item in document["items"]] == ["Deployment"]
    assert {note["path"] for note in document["notes"]} == {"spec.predictor.batcher", "spec.predictor.logger"}
    assert all(note["object"] == "inferenceservice/batcher" for note in document["notes"])


def test_what_is_not_kserves_is_passed_over_with_a_count(run: Run) -> None:
    screen = run("convert", "-f", "-", stdin="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    assert (screen.code, screen.out) == (0, "")
    assert screen.err == "1 of 1 objects are not KServe's and passed over\n"


def test_what_comes_out_can_be_rendered(run: Run) -> None:
    converted = run("convert", "-f", str(FOLDER / "canary/input.yaml"))
    assert run("render", "-f", "-", "--only", "service", stdin=converted.out).code == 0


WORDS = ["spec", "predictor", "model", "sklearn", "env", "args", "containers", "name", "storage", "resources", "limits"]
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@given(metadata=ANYTHING, predictor=ANYTHING, sklearn=ANYTHING)
def test_nonsense_is_told_and_never_raises(metadata: object, predictor: object, sklearn: object) -> None:
    inner = {**predictor, "sklearn": sklearn} if isinstance(predictor, dict) else predictor
    document = {"apiVersion": convert.VERSION, "kind": convert.KIND, "metadata": metadata, "spec": {"predictor": inner}}
    convert.convert(document, FACTS)
