"""``kubectl serve promote``: move all traffic to the newest ready revision."""

from argparse import Namespace

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Connect
from kubectl_serve.status import lookup, model
from kubectl_serve.status.set_traffic import configure as configure_shift
from kubectl_serve.status.set_traffic import set_traffic
from serve_core.api.annotations import CANARY, PIN

EXAMPLES = """\
  kubectl annotate deployment iris --overwrite kubectl-serve.dev/model=s3://models/iris-2/model.joblib \\
      kubectl-serve.dev/canary=10%
  kubectl serve promote iris"""


def configure(parser: options.Parser) -> None:
    configure_shift(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    async with lookup.open_deployment(args, streams, connect) as (cluster, _, deployment):
        held = [key for key in (CANARY, PIN) if key in model.annotations_of(deployment)]
        if not held:
            streams.note(f"{args.name} has neither a canary nor a pin: the latest revision has all the traffic.")
            streams.out(f"deployment.apps/{args.name} unchanged")
            return 0
        await set_traffic(cluster, deployment, dict.fromkeys(held), "promoted", args, streams)
        streams.note(f"Remove {' and '.join(held)} from your manifest as well, or the next apply restores it.")
    return 0
