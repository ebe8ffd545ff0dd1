"""Pods as ReplicaSets create them."""

from typing import Any


def of_revision(revision: str, deployment: str = "iris") -> dict[str, Any]:
    """Labels and owners of a Knative pod."""
    labels = {"kubectl-serve.dev/deployment": deployment, "serving.knative.dev/revision": revision}
    return _of(f"{revision}-deployment", labels, "5d8f")


def of_template(template: str, deployment: str = "iris") -> dict[str, Any]:
    """The same for a pod of a Deployment."""
    return _of(deployment, {"kubectl-serve.dev/deployment": deployment}, template)


def _of(deployment: str, labels: dict[str, str], template: str) -> dict[str, Any]:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{deployment}-{template}", "controller": True}
    return {"labels": labels | {"pod-template-hash": template}, "ownerReferences": [owner | {"uid": "r-1"}]}
