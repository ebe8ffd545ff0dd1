"""``kubectl serve install``: apply the manifests in order, and wait until the webhook answers."""

import argparse
import asyncio
import contextlib
import re
import textwrap
from argparse import Namespace
from collections.abc import Mapping

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect
from kubectl_serve.errors import ServeError
from kubectl_serve.install import features, helm, manifests
from kubectl_serve.install.probe import probe
from kubectl_serve.install.resources import resource_of
from kubectl_serve.io import documents
from kubectl_serve.status import model
from kubectl_serve.status.follow import watch_states
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject, value_at
from serve_core.context import istio
from serve_core.context.cluster import REQUIRED_FEATURES
from serve_core.knative import features as knative_features
from serve_core.knative.features import ENABLED
from serve_kube import errors
from serve_kube.resources import DEFINITIONS, DEPLOYMENTS, NAMESPACES, PODS

_RECOMMENDED = ", ".join(flag.removeprefix("kubernetes.") for flag in knative_features.RECOMMENDED)
EXAMPLES = f"""\
  kubectl serve install
  kubectl serve install --registry registry.example.com/serving --tag 0.1.0
  kubectl serve install --knative-features recommended
  kubectl serve install --cache --cache-size 500Gi
  kubectl serve install --dry-run -o yaml > kubectl-serve.yaml

--knative-features recommended enables what Deployments of model servers usually need, and nothing that opens a node to
a pod. The flags apply to every Knative Service of the cluster:
{textwrap.fill(_RECOMMENDED, 116, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)}"""

FIELD_MANAGER = "kubectl-serve-install"
_CACHE_FEATURE = "podspec-volumes-csi"
_SERVER = "kubectl-serve"
_PROBE_PAUSE = 0.5
"""Seconds between two probes of the webhook: there is no event for its first answer."""
TROUBLE_PAUSE = 3.0
"""Seconds between two reads of why the server's pods do not start."""
_ON_THE_WAY = ("", "ContainerCreating", "PodInitializing")
"""Reasons to wait that pass without action."""


def configure(parser: options.Parser) -> None:
    parser.add_argument(
        "--registry", metavar="PREFIX", help=f"registry of the images (default {manifests.PREFIX}, a local build)"
    )
    parser.add_argument("--tag", metavar="TAG", help="tag of the server and loader images (default: this version)")
    parser.add_argument(
        "--knative-features",
        metavar="recommended|NAME,...",
        default="",
        help="enable these feature flags of Knative; `uninstall` reverts them",
    )
    cache = manifests.CacheSettings()
    parser.switch("--cache", help="install the node cache too, and enable the feature flag that its volumes need")
    parser.add_argument(
        "--cache-size",
        metavar="SIZE",
        type=_quantity,
        default=cache.size,
        help=f"limit of the node cache on each node (default {cache.size})",
    )
    parser.add_argument(
        "--cache-path",
        metavar="DIR",
        type=_folder,
        default=cache.path,
        help=f"folder of the node cache on each node (default {cache.path})",
    )
    parser.add_argument(
        "--cache-keep-free",
        metavar="SIZE",
        type=_quantity_or_share,
        default=cache.keep_free,
        help="what the node cache leaves free of each node's disk, such as 50Gi or 10%%"
        f" (default {cache.keep_free}%: more than kubelets require)",
    )
    parser.add_argument(
        "--kubelet-path",
        metavar="DIR",
        type=_folder,
        default=cache.kubelet,
        help=f"root folder of the kubelets, for the node cache (default {cache.kubelet})",
    )
    options.dry_run(parser)
    options.output(parser, "yaml", "json")
    parser.switch("--wait", default=True, help="wait until the webhook is ready (the default)")
    options.timeout(parser, "5m", "timeout of the wait")
    options.connection(parser)


def _quantity(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,5}[MGT]i", text, re.ASCII):
        raise argparse.ArgumentTypeError("it must be a quantity such as 100Gi")
    return text


def _quantity_or_share(text: str) -> str:
    if re.fullmatch(r"[1-9]?[0-9]%", text, re.ASCII):
        return text
    try:
        return _quantity(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError("it must be a quantity such as 50Gi, or a share such as 10%") from None


def _folder(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+", text, re.ASCII):
        raise argparse.ArgumentTypeError("it must be an absolute path, such as /var/lib/models")
    return text


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    flags = features.asked(args.knative_features)
    wanted = manifests.all_objects(args.registry, args.tag)
    if args.cache:
        flags = tuple(sorted({*flags, *features.asked(_CACHE_FEATURE)}))
        settings = manifests.CacheSettings(args.cache_size, args.cache_path, args.cache_keep_free, args.kubelet_path)
        wanted += manifests.cache_objects(settings, args.registry, args.tag)
    if args.dry_run == "client":
        _show_features(flags, args, streams)
        _show(wanted, args, streams)
        return 0
    async with connect(args, streams) as cluster:
        if release := await helm.find(cluster, _SERVER):
            raise helm.refusal(release, release.upgrade)
        await _check_knative(cluster)
        config_map = await features.read(cluster)
        _check_features({**features.data_of(config_map), **dict.fromkeys(flags, ENABLED)})
        await features.enable(cluster, config_map, flags, streams, dry_run=args.dry_run)
        if await _has_istio(cluster):
            wanted += manifests.istio_objects()
        for manifest in wanted:
            await _apply(cluster, manifest, streams, dry_run=args.dry_run == "server")
        if args.wait and args.dry_run == "none":
            await _wait(cluster, streams, args.timeout)
    return 0


def _show(wanted: list[JsonObject], args: Namespace, streams: Streams) -> None:
    if args.output == "yaml":
        streams.stdout.write(documents.to_yaml(wanted))
    elif args.output == "json":
        streams.stdout.write(documents.to_json(documents.as_list(wanted)))
    else:
        for manifest in wanted:
            streams.out(f"{_title(manifest)} applied (dry run)")


def _show_features(flags: tuple[str, ...], args: Namespace, streams: Streams) -> None:
    """Say which feature flags of Knative would be enabled: beside the manifests, which do not have them."""
    write = streams.note if args.output else streams.out
    for flag in flags:
        write(f"configmap/{features.CONFIG_MAP} {flag}: {ENABLED} (dry run)")


async def _check_knative(cluster: Cluster) -> None:
    """Raise ServeError if Knative is missing."""
    try:
        await cluster.get(DEFINITIONS, None, "services.serving.knative.dev")
    except errors.NotFoundError as error:
        raise ServeError(
            "Knative Serving is not installed in this cluster, and kubectl-serve needs it.",
            "Install it first: https://knative.dev/docs/install/",
        ) from error


def _check_features(present: Mapping[str, str]) -> None:
    """Raise ServeError if Knative is configured so that no model can be served."""
    missing = {key: value for key, value in REQUIRED_FEATURES.items() if knative_features.state(present, key) != value}
    if missing:
        flags = ",".join(f'"{key}":"{value}"' for key, value in missing.items())
        raise ServeError(
            f"Knative's feature flag {', '.join(missing)} is not enabled: the loader cannot run without it.",
            f"kubectl patch configmap/{features.CONFIG_MAP} -n {features.NAMESPACE} --type merge "
            f"-p '{{\"data\":{{{flags}}}}}'",
        )


async def _has_istio(cluster: Cluster) -> bool:
    try:
        await cluster.get(NAMESPACES, None, istio.NAMESPACE)
    except errors.NotFoundError:
        return False
    return True


def _title(manifest: JsonObject) -> str:
    return f"{resource_of(manifest).title}/{model.name_of(manifest)}"


async def _apply(cluster: Cluster, manifest: JsonObject, streams: Streams, *, dry_run: bool) -> None:
    """Apply one object and print whether it changed."""
    resource, metadata = resource_of(manifest), manifest["metadata"]
    try:
        before = await cluster.get(resource, metadata.get("namespace"), metadata["name"])
    except errors.NotFoundError:
        before = {}
    if dry_run and not before and resource.namespaced:
        # The namespace may exist only in the dry run; then objects in it cannot be tried.
        streams.out(f"{_title(manifest)} created (server dry run)")
        return
    after = await cluster.apply(resource, manifest, manager=FIELD_MANAGER, dry_run=dry_run)
    done = "configured" if before else "created"
    if before and _content(before) == _content(after):
        done = "unchanged"
    streams.out(f"{_title(manifest)} {done}" + (" (server dry run)" if dry_run else ""))
    streams.stdout.flush()


def _content(manifest: JsonObject) -> JsonObject:
    """An object without fields that change with every write, to compare it with a dry run."""
    moving = ("managedFields", "resourceVersion", "generation")
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in moving}
    return manifest | {"metadata": metadata}


async def _wait(cluster: Cluster, streams: Streams, seconds: float) -> None:
    streams.note("Waiting for the server ...")
    reporting = asyncio.create_task(_report_trouble(cluster, streams))
    try:
        async with asyncio.timeout(seconds):
            await _rolled_out(cluster)
            await _answers(cluster)
    except TimeoutError as error:
        raise ServeError(
            f"kubectl-serve is not ready after {seconds:.0f} s: {await _cause(cluster)}.",
            f"`kubectl get pods -n {NAMESPACE}` shows its pods; run the same command again to continue.",
        ) from error
    finally:
        reporting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reporting
    streams.note(f"kubectl-serve is ready. Next: {PROGRAM} create NAME --model URI")


async def _rolled_out(cluster: Cluster) -> None:
    """Wait until the server's Deployment is rolled out. Source: kubectl's rollout status."""
    async for state in watch_states(cluster, DEPLOYMENTS, NAMESPACE, fields=f"metadata.name={_SERVER}"):
        for deployment in state.values():
            status, wanted = deployment.get("status") or {}, (deployment.get("spec") or {}).get("replicas", 1)
            if status.get("observedGeneration") == deployment["metadata"].get("generation") and all(
                status.get(count, 0) == wanted for count in ("updatedReplicas", "availableReplicas", "replicas")
            ):
                return


async def _answers(cluster: Cluster) -> None:
    """Wait until the webhook completes a Deployment. Before, it is not called, or cannot be reached."""
    while True:
        if not await probe(cluster, "default"):
            return
        await asyncio.sleep(_PROBE_PAUSE)


async def _report_trouble(cluster: Cluster, streams: Streams) -> None:
    """Report why the server's pods do not start, before the time limit, if the user may read it."""
    said = ""
    while True:
        await asyncio.sleep(TROUBLE_PAUSE)
        try:
            trouble = _trouble(await _pods(cluster))
        except errors.ApiError:
            return
        if trouble != said and trouble.partition(":")[0] not in _ON_THE_WAY:
            streams.note(f"{trouble}.")
            said = trouble


async def _cause(cluster: Cluster) -> str:
    """Why the server's pods do not start, from their statuses."""
    pods = await _pods(cluster)
    unsaid = "its pods run, but the webhook does not complete Deployments" if pods else "it has no pods"
    return _trouble(pods) or unsaid


async def _pods(cluster: Cluster) -> list[JsonObject]:
    return (await cluster.list(PODS, NAMESPACE, labels=f"app.kubernetes.io/name={_SERVER}"))[0]


def _trouble(pods: list[JsonObject]) -> str:
    for pod in model.newest_pods(pods):
        scheduled = model.condition(pod, "PodScheduled")
        if scheduled.status == "False":
            return f"no node can run its pod: {scheduled.message.rstrip('.')}"
        for status in value_at(pod, "status", "containerStatuses") or []:
            waiting = (status.get("state") or {}).get("waiting")
            if waiting:
                said = f": {waiting['message']}" if waiting.get("message") else ""
                return f"{waiting.get('reason')}{said}".rstrip(".")
    return ""
