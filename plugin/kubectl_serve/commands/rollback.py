"""``kubectl serve rollback``: all traffic back to the revision before, until the next promote."""

from argparse import Namespace

from kubectl_serve import options, served, view
from kubectl_serve.api import Connect
from kubectl_serve.errors import ServeError
from kubectl_serve.shift import configure as configure_shift
from kubectl_serve.shift import shift
from kubectl_serve.streams import Streams
from kubectl_serve.verbs import PROGRAM
from serve_core.annotations import CANARY, PIN, PREVIOUS, PROMOTED

EXAMPLES = """\
  kubectl serve rollback iris
  kubectl serve rollback iris --to iris-00001"""


def configure(parser: options.Parser) -> None:
    parser.add_argument("--to", metavar="REVISION", help="the revision to go back to; default: the one before")
    configure_shift(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    async with served.opened(args, streams, connect) as (cluster, _, deployment):
        notes = view.notes(deployment)
        # A canary is not promoted yet: the revision before it is the promoted one.
        target = args.to or (notes.get(PROMOTED) if CANARY in notes else notes.get(PREVIOUS))
        if not target:
            raise ServeError(
                f"{args.name} has had no revision before this one.",
                f"`{PROGRAM} describe {args.name}{options.again(args)}` lists its revisions; --to names one.",
            )
        await shift(cluster, deployment, {CANARY: None, PIN: target}, f"rolled back to {target}", args, streams)
        streams.note(f"Next: `{PROGRAM} promote {args.name}{options.again(args)}` goes back to the newest revision.")
    return 0
