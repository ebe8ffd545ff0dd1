"""What Argo CD says of a Deployment, by the Lua that it is given."""

from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from support.paths import ROOT
from support.recorded_state import entry

FILE = ROOT / "manifests/argocd/health.yaml"
SCRIPT = yaml.safe_load(FILE.read_text())["data"]["resource.customizations.health.apps_Deployment"]


def health(deployment: dict[str, Any]) -> str:
    lua = LuaRuntime(register_eval=False)
    lua.globals().obj = lua.table_from(deployment, recursive=True)
    return str(lua.execute(SCRIPT)["status"])


def model(ready: str | None, seen: str = "2", reason: str = "AsItIs") -> dict[str, Any]:
    """A served Deployment of generation 2, which Kubernetes calls rolled out: it has no pods of its own."""
    conditions = [{"type": "Available", "status": "True"}, {"type": "Progressing", "reason": "NewReplicaSetAvailable"}]
    if ready:
        ready_now = {"status": ready, "reason": reason, "message": "As it is."}
        conditions.append({"type": "kubectl-serve.dev/Ready", **ready_now})
    conditions.append(entry(int(seen)))
    notes = {"kubectl-serve.dev/model": "s3://models/a"}
    return {
        "metadata": {"generation": 2, "annotations": notes},
        "spec": {"replicas": 0},
        "status": {"observedGeneration": 2, "conditions": conditions},
    }


@pytest.mark.parametrize(
    ("deployment", "expected"),
    [
        (model(None), "Progressing"),
        (model("Unknown"), "Progressing"),
        (model("Unknown", reason="Registered"), "Healthy"),
        (model("False"), "Degraded"),
        (model("True"), "Healthy"),
        (model("True", seen="1"), "Progressing"),
    ],
)
def test_a_model_is_healthy_once_it_answers_as_it_was_asked_to(deployment: dict[str, Any], expected: str) -> None:
    assert health(deployment) == expected


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        ({}, {}, "Progressing"),
        ({}, {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}, "Healthy"),
        ({"replicas": 0}, {"observedGeneration": 2}, "Healthy"),
        ({"replicas": 2}, {"observedGeneration": 2, "updatedReplicas": 1}, "Progressing"),
        ({}, {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1}, "Progressing"),
        ({}, {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1}, "Progressing"),
        ({}, {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}, "Progressing"),
        ({"paused": True}, {"observedGeneration": 2}, "Suspended"),
        (
            {},
            {"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]},
            "Degraded",
        ),
    ],
)
def test_any_other_deployment_is_as_healthy_as_argo_cd_itself_has_it(
    spec: dict[str, Any], status: dict[str, Any], expected: str
) -> None:
    assert health({"metadata": {"generation": 2}, "spec": spec, "status": status}) == expected
