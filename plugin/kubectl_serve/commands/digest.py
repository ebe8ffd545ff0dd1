"""``kubectl serve digest``: what ``kubectl-serve.dev/digest`` has to say of a model as it is now."""

from argparse import Namespace
from dataclasses import asdict

from kubectl_serve import digests, documents, options
from kubectl_serve.streams import Streams

EXAMPLES = """\
  kubectl serve digest model.joblib
  kubectl serve digest s3://models/iris
  kubectl serve digest hf://organisation/model -o json"""


def configure(parser: options.Parser) -> None:
    parser.add_argument("source", metavar="URI|PATH", help="a file or folder, or a URI as in kubectl-serve.dev/model")
    options.credentials_dir(parser)
    options.output(parser, "json", "yaml")


def run(args: Namespace, streams: Streams) -> int:
    found = digests.of_source(args.source, args.credentials_dir, streams)
    if args.output == "json":
        streams.stdout.write(documents.to_json(asdict(found)))
    elif args.output == "yaml":
        streams.stdout.write(documents.to_yaml([asdict(found)]))
    else:
        streams.out(found.digest)
    return 0
