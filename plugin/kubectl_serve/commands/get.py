"""``kubectl serve get``: the served models as a table, once or with -w after each change."""

import asyncio
from argparse import Namespace
from collections.abc import Sequence

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect, namespace_of, visible
from kubectl_serve.errors import ServeError, UsageError
from kubectl_serve.io import documents, tables
from kubectl_serve.status import lookup, model
from kubectl_serve.status.follow import Follower, State, WaitPolicy, run_together, wait_for_end, watch_states
from kubectl_serve.status.model import ModelSnapshot, ModelStatus
from serve_core.base.constants import DEPLOYMENT_LABEL, REGISTERED, SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_core.knative.name_conflict import service_name
from serve_kube import errors
from serve_kube.resources import DEPLOYMENTS, KNATIVE_SERVICES, PODS

EXAMPLES = """\
  kubectl serve get
  kubectl serve get iris -w
  kubectl serve get -A -o json"""

WAIT_POLICY = WaitPolicy()
_SERVED = f"{SERVED_LABEL}=true"
_SHORTEST_MODEL = 16
"""Minimum characters of a model's URI, on any width."""
_FOR_EVER = 366 * 86400.0


def configure(parser: options.Parser) -> None:
    parser.add_argument(
        "names", metavar="NAME", nargs="*", type=options.deployment_name, help="names of served Deployments"
    )
    options.output(parser, "wide", "json", "yaml", "name", "url")
    parser.switch("-w", "--watch", help="watch for changes; with one NAME, until it is ready or has failed")
    options.all_namespaces(parser)
    options.selector(parser)
    options.namespace(parser)
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    if args.names and (args.all_namespaces or args.selector):
        raise UsageError("NAME cannot be combined with -A or -l.", "Use only one of them.")
    if args.watch and args.output not in (None, "wide"):
        raise UsageError(f"-w cannot be combined with -o {args.output}.", "Remove -w or -o.")
    async with connect(args, streams) as cluster:
        namespace = None if args.all_namespaces else namespace_of(args, cluster)
        if args.watch:
            return await _watch(args, streams, cluster, namespace)
        missing: list[ServeError] = []
        models = await _models(args, streams, cluster, namespace, missing)
    if not models and missing:
        return _report(missing, streams)
    if not models and args.output in (None, "wide"):
        streams.note(
            "No served models found." if namespace is None else f"No served models found in {namespace} namespace."
        )
        return 0
    _print(models, args, streams)
    return _report(missing, streams)


def _report(missing: Sequence[ServeError], streams: Streams) -> int:
    """Report names that do not exist after the table, as kubectl does."""
    for error in missing:
        streams.error(error.sentence, error.hint)
    return 1 if missing else 0


async def _models(
    args: Namespace, streams: Streams, cluster: Cluster, namespace: str | None, missing: list[ServeError]
) -> list[ModelStatus]:
    deployments = await _deployments(args, cluster, namespace, missing)
    unseen: set[str] = set()
    pods = await visible(cluster, PODS, namespace, labels=DEPLOYMENT_LABEL, unseen=unseen)
    if unseen and deployments:
        streams.note("You are not allowed to see pods: the number of replicas is unknown and shown as 0.")
    services: dict[tuple[str, str], JsonObject] = {}
    if args.output in ("wide", "json", "yaml"):
        services = await _services(cluster, namespace)
    return [
        model.status_of(each, pods, services.get((each["metadata"].get("namespace", ""), service_name(each))))
        for each in deployments
    ]


async def _deployments(
    args: Namespace, cluster: Cluster, namespace: str | None, missing: list[ServeError]
) -> list[JsonObject]:
    """The served Deployments that the flags choose; ``missing`` gets an error for each name that is not there."""
    if not args.names:
        labels = ",".join(part for part in (_SERVED, args.selector) if part)
        return (await cluster.list(DEPLOYMENTS, namespace, labels=labels))[0]
    found = []
    for name in args.names:
        try:
            found.append(await lookup.find(cluster, namespace or "", name))
        except ServeError as error:
            missing.append(error)
    return found


async def _services(cluster: Cluster, namespace: str | None) -> dict[tuple[str, str], JsonObject]:
    try:
        found, _ = await cluster.list(KNATIVE_SERVICES, namespace, labels=DEPLOYMENT_LABEL)
    except (errors.ForbiddenError, errors.NotFoundError):
        return {}
    return {(each["metadata"]["namespace"], each["metadata"]["name"]): each for each in found}


def _print(models: list[ModelStatus], args: Namespace, streams: Streams) -> None:
    if args.output in ("json", "yaml"):
        items = [served.as_json() for served in models]
        document: JsonObject = items[0] if len(args.names) == 1 else {"items": items}
        streams.stdout.write(documents.dump(document, args.output))
    elif args.output == "name":
        for served in models:
            streams.out(f"deployment.apps/{served.name}")
    elif args.output == "url":
        _print_urls(models, streams)
    else:
        streams.stdout.write(tables.render(_table(models, args, streams)))
        if registered := sum(served.reason == REGISTERED for served in models):
            streams.stdout.flush()
            streams.note(f"{registered} of {len(models)} not started: the first request to each starts it.")


def _print_urls(models: list[ModelStatus], streams: Streams) -> None:
    for served in models:
        if served.url:
            streams.out(served.url)
    without = [served.name for served in models if not served.url]
    if without:
        raise ServeError(f"no URL yet: {', '.join(without)}.", f"`{PROGRAM} get` shows whether they are ready.")


def _table(models: Sequence[ModelStatus], args: Namespace, streams: Streams) -> list[list[str]]:
    """Headings and rows. On a terminal, except with ``-o wide``, the model's URI is cut so that a row fits."""
    wide, namespaces, now = args.output == "wide", args.all_namespaces, streams.now()
    headings = ["NAME", "READY", "REPLICAS", "MODEL", "URL"]
    reasons = wide or args.watch or any(served.ready != "True" for served in models)
    headings += ["REASON"] if reasons else []
    headings += ["REVISION", "TRAFFIC", "FORMAT", "IMAGE"] if wide else []
    headings = (["NAMESPACE"] if namespaces else []) + [*headings, "AGE"]
    rows = [_row(served, now, wide=wide, reasons=reasons, namespaces=namespaces) for served in models]
    if not wide and rows and streams.stdout.isatty():
        column = headings.index("MODEL")
        widths = [max(len(row[index]) for row in [headings, *rows]) for index in range(len(headings))]
        excess = sum(widths) + 2 * (len(widths) - 1) - streams.width
        if excess > 0:
            room = max(widths[column] - excess, _SHORTEST_MODEL)
            cells = tables.distinct([row[column] for row in rows], room)
            rows = [[*row[:column], cell, *row[column + 1 :]] for row, cell in zip(rows, cells, strict=True)]
    return [headings, *rows]


def _row(served: ModelStatus, now: float, *, wide: bool, reasons: bool, namespaces: bool) -> list[str]:
    row = [served.namespace] if namespaces else []
    row += [served.name, served.ready, str(served.replicas), served.model or tables.NONE, served.url or tables.NONE]
    row += [served.reason or tables.NONE] if reasons else []
    if wide:
        row += [
            served.revision or tables.NONE,
            ",".join(f"{share.revision}={share.percent}%" for share in served.traffic) or tables.NONE,
            served.format or tables.NONE,
            served.image or tables.NONE,
        ]
    return [*row, tables.age_text(served.created, now)]


async def _watch(args: Namespace, streams: Streams, cluster: Cluster, namespace: str | None) -> int:
    screen = _Screen(args, streams)
    if len(args.names) == 1:
        return await _watch_one(screen, cluster, namespace or "", args.names[0], options.again(args))
    labels = ",".join(part for part in (_SERVED, args.selector) if part)
    latest: dict[str, State] = {}
    changed = asyncio.Event()

    async def follow_deployments() -> None:
        async for state in watch_states(cluster, DEPLOYMENTS, namespace, labels=labels):
            latest["deployments"] = state
            changed.set()

    async def follow_pods() -> None:
        try:
            async for state in watch_states(cluster, PODS, namespace, labels=DEPLOYMENT_LABEL):
                latest["pods"] = state
                changed.set()
        except errors.ForbiddenError:
            latest["pods"] = {}
            changed.set()

    async def show() -> None:
        while True:
            await changed.wait()
            changed.clear()
            if len(latest) == 2:
                chosen = [
                    each
                    for (_, name), each in sorted(latest["deployments"].items())
                    if not args.names or name in args.names
                ]
                screen.show([model.status_of(each, latest["pods"].values()) for each in chosen])

    await run_together(follow_deployments(), follow_pods(), show())
    return 0


async def _watch_one(screen: "_Screen", cluster: Cluster, namespace: str, name: str, flags: str) -> int:
    await lookup.find(cluster, namespace, name)
    async with Follower(cluster, namespace, name) as follower:
        end = await wait_for_end(follower, _FOR_EVER, WAIT_POLICY, screen)
    if end is None or not end.ready:
        code, message = (end.code, end.message) if end else ("", "")
        raise ServeError(f"{name} is not ready: {code}: {message}", f"`{PROGRAM} describe {name}{flags}` shows more.")
    return 0


class _Screen:
    """The table of a watch. A terminal shows it in place; elsewhere, changed rows are appended."""

    def __init__(self, args: Namespace, streams: Streams) -> None:
        self._args = args
        self._streams = streams
        self._in_place = streams.stdout.isatty()
        self._lines = 0
        self._printed: dict[tuple[str, str], list[str]] = {}
        """The printed row of each model, without its age."""

    def __call__(self, snapshot: ModelSnapshot) -> None:
        if snapshot.deployment is not None:
            self.show([model.status_of(snapshot.deployment, snapshot.pods, snapshot.service)])

    def show(self, models: list[ModelStatus]) -> None:
        rows = _table(models, self._args, self._streams)[1:]
        now = {(served.namespace, served.name): row[:-1] for served, row in zip(models, rows, strict=True)}
        changed = [served for served in models if self._printed.get(key := (served.namespace, served.name)) != now[key]]
        gone = self._printed.keys() - now.keys()
        if not changed and not gone:
            return
        text = tables.render(_table(models if self._in_place else changed, self._args, self._streams))
        if self._in_place:
            text = "".join(_cut(line, self._streams.width) for line in text.splitlines())
            self._streams.stdout.control(f"\x1b[{self._lines}A\x1b[J" if self._lines else "")
            self._streams.stdout.write(text)
            self._lines = text.count("\n")
        elif changed:
            self._streams.stdout.write(text if not self._printed else text.partition("\n")[2])
        self._printed = now
        self._streams.stdout.flush()


def _cut(line: str, width: int) -> str:
    return (line if len(line) <= width else line[: width - 1] + "…") + "\n"
