"""The cases of ``tests/golden/admission``: what admission makes of a Deployment, and what it says about it."""

from pathlib import Path

import pytest
import yaml

from kubectl_serve.install import manifests
from serve_core.admission.decide import is_served, judge, render_stored
from serve_core.api import annotations
from serve_core.base.constants import NODE_CACHE, PREFIX
from serve_core.base.json import JsonObject
from serve_core.base.patch import json_patch
from serve_core.context import neighbours
from serve_core.context.cluster import REQUIRED_FEATURES, ClusterContext, with_user_ranges
from serve_core.context.services import ServiceSummary
from serve_core.context.services import read as read_service
from serve_core.policy.parse import read_policy
from support import golden
from support.istio_installation import installation

CASES = golden.cases("admission")
RUNTIMES = golden.runtimes(golden.runtime_files())
SERVERS = manifests.known_servers()


def context_of(case: Path) -> ClusterContext:
    """The cluster that a case describes in the optional files of ``tests/golden/README.md``."""
    features = REQUIRED_FEATURES | yaml.safe_load(golden.optional(case, "features.yaml") or "{}")
    mesh = golden.optional(case, "istio.yaml")
    istio = installation(**yaml.safe_load(mesh)) if mesh is not None else None
    policies = map(read_policy, yaml.safe_load_all(golden.optional(case, "policies.yaml") or ""))
    around: dict[str, dict[str, ServiceSummary]] = {}
    for each in yaml.safe_load_all(golden.optional(case, "services.yaml") or ""):
        around.setdefault(each["metadata"]["namespace"], {})[each["metadata"]["name"]] = read_service(each)
    beside = neighbours.read(yaml.safe_load_all(golden.optional(case, "neighbours.yaml") or ""))
    return ClusterContext(
        golden.LOADER,
        RUNTIMES,
        features,
        istio,
        tuple(policies),
        services=around,
        neighbours=beside,
        servers=SERVERS,
        knative_defaults=yaml.safe_load(golden.optional(case, "defaults.yaml") or "{}"),
        node_cache=any(
            each["metadata"]["name"] == NODE_CACHE
            for each in yaml.safe_load_all(golden.optional(case, "drivers.yaml") or "")
        ),
        knative_autoscaler=yaml.safe_load(golden.optional(case, "autoscaler.yaml") or "{}"),
        user_ranges=with_user_ranges(yaml.safe_load_all(golden.optional(case, "namespaces.yaml") or "")),
    )


def previous_of(case: Path) -> JsonObject | None:
    stored: JsonObject | None = yaml.safe_load(golden.optional(case, "previous.yaml") or "")
    return stored


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_output_is_what_was_reviewed(case: Path) -> None:
    written = yaml.safe_load(golden.input_of(case))
    golden.compare(case, golden.outputs_of(judge(written, context_of(case), previous_of(case))))


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
        # The API server keeps the status.
        status = {key: value for key, value in (previous or {}).items() if key == "status"}
        stored = render_stored(once.deployment | status, context)
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
