"""What no watch brings of pods: the loader's log while it runs, and the node's Events about a pod that does not
start."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from serve_core.api.loader_protocol import NOTHING, LoaderOutput
from serve_core.base.constants import LOADER_CONTAINER, PREFETCH_LABEL
from serve_core.base.json import JsonObject
from serve_core.base.ownership import controller
from serve_core.workload import model_image, prefetch
from serve_kube.client import Client
from serve_kube.errors import ApiError
from serve_kube.resources import EVENTS, PODS, key
from serve_webhook.cache import trimming
from serve_webhook.reconcile import pods
from serve_webhook.reconcile.pods import PodFinding

LOADING_SECONDS = 3.0
"""Between two reads of a running loader's log: only there it says what it waits for."""
STUCK_SECONDS = 2.0
"""After this time, the Events of a pod without a started container are read: nothing else says why it does not
start."""
MAX_INTERVAL_SECONDS = 60.0
"""Between two reads of the Events of a pod that does not start; the first intervals are shorter."""
MAX_PODS = 3
"""Of one Deployment whose logs or Events are read."""
MAX_EVENTS = 500
"""Of one pod that are read: users can create thousands."""
MAX_LISTED = 2000
"""Pods with the label of one model that are listed: users can create thousands."""
LOG_LINES = 5
LOG_BYTES = 8192

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PodReports:
    outputs: dict[str, LoaderOutput]
    """Last output of each running loader, by pod."""
    warnings: dict[str, str]
    """The node's newest warning about each pod that does not start, by pod."""
    next_read: float | None
    """Seconds until the next read; ``None``: wait for a change."""


async def read(api: Client, own_pods: Sequence[JsonObject], now: datetime) -> PodReports:
    """Read the logs and Events of a Deployment's pods."""
    running = [pod for pod in own_pods if pods.loader_is_running(pod)][:MAX_PODS]
    outputs = {pod["metadata"]["name"]: await _loader_output(api, pod) for pod in running}
    waiting = {pod["metadata"]["name"]: (pod, since) for pod in own_pods if (since := pods.waiting_since(pod))}
    seconds = {name: (now - since).total_seconds() for name, (_, since) in waiting.items()}
    stuck = [name for name in waiting if seconds[name] >= STUCK_SECONDS][:MAX_PODS]
    warnings = {name: await _warning(api, waiting[name][0]) for name in stuck}
    intervals = [LOADING_SECONDS for _ in running]
    intervals += [min(max(seconds[name], LOADING_SECONDS), MAX_INTERVAL_SECONDS) for name in waiting]
    return PodReports(outputs, warnings, min(intervals, default=None))


async def _warning(api: Client, pod: JsonObject) -> str:
    """The node's newest warning about a pod that it cannot start."""
    metadata = pod["metadata"]
    newest: JsonObject = {}
    seen = 0
    selectors = {"fieldSelector": f"regarding.uid={metadata['uid']}"}
    try:
        async for page in api.pages(EVENTS, metadata["namespace"], selectors):
            newest = pods.newest_event((*page.items, newest))
            seen += len(page.items) + len(page.unread)
            if seen >= MAX_EVENTS:
                break
    except ApiError as error:
        logger.info("The Events of %s/%s cannot be read: %s", *key(pod), error)
        return ""
    return pods.warning(newest)


async def _loader_output(api: Client, pod: JsonObject) -> LoaderOutput:
    try:
        log = await api.log(*key(pod), LOADER_CONTAINER, lines=LOG_LINES, size=LOG_BYTES)
    except ApiError as error:
        logger.info("The loader's log in %s/%s cannot be read: %s", *key(pod), error)
        return NOTHING
    return pods.last_output(log)


async def prefetch_cause(
    api: Client, manifest: JsonObject, wanted: int, now: datetime
) -> tuple[PodFinding | None, float]:
    """Why nodes do not load a model in advance, and the seconds until the next look.

    ``manifest``: what makes the pods; ``wanted``: how many.
    """
    namespace, name = key(manifest)
    own = manifest["metadata"]["labels"][PREFETCH_LABEL]
    made: list[JsonObject] = []
    seen = 0
    try:
        async for page in api.pages(PODS, namespace, {"labelSelector": f"{PREFETCH_LABEL}={own}"}):
            made += [pod for each in page.items if _is_made_by(pod := trimming.pod(each), manifest)]
            seen += len(page.items) + len(page.unread)
            if len(made) >= wanted or seen >= MAX_LISTED:
                break
    except ApiError as error:
        logger.info("The pods of %s/%s cannot be read: %s", namespace, name, error)
        return None, MAX_INTERVAL_SECONDS
    next_look = min(max(age(manifest, now), LOADING_SECONDS), MAX_INTERVAL_SECONDS)
    image = model_image.reference_in(manifest["spec"]["template"]["spec"])
    for pod in [each for each in made if not pods.is_ready(each)][:MAX_PODS]:
        warning = await _warning(api, pod) if pods.waiting_since(pod) else ""
        found = (
            pods.image_finding(pod, prefetch.CONTAINER, image, warning)
            if image
            else pods.loader_finding(pod, NOTHING, own, warning)
        )
        if found.status != "False" and (other := pods.server_finding(pod, own)) is not None:
            found, warning = other, other.message
        if found.status == "False" or warning:
            return found, next_look
    if len(made) < wanted and (refused := await _warning(api, manifest)):
        return PodFinding("False", "PrefetchRefused", f"{pods.sentence('PrefetchRefused')} {refused}"), next_look
    return None, next_look


def _is_made_by(pod: JsonObject, manifest: JsonObject) -> bool:
    owner = controller(pod) or {}
    return owner.get("uid") == manifest["metadata"]["uid"] and "deletionTimestamp" not in pod["metadata"]


def age(manifest: JsonObject, now: datetime) -> float:
    """Seconds since an object was created."""
    try:
        return (now - datetime.fromisoformat(manifest["metadata"].get("creationTimestamp") or "")).total_seconds()
    except (ValueError, TypeError):
        return 0.0
