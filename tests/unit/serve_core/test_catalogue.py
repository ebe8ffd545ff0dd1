"""The cases of ``tests/golden/catalogue``: for each installed runtime, a minimal Deployment and what it becomes."""

from pathlib import Path

import pytest
import yaml

from serve_core.admission.decide import judge
from serve_core.context.cluster import ClusterContext
from support import golden

FILES = golden.runtime_files("manifests/runtimes")
CONTEXT = ClusterContext(golden.LOADER, golden.runtimes(FILES))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_runtime_renders_as_reviewed(file: Path) -> None:
    case = golden.GOLDEN / "catalogue" / file.stem
    golden.compare(case, golden.outputs_of(judge(yaml.safe_load(golden.input_of(case)), CONTEXT)))


def test_each_case_belongs_to_a_runtime() -> None:
    assert {case.name for case in golden.cases("catalogue")} == {file.stem for file in FILES}
