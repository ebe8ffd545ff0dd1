"""``kubectl serve version``: the versions of this command and of the server in the cluster."""

from argparse import Namespace

from kubectl_serve import PROGRAM, __version__
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect
from kubectl_serve.errors import ServeError, for_user
from kubectl_serve.io import documents
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import value_at
from serve_core.syntax import image_reference
from serve_kube import errors
from serve_kube.errors import ApiError
from serve_kube.resources import DEPLOYMENTS

EXAMPLES = """\
  kubectl serve version
  kubectl serve version --client"""

_DEPLOYMENT = "kubectl-serve"
_SECONDS = 5.0
"""Time limit of a request."""


def configure(parser: options.Parser) -> None:
    parser.switch("--client", help="show only the version of this command; do not connect to the cluster")
    parser.switch("--installed", help="fail if the cluster cannot be reached")
    options.output(parser, "json", "yaml")
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    versions: dict[str, str | None] = {"client": __version__}
    args.request_timeout = args.request_timeout or _SECONDS
    unknown = None
    if not args.client:
        try:
            async with connect(args, streams) as cluster:
                versions["cluster"] = await _installed(cluster)
        except (ServeError, ApiError) as error:
            if args.installed:
                raise
            unknown = for_user(error)
    if args.output:
        streams.stdout.write(documents.dump(versions, args.output))
    else:
        streams.out(f"kubectl-serve {__version__}")
        if "cluster" in versions:
            streams.out(f"installed in the cluster: {versions['cluster'] or '<none>'}")
    if unknown is not None:
        streams.note(f"The version in the cluster is unknown: {unknown.sentence}")
    elif versions.get("cluster") not in (None, __version__):
        streams.note(f"The versions differ: `{PROGRAM} doctor` shows what to do.")
    return 0


async def _installed(cluster: Cluster) -> str | None:
    """The tag of the server's image; None if it is not installed."""
    try:
        deployment = await cluster.get(DEPLOYMENTS, NAMESPACE, _DEPLOYMENT)
    except errors.NotFoundError:
        return None
    containers = value_at(deployment, "spec", "template", "spec", "containers") or [{}]
    image = image_reference.parse_or_none(containers[0].get("image"))
    return image.tag if image else None
