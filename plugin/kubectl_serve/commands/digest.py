"""``kubectl serve digest``: the value of ``kubectl-serve.dev/digest`` for a model."""

from argparse import Namespace
from dataclasses import asdict

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Connect
from kubectl_serve.digest import compute
from kubectl_serve.errors import UsageError
from kubectl_serve.io import documents
from serve_core.api import loader_protocol

EXAMPLES = """\
  kubectl serve digest model.joblib
  kubectl serve digest s3://models/iris --credentials store -n models
  kubectl serve digest hf://organisation/model --files '*.safetensors *.json'
  kubectl serve digest hf://organisation/model -o json"""


def configure(parser: options.Parser) -> None:
    parser.add_argument("source", metavar="URI|PATH", help="a file or folder, or a URI as in kubectl-serve.dev/model")
    parser.add_argument(
        "--files",
        metavar="PATTERNS",
        type=options.file_patterns,
        help="the files to count, as in kubectl-serve.dev/files; requires the same value in the Deployment",
    )
    parser.add_argument(
        "--credentials",
        metavar="SECRET",
        type=options.secret_name,
        help="Secret in the namespace with credentials for the store; requires permission to get the Secret",
    )
    options.credentials_dir(parser)
    options.output(parser, "json", "yaml")
    options.namespace(parser)
    options.connection(parser)


def prepare(args: Namespace, streams: Streams, connect: Connect) -> None:
    """Compute the digest."""
    if args.credentials is not None and args.credentials_dir is not None:
        raise UsageError("--credentials and --credentials-dir cannot be combined.", "Use only one of them.")
    args.found = found = compute.digest_of(args.source, args.files, args.credentials, args, streams, connect)
    if found.skipped:
        files = loader_protocol.count_text(found.skipped, "file")
        streams.note(f"{files} with copies of the weights not counted, as they are not loaded; --files '*' counts all")


async def run(args: Namespace, streams: Streams, _: Connect) -> int:
    found: compute.ModelDigest = args.found
    document = {key: value for key, value in asdict(found).items() if key != "skipped" or value}
    if args.output == "json":
        streams.stdout.write(documents.to_json(document))
    elif args.output == "yaml":
        streams.stdout.write(documents.to_yaml([document]))
    else:
        streams.out(found.digest)
    return 0
