"""Which feature flags of Knative a set of Deployments needs, whatever the cluster's flags are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from serve_core.admission.decide import concerns, is_served, judge
from serve_core.api import servers
from serve_core.api.annotations import MODEL
from serve_core.base.json import JsonObject, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.knative.features import ENABLED, FIELD_FLAGS, FeatureNeed
from serve_core.workload import command_line

_ANY_MODEL = "hf://example/model"
"""The model of a Deployment that has no annotation yet: its flags do not depend on it."""


@dataclass(frozen=True)
class FeatureReport:
    """What the Deployments need. Each is named by its title."""

    judged: tuple[str, ...]
    needs: Mapping[FeatureNeed, tuple[str, ...]]
    """The flags, sorted, with the Deployments that need each."""
    refused: tuple[str, ...]
    """Deployments that are refused for other reasons. They can need more flags than are found."""
    passed_over: int = 0
    """Deployments without a model, that run no model server that is known."""

    def missing(self, features: Mapping[str, str]) -> tuple[str, ...]:
        """The flags that are not set as they must be. ``features``: the data of Knative's ConfigMap."""
        return tuple(need.flag for need in self.needs if not need.is_met(features))


def of(deployments: Iterable[tuple[str, JsonObject]], context: ClusterContext) -> FeatureReport:
    """Judge Deployments with every flag enabled, and note which flags matter. Each comes with its title.

    A Deployment without the annotation is judged as if it had one, if it runs a known model server. The flags of
    ``context`` do not matter.
    """
    enabled = replace(context, features=dict.fromkeys(FIELD_FLAGS, ENABLED))
    judged, refused, passed_over = [], [], 0
    users: dict[FeatureNeed, list[str]] = {}
    for title, written in deployments:
        deployment = written if concerns(written) else _annotated(written, context)
        if deployment is None:
            passed_over += 1
            continue
        verdict = judge(deployment, enabled)
        if not verdict.refused and (verdict.deployment is None or not is_served(verdict.deployment)):
            passed_over += 1
            continue
        judged.append(title)
        if verdict.refused:
            refused.append(title)
        for need in verdict.feature_needs:
            users.setdefault(need, []).append(title)
    return FeatureReport(
        tuple(judged), {need: tuple(users[need]) for need in sorted(users)}, tuple(refused), passed_over
    )


def _annotated(deployment: JsonObject, context: ClusterContext) -> JsonObject | None:
    """The Deployment with the annotation; ``None`` where it runs no known model server."""
    if not isinstance(deployment.get("metadata"), dict) or not _runs_known_server(deployment, context):
        return None
    notes = value_at(deployment, "metadata", "annotations")
    annotations = {**(notes if isinstance(notes, dict) else {}), MODEL: _ANY_MODEL}
    return {**deployment, "metadata": {**deployment["metadata"], "annotations": annotations}}


def _runs_known_server(deployment: JsonObject, context: ClusterContext) -> bool:
    containers = value_at(deployment, "spec", "template", "spec", "containers")
    return any(
        servers.recognize(str(container.get("image") or ""), command_line.read(container).words, context.servers)
        for container in (containers if isinstance(containers, list) else ())
        if isinstance(container, dict)
    )
