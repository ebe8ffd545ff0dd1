"""``kubectl serve runtimes``: the cluster's runtimes, the models with earlier ones, and their rollout."""

from argparse import Namespace
from dataclasses import asdict, dataclass

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect, namespace_of
from kubectl_serve.errors import UsageError
from kubectl_serve.install import platform
from kubectl_serve.io import documents, tables
from kubectl_serve.status import lookup
from serve_core.admission.completion.completion_record import RENEW
from serve_core.admission.decide import judge, renewed
from serve_core.api.annotations import COMPLETED_WITH
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_kube.resources import DEPLOYMENTS

EXAMPLES = """\
  kubectl serve runtimes
  kubectl serve runtimes --outdated -A
  kubectl serve runtimes --roll-out iris"""


@dataclass(frozen=True)
class Outdated:
    """A model that would change if it were completed with the present runtimes and loader."""

    namespace: str
    name: str
    change: str


def configure(parser: options.Parser) -> None:
    parser.switch("--outdated", help="show the models that use an earlier runtime or loader, and what would change")
    parser.add_argument(
        "--roll-out",
        metavar="NAME",
        type=options.deployment_name,
        action="append",
        default=[],
        help="update this model to the current runtime and loader; can be repeated",
    )
    options.dry_run(parser)
    options.output(parser, "wide", "json", "yaml")
    options.all_namespaces(parser)
    options.namespace(parser)
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    if args.roll_out and (args.all_namespaces or args.outdated):
        raise UsageError("--roll-out cannot be combined with -A or --outdated.", "Use only one of them.")
    async with connect(args, streams) as cluster:
        namespace = None if args.all_namespaces else namespace_of(args, cluster)
        if args.roll_out:
            await _roll_out(args, streams, cluster, namespace or "")
            return 0
        context, own = await platform.context(cluster)
        deployments, _ = await cluster.list(DEPLOYMENTS, namespace, labels=f"{SERVED_LABEL}=true")
    outdated = [each for deployment in deployments for each in _outdated(deployment, context)]
    if args.output in ("json", "yaml"):
        listed = [_document(runtime, own) for runtime in sorted(context.runtimes, key=lambda runtime: runtime.name)]
        document = {"runtimes": listed, "outdated": [asdict(each) for each in outdated]}
        streams.stdout.write(documents.dump(document, args.output))
    elif args.outdated:
        _print_outdated(outdated, args, streams)
    else:
        streams.stdout.write(tables.render(_rows(context.runtimes, own, wide=args.output == "wide")))
        if outdated:
            who = "1 model is" if len(outdated) == 1 else f"{len(outdated)} models are"
            streams.note(f"{who} on an earlier runtime or loader: `{PROGRAM} runtimes --outdated{options.again(args)}`")
    return 0


def _outdated(deployment: JsonObject, context: ClusterContext) -> list[Outdated]:
    verdict, then = judge(deployment, context, deployment), renewed(deployment, context)
    unknown = any(warning.code == "CompletedAgain" for warning in verdict.warnings)
    now = deployment if unknown else verdict.deployment
    metadata = deployment["metadata"]
    if then.refused:
        change = f"it would be refused: {then.problems[0]}"
    elif now is None or then.deployment is None or now["spec"] == then.deployment["spec"]:
        return []
    else:
        change = _change(now["spec"]["template"]["spec"], then.deployment["spec"]["template"]["spec"])
    return [Outdated(metadata.get("namespace", ""), metadata["name"], change)]


def _change(before: JsonObject, after: JsonObject) -> str:
    """A summary of the change: the images."""
    old, new = _images(before), _images(after)
    images = [f"{name}: {old.get(name)} -> {image}" for name, image in new.items() if old.get(name) != image]
    return ", ".join(images) or "settings of the containers"


def _images(pod: JsonObject) -> dict[str, str]:
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    return {each["name"]: str(each.get("image", "")).rpartition("/")[2] for each in containers}


def _rows(found: tuple[Runtime, ...], own: frozenset[str], *, wide: bool) -> list[list[str]]:
    rows = [["NAME", "FORMATS", "PROTOCOLS", *(["PRIORITY", "ORIGIN", "IMAGE"] if wide else [])]]
    for runtime in sorted(found, key=lambda runtime: runtime.name):
        formats = ",".join(dict.fromkeys(each.name for each in runtime.formats))
        more = [str(runtime.priority), _origin(runtime, own), str(runtime.container["image"])]
        rows.append([runtime.name, formats, ",".join(runtime.protocols), *(more if wide else [])])
    return rows


def _origin(runtime: Runtime, own: frozenset[str]) -> str:
    return "cluster" if runtime.name in own else "kubectl-serve"


def _document(runtime: Runtime, own: frozenset[str]) -> JsonObject:
    return {
        "name": runtime.name,
        "formats": [str(each) for each in runtime.formats],
        "protocols": list(runtime.protocols),
        "priority": runtime.priority,
        "origin": _origin(runtime, own),
        "image": runtime.container["image"],
    }


def _print_outdated(outdated: list[Outdated], args: Namespace, streams: Streams) -> None:
    if not outdated:
        streams.note("No model would change.")
        return
    everywhere = args.all_namespaces
    rows = [["NAMESPACE", "NAME", "CHANGE"][not everywhere :]]
    rows += [[each.namespace, each.name, each.change][not everywhere :] for each in outdated]
    streams.stdout.write(tables.render(rows))
    streams.note(f"`{PROGRAM} runtimes --roll-out NAME` makes the change, as a new revision.")


async def _roll_out(args: Namespace, streams: Streams, cluster: Cluster, namespace: str) -> None:
    for name in args.roll_out:  # check all before the first write
        await lookup.find(cluster, namespace, name)
    patch = {"metadata": {"annotations": {COMPLETED_WITH: RENEW}}}
    for name in args.roll_out:
        if args.dry_run != "client":
            await cluster.merge(DEPLOYMENTS, namespace, name, patch, dry_run=args.dry_run == "server")
        streams.out(f"deployment.apps/{name} rolled out{options.DRY[args.dry_run]}")
