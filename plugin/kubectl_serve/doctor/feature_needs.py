"""``kubectl serve doctor -f``: which feature flags of Knative the Deployments of some files need."""

from argparse import Namespace
from collections.abc import Mapping

from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Connect
from kubectl_serve.doctor.evidence import Evidence
from kubectl_serve.doctor.server import install
from kubectl_serve.errors import ServeError, UsageError, for_user
from kubectl_serve.install import features, manifests, platform
from kubectl_serve.io import documents, tables
from serve_core.admission import feature_report
from serve_core.admission.feature_report import FeatureReport
from serve_core.api.loader_protocol import count_text
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.knative.features import ALLOWED, ENABLED, state
from serve_kube.errors import ApiError, ForbiddenError, NotFoundError
from serve_kube.resources import DEPLOYMENTS

_INSTALL = "kubectl serve install"


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    """Exit code 1 if a flag is not set as it must be."""
    objects = [document.object for document in args.documents]
    flags = next((each.get("data") or {} for each in objects if _is_flags(each)), None)
    context, command = manifests.default_context(), _INSTALL
    if flags is None:
        context, flags, command = await _of_cluster(args, streams, connect)
    context = manifests.with_knative(manifests.with_runtimes(context, objects), objects)
    deployments = [each for each in args.documents if each.object.get("kind") == "Deployment"]
    report = feature_report.of(((documents.title(each), each.object) for each in deployments), context)
    if not report.judged:
        raise ServeError(
            f"no Deployment in {', '.join(args.filename)} has a model, or runs a model server that is known.",
            "Add the annotation kubectl-serve.dev/model to one.",
        )
    missing = report.missing(flags or {})
    fix = f"{command} --knative-features {','.join(map(_short, missing))}" if missing else ""
    if args.output:
        streams.stdout.write(documents.dump(_document(report, flags, missing, fix), args.output))
    else:
        _print(report, flags, fix, streams)
    return 1 if missing and flags is not None else 0


async def _of_cluster(
    args: Namespace, streams: Streams, connect: Connect
) -> tuple[ClusterContext, Mapping[str, str] | None, str]:
    """The cluster's context and flags, and the command that installs again with its images. What cannot be seen is as
    an installation of this version has it, and the flags are ``None``."""
    context, flags, command = manifests.default_context(), None, _INSTALL
    try:
        async with connect(args, streams) as cluster:
            flags = features.data_of(await features.read(cluster))
            server = await cluster.get(DEPLOYMENTS, NAMESPACE, "kubectl-serve")
            command = install(Evidence(streams.now(), "", server=server))
            context, _ = await platform.context(cluster)
    except UsageError:
        raise
    except (NotFoundError, ForbiddenError):
        pass  # not installed yet, or this user cannot see it
    except (ServeError, ApiError) as error:
        if flags is None:
            streams.note(f"Without a cluster: {for_user(error).sentence}")
    return context, flags, command


def _is_flags(manifest: JsonObject) -> bool:
    return manifest.get("kind") == "ConfigMap" and value_at(manifest, "metadata", "name") == features.CONFIG_MAP


def _short(flag: str) -> str:
    return flag.removeprefix("kubernetes.")


def _document(
    report: FeatureReport, flags: Mapping[str, str] | None, missing: tuple[str, ...], fix: str
) -> dict[str, object]:
    found: dict[str, object] = {
        "deployments": len(report.judged),
        "features": [
            {
                "flag": need.flag,
                "needs": ENABLED if need.exact else ALLOWED,
                **({} if flags is None else {"state": state(flags, need.flag)}),
                "deployments": list(users),
            }
            for need, users in report.needs.items()
        ],
        "missing": list(missing),
        "refused": list(report.refused),
        "passedOver": report.passed_over,
    }
    return found | ({"fix": fix} if fix else {})


def _print(report: FeatureReport, flags: Mapping[str, str] | None, fix: str, streams: Streams) -> None:
    rows = [["FLAG", "DEPLOYMENTS", "STATE"]]
    for need, users in report.needs.items():
        rows.append([need.flag, str(len(users)), tables.UNKNOWN if flags is None else state(flags, need.flag)])
    if report.needs:
        streams.stdout.write(tables.render(rows))
    if fix:
        streams.out(f"fix: {fix}")
    streams.note(f"{count_text(len(report.judged), 'Deployment')} judged")
    if report.refused:
        count = count_text(len(report.refused), "Deployment")
        streams.note(
            f"{count} refused for other reasons, which `kubectl serve render -f` shows. They can need more flags:"
        )
        for title in report.refused:
            streams.note(f"  {title}")
    if report.passed_over:
        streams.note(f"{count_text(report.passed_over, 'Deployment')} without a model passed over")
