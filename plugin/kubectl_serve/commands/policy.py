"""``kubectl serve policy``: test policies offline; list, explain and audit those of a cluster."""

from argparse import Namespace
from collections.abc import Sequence

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Connect
from kubectl_serve.errors import UsageError
from kubectl_serve.policy import live, offline

EXAMPLES = """\
  kubectl serve policy test -f policies/ -f iris.yaml
  kubectl serve policy test -f policies/ -f iris.yaml --expect expected.yaml
  kubectl serve policy list
  kubectl serve policy explain iris
  kubectl serve policy audit -A
  kubectl serve policy audit -A -f stricter.yaml"""

_ACTIONS = {
    "test": "evaluate the policies and objects in files, offline, as admission does",
    "list": "list the cluster's policies and exceptions",
    "explain": "show the result of every policy for a served Deployment",
    "audit": "show what violates a policy now; with -f, what would violate those policies",
}
_USAGES = {
    "test": ("-f FILE", {"help", "filename", "recursive", "expect", "allow_empty", "output", "namespace"}),
    "list": ("", {"help", "output"}),
    "explain": ("NAME", {"help", "name", "output", "namespace"}),
    "audit": ("[-f FILE]", {"help", "filename", "recursive", "all", "output", "all_namespaces", "namespace"}),
}
"""The operands of each action, and its flags."""


def configure(parser: options.Parser) -> None:
    actions = "; ".join(f"{name}: {text}" for name, text in _ACTIONS.items())
    parser.add_argument("action", metavar="ACTION", choices=tuple(_ACTIONS), help=actions)
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=options.deployment_name, help="with explain: the Deployment's name"
    )
    options.files(parser)
    parser.add_argument(
        "--expect", metavar="FILE", help="with test: file with the expected verdicts; exit 1 if one differs"
    )
    parser.switch("--allow-empty", help="with test: succeed even if no policy applies to any object")
    parser.switch("--all", help="also show rules that pass")
    options.output(parser, "json", "yaml")
    options.all_namespaces(parser)
    options.namespace(parser)
    options.connection(parser)


def help_of(parser: options.Parser, words: Sequence[str]) -> None:
    """Limit the help to the action among ``words``, if there is one."""
    parser.narrow(words, _ACTIONS, _USAGES)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    _check(args)
    if args.action == "test":
        return offline.test(args, streams)
    async with connect(args, streams) as cluster:
        if args.action == "list":
            return await live.list_all(args, streams, cluster)
        if args.action == "explain":
            return await live.explain(args, streams, cluster)
        return await live.audit(args, streams, cluster)


def _check(args: Namespace) -> None:
    if args.action == "test" and args.name and not args.filename:
        raise UsageError(f'unexpected argument "{args.name}": -f is missing.', f"Write -f {args.name}.")
    if args.action == "test" and not args.filename:
        raise UsageError("-f is missing.", "Name a file, a directory, or - for standard input.")
    if args.filename and args.action not in ("test", "audit"):
        raise UsageError(f"-f cannot be combined with {args.action}.", "Remove it.")
    if args.expect and args.action != "test":
        raise UsageError(f"--expect cannot be combined with {args.action}.", "Remove it.")
    if (args.action == "explain") != (args.name is not None):
        raise UsageError(
            "explain needs the NAME of a Deployment." if args.name is None else f"{args.action} takes no NAME.",
            f"`{PROGRAM} policy --help` shows how.",
        )
