"""What Flux says of a Deployment, by the expressions that it is given."""

from typing import Any

import pytest
import yaml
from cel_expr_python import cel

from support.paths import ROOT
from support.recorded_state import entry

FILE = ROOT / "manifests/flux/health.yaml"
(CHECK,) = yaml.safe_load(FILE.read_text())["spec"]["healthCheckExprs"]
FIELDS = ("metadata", "spec", "status")


def health(deployment: dict[str, Any]) -> str:
    """By the rules of Flux' controllers: another generation is in progress, then the first that is true."""
    seen = deployment["status"].get("observedGeneration")
    if seen is not None and seen != deployment["metadata"]["generation"]:
        return "InProgress"
    environment = cel.NewEnv(variables=dict.fromkeys(FIELDS, cel.Type.DYN))
    for key in ("inProgress", "failed", "current"):
        value = environment.compile(CHECK[key]).eval(data=deployment).value()
        assert isinstance(value, bool), value
        if value:
            return key[0].upper() + key[1:]
    return "InProgress"


def model(
    ready: str | None, seen: str | None = "2", generation: int = 2, reason: str = "AsItIs", **status: Any
) -> dict[str, Any]:
    """A served Deployment of generation 2, which Kubernetes calls rolled out: it has no pods of its own."""
    conditions = [{"type": "Available", "status": "True"}, {"type": "Progressing", "reason": "NewReplicaSetAvailable"}]
    if ready:
        conditions.append({"type": "kubectl-serve.dev/Ready", "status": ready, "reason": reason})
    notes = {"kubectl-serve.dev/model": "s3://models/a"}
    if seen:
        conditions.append(entry(int(seen)))
    return {
        "metadata": {"generation": generation, "annotations": notes},
        "spec": {"replicas": 0},
        "status": {"observedGeneration": generation, "conditions": conditions, **status},
    }


@pytest.mark.parametrize(
    ("deployment", "expected"),
    [
        (model(None, seen=None), "InProgress"),
        (model(None) | {"status": {}}, "InProgress"),
        (model(None), "InProgress"),
        (model("Unknown"), "InProgress"),
        (model("Unknown", reason="Registered"), "Current"),
        (model("False"), "Failed"),
        (model("True"), "Current"),
        (model("True", seen="1"), "InProgress"),
        (model("False", seen="1"), "InProgress"),
        (model("True", replicas=1, updatedReplicas=1), "Current"),
    ],
)
def test_a_model_is_ready_once_it_answers_as_it_was_asked_to(deployment: dict[str, Any], expected: str) -> None:
    assert health(deployment) == expected


LATE = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]


@pytest.mark.parametrize("metadata", [{}, {"annotations": {"team": "a"}}])
@pytest.mark.parametrize(
    ("replicas", "status", "expected"),
    [
        (1, {}, "InProgress"),
        (1, {"observedGeneration": 2}, "InProgress"),
        (1, {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}, "InProgress"),
        (1, {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1}, "InProgress"),
        (1, {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1}, "InProgress"),
        (1, {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}, "Current"),
        (2, {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 2}, "InProgress"),
        (0, {"observedGeneration": 2}, "Current"),
        (0, {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}, "InProgress"),
        (1, {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "conditions": LATE}, "Failed"),
    ],
)
def test_any_other_deployment_is_as_ready_as_flux_itself_has_it(
    metadata: dict[str, Any], replicas: int, status: dict[str, Any], expected: str
) -> None:
    metadata = metadata | {"generation": 2}
    assert health({"metadata": metadata, "spec": {"replicas": replicas}, "status": status}) == expected
