"""ARCHITECTURE.md is true: its picture of the packages is complete, and its walk names what exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paths import ROOT

TEXT = (ROOT / "ARCHITECTURE.md").read_text()
PICTURE = {
    folder: re.findall(r"^  (\w+) ", block, re.MULTILINE)
    for folder, block in re.findall(r"^((?:plugin|webhook)/\w+)\n((?:  .*\n)+)", TEXT, re.MULTILINE)
}
"""For each import package, its parts in the picture, from top to bottom."""
WALK = re.findall(r"^\| \d+ \| `([\w/.]+)` \| ([^|]+) \|", TEXT, re.MULTILINE)
"""The file and the functions of each step."""


def import_packages() -> list[Path]:
    return sorted(path.parent for top in ("plugin", "webhook") for path in (ROOT / top).glob("*/__init__.py"))


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports, in dotted form. ``from a import b`` gives both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_import_package_is_in_the_picture() -> None:
    assert sorted(PICTURE) == [str(package.relative_to(ROOT)) for package in import_packages()]


@pytest.mark.parametrize("package", import_packages(), ids=lambda package: package.name)
def test_every_sub_package_is_named_once_and_everything_named_exists(package: Path) -> None:
    named = PICTURE[str(package.relative_to(ROOT))]
    assert len(named) == len(set(named))
    assert {path.parent.name for path in package.glob("*/__init__.py")} <= set(named)
    assert [name for name in named if not list(package.glob(f"{name}.py")) and not (package / name).is_dir()] == []


@pytest.mark.parametrize("package", import_packages(), ids=lambda package: package.name)
def test_imports_go_down_in_the_picture(package: Path) -> None:
    named = PICTURE[str(package.relative_to(ROOT))]
    up = []
    for place, name in enumerate(named):
        part = package / name
        for file in part.rglob("*.py") if part.is_dir() else [part.with_suffix(".py")]:
            used = {module.split(".")[1] for module in imports(file) if module.startswith(f"{package.name}.")}
            up += [f"{file.relative_to(package)} imports {above}" for above in used.intersection(named[:place])]
    assert up == []


def test_the_walk_names_files_and_functions_that_exist() -> None:
    assert WALK
    for name, functions in WALK:
        text = (ROOT / "webhook" / name).read_text()
        for function in re.findall(r"`(\w+)`", functions):
            assert re.search(rf"^(?:async )?(?:def|class) {function}\b", text, re.MULTILINE), f"{name}: {function}"
