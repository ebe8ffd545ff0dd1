"""The workflows call the scripts of this repository, and nothing that can change under them."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.paths import ROOT
from support.programs import program

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def test_actionlint_finds_nothing() -> None:
    done = subprocess.run([program("actionlint"), *WORKFLOWS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_get_no_rights_that_they_do_not_need(workflow: Path) -> None:
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", action) for action in used)
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_no_text_of_an_event_is_part_of_a_command(workflow: Path) -> None:
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    assert commands
    assert not [command for command in commands if "${{" in command], "use a variable"


def test_the_scripts_that_are_called_exist() -> None:
    called = {
        name
        for workflow in WORKFLOWS
        for step in steps(workflow)
        for name in re.findall(r"scripts/[a-z]+", step.get("run", ""))
    }
    assert called == {"scripts/test", "scripts/release"}
    assert all((ROOT / name).is_file() for name in called)
