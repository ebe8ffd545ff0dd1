"""How far a model is loaded on nodes in advance, and whether a new revision waits for it. Pure."""

from serve_core.api import state as model_state
from serve_core.api.annotation_values import Nodes
from serve_core.base import overlay
from serve_core.base.constants import CONDITION_PREFETCHED
from serve_core.base.json import JsonObject, value_at
from serve_core.base.workload import Workload
from serve_core.workload import prefetch
from serve_webhook.reconcile import conditions, pods
from serve_webhook.reconcile.conditions import Condition
from serve_webhook.reconcile.observed import Observed

HOLD_SECONDS = 1800.0
"""How long a new revision waits for nodes to load its model."""
END_SECONDS = 3600.0
"""After this time, nodes that have not loaded the model are given up."""


def share(manifest: JsonObject) -> tuple[int, int]:
    """On how many nodes the model is, and on how many it should be; zero if that is not known yet."""
    status = manifest.get("status") or {}
    if manifest["kind"] == "DaemonSet":
        return status.get("numberReady") or 0, status.get("desiredNumberScheduled") or 0
    return status.get("readyReplicas") or 0, manifest["spec"].get("replicas") or 0


def is_done(manifest: JsonObject) -> bool:
    """Whether all nodes have the model. A DaemonSet for which no node exists is done."""
    seen = value_at(manifest, "status", "observedGeneration") == manifest["metadata"].get("generation")
    ready, wanted = share(manifest)
    return seen and ready >= wanted


def digest(observed: Observed) -> str:
    """What should be loaded, and on how many nodes; empty if nothing should be."""
    nodes = _nodes(observed)
    return "" if nodes is None else prefetch.digest(Workload(observed.deployment), nodes)


def _nodes(observed: Observed) -> Nodes | None:
    return None if observed.spec is None else observed.spec.prefetch


def over(observed: Observed) -> str:
    """The digest to record: of what is loaded, or given up, or was before."""
    before, wanted = model_state.read(observed.deployment).prefetched, digest(observed)
    if not wanted or before == wanted:
        return wanted
    live = observed.prefetch
    is_over = live is not None and (is_done(live) or observed.prefetch_seconds >= END_SECONDS)
    return wanted if is_over else before


def holds(observed: Observed) -> bool:
    """Whether a new revision of the Knative Service waits until the nodes have its model. Requests go to the earlier
    one, and no device waits for a download. Whatever keeps the nodes from it is no reason to wait."""
    live, wanted, service = observed.prefetch, observed.verdict.service, observed.service
    if live is None or wanted is None or service is None or is_done(live):
        return False
    if not conditions.is_ready(service):
        return False  # the change can be the remedy
    if observed.prefetch_seconds >= HOLD_SECONDS or _failed(observed):
        return False
    template = model_state.read(observed.deployment).template
    return bool(template) and template != overlay.digest(wanted["spec"]["template"])


def _failed(observed: Observed) -> bool:
    return observed.prefetch_cause is not None and observed.prefetch_cause.status == "False"


def condition(observed: Observed) -> Condition | None:
    """Prefetched of the Deployment, if it asks for it."""
    if _nodes(observed) is None:
        return None
    workload = Workload(observed.deployment)
    names = {"name": workload.name, "namespace": workload.namespace}
    wanted, live = digest(observed), observed.prefetch
    if not wanted:
        return conditions.from_code(CONDITION_PREFETCHED, "False", "PrefetchNotPossible", **names)
    before = conditions.stored(observed.deployment, CONDITION_PREFETCHED)
    if model_state.read(observed.deployment).prefetched == wanted:
        return before or conditions.from_code(CONDITION_PREFETCHED, "True", "Prefetched")
    cause = observed.prefetch_cause
    if live is None:
        if cause is not None:
            return Condition(CONDITION_PREFETCHED, cause.status, cause.code, cause.message)
        return conditions.from_code(CONDITION_PREFETCHED, "Unknown", "Prefetching")
    text = share_text(live)
    if is_done(live):
        return Condition(CONDITION_PREFETCHED, "True", "Prefetched", text)
    if observed.prefetch_seconds >= END_SECONDS:
        sentence = pods.sentence("PrefetchEnded", **names)
        why = cause.message if cause is not None else ""
        return Condition(CONDITION_PREFETCHED, "False", "PrefetchEnded", f"{sentence} {text} {why}".strip())
    if cause is None:
        return Condition(CONDITION_PREFETCHED, "Unknown", "Prefetching", text)
    return Condition(CONDITION_PREFETCHED, cause.status, cause.code, f"{text} {cause.message}")


def share_text(live: JsonObject) -> str:
    """The share of nodes as a sentence."""
    ready, wanted = share(live)
    return f"{ready} of {wanted} nodes have the model." if wanted or is_done(live) else pods.sentence("Prefetching")
