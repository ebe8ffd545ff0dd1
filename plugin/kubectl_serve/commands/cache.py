"""``kubectl serve cache``: what the nodes keep of models; load, verify and evict models there."""

import asyncio
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect
from kubectl_serve.errors import ServeError, UsageError
from kubectl_serve.io import documents, tables
from kubectl_serve.node_cache import drivers, prefetch
from kubectl_serve.node_cache.drivers import CachedModel, Driver, NodeContent
from serve_core.api.annotation_values import InvalidValueError
from serve_core.api.annotation_values import prefetch as nodes
from serve_core.api.loader_protocol import size_text
from serve_core.base.constants import NODE_CACHE_NAMESPACE
from serve_kube import errors

EXAMPLES = """\
  kubectl serve cache list
  kubectl serve cache list --node gpu-1 -o wide
  kubectl serve cache prefetch iris --nodes all
  kubectl serve cache verify s3://models/iris/
  kubectl serve cache evict 3f7a90b2c41d --node gpu-1 --dry-run"""

_ACTIONS = {
    "list": "list the models that the nodes have (operators)",
    "prefetch": "load a served model on nodes before pods need it",
    "verify": "read models completely on their nodes; changed ones are removed, and loaded again (operators)",
    "evict": "remove models that no pod uses from their nodes (operators)",
}
_COMMON = {"help", "action", "namespace"}
_USAGES = {
    "list": ("[MODEL...]", _COMMON | {"names", "node", "output", "all_namespaces"}),
    "prefetch": ("NAME", _COMMON | {"names", "nodes", "wait", "timeout", "dry_run"}),
    "verify": ("[MODEL...]", _COMMON | {"names", "node"}),
    "evict": ("MODEL...", _COMMON | {"names", "node", "all", "dry_run"}),
}
"""The operands of each action, and its flags."""


def configure(parser: options.Parser) -> None:
    actions = "; ".join(f"{name}: {text}" for name, text in _ACTIONS.items())
    parser.add_argument("action", metavar="ACTION", choices=tuple(_ACTIONS), help=actions)
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="with prefetch: the Deployment's name; otherwise the beginning of a model's name, or its URI",
    )
    parser.add_argument("--node", metavar="NODE", help="only this node")
    parser.add_argument(
        "--nodes",
        metavar="NUMBER|all",
        type=_nodes,
        help="with prefetch: the number of nodes, or all; default: as kubectl-serve.dev/prefetch says, or all",
    )
    parser.switch("--all", help="with evict: all models that no pod uses")
    parser.switch("--wait", default=True, help="with prefetch: wait until the nodes have the model (the default)")
    options.timeout(parser, "30m", "with prefetch: timeout of the wait")
    options.dry_run(parser)
    options.output(parser, "wide", "json", "yaml", "name")
    options.all_namespaces(parser)
    options.namespace(parser)
    options.connection(parser)


def help_of(parser: options.Parser, words: Sequence[str]) -> None:
    """Limit the help to the action among ``words``, if there is one."""
    parser.narrow(words, _ACTIONS, _USAGES)


def _nodes(text: str) -> str:
    try:
        nodes(text)
    except InvalidValueError:
        raise ArgumentTypeError(f'"{text}" is neither a number of nodes nor all') from None
    return text


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    _check(args)
    async with connect(args, streams) as cluster:
        if args.action == "prefetch":
            return await prefetch.run(args, streams, cluster)
        try:
            found = await drivers.running(cluster)
            chosen = [each for each in found if args.node in (None, each.node)]
            if not chosen:
                known = ", ".join(each.node for each in found)
                raise ServeError(f"node {args.node} has no driver of the node cache.", f"Nodes: {known}.")
            for each in chosen:
                if not each.ready:
                    streams.note(f"The driver on node {each.node or 'unknown'} is not ready: its models are omitted.")
            content = await drivers.contents(cluster, chosen)
            return await _act(args, streams, cluster, content, {each.node: each for each in chosen})
        except errors.ForbiddenError as error:
            raise ServeError(
                f"only operators see what the nodes keep, because that names the models of all namespaces: "
                f"{error.message}",
                f"This needs list pods and create pods/portforward in namespace {NODE_CACHE_NAMESPACE}. "
                f"`{PROGRAM} describe NAME` shows your own model.",
            ) from error


def _check(args: Namespace) -> None:
    operands, flags = _USAGES[args.action]
    given = {
        "node": args.node is not None,
        "nodes": args.nodes is not None,
        "all": args.all,
        "output": args.output is not None,
        "all_namespaces": args.all_namespaces,
        "dry_run": args.dry_run != "none",
    }
    for name, present in given.items():
        if present and name not in flags:
            flag = {"output": "-o", "all_namespaces": "-A"}.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"{flag} cannot be combined with {args.action}.", "Remove it.")
    if args.action == "prefetch":
        if len(args.names) != 1:
            raise UsageError(
                "prefetch needs the NAME of one Deployment.", f"Usage: {PROGRAM} cache prefetch {operands}."
            )
        try:
            args.name = options.deployment_name(args.names[0])
        except ArgumentTypeError as error:
            raise UsageError(f"{error}.") from None
    if args.action == "evict" and bool(args.names) == args.all:
        raise UsageError(
            "evict needs a MODEL, or --all." if not args.names else "--all cannot be combined with a MODEL.",
            f"`{PROGRAM} cache list` shows the models.",
        )


async def _act(
    args: Namespace, streams: Streams, cluster: Cluster, content: list[NodeContent], by_node: dict[str, Driver]
) -> int:
    models = drivers.chosen([each for node in content for each in node.models], args.names)
    if args.action == "list":
        namespace = args.namespace if not args.all_namespaces else None
        _list(args, streams, content, [each for each in models if _is_in(each, namespace)])
        return 0
    if args.action == "verify":
        return await _verify(streams, cluster, models, by_node)
    return await _evict(args, streams, cluster, models, by_node)


def _is_in(found: CachedModel, namespace: str | None) -> bool:
    """Whether a pod of the namespace uses a model; a model itself is in no namespace."""
    return namespace is None or any(pod.namespace == namespace for pod in found.pods)


def _list(args: Namespace, streams: Streams, content: list[NodeContent], models: list[CachedModel]) -> None:
    if args.output in ("json", "yaml"):
        nodes = [
            asdict(node) | {"models": [asdict(each) for each in models if each.node == node.node]} for node in content
        ]
        streams.stdout.write(documents.dump({"nodes": nodes}, args.output))
    elif args.output == "name":
        for each in models:
            streams.out(f"{each.node}/{each.name}")
    elif models:
        streams.stdout.write(tables.render(list(_rows(models, streams, wide=args.output == "wide"))))
    else:
        streams.note("The nodes have no such models." if args.names or args.namespace else "The nodes have no models.")
    if args.output in (None, "wide"):
        for node in content:
            streams.note(f"Node {node.node}: {size_text(node.used)} of {size_text(node.limit)} used.")


def _rows(models: list[CachedModel], streams: Streams, *, wide: bool) -> Iterator[list[str]]:
    yield [
        "NODE",
        "NAME",
        "SOURCE",
        "SIZE",
        "FILES",
        "PODS",
        "USED",
        "VERIFIED",
        *(["DIGEST", "USED BY"] if wide else []),
    ]
    room = 1 << 20 if wide else max(24, streams.width - 70)
    sources = tables.distinct([each.source for each in models], room)
    for each, source in zip(models, sources, strict=True):
        users = ",".join(f"{pod.namespace}/{pod.name}" if pod.name else pod.uid for pod in each.pods)
        more = [each.digest or tables.NONE, users or tables.NONE] if wide else []
        ages = [tables.age_text(each.used, streams.now()), tables.age_text(each.verified, streams.now())]
        size = size_text(each.bytes)
        yield [each.node, each.short, source, size, str(each.files), str(len(each.pods)), *ages, *more]


async def _verify(streams: Streams, cluster: Cluster, models: list[CachedModel], by_node: dict[str, Driver]) -> int:
    """One model at a time on each node: reading is what the disk is slow at."""

    async def one(node: str) -> bool:
        all_right = True
        for each in (each for each in models if each.node == node):
            right = await drivers.verify(cluster, by_node[node], each)
            streams.out(
                f"{node}/{each.short} {'verified' if right else 'changed: removed, the next pod loads it again'}"
            )
            all_right &= right
        return all_right

    if not models:
        streams.note("The nodes have no models.")
    return 0 if all(await asyncio.gather(*map(one, sorted({each.node for each in models})))) else 1


async def _evict(
    args: Namespace, streams: Streams, cluster: Cluster, models: list[CachedModel], by_node: dict[str, Driver]
) -> int:
    code = 0
    for each in models:
        used = f"{len(each.pods)} pods use it" if len(each.pods) > 1 else "a pod uses it" if each.pods else ""
        if args.all and used:
            continue
        if args.dry_run == "none" and not used:
            used = await drivers.evict(cluster, by_node[each.node], each)
        if used:
            streams.error(f"{each.node}/{each.short} stays: {used}.", "It can be evicted when no pod uses it.")
            code = 1
            continue
        streams.out(f"{each.node}/{each.short} evicted ({size_text(each.bytes)}){options.DRY[args.dry_run]}")
    return code
