"""``kubectl serve delete``: delete served Deployments, and wait until all their objects are deleted."""

import asyncio
from argparse import Namespace
from shlex import quote

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect, namespace_of
from kubectl_serve.errors import ServeError, UsageError
from kubectl_serve.status import lookup
from kubectl_serve.status.follow import watch_states
from serve_core.base.constants import DEPLOYMENT_LABEL, SERVED_LABEL
from serve_kube import errors
from serve_kube.resources import DEPLOYMENTS, KNATIVE_SERVICES, PODS, Resource

EXAMPLES = """\
  kubectl serve delete iris
  kubectl serve delete -l team=ml --wait=false"""


def configure(parser: options.Parser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="*", type=options.deployment_name, help="names of served Deployments"
    )
    options.selector(parser)
    parser.switch("--ignore-not-found", help="succeed if there is no such Deployment")
    options.dry_run(parser)
    parser.switch("--wait", default=True, help="wait until the pods and the Knative Service are deleted (the default)")
    options.timeout(parser, "5m", "timeout of the wait")
    options.namespace(parser)
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    if bool(args.names) == bool(args.selector):
        raise UsageError("delete needs either names or -l.", "Name the Deployments, or select them by their labels.")
    async with connect(args, streams) as cluster:
        namespace = namespace_of(args, cluster)
        names = await _names(args, cluster, namespace)
        if not names:
            streams.note(f"No served models found in {namespace} namespace.")
        for name in names:
            if args.dry_run != "client":
                await cluster.delete(DEPLOYMENTS, namespace, name, dry_run=args.dry_run == "server")
            streams.out(f"deployment.apps/{name} deleted{options.DRY[args.dry_run]}")
            streams.stdout.flush()
        if args.wait and names and args.dry_run == "none":
            await _wait(cluster, namespace, names, args.timeout)
    return 0


async def _names(args: Namespace, cluster: Cluster, namespace: str) -> list[str]:
    """The Deployments to delete. All are checked first, so that a wrong name deletes nothing."""
    if args.selector:
        found, _ = await cluster.list(DEPLOYMENTS, namespace, labels=f"{SERVED_LABEL}=true,{args.selector}")
        return [each["metadata"]["name"] for each in found]
    names = []
    for name in dict.fromkeys(args.names):
        if args.ignore_not_found:
            try:
                await cluster.get(DEPLOYMENTS, namespace, name)
            except errors.NotFoundError:
                continue
        await lookup.find(cluster, namespace, name)
        names.append(name)
    return names


async def _wait(cluster: Cluster, namespace: str, names: list[str], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            for resource, labels in ((DEPLOYMENTS, ""), (KNATIVE_SERVICES, DEPLOYMENT_LABEL), (PODS, DEPLOYMENT_LABEL)):
                await _gone(cluster, resource, namespace, set(names), labels)
    except TimeoutError as error:
        selector = quote(f"{DEPLOYMENT_LABEL} in ({','.join(names)})")
        raise ServeError(
            f"the deletion did not finish within {seconds:.0f} s.",
            f"`kubectl get ksvc,pods -n {quote(namespace)} -l {selector}` shows what is left.",
        ) from error


async def _gone(cluster: Cluster, resource: Resource, namespace: str, names: set[str], labels: str) -> None:
    """Wait until no object of ``names`` exists, by name or by label."""
    try:
        async for state in watch_states(cluster, resource, namespace, labels=labels):
            left = {
                (each["metadata"].get("labels") or {}).get(DEPLOYMENT_LABEL) if labels else name
                for (_, name), each in state.items()
            }
            if not left & names:
                return
    except (errors.ForbiddenError, errors.NotFoundError):
        return
