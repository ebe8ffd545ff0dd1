"""``kubectl serve version``: of this command, and of the cluster's part."""

from argparse import Namespace

from kubectl_serve import __version__, documents, errors, options
from kubectl_serve.api import DEPLOYMENTS, Api, Connect
from kubectl_serve.streams import Streams
from serve_core.json import value_at
from serve_core.names import NAMESPACE

EXAMPLES = """\
  kubectl serve version
  kubectl serve version --installed -o json"""

_DEPLOYMENT = "kubectl-serve"


def configure(parser: options.Parser) -> None:
    parser.switch("--installed", help="ask the cluster as well which version is installed there")
    options.output(parser, "json", "yaml")
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    versions: dict[str, str | None] = {"client": __version__}
    if args.installed:
        async with connect(args, streams) as cluster:
            versions["cluster"] = await _installed(cluster)
    if args.output:
        streams.stdout.write(documents.written(versions, args.output))
    else:
        streams.out(f"kubectl-serve {__version__}")
        if args.installed:
            streams.out(f"installed in the cluster: {versions['cluster'] or '<none>'}")
    return 0


async def _installed(cluster: Api) -> str | None:
    """The tag of the server's image; None where it is not installed."""
    try:
        deployment = await cluster.get(DEPLOYMENTS, NAMESPACE, _DEPLOYMENT)
    except errors.NotFoundError:
        return None
    containers = value_at(deployment, "spec", "template", "spec", "containers") or [{}]
    image = str(containers[0].get("image", ""))
    return image.rpartition(":")[2]
