"""The cases of ``tests/golden/policy``: policies and objects, and the screen of ``kubectl serve policy test``."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic.alias_generators import to_camel

from serve_core.policy.rules import CHECKS
from support import golden
from support.paths import ROOT
from unit.kubectl_serve.conftest import Run

CASES = golden.cases("policy")
pytestmark = pytest.mark.usefixtures("frozen_runtimes")
STARTERS = sorted((ROOT / "manifests/policies").glob("*.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_screen_is_what_was_reviewed(case: Path, run: Run) -> None:
    screen = run("policy", "test", "-f", "-", stdin=golden.input_of(case))
    golden.compare(case, {"screen.txt": f"{screen.out}\n{screen.err}\nexit code {screen.code}\n"})


def test_every_kind_of_rule_has_an_object_that_keeps_it_and_one_that_breaks_it(run: Run) -> None:
    shown = {kind: set[str]() for kind in CHECKS}
    for case in CASES:
        text = golden.input_of(case)
        kinds = {
            f"{document['metadata']['name']}/{rule.get('name')}": kind
            for document in yaml.safe_load_all(text)
            if isinstance(document, dict) and document.get("kind") == "ServingPolicy"
            for rule in (document.get("spec") or {}).get("rules") or ()
            for kind in CHECKS
            if to_camel(kind) in rule
        }
        items = json.loads(run("policy", "test", "-f", "-", "-o", "json", stdin=text).out)["items"]
        for result in (result for each in items for result in each["results"]):
            if (kind := kinds.get(f"{result['policy']}/{result['rule']}")) is not None:
                shown[kind].add(result["verdict"])
    assert {kind for kind, verdicts in shown.items() if not {"Pass", "Deny"} <= verdicts} == set()


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
    screen = run("policy", "test", "--allow-empty", "-f", str(STARTERS[0].parent))
    why = "the files contain no object to which a policy applies"
    assert (screen.out, screen.err, screen.code) == ("", f"Nothing was evaluated: {why}.\n", 0)
