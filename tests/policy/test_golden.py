"""Every folder of ``golden`` is a case: documents that go in, and the screen of ``kubectl serve policy test``.

``UPDATE_GOLDEN=1 pytest tests/policy/test_golden.py`` writes what comes out now; the difference is reviewed as prose.
"""

import os
from pathlib import Path

import pytest

from plugin.conftest import Run

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(file.parent for file in GOLDEN.glob("*/input.yaml"))
STARTERS = sorted((Path(__file__).resolve().parents[2] / "manifests/policies").glob("*.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_said_is_what_was_reviewed(case: Path, run: Run) -> None:
    text = (case / "input.yaml").read_text()
    assert text.startswith("# "), "the first line says why the case exists"
    screen = run("policy", "test", "-f", "-", stdin=text)
    said = f"{screen.out}\n{screen.err}\nexit code {screen.code}\n"
    if os.environ.get("UPDATE_GOLDEN"):
        (case / "screen.txt").write_text(said)
    assert said == (case / "screen.txt").read_text()


@pytest.mark.parametrize("policy", STARTERS, ids=lambda policy: policy.stem)
def test_each_policy_of_the_starter_set_passes_and_fails_its_examples(policy: Path, run: Run) -> None:
    def verdicts(kind: str) -> set[str]:
        example = policy.parent / "examples" / f"{policy.stem}.{kind}.yaml"
        rows = run("policy", "test", "-f", str(policy), "-f", str(example)).out.splitlines()[1:]
        denied = {row.split()[0] for row in rows if row.endswith("Deny")}
        return {"denied" if row.split()[0] in denied else "passed" for row in rows}

    assert verdicts("passes") == {"passed"}
    assert verdicts("fails") == {"denied"}


def test_the_starter_set_can_be_used_together(run: Run) -> None:
    screen = run("policy", "test", "-f", str(STARTERS[0].parent))
    assert (screen.out, screen.err, screen.code) == ("", "", 0)
