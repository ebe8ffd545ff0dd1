"""``kubectl serve render``: what Deployments are rendered to, offline, with the webhook's messages."""

from argparse import Namespace
from dataclasses import replace

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.errors import ServeError
from kubectl_serve.install import manifests
from kubectl_serve.io import documents, lookalikes
from kubectl_serve.io.documents import Document
from kubectl_serve.status import model
from serve_core.admission.decide import Verdict, is_served, judge
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import quote
from serve_core.context import neighbours, services
from serve_core.context.cluster import ClusterContext

EXAMPLES = """\
  kubectl serve render -f iris.yaml
  kubectl serve render -f policies/ -f iris.yaml -n team-a
  kubectl serve create iris --model s3://models/iris --dry-run -o yaml | kubectl serve render -f -

The default is Knative's default configuration; to use a cluster's, pass its ConfigMaps:
  kubectl get configmap config-features config-defaults config-autoscaler -n knative-serving -o yaml > knative.yaml
  kubectl serve render -f knative.yaml -f claim.yaml"""

_IMAGES = f"Images are the defaults of this command; `{PROGRAM} runtimes -o wide` shows those of the cluster."


def configure(parser: options.Parser) -> None:
    options.files(parser)
    parser.add_argument(
        "--only", choices=("deployment", "service"), help="show only the Deployment, or only the Knative Service"
    )
    parser.switch("--reasons", help="explain choices and their reasons on standard error")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="namespace for objects without one")
    options.output(parser, "yaml", "json")


def run(args: Namespace, streams: Streams) -> int:
    found = documents.from_arguments(args, streams)
    context = _context([document.object for document in found])
    around = [documents.in_namespace(document.object, args.namespace) for document in found]
    context = replace(context, services=services.read_all(around), neighbours=neighbours.read(around))
    rendered: list[JsonObject] = []
    passed_over: list[Document] = []
    refused, completed_here = 0, False
    for document in found:
        if not _is_deployment(document.object):
            if not _is_context(document.object):
                passed_over.append(document)
            continue
        manifest = documents.in_namespace(document.object, args.namespace)
        # An object from the cluster is judged as an update: the server's own annotations stay.
        stored = value_at(manifest, "metadata", "uid") is not None
        verdict = judge(manifest, context, manifest if stored else None)
        if verdict.refused:
            refused += 1
            _print_refusal(document, verdict, streams)
        elif verdict.deployment is None or not is_served(verdict.deployment):
            passed_over.append(document)
            _print_reasons(document, verdict, streams, explain=False)
            refused += _report_lookalikes(document, streams)
        else:
            refused += _report_lookalikes(document, streams)
            _print_reasons(document, verdict, streams, explain=args.reasons)
            rendered += _chosen(verdict, args.only)
            completed_here = completed_here or not model.is_served(document.object)
    documents.report_ignored(passed_over, streams)
    denied = _report_denials([document.object for document in found], args, streams)
    if rendered and args.output == "json":
        streams.stdout.write(documents.to_json(rendered[0] if len(rendered) == 1 else documents.as_list(rendered)))
    elif rendered:
        streams.stdout.write(documents.to_yaml(rendered))
    if completed_here:
        streams.note(_IMAGES)
    return 1 if refused or denied else 0


def _report_lookalikes(document: Document, streams: Streams) -> int:
    """Report keys that look like those of kubectl-serve; returns their number."""
    title = documents.title(document)
    found = list(lookalikes.meant_for_us(document.object))
    for key, meant in found:
        streams.error(f"{title}: {quote(key)} is not a key of kubectl-serve.", f"Did you mean {meant}?")
    for key, meant in lookalikes.unprefixed(document.object):
        streams.note(f'Warning: {title}: the annotation "{key}" has no effect. Did you mean {meant}?')
    return len(found)


def _report_denials(found: list[JsonObject], args: Namespace, streams: Streams) -> bool:
    """Report what policies among the files deny, as ``policy test`` does. Returns whether there is a denial."""
    if not any(each.get("kind") == "ServingPolicy" for each in found):
        return False
    from datetime import UTC, datetime

    from serve_core.audit import dry_run

    now = datetime.fromtimestamp(streams.now(), UTC)
    context = _without_policies(found)
    tried = dry_run.run(found, context, now, namespace=args.namespace or "default")
    denied = [each for each in tried.tried if each.outcome == "Deny"]
    for each in denied:
        streams.error(f"{each.title} is denied:")
        for finding in (finding for result in each.verdict.results for finding in result.findings):
            streams.note(str(finding))
    return bool(denied)


def _without_policies(found: list[JsonObject]) -> ClusterContext:
    return manifests.with_knative(manifests.with_runtimes(manifests.default_context(), found), found)


def _context(found: list[JsonObject]) -> ClusterContext:
    """The default context, with the runtimes, Knative's configuration, and the policies' defaults and adoptions, of
    the files."""
    context = _without_policies(found)
    if not any(each.get("kind") == "ServingPolicy" for each in found):
        return context
    from serve_core.audit import dry_run

    tried = dry_run.read_documents(found, context)
    if tried.faults:
        title, fault = tried.faults[0]
        raise ServeError(f"{title}: {fault}", f"`{PROGRAM} policy test -f FILE` reports every fault of policies.")
    return tried.context


def _chosen(verdict: Verdict, only: str | None) -> list[JsonObject]:
    if only == "deployment":
        return [verdict.deployment] if verdict.deployment else []
    if only == "service":
        return [verdict.service] if verdict.service else []
    return [each for each in (verdict.deployment, verdict.service, *verdict.extras) if each]


def _is_context(manifest: JsonObject) -> bool:
    """Whether an object says how the Deployments of the files are rendered."""
    policy = manifest.get("kind") in ("ServingPolicy", "PolicyException")
    return policy or manifests.is_of_knative(manifest) or manifests.is_runtime(manifest)


def _is_deployment(manifest: JsonObject) -> bool:
    return manifest.get("kind") == "Deployment"


def _print_refusal(document: Document, verdict: Verdict, streams: Streams) -> None:
    streams.error(f"{documents.title(document)} is refused:")
    for problem in verdict.problems:
        streams.note(str(problem))


def _print_reasons(document: Document, verdict: Verdict, streams: Streams, *, explain: bool) -> None:
    for warning in verdict.warnings:
        streams.note(f"Warning: {documents.title(document)}: {warning}")
    if explain:
        for explanation in verdict.explanations:
            streams.note(f"{documents.title(document)}: {explanation}")
