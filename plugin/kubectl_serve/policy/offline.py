"""``policy test``: judges the objects of files by the policies of files, without a cluster."""

from argparse import Namespace
from collections.abc import Sequence

from kubectl_serve.cli.streams import Streams
from kubectl_serve.errors import ServeError
from kubectl_serve.install import manifests
from kubectl_serve.io import documents
from kubectl_serve.policy import output
from serve_core.audit import dry_run
from serve_core.audit.dry_run import DryRun
from serve_core.base.json import JsonObject

_VERDICTS = ("Pass", "Audit", "Warn", "Deny", "Refused", "Excepted", "Exempt")


def test(args: Namespace, streams: Streams) -> int:
    found = [each.object for each in documents.read(args.filename, streams, recursive=args.recursive)]
    context = manifests.with_knative(manifests.with_runtimes(manifests.default_context(), found), found)
    objects = [each for each in found if not manifests.is_runtime(each)]
    tried = dry_run.run(objects, context, output.now(streams), namespace=args.namespace or "default")
    output.print_faults(tried, streams)
    output.print_results(tried.tried, streams, args, every_rule=True)
    if args.expect:
        return _compare(tried, args.expect, streams)
    if tried.skipped:
        streams.note(f"{tried.skipped} {'object' if tried.skipped == 1 else 'objects'} to which no policy applies")
    judged = any(each.refused or each.verdict.results for each in tried.tried)
    if not judged and not tried.faults:
        why, hint = _nothing_judged(found, tried, args.namespace)
        if not args.allow_empty:
            raise ServeError(why, hint)
        streams.note(f"{why[0].upper()}{why[1:]}")
    return 1 if tried.faults or any(each.outcome in ("Deny", "Refused") for each in tried.tried) else 0


def _nothing_judged(found: Sequence[JsonObject], tried: DryRun, namespace: str | None) -> tuple[str, str]:
    """Why no policy judged any object, and a hint: such a test would prove nothing."""
    kinds = [str(each.get("kind")) for each in found]
    allow = "--allow-empty accepts this."
    if "ServingPolicy" not in kinds:
        return "nothing was evaluated: the files contain no ServingPolicy.", f"Add its file with -f. {allow}"
    if not tried.tried:
        return "nothing was evaluated: the files contain no object to which a policy applies.", (
            f"Add the file of a Deployment, or of another object that serves models. {allow}"
        )
    places = sorted({each.namespace for each in tried.tried})
    default = "" if namespace else " (-n NAME sets the namespace of objects without one)"
    return (
        f"nothing was evaluated: no policy selects namespace {', '.join(places)}.",
        f"Compare spec.match of the policies{default}. {allow}",
    )


def _compare(tried: DryRun, file: str, streams: Streams) -> int:
    """Compare the verdicts with a file that maps an object, or an object and a rule, to its expected verdict."""
    read = documents.read([file], streams)
    expected = {str(key): value for each in read for key, value in each.object.items()}
    actual: dict[str, str] = {}
    for each in tried.tried:
        for title in (each.title, f"{each.namespace}/{each.title}"):
            actual[title] = each.outcome
            actual |= {f"{title} {result.by}": str(result.outcome) for result in each.verdict.results}
    differences = []
    for key, verdict in expected.items():
        if verdict not in _VERDICTS:
            raise ServeError(f'{file}: "{verdict}" is not a verdict.', f"Known: {', '.join(_VERDICTS)}.")
        if actual.get(key) != verdict:
            differences.append(f"{key}: expected {verdict}, got {actual.get(key, 'nothing')}")
    for difference in differences:
        streams.note(difference)
    streams.note(f"{len(expected) - len(differences)} of {len(expected)} verdicts as expected")
    return 1 if differences or tried.faults or not expected else 0
