"""Loads a served model on nodes before pods need it: sets its annotation, and follows its condition."""

import asyncio
from argparse import Namespace

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, namespace_of
from kubectl_serve.errors import ServeError
from kubectl_serve.status import lookup, model
from kubectl_serve.status.follow import watch_states
from kubectl_serve.status.model import ConditionView
from serve_core.api import serving_spec
from serve_core.api import state as model_state
from serve_core.api.annotations import PREFETCH
from serve_core.base.constants import CONDITION_PREFETCHED
from serve_core.base.json import JsonObject
from serve_kube.resources import DEPLOYMENTS

FAILED_SECONDS = 10.0
"""How long a failure must last until it counts: pods can be refused for a moment."""


async def run(args: Namespace, streams: Streams, cluster: Cluster) -> int:
    """Load the model ``args.name`` on ``args.nodes``, and wait for it. Raises ServeError."""
    namespace = namespace_of(args, cluster)
    deployment = await lookup.find(cluster, namespace, args.name)
    spec = serving_spec.read_stored(deployment)
    if spec is None or not spec.cache.on_node:
        raise ServeError(
            f"the nodes do not keep the model of {args.name}.",
            f"`kubectl annotate deployment {args.name} -n {namespace} --overwrite kubectl-serve.dev/cache=node` "
            "lets them keep it.",
        )
    before = model.annotations_of(deployment).get(PREFETCH)
    wanted = args.nodes or before or "all"
    if args.dry_run != "none":
        if args.dry_run == "server":
            await _annotate(cluster, namespace, args.name, wanted, dry_run=True)
        streams.out(f"deployment.apps/{args.name} prefetched{options.DRY[args.dry_run]}")
        return 0
    if before == wanted and _view(deployment).reason not in ("", "Prefetching"):
        # The server has done it, and does it again for a new value only.
        await _annotate(cluster, namespace, args.name, None)
        await _follow(args, streams, cluster, namespace, withdrawn=True)
    await _annotate(cluster, namespace, args.name, wanted)
    if before != wanted:
        streams.note(f"Set {PREFETCH}: {wanted} in your manifest as well, or the next apply removes it.")
    if not args.wait:
        streams.out(f"deployment.apps/{args.name} annotated")
        return 0
    found = await _follow(args, streams, cluster, namespace)
    streams.out(f"deployment.apps/{args.name} prefetched: {found.message}")
    return 0


async def _annotate(cluster: Cluster, namespace: str, name: str, value: str | None, *, dry_run: bool = False) -> None:
    patch = {"metadata": {"annotations": {PREFETCH: value}}}
    await cluster.merge(DEPLOYMENTS, namespace, name, patch, dry_run=dry_run)


def _view(deployment: JsonObject) -> ConditionView:
    return model.condition(deployment, CONDITION_PREFETCHED)


async def _follow(
    args: Namespace, streams: Streams, cluster: Cluster, namespace: str, *, withdrawn: bool = False
) -> ConditionView:
    """The condition once all nodes have the model, or once it is ``withdrawn``. Raises ServeError."""
    last = ConditionView(CONDITION_PREFETCHED)
    failing: asyncio.Timeout | None = None
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(args.timeout), asyncio.timeout(None) as failing:
            async for state in watch_states(cluster, DEPLOYMENTS, namespace, fields=f"metadata.name={args.name}"):
                deployment = state.get((namespace, args.name))
                if deployment is None:
                    raise ServeError(f"the Deployment {args.name} was deleted.")
                if not model_state.is_current(deployment):
                    continue
                found = _view(deployment)
                if (withdrawn and not found.reason) or (not withdrawn and found.status == "True"):
                    return found
                if found.message != last.message and not withdrawn:
                    streams.note(found.message)
                if found.status != "False":
                    failing.reschedule(None)
                elif failing.when() is None:
                    failing.reschedule(loop.time() + FAILED_SECONDS)
                last = found
    except TimeoutError:
        pass
    why = f"{last.reason}: {last.message}" if last.reason else "the server has not answered."
    raise ServeError(
        f"the nodes have not loaded the model of {args.name}: {why}",
        f"`{PROGRAM} describe {args.name}{options.again(args)}` shows its conditions and Events.",
    )
