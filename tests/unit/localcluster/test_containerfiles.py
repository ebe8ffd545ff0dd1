"""The inputs of an image, and when it is rebuilt."""

from pathlib import Path

import pytest

from localcluster.containerfiles import Recipe, base_reference, copied_paths, key_of
from localcluster.errors import ClusterError


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("answer = 42\n")
    (tmp_path / "README.md").write_text("read me\n")
    (tmp_path / "Containerfile").write_text("FROM scratch\nCOPY package /package\n")
    return tmp_path


def key(context: Path, **arguments: str) -> str:
    recipe = Recipe("local/name:1", context, context / "Containerfile", arguments)
    return key_of(recipe, "base:1", [Path("README.md"), Path("package/module.py")])


def test_copies_from_the_context_are_found() -> None:
    text = "COPY --chown=1:1 one two/three /there/\nADD four \\\n    five /there\nCOPY --from=build /six /six\n"
    assert copied_paths(text) == {Path("one"), Path("two/three"), Path("four"), Path("five")}


@pytest.mark.parametrize("line", ["COPY . /app", "COPY *.py /app/", "COPY $WHAT /app", 'COPY ["a b", "/app"]'])
def test_patterns_and_variables_count_as_the_whole_context(line: str) -> None:
    assert copied_paths(line) is None


def test_a_file_that_is_not_copied_does_not_change_the_key(context: Path) -> None:
    before = key(context)
    (context / "README.md").write_text("read me again\n")
    assert key(context) == before


def test_a_copied_file_a_mode_and_an_argument_change_the_key(context: Path) -> None:
    keys = [key(context), key(context, VERSION="2")]
    (context / "package" / "module.py").chmod(0o755)
    keys.append(key(context))
    (context / "package" / "module.py").write_text("answer = 43\n")
    keys.append(key(context))
    assert len(set(keys)) == 4


def test_packages_change_the_base_and_their_order_does_not() -> None:
    bases = [base_reference("product", packages) for packages in (("cmake", "g++"), ("g++", "cmake"), ())]
    assert bases[0] == bases[1] != bases[2]


@pytest.mark.parametrize("reference", ["name", "name:", ":tag", "Name:1", "name:tag:1x", "-n:1"])
def test_a_name_without_tag_is_refused(context: Path, reference: str) -> None:
    with pytest.raises(ClusterError, match="NAME:TAG"):
        Recipe(reference, context, context / "Containerfile", {}).check()


def test_a_missing_containerfile_is_named(context: Path) -> None:
    with pytest.raises(ClusterError, match=r"no Containerfile at .*/nowhere"):
        Recipe("name:1", context, context / "nowhere", {}).check()
