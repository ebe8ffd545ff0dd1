"""All golden trees follow the convention of ``tests/golden/README.md``."""

import re

import pytest

from support import golden

TREES = sorted(folder.name for folder in golden.GOLDEN.iterdir() if golden.cases(folder.name))


@pytest.mark.parametrize("tree", TREES)
def test_each_case_has_only_files_of_the_convention(tree: str) -> None:
    for folder in (golden.GOLDEN / tree).iterdir():
        names = {file.name for file in folder.iterdir()}
        assert "input.yaml" in names, folder
        assert names & golden.OUTPUTS, folder
        assert names <= golden.INPUTS | golden.OUTPUTS, folder


@pytest.mark.parametrize("tree", TREES)
def test_each_case_has_its_own_reason(tree: str) -> None:
    cases = golden.cases(tree)
    assert len({golden.input_of(case).splitlines()[0] for case in cases}) == len(cases)


def test_the_convention_names_every_tree_and_file() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (golden.GOLDEN / "README.md").read_text(), flags=re.MULTILINE)
    folders = {f"{folder.name}/" for folder in golden.GOLDEN.iterdir() if folder.is_dir()}
    assert sorted(rows) == sorted(folders | golden.INPUTS | golden.OUTPUTS)
