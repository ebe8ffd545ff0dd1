"""``kubectl serve rollback``: move all traffic to the previous revision, until the next promote."""

from argparse import Namespace

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect
from kubectl_serve.errors import ServeError
from kubectl_serve.status import lookup, model
from kubectl_serve.status.set_traffic import configure as configure_shift
from kubectl_serve.status.set_traffic import set_traffic
from serve_core.api import state as model_state
from serve_core.api.annotations import CANARY, PIN
from serve_core.base.json import JsonObject
from serve_core.knative.name_conflict import service_name
from serve_kube import errors
from serve_kube.resources import REVISIONS

EXAMPLES = """\
  kubectl serve rollback iris
  kubectl serve rollback iris --to iris-00001"""


def configure(parser: options.Parser) -> None:
    parser.add_argument("--to", metavar="REVISION", help="revision to roll back to; default: the previous revision")
    configure_shift(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    async with lookup.open_deployment(args, streams, connect) as (cluster, namespace, deployment):
        state = model_state.read(deployment)
        # With a canary, the previous revision is the promoted one.
        target = args.to or (state.stable if CANARY in model.annotations_of(deployment) else state.previous)
        if not target:
            raise ServeError(
                f"{args.name} has no previous revision.",
                f"`{PROGRAM} describe {args.name}{options.again(args)}` lists its revisions; --to names one.",
            )
        if args.to:
            await _check(cluster, namespace, deployment, args.to)
        await set_traffic(cluster, deployment, {CANARY: None, PIN: target}, f"rolled back to {target}", args, streams)
        streams.note(
            f"Next: `{PROGRAM} promote {args.name}{options.again(args)}` moves the traffic back to the latest revision."
        )
    return 0


async def _check(cluster: Cluster, namespace: str, deployment: JsonObject, wanted: str) -> None:
    """Raise ServeError if the model has no such revision, if the user may list them: Knative would not accept it."""
    labels = f"serving.knative.dev/service={service_name(deployment)}"
    try:
        found, _ = await cluster.list(REVISIONS, namespace, labels=labels)
    except (errors.ForbiddenError, errors.NotFoundError):
        return
    names = sorted(map(model.name_of, found))
    if wanted not in names:
        raise ServeError(
            f"{model.name_of(deployment)} has no revision {wanted}.", f"It has: {', '.join(names) or 'none'}."
        )
