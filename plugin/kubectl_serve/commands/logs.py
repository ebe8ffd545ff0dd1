"""``kubectl serve logs``: of the loader and the model server, on the pods of the newest revision."""

import asyncio
from argparse import Namespace
from collections.abc import Callable

from kubectl_serve import errors, options, view
from kubectl_serve.api import PODS, Api, Connect, namespace_of
from kubectl_serve.commands.get import served_deployment
from kubectl_serve.errors import ServeError
from kubectl_serve.follow import states
from kubectl_serve.streams import Streams
from kubectl_serve.verbs import PROGRAM
from serve_core.complete import server_container
from serve_core.json import JsonObject
from serve_core.names import DEPLOYMENT_LABEL, LOADER_CONTAINER

EXAMPLES = """\
  kubectl serve logs iris
  kubectl serve logs iris -c loader -f
  kubectl serve logs iris --previous --tail 50"""

_CLEAR = "\r\x1b[2K"


def configure(parser: options.Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the served Deployment")
    parser.add_argument(
        "-c",
        "--container",
        metavar="NAME",
        help="loader, server, queue-proxy, or a container's name; default: server, or loader until it has ended",
    )
    parser.switch("-f", "--follow", help="go on as lines come, and wait for a pod if there is none")
    parser.switch("-p", "--previous", help="of the container's run before the present one")
    parser.add_argument("--tail", metavar="LINES", type=int, help="only that many last lines")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", metavar="FORMAT",
                        help="text, or json: the loader's lines as they are")  # fmt: skip
    options.namespace(parser)
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    async with connect(args, streams) as cluster:
        namespace = namespace_of(args, cluster)
        deployment = await served_deployment(cluster, namespace, args.name)
        pods = await _pods(args, streams, cluster, namespace)
        container = _container(args.container, deployment, pods[0])
        if args.container is None and container == LOADER_CONTAINER:
            streams.note("The model server has not started; this is the loader. -c server shows the other.")
        prints = [_printer(args, streams, container, pod if len(pods) > 1 else None) for pod in pods]
        try:
            async with asyncio.TaskGroup() as tasks:
                for pod, write in zip(pods, prints, strict=True):
                    tasks.create_task(_copy(args, cluster, namespace, view.name_of(pod), container, write))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
    return 0


async def _pods(args: Namespace, streams: Streams, cluster: Api, namespace: str) -> list[JsonObject]:
    """The pods of the newest revision; with -f, as soon as there are some."""
    labels = f"{DEPLOYMENT_LABEL}={args.name}"
    found, _ = await cluster.list(PODS, namespace, labels=labels)
    pods = view.newest_pods(found)
    if pods:
        return pods
    flags = options.again(args)
    if not args.follow:
        raise ServeError(
            f"{args.name} has no pods at the moment: it is scaled to zero, or has not started.",
            f"A request wakes it (`{PROGRAM} predict {args.name}{flags} ...`); -f waits for its pods; "
            f"`{PROGRAM} describe {args.name}{flags}` shows why there are none.",
        )
    streams.note(f"{args.name} has no pods; waiting for one to start.")
    async for state in states(cluster, PODS, namespace, labels=labels):
        pods = view.newest_pods(state.values())
        if pods and view.container_status(pods[0], LOADER_CONTAINER).get("state", {}).keys() - {"waiting"}:
            return pods
        if pods and view.pod_is_ready(pods[0]):
            return pods
    return pods


def _container(wanted: str | None, deployment: JsonObject, pod: JsonObject) -> str:
    spec = pod["spec"]
    server = server_container(deployment["spec"]["template"]["spec"].get("containers") or []) or {}
    has_loader = any(each["name"] == LOADER_CONTAINER for each in spec.get("initContainers") or [])
    if wanted is None:
        loading = has_loader and view.state_of(pod, LOADER_CONTAINER)[1].get("exitCode") != 0
        return LOADER_CONTAINER if loading else str(server.get("name"))
    name = {"loader": LOADER_CONTAINER, "server": str(server.get("name"))}.get(wanted, wanted)
    known = [each["name"] for each in [*(spec.get("initContainers") or []), *spec["containers"]]]
    if name not in known:
        if wanted == "loader":
            raise ServeError("its pods have no loader: the model is mounted from a claim.", "-c server shows its logs.")
        raise ServeError(f"its pods have no container {wanted}.", f"They have: {', '.join(known)}.")
    return name


async def _copy(
    args: Namespace, cluster: Api, namespace: str, pod: str, container: str, write: Callable[[str], None]
) -> None:
    try:
        async for line in cluster.logs(
            namespace, pod, container, follow=args.follow, previous=args.previous, tail=args.tail
        ):
            write(line)
    except errors.InvalidError as error:
        if "waiting to start" in error.sentence or "PodInitializing" in error.sentence:
            raise ServeError(
                f"container {container} of pod {pod} has not started.",
                f"`{PROGRAM} logs {args.name}{options.again(args)} -c loader` shows the loader.",
            ) from error
        if "previous terminated container" in error.sentence:
            raise ServeError(f"container {container} of pod {pod} has had no run before this one.") from error
        raise


def _printer(args: Namespace, streams: Streams, container: str, pod: JsonObject | None) -> Callable[[str], None]:
    prefix = f"[{view.name_of(pod)}] " if pod else ""
    if container != LOADER_CONTAINER or args.output == "json":

        def write(line: str) -> None:
            streams.out(prefix + line)
            streams.stdout.flush()

        return write
    return _LoaderLines(streams, prefix, live=streams.stdout.isatty() and not prefix)


class _LoaderLines:
    """The loader's lines for a person: its progress as one line that grows, where that is possible."""

    def __init__(self, streams: Streams, prefix: str, *, live: bool) -> None:
        self._streams = streams
        self._prefix = prefix
        self._live = live
        self._open = False

    def __call__(self, line: str) -> None:
        words = view.loader_words(line)
        text = view.loader_line(words) if words else line
        moving = self._live and words.get("event") == "progress"
        start = _CLEAR if self._open else ""
        if moving:
            text = _bar(words) + text
        self._streams.stdout.write(f"{start}{self._prefix}{text}" + ("" if moving else "\n"))
        self._streams.stdout.flush()
        self._open = moving


def _bar(words: JsonObject) -> str:
    done, total = words.get("bytes"), words.get("total")
    if not isinstance(done, int) or not isinstance(total, int) or total <= 0:
        return ""
    filled = min(20 * done // total, 20)
    return f"[{'#' * filled}{' ' * (20 - filled)}] "
