"""The cases of ``tests/golden/admission``: what admission makes of a Deployment, and what it says about it."""

from pathlib import Path

import pytest
import yaml

from serve_core.admission.decide import Verdict, is_served, judge, render_stored
from serve_core.api import annotations
from serve_core.api.policies import read_policy
from serve_core.api.runtimes import parse
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject
from serve_core.base.patch import json_patch
from serve_core.context.cluster import REQUIRED_FEATURES, ClusterContext, LoaderConfig
from serve_core.context.services import ServiceSummary
from serve_core.context.services import read as read_service
from support import golden
from support.istio_installation import installation
from support.paths import ROOT

CASES = golden.cases("admission")
RUNTIMES = tuple(
    parse(yaml.safe_load(path.read_text())) for path in sorted((ROOT / "manifests/runtimes").glob("*.yaml"))
)


def context_of(case: Path) -> ClusterContext:
    """The cluster that a case describes in the optional files of ``tests/golden/README.md``."""
    features = REQUIRED_FEATURES | yaml.safe_load(golden.optional(case, "features.yaml") or "{}")
    mesh = golden.optional(case, "istio.yaml")
    istio = installation(**yaml.safe_load(mesh)) if mesh is not None else None
    policies = map(read_policy, yaml.safe_load_all(golden.optional(case, "policies.yaml") or ""))
    around: dict[str, dict[str, ServiceSummary]] = {}
    for each in yaml.safe_load_all(golden.optional(case, "services.yaml") or ""):
        around.setdefault(each["metadata"]["namespace"], {})[each["metadata"]["name"]] = read_service(each)
    loader = LoaderConfig("example.com/model-loader:1", signing_image="example.com/model-loader:1-signing")
    return ClusterContext(loader, RUNTIMES, features, istio, tuple(policies), services=around)


def previous_of(case: Path) -> JsonObject | None:
    stored: JsonObject | None = yaml.safe_load(golden.optional(case, "previous.yaml") or "")
    return stored


def messages(verdict: Verdict) -> str:
    parts = {"refused": verdict.problems, "warning": verdict.warnings, "chosen": verdict.choices}
    return "".join(f"{kind} {item}\n" for kind, items in parts.items() for item in items)


def outputs(verdict: Verdict) -> dict[str, str | None]:
    def dump(document: JsonObject | None) -> str | None:
        return None if document is None else yaml.safe_dump(document, sort_keys=False, width=120)

    return {
        "messages.txt": messages(verdict),
        "deployment.yaml": dump(verdict.deployment),
        "service.yaml": dump(verdict.service),
        "extras.yaml": yaml.safe_dump_all(verdict.extras, sort_keys=False, width=120) if verdict.extras else None,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_output_is_what_was_reviewed(case: Path) -> None:
    written = yaml.safe_load(golden.input_of(case))
    golden.compare(case, outputs(judge(written, context_of(case), previous_of(case))))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_completing_twice_changes_nothing(case: Path) -> None:
    context, previous = context_of(case), previous_of(case)
    once = judge(yaml.safe_load(golden.input_of(case)), context, previous)
    if once.deployment is None:
        return
    twice = judge(once.deployment, context, previous)
    assert json_patch(once.deployment, twice.deployment or {}) == []
    assert (twice.service, twice.extras) == (once.service, once.extras)
    if once.service is not None or once.extras:
        stored = render_stored(once.deployment, context)
        assert (stored.service, stored.extras) == (once.service, once.extras)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_taking_the_annotations_off_gives_back_what_was_written(case: Path) -> None:
    context, written = context_of(case), yaml.safe_load(golden.input_of(case))
    stored = judge(written, context, previous_of(case)).deployment
    if stored is None or context.policies or not is_served(stored):
        return
    own = {annotation.key for annotation in annotations.USER}
    notes = {key: text for key, text in stored["metadata"]["annotations"].items() if key not in own}
    without = stored | {"metadata": stored["metadata"] | {"annotations": notes}}
    back = judge(without, context, stored)
    if back.deployment is None:
        assert [problem.code for problem in back.problems] == ["NothingToGiveBack"]
        return
    if "selector" not in written.get("spec", {}):  # it cannot be taken off, and needs its label
        return
    replicas = {"replicas": 1}  # the API server's default
    assert replicas | back.deployment["spec"] == replicas | written["spec"]
    assert set(back.deployment["metadata"]["annotations"]) - {annotations.HANDOVER} == {
        key for key in written["metadata"]["annotations"] if not key.startswith(PREFIX)
    }
