"""Moves a model's traffic between revisions: it sets annotations, and the reconciler applies them."""

from argparse import Namespace

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster
from kubectl_serve.errors import ServeError
from kubectl_serve.io import documents
from kubectl_serve.status.follow import Follower, WaitPolicy, wait_for_end
from kubectl_serve.status.progress import Progress
from serve_core.base.json import JsonObject
from serve_kube.resources import DEPLOYMENTS

WAIT_POLICY = WaitPolicy()


def configure(parser: options.Parser) -> None:
    options.name(parser)
    options.dry_run(parser)
    options.output(parser, "yaml", "json", "name")
    parser.switch("--wait", default=True, help="wait until the traffic has moved (the default)")
    options.timeout(parser, "5m", "timeout of the wait")
    options.namespace(parser)
    options.connection(parser)


async def set_traffic(
    cluster: Cluster,
    deployment: JsonObject,
    annotations: dict[str, str | None],
    done: str,
    args: Namespace,
    streams: Streams,
) -> None:
    """Set annotations (``None`` removes one), wait until the reconciler has applied them, and print ``done``."""
    namespace, name = deployment["metadata"]["namespace"], args.name
    changed = deployment
    if args.dry_run != "client":
        patch = {"metadata": {"annotations": annotations}}
        changed = await cluster.merge(DEPLOYMENTS, namespace, name, patch, dry_run=args.dry_run == "server")
        if args.wait and args.dry_run == "none":
            changed = await _wait(cluster, namespace, args, streams)
    if args.output in ("json", "yaml"):
        streams.stdout.write(documents.dump(changed, args.output))
    elif args.output == "name":
        streams.out(f"deployment.apps/{name}")
    else:
        streams.out(f"deployment.apps/{name} {done}{options.DRY[args.dry_run]}")


async def _wait(cluster: Cluster, namespace: str, args: Namespace, streams: Streams) -> JsonObject:
    async with Follower(cluster, namespace, args.name) as follower:
        with Progress(streams) as progress:
            end = await wait_for_end(follower, args.timeout, WAIT_POLICY, progress)
        snapshot = await follower.snapshot(0)
    if end is not None and end.ready and snapshot.deployment is not None:
        return snapshot.deployment
    why = f"{end.code}: {end.message}" if end else f"it is not ready after {args.timeout:.0f} s."
    raise ServeError(
        f"the traffic of {args.name} has not moved: {why}",
        f"`{PROGRAM} describe {args.name}{options.again(args)}` shows the revisions and their traffic.",
    )
