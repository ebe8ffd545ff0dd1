"""``kubectl serve doctor``: whether the cluster can serve models, and what to change if not."""

from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Connect, namespace_of
from kubectl_serve.doctor.finding import CheckResult, Status
from kubectl_serve.io import documents

if TYPE_CHECKING:
    from kubectl_serve.doctor.evidence import Evidence

EXAMPLES = """\
  kubectl serve doctor
  kubectl serve doctor -n team-a -o json
  kubectl serve doctor -R -f manifests/

With -f, it lists the feature flags of Knative that the Deployments of these files need, also without a cluster."""

_COLOURS = {Status.OK: "32", Status.WARNING: "33", Status.FAILED: "31", Status.SKIPPED: "2"}


def configure(parser: options.Parser) -> None:
    options.files(parser)
    options.output(parser, "json", "yaml")
    options.namespace(parser)
    options.connection(parser)


def prepare(args: Namespace, streams: Streams, _: Connect) -> None:
    """Read the files, or wait for standard input."""
    args.documents = documents.from_arguments(args, streams) if args.filename or args.recursive else []


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    if args.documents:
        from kubectl_serve.doctor import feature_needs

        return await feature_needs.run(args, streams, connect)
    from kubectl_serve.doctor import evidence

    async with connect(args, streams) as cluster:
        gathered = await evidence.gather(cluster, streams.now(), namespace_of(args, cluster))
    found = judge(gathered)
    if args.output:
        document = {
            "namespace": gathered.namespace,
            "ready": not _failed(found),
            "checks": [_as_json(each) for each in found],
        }
        streams.stdout.write(documents.dump(document, args.output))
    else:
        _print(found, gathered.namespace, streams)
    return 1 if _failed(found) else 0


def judge(evidence: "Evidence") -> list[CheckResult]:
    """All checks, in the order in which to fix them."""
    from kubectl_serve.doctor import mesh, platform, server

    return [*platform.checks(evidence), *server.checks(evidence), *mesh.checks(evidence)]


def _failed(found: Iterable[CheckResult]) -> bool:
    return any(each.verdict is Status.FAILED for each in found)


def _as_json(finding: CheckResult) -> dict[str, str]:
    said = {
        "check": finding.check,
        "verdict": str(finding.verdict),
        "reason": finding.reason,
        "fix": finding.fix,
    }
    return {key: value for key, value in said.items() if value}


def _print(found: list[CheckResult], namespace: str, streams: Streams) -> None:
    width = max(len(each.check) for each in found)
    for each in found:
        coloured = streams.colour and streams.stdout.isatty()
        streams.stdout.write(f"{each.verdict:<7}", _COLOURS[each.verdict] if coloured else "")
        streams.out(f"  {each.check:<{width}}  {each.reason}")
        if each.fix:
            streams.out(f"{'':<7}  {'':<{width}}  fix: {each.fix}")
    counts = {verdict: sum(each.verdict is verdict for each in found) for verdict in Status}
    totals = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    streams.note(f"{totals}; for models in namespace {namespace}")
