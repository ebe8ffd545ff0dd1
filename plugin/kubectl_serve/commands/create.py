"""``kubectl serve create``: create an annotated Deployment, and wait until its model answers."""

import argparse
import asyncio
import re
from argparse import Namespace
from typing import NoReturn

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect, namespace_of
from kubectl_serve.errors import ReportedError, ServeError, UsageError
from kubectl_serve.install import manifests
from kubectl_serve.io import documents
from kubectl_serve.status import lookup, model
from kubectl_serve.status.follow import Follower, WaitPolicy, wait_for_end
from kubectl_serve.status.progress import Progress
from serve_core.admission.decide import judge
from serve_core.api import annotations, runtimes, serving_spec
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject
from serve_kube import errors
from serve_kube.resources import DEPLOYMENTS

EXAMPLES = """\
  kubectl serve create iris --model s3://models/iris/model.joblib
  kubectl serve create iris --model s3://models/iris --format sklearn --scale 1..5 --credentials store -l team=research
  kubectl serve create iris --model https://example.com/model.joblib --pin
  kubectl serve create iris --model pvc://models/iris/model.joblib --dry-run -o yaml > iris.yaml"""

WAIT_POLICY = WaitPolicy()

_ASKED = tuple(each for each in annotations.USER if each.key != annotations.PIN)
"""Without the annotation ``pin``: a new Deployment has no revision. The flag --pin is for the model's digest."""

_CLUSTER_KNOWS_BETTER = frozenset({"UnknownRuntime", "NoRuntime", "FormatUnknown", "FeatureDisabled", "TimeoutTooLong"})
"""Refusals that depend on the cluster's installation: only its webhook knows."""


def configure(parser: options.Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the Deployment")
    asked = parser.add_argument_group("settings of the model; each flag sets an annotation kubectl-serve.dev/...")
    for annotation in _ASKED:
        meaning = f"{annotation.meaning} Values: {annotation.values}.".replace("%", "%%")
        asked.add_argument(
            f"--{annotation.name}",
            dest=annotation.key,
            metavar=_metavar(annotation.name),
            required=annotation.key == annotations.MODEL,
            help=meaning,
        )
    parser.add_argument(
        "-l",
        "--labels",
        metavar="KEY=VALUE,...",
        type=_labels,
        default={},
        help="labels of the Deployment, separated by commas; its Knative Service gets them too",
    )
    parser.switch(
        "--pin",
        help="read the model and set its digest: the loader then rejects any other content. Store variables, such as "
        "AWS_ENDPOINT_URL, take precedence over the Secret of --credentials",
    )
    options.credentials_dir(parser)
    options.dry_run(parser)
    options.output(parser, "yaml", "json", "name")
    parser.switch("--wait", default=True, help="wait until the model is ready (the default); --no-wait does not wait")
    # --timeout is the flag of the annotation for requests.
    parser.add_argument(
        "--wait-timeout",
        metavar="TIME",
        type=options.duration,
        default=600.0,
        help="timeout for the model to become ready (default 10m)",
    )
    options.namespace(parser)
    options.connection(parser)


def _labels(text: str) -> dict[str, str]:
    """The syntax of ``kubectl run --labels``. The API server checks the labels themselves. Raises ValueError."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(key and separator for key, separator, _ in pairs):
        raise argparse.ArgumentTypeError(f'"{text}" is not KEY=VALUE, or several of them separated by commas')
    return {key: value for key, _, value in pairs}


def _metavar(name: str) -> str:
    metavars = {"model": "URI", "digest": "sha256:...", "files": "PATTERNS", "credentials": "SECRET", "mount": "PATH"}
    return metavars.get(name, name.upper())


def prepare(args: Namespace, streams: Streams, connect: Connect) -> None:
    """Refuse what no cluster accepts; with --pin, compute the model's digest."""
    if args.pin and vars(args)[annotations.DIGEST] is not None:
        raise UsageError("--pin and --digest cannot be combined: both set the digest.", "Use only one of them.")
    _judge(_manifest(args), streams, offline=args.dry_run == "client")
    if args.pin:
        from kubectl_serve.digest import compute

        asked = vars(args)
        # --credentials is for the loader: its endpoint may be inside the cluster and unreachable from here.
        secret = None if compute.has_store_settings(streams.environment) else asked[annotations.CREDENTIALS]
        spec, _ = serving_spec.read(_manifest(args)["metadata"]["annotations"])
        files = None if spec is None else runtimes.files_of(spec)
        found = compute.digest_of(asked[annotations.MODEL], files, secret, args, streams, connect)
        vars(args)[annotations.DIGEST] = found.digest
        streams.note(f"pinned to {found.digest}")


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    manifest = _manifest(args)
    if args.dry_run == "client":
        _print(manifest, args, streams, "created (dry run)")
        return 0
    async with connect(args, streams) as cluster:
        namespace = namespace_of(args, cluster)
        manifest["metadata"]["namespace"] = namespace
        created = await _create(cluster, manifest, args, streams)
        if not model.is_served(created):
            left = "" if args.dry_run == "server" else f" (Deployment {args.name} is not changed)"
            raise lookup.not_installed(left)
        if args.dry_run == "server":
            _print(created, args, streams, "created (server dry run)")
            return 0
        if not args.wait:
            _print(created, args, streams, "created")
            return 0
        deployment = await _wait(cluster, namespace, args, streams)
        is_registered = model.is_registered(deployment)
        _print(deployment, args, streams, "registered, not started" if is_registered else "served")
        starts = ", which starts it" if is_registered else ""
        streams.note(f"Next: {PROGRAM} predict {args.name}{options.again(args)} '[[...]]'{starts}")
    return 0


def _manifest(args: Namespace) -> JsonObject:
    asked = {each.key: vars(args)[each.key] for each in _ASKED}
    metadata: JsonObject = {"name": args.name}
    if args.namespace:
        metadata["namespace"] = args.namespace
    if args.labels:
        metadata["labels"] = dict(args.labels)
    metadata["annotations"] = {key: value for key, value in asked.items() if value is not None}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}


def _judge(manifest: JsonObject, streams: Streams, *, offline: bool) -> None:
    """Refuse what no cluster accepts, with the webhook's messages."""
    problems = judge(manifest, manifests.default_context()).problems
    if not offline:
        problems = tuple(problem for problem in problems if problem.code not in _CLUSTER_KNOWS_BETTER)
    if problems:
        _print_refusal(manifest, "\n".join(map(str, problems)), streams)


def _print_refusal(manifest: JsonObject, problems: str, streams: Streams) -> NoReturn:
    streams.error(f"deployment.apps/{model.name_of(manifest)} is refused:")
    streams.note(_by_flags(problems))
    raise ReportedError


_KEYS = re.compile(rf"(?:metadata\.annotations\[)?{re.escape(PREFIX)}([a-z-]+)\]?")
_NAMES = frozenset(each.name for each in _ASKED)


def _by_flags(text: str) -> str:
    """The webhook's message with flags instead of annotations."""
    return _KEYS.sub(lambda found: f"--{found[1]}" if found[1] in _NAMES else found[0], text)


async def _create(cluster: Cluster, manifest: JsonObject, args: Namespace, streams: Streams) -> JsonObject:
    name, flags = args.name, options.again(args)
    try:
        return await cluster.create(DEPLOYMENTS, manifest, dry_run=args.dry_run == "server")
    except errors.AlreadyExistsError as error:
        try:
            there = await cluster.get(DEPLOYMENTS, manifest["metadata"]["namespace"], name)
        except (errors.ForbiddenError, errors.NotFoundError):
            there = {}
        hint = f"`kubectl annotate deployment {name}{flags} {annotations.MODEL}=URI` serves a model with it."
        if model.is_served(there):
            hint = (
                f"Change what it serves with `kubectl annotate deployment {name}{flags} --overwrite "
                f"{annotations.MODEL}=URI`, or remove it with `{PROGRAM} delete {name}{flags}`."
            )
        raise ServeError(f"Deployment {name} already exists.", hint) from error
    except errors.DeniedError as error:
        _print_refusal(manifest, error.denial, streams)
    except errors.InvalidError as error:
        if lookup.is_uncompleted(error):
            raise lookup.not_installed() from error
        raise


async def _wait(cluster: Cluster, namespace: str, args: Namespace, streams: Streams) -> JsonObject:
    """Show progress until the model answers; return the Deployment. Raises ServeError if it fails."""
    async with Follower(cluster, namespace, args.name) as follower:
        try:
            with Progress(streams) as progress:
                end = await wait_for_end(follower, args.wait_timeout, WAIT_POLICY, progress)
        except asyncio.CancelledError:
            streams.note(
                f"The Deployment is kept; `{PROGRAM} get {args.name}{options.again(args)} -w` waits until it is ready."
            )
            raise
        snapshot = await follower.snapshot(0)
    describe = f"`{PROGRAM} describe {args.name}{options.again(args)}`"
    see = f"{describe} shows details; the Deployment is kept and keeps retrying."
    if end is None:
        raise ServeError(
            f"{args.name} is not ready after {args.wait_timeout:.0f} s: {_last(snapshot)}.",
            f"--wait-timeout sets a longer wait. {see}",
        )
    if not end.ready or snapshot.deployment is None:
        raise ServeError(f"{args.name} is not ready: {end.code}: {end.message}", see)
    return snapshot.deployment


def _last(snapshot: model.ModelSnapshot) -> str:
    state = model.readiness(snapshot.deployment) if snapshot.deployment else None
    return f"{state.reason}: {state.message.rstrip('.')}" if state and state.reason else "its state is unknown"


def _print(deployment: JsonObject, args: Namespace, streams: Streams, done: str) -> None:
    if args.output in ("json", "yaml"):
        streams.stdout.write(documents.dump(deployment, args.output))
    elif args.output == "name":
        streams.out(f"deployment.apps/{args.name}")
    else:
        streams.out(f"deployment.apps/{args.name} {done}")
    streams.stdout.flush()
