"""``kubectl serve uninstall``: delete the webhooks first, so that no request waits for a deleted server, then the rest.

The Knative Services belong to their Deployments, not to the server, so models are still served.
"""

import asyncio
from argparse import Namespace

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect, visible
from kubectl_serve.errors import ServeError
from kubectl_serve.install import features, helm, manifests
from kubectl_serve.install.resources import resource_of
from kubectl_serve.status.follow import watch_states
from serve_core.api.loader_protocol import count_text
from serve_core.base.constants import NAMESPACE, NODE_CACHE, PREFETCH_LABEL, SERVED_LABEL
from serve_core.base.json import JsonObject, value_at
from serve_kube import errors
from serve_kube.resources import DAEMON_SETS, DEFINITIONS, DEPLOYMENTS, NAMESPACES, STATEFUL_SETS, Resource

_SERVER = "kubectl-serve"
EXAMPLES = """\
  kubectl serve uninstall"""


def configure(parser: options.Parser) -> None:
    options.dry_run(parser)
    parser.switch("--wait", default=True, help="wait until everything is deleted (the default)")
    options.timeout(parser, "5m", "timeout of the wait")
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    async with connect(args, streams) as cluster:
        if release := await helm.find(cluster, _SERVER):
            raise helm.refusal(release, release.uninstall)
        served, _ = await cluster.list(DEPLOYMENTS, None, labels=f"{SERVED_LABEL}=true")
        _warn(served, streams)
        for manifest in order([*manifests.all_objects(), *manifests.istio_objects(), *_cache(served, streams)]):
            await _delete(cluster, resource_of(manifest), manifest, streams, args.dry_run)
        # Without the server, nothing else deletes what loads models in advance.
        for resource in (STATEFUL_SETS, DAEMON_SETS):
            for manifest in await visible(cluster, resource, None, labels=PREFETCH_LABEL):
                await _delete(cluster, resource, manifest, streams, args.dry_run)
        await features.revert(cluster, served, streams, dry_run=args.dry_run)
        if args.wait and args.dry_run == "none":
            await _wait(cluster, args.timeout)
    return 0


def order(objects: list[JsonObject]) -> list[JsonObject]:
    """The webhook configurations, then the rest in reverse order of installation."""
    webhooks = [each for each in objects if str(each["kind"]).endswith("WebhookConfiguration")]
    return [*webhooks, *(each for each in reversed(objects) if each not in webhooks)]


def _cache(served: list[JsonObject], streams: Streams) -> list[JsonObject]:
    """The objects of the node cache, unless models use it: only the driver can unmount its volumes."""
    users = [
        each
        for each in served
        for volume in value_at(each, "spec", "template", "spec", "volumes") or []
        if value_at(volume, "csi", "driver") == NODE_CACHE
    ]
    if users:
        count = count_text(len(users), "served Deployment")
        streams.note(
            f"Node cache kept: {count} in this cluster use it, and pods end only while its driver runs. "
            "Set kubectl-serve.dev/cache to none first."
        )
        return []
    return manifests.cache_objects(manifests.CacheSettings())


def _warn(served: list[JsonObject], streams: Streams) -> None:
    if served:
        count = count_text(len(served), "served Deployment")
        streams.note(
            f"Warning: {count} in this cluster: the models keep running, but kubectl-serve no longer handles "
            f"changes. `{PROGRAM} get -A` lists them; a new installation manages them again."
        )


async def _delete(cluster: Cluster, resource: Resource, manifest: JsonObject, streams: Streams, dry_run: str) -> None:
    metadata = manifest["metadata"]
    title = f"{resource.title}/{metadata['name']}"
    namespace = metadata.get("namespace")
    if resource is DEFINITIONS and await _is_used(cluster, manifest):
        streams.note(f"{title} kept: its deletion would also delete the objects of its kind.")
        return
    try:
        if dry_run == "client":
            await cluster.get(resource, namespace, metadata["name"])
        else:
            await cluster.delete(resource, namespace, metadata["name"], dry_run=dry_run == "server")
    except errors.NotFoundError:
        return
    streams.out(f"{title} deleted{options.DRY[dry_run]}")
    streams.stdout.flush()


async def _is_used(cluster: Cluster, definition: JsonObject) -> bool:
    """Whether there are users' objects of a kind."""
    spec = definition["spec"]
    served = next(each["name"] for each in spec["versions"] if each["served"])
    kind = Resource(f"{spec['group']}/{served}", spec["names"]["kind"], spec["names"]["plural"])
    try:
        return bool((await cluster.list(kind, None))[0])
    except errors.NotFoundError:
        return False


async def _wait(cluster: Cluster, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            async for state in watch_states(cluster, NAMESPACES, None, fields=f"metadata.name={NAMESPACE}"):
                if not state:
                    return
    except TimeoutError as error:
        raise ServeError(
            f"namespace {NAMESPACE} is not deleted after {seconds:.0f} s.",
            f"`kubectl get namespace {NAMESPACE} -o yaml` shows what blocks it.",
        ) from error
