"""``kubectl serve logs``: logs of the loader and the model server, of the newest revision's pods."""

import contextlib
from argparse import Namespace
from collections.abc import Callable

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect
from kubectl_serve.errors import ServeError
from kubectl_serve.status import lookup, model
from kubectl_serve.status.follow import run_together, watch_states
from kubectl_serve.status.progress import LoaderLines
from serve_core.base.constants import DEPLOYMENT_LABEL, LOADER_CONTAINER
from serve_core.base.json import JsonObject, value_at
from serve_core.workload.model_server import server_container
from serve_kube import errors
from serve_kube.resources import PODS

EXAMPLES = """\
  kubectl serve logs iris
  kubectl serve logs iris -c loader -f
  kubectl serve logs iris --previous --tail 50"""


def configure(parser: options.Parser) -> None:
    options.name(parser)
    parser.add_argument(
        "-c",
        "--container",
        metavar="NAME",
        help="loader, server, queue-proxy, or a container's name; default: server, or loader until it has finished",
    )
    parser.switch("-f", "--follow", help="stream new lines, and wait for a pod if there is none")
    parser.switch("-p", "--previous", help="show the logs of the previous container instance")
    parser.add_argument("--tail", metavar="LINES", type=int, help="number of lines to show from the end")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", metavar="FORMAT",
                        help="text, or json: the loader's lines unchanged")  # fmt: skip
    options.namespace(parser)
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    async with lookup.open_deployment(args, streams, connect) as (cluster, namespace, deployment):
        pods = await _pods(args, streams, cluster, namespace)
        placed = [pod for pod in pods if value_at(pod, "spec", "nodeName")]
        if not placed:  # the API server would return no lines
            raise ServeError(
                f"pod {model.name_of(pods[0])} has not started: it is not scheduled to a node.",
                f"`{PROGRAM} describe {args.name}{options.again(args)}` shows why.",
            )
        pods = placed
        container = _container(args.container, deployment, pods[0])
        if args.container is None and container == LOADER_CONTAINER:
            streams.note(
                "The model server has not started; these are the logs of the loader. -c server shows the server's."
            )
        with contextlib.ExitStack() as screens:
            prints = [_printer(args, streams, container, pod if len(pods) > 1 else None, screens) for pod in pods]
            copies = [
                _copy(args, cluster, namespace, model.name_of(pod), container, write)
                for pod, write in zip(pods, prints, strict=True)
            ]
            await run_together(*copies)
    return 0


async def _pods(args: Namespace, streams: Streams, cluster: Cluster, namespace: str) -> list[JsonObject]:
    """The pods of the newest revision; with -f, waits for the first."""
    labels = f"{DEPLOYMENT_LABEL}={args.name}"
    found, _ = await cluster.list(PODS, namespace, labels=labels)
    pods = model.newest_pods(found)
    if pods:
        return pods
    flags = options.again(args)
    if not args.follow:
        raise ServeError(
            f"{args.name} has no pods at the moment: it is scaled to zero, or has not started.",
            f"A request starts it (`{PROGRAM} predict {args.name}{flags} ...`); -f waits for its pods; "
            f"`{PROGRAM} describe {args.name}{flags}` shows why there are none.",
        )
    streams.note(f"{args.name} has no pods; waiting for one to start.")
    async for state in watch_states(cluster, PODS, namespace, labels=labels):
        pods = model.newest_pods(state.values())
        if pods and model.container_status(pods[0], LOADER_CONTAINER).get("state", {}).keys() - {"waiting"}:
            return pods
        if pods and model.pod_is_ready(pods[0]):
            return pods
    return pods


def _container(wanted: str | None, deployment: JsonObject, pod: JsonObject) -> str:
    spec = pod.get("spec") or {}
    server = server_container(model.containers_of(deployment)) or {}
    has_loader = any(each["name"] == LOADER_CONTAINER for each in spec.get("initContainers") or [])
    if wanted is None:
        loading = has_loader and model.state_of(pod, LOADER_CONTAINER)[1].get("exitCode") != 0
        return LOADER_CONTAINER if loading else str(server.get("name"))
    name = {"loader": LOADER_CONTAINER, "server": str(server.get("name"))}.get(wanted, wanted)
    known = [each["name"] for each in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]]
    if name not in known:
        if wanted == "loader":
            raise ServeError(
                "its pods have no loader: the model is mounted from a PersistentVolumeClaim.",
                "-c server shows its logs.",
            )
        raise ServeError(f"its pods have no container {wanted}.", f"They have: {', '.join(known)}.")
    return name


async def _copy(
    args: Namespace, cluster: Cluster, namespace: str, pod: str, container: str, write: Callable[[str], None]
) -> None:
    tail = args.tail if args.tail is not None and args.tail >= 0 else None  # kubectl writes -1 for all
    try:
        async for line in cluster.logs(
            namespace, pod, container, follow=args.follow, previous=args.previous, tail=tail
        ):
            write(line)
    except errors.InvalidError as error:
        # There is no reason code for these (kubelet, validateContainerLogStatus): the text is all there is.
        if "waiting to start" in error.message or "PodInitializing" in error.message:
            flags = options.again(args)
            why = f"`{PROGRAM} logs {args.name}{flags} -c loader` shows the loader."
            if container == LOADER_CONTAINER:
                why = f"`{PROGRAM} describe {args.name}{flags}` shows why."
            raise ServeError(f"container {container} of pod {pod} has not started.", why) from error
        if "previous terminated container" in error.message:
            raise ServeError(f"container {container} of pod {pod} has no previous instance.") from error
        raise


def _printer(
    args: Namespace, streams: Streams, container: str, pod: JsonObject | None, screens: contextlib.ExitStack
) -> Callable[[str], None]:
    """A function that prints one line, with the name of ``pod`` as prefix if there are several."""
    prefix = f"[{model.name_of(pod)}] " if pod else ""
    if container != LOADER_CONTAINER or args.output == "json":

        def write(line: str) -> None:
            streams.stdout.data(f"{prefix}{line}\n")
            streams.stdout.flush()

        return write
    live = streams.stdout.isatty() and not prefix
    return screens.enter_context(LoaderLines(streams.stdout, streams.width, live=live, prefix=prefix))
