"""``kubectl serve policy``: policies tried offline, listed, explained, and held against what is served."""

from argparse import Namespace
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect, namespace_of, visible
from kubectl_serve.errors import ServeError, UsageError
from kubectl_serve.install import manifests, platform
from kubectl_serve.io import documents, tables
from kubectl_serve.io.tables import age_text
from serve_core.admission.decide import given_by_policies
from serve_core.api.loader_protocol import count_text
from serve_core.audit import dry_run
from serve_core.audit.dry_run import DryRun, DryRunObject
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject, value_at
from serve_core.policy.evaluate import RuleOutcome
from serve_core.subjects.build import subject_of
from serve_kube import errors
from serve_kube.resources import (
    CONFIGURATIONS,
    DEPLOYMENTS,
    DOMAIN_MAPPINGS,
    INFERENCE_SERVICES,
    KNATIVE_SERVICES,
    NAMESPACES,
    PODS,
    POLICIES,
    POLICY_EXCEPTIONS,
    REVISIONS,
    ROUTES,
    SERVING_RUNTIMES,
    TRAINED_MODELS,
)

EXAMPLES = """\
  kubectl serve policy test -f policies/ -f iris.yaml
  kubectl serve policy test -f policies/ -f iris.yaml --expect expected.yaml
  kubectl serve policy list
  kubectl serve policy explain iris
  kubectl serve policy audit -A
  kubectl serve policy audit -A -f stricter.yaml"""

_ACTIONS = {
    "test": "evaluate the policies and objects in files, offline, as admission does",
    "list": "list the cluster's policies and exceptions",
    "explain": "show the result of every policy for a served Deployment",
    "audit": "show what violates a policy now; with -f, what would violate those policies",
}
_USAGES = {
    "test": ("-f FILE", {"help", "filename", "recursive", "expect", "allow_empty", "output", "namespace"}),
    "list": ("", {"help", "output"}),
    "explain": ("NAME", {"help", "name", "output", "namespace"}),
    "audit": ("[-f FILE]", {"help", "filename", "recursive", "all", "output", "all_namespaces", "namespace"}),
}
"""What follows each action, and the flags that go with it."""
_JUDGED = (
    DEPLOYMENTS, SERVING_RUNTIMES, INFERENCE_SERVICES, TRAINED_MODELS,
    KNATIVE_SERVICES, CONFIGURATIONS, REVISIONS, ROUTES, DOMAIN_MAPPINGS, PODS,
)  # fmt: skip
_VERDICTS = ("Pass", "Audit", "Warn", "Deny", "Refused", "Excepted", "Exempt")


def configure(parser: options.Parser) -> None:
    actions = "; ".join(f"{name}: {text}" for name, text in _ACTIONS.items())
    parser.add_argument("action", metavar="ACTION", choices=tuple(_ACTIONS), help=actions)
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=options.deployment_name, help="with explain: the Deployment's name"
    )
    options.files(parser)
    parser.add_argument(
        "--expect", metavar="FILE", help="with test: file with the expected verdicts; exit 1 if one differs"
    )
    parser.switch("--allow-empty", help="with test: succeed even if no policy applies to any object")
    parser.switch("--all", help="also show rules that pass")
    options.output(parser, "json", "yaml")
    options.all_namespaces(parser)
    options.namespace(parser)
    options.connection(parser)


def help_of(parser: options.Parser, words: Sequence[str]) -> None:
    """Make the help that of the action among ``words``, if there is one."""
    action = next((word for word in words if word in _ACTIONS), None)
    if action is not None:
        operands, flags = _USAGES[action]
        parser.narrow(f"policy {action} {operands}", _ACTIONS[action], flags, f"policy {action}")


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    _check(args)
    if args.action == "test":
        return _test(args, streams)
    async with connect(args, streams) as cluster:
        if args.action == "list":
            return await _list(args, streams, cluster)
        if args.action == "explain":
            return await _explain(args, streams, cluster)
        return await _audit(args, streams, cluster)


def _check(args: Namespace) -> None:
    if args.action == "test" and args.name and not args.filename:
        raise UsageError(f'unexpected argument "{args.name}": -f is missing.', f"Write -f {args.name}.")
    if args.action == "test" and not args.filename:
        raise UsageError("-f is missing.", "Name a file, a directory, or - for standard input.")
    if args.filename and args.action not in ("test", "audit"):
        raise UsageError(f"-f cannot be combined with {args.action}.", "Remove it.")
    if args.expect and args.action != "test":
        raise UsageError(f"--expect cannot be combined with {args.action}.", "Remove it.")
    if (args.action == "explain") != (args.name is not None):
        raise UsageError(
            "explain needs the NAME of a Deployment." if args.name is None else f"{args.action} takes no NAME.",
            f"`{PROGRAM} policy --help` shows how.",
        )


def _test(args: Namespace, streams: Streams) -> int:
    found = [each.object for each in documents.read(args.filename, streams, recursive=args.recursive)]
    tried = dry_run.run(found, manifests.default_context(), _now(streams), namespace=args.namespace or "default")
    _tell_faults(tried, streams)
    _print(tried.tried, streams, args, every_rule=True)
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
    """Why no policy judged anything, and what to do: a test that tests nothing is none."""
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
    """Hold verdicts against a file that maps an object, or an object and a rule, to the verdict that is right."""
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


async def _list(args: Namespace, streams: Streams, cluster: Cluster) -> int:
    policies, exceptions = await _policies(cluster)
    if args.output:
        for each in (*policies, *exceptions):
            each["metadata"].pop("managedFields", None)
        streams.stdout.write(documents.written(documents.as_list([*policies, *exceptions]), args.output))
        return 0
    if not policies and not exceptions:
        streams.note("No policies found.")
        return 0
    rows = [["NAME", "ACTION", "RULES", "DEFAULTS", "ADOPTS", "EXCEPTIONS", "AGE"]]
    live = [each for each in exceptions if _text(each, "expires") > _stamp(streams)]
    count = Counter(_text(each, "policy") for each in live)
    for policy in policies:
        name = policy["metadata"]["name"]
        rules, defaults = str(len(_some(policy, "rules"))), str(len(_some(policy, "defaults")))
        adopts, left = "yes" if value_at(policy, "spec", "adopt") else "no", str(count[name])
        rows.append([name, _text(policy, "action") or "Deny", rules, defaults, adopts, left, _age(policy, streams)])
    streams.stdout.write(tables.render(rows))
    if exceptions:
        streams.out()
        rows = [["EXCEPTION", "POLICY", "RULES", "FOR", "EXPIRES", "TICKET", "AGE"]]
        for each in exceptions:
            about = f"{_text(each, 'match', 'namespace')}/{_text(each, 'match', 'name') or '*'}"
            expires = _text(each, "expires") + ("" if each in live else " (expired)")
            name, rules = each["metadata"]["name"], ",".join(map(str, _some(each, "rules")))
            of, ticket = _text(each, "policy"), _text(each, "ticket")
            rows.append([name, of, rules, about, expires, ticket, _age(each, streams)])
        streams.stdout.write(tables.render(rows))
    return 0


def _text(document: JsonObject, *steps: str) -> str:
    return str(value_at(document, "spec", *steps) or "")


def _some(document: JsonObject, field: str) -> Collection[object]:
    found = value_at(document, "spec", field)
    return found if isinstance(found, list | dict) else ()


async def _explain(args: Namespace, streams: Streams, cluster: Cluster) -> int:
    namespace = namespace_of(args, cluster)
    try:
        deployment = await cluster.get(DEPLOYMENTS, namespace, args.name)
    except errors.NotFoundError as error:
        raise ServeError(
            f"there is no Deployment {args.name} in namespace {namespace}.",
            f"`{PROGRAM} get -A` lists what is served.",
        ) from error
    policies, exceptions = await _policies(cluster)
    spaces = await visible(cluster, NAMESPACES, None)
    known, context = [*policies, *exceptions, *spaces], await platform.context_for_policies(cluster)
    found = dry_run.run([*known, deployment], context, _now(streams), stored=True)
    if not found.tried:
        raise ServeError(f"the Deployment {args.name} is not served.", "Policies apply to served Deployments.")
    _print(found.tried, streams, args, every_rule=True)
    if not args.output:
        given = given_by_policies(deployment, dry_run.read_documents(known, context, stored=True).context)
        for choice in given:
            streams.note(str(choice))
        if not found.tried[0].verdict.results and not given:
            streams.note("No policy applies to it.")
    return 0


async def _audit(args: Namespace, streams: Streams, cluster: Cluster) -> int:
    namespace = None if args.all_namespaces else namespace_of(args, cluster)
    policies, exceptions = await _policies(cluster)
    if args.filename:
        policies = [each.object for each in documents.read(args.filename, streams, recursive=args.recursive)]
        _tell_faults(dry_run.run(policies, manifests.default_context(), _now(streams)), streams)
    spaces = await visible(cluster, NAMESPACES, None)
    context = await platform.context_for_policies(cluster)
    served: list[JsonObject] = []

    def failed(document: JsonObject, error: Exception) -> None:
        at = "/".join(document["metadata"].get(key) or "-" for key in ("namespace", "name"))
        streams.note(f"{document['kind'].lower()} {at} was not evaluated: {type(error).__name__}. Report it.")

    def is_judged(document: JsonObject) -> bool:
        try:
            return subject_of(document, context) is not None
        except Exception as error:  # noqa: BLE001 - one object must not keep the others from being judged
            failed(document, error)
            return False

    for resource in _JUDGED:
        if resource is PODS and not context.sidecar_images:
            streams.note("pods are not evaluated: you are not allowed to see which images the platform adds to pods")
            continue
        try:
            async for page in cluster.pages(resource, namespace):
                served += filter(is_judged, page)
        except errors.ForbiddenError:
            streams.note(f"{resource.title} objects are not evaluated: you are not allowed to list them")
        except errors.NotFoundError:
            continue  # the cluster does not know it
    found = dry_run.run([*policies, *exceptions, *spaces, *served], context, _now(streams), stored=True, failed=failed)
    _print(found.tried, streams, args, every_rule=args.all)
    broken = [each for each in found.tried if each.outcome != "Pass"]
    streams.note(f"{count_text(len(found.tried), 'object')} evaluated, {len(broken)} with violations")
    return 1 if any(each.outcome == "Deny" for each in found.tried) else 0


async def _policies(cluster: Cluster) -> tuple[list[JsonObject], list[JsonObject]]:
    try:
        policies, _ = await cluster.list(POLICIES, None)
        exceptions, _ = await cluster.list(POLICY_EXCEPTIONS, NAMESPACE)
    except errors.NotFoundError as error:
        raise ServeError(
            "the cluster has no policies: their CRDs are missing.", f"`{PROGRAM} install` adds them."
        ) from error
    return policies, exceptions


def _tell_faults(tried: DryRun, streams: Streams) -> None:
    for title, fault in tried.faults:
        streams.error(f"{title}: {fault}")
    for title, warning in tried.warnings:
        streams.note(f"Warning: {title}: {warning}")


def _print(tried: Sequence[DryRunObject], streams: Streams, args: Namespace, *, every_rule: bool) -> None:
    if args.output:
        streams.stdout.write(documents.written({"items": [_as_json(each) for each in tried]}, args.output))
        return
    rows = [["OBJECT", "NAMESPACE", "RULE", "VERDICT"]]
    for each in tried:
        if each.refused:
            rows.append([each.title, each.namespace, "<none>", "Refused"])
        rows += [
            [each.title, each.namespace, result.by, str(result.outcome)]
            for result in each.verdict.results
            if every_rule or result.findings
        ]
    if len(rows) > 1:
        streams.stdout.write(tables.render(rows))
        streams.stdout.flush()
    for each in tried:
        for refusal in each.refused:
            streams.note(f"{each.title}: {refusal}")
        for result in each.verdict.results:
            mark = "" if result.outcome is RuleOutcome.DENY else f"{result.outcome}: "
            for finding in [result.excuse] if result.excuse else result.findings:
                streams.note(f"{mark}{each.title}: {finding}")


def _as_json(each: DryRunObject) -> JsonObject:
    def findings(found: Sequence[object]) -> list[JsonObject]:
        return [vars(problem) for problem in found]

    return {
        "object": each.title,
        "namespace": each.namespace,
        "verdict": each.outcome,
        "refused": findings(each.refused),
        "results": [
            {
                "policy": result.policy,
                "rule": result.rule,
                "verdict": str(result.outcome),
                "findings": findings(result.findings),
            }
            | ({"exception": result.exception.name} if result.exception else {})
            for result in each.verdict.results
        ],
    }


def _now(streams: Streams) -> datetime:
    return datetime.fromtimestamp(streams.now(), UTC)


def _stamp(streams: Streams) -> str:
    return _now(streams).strftime("%Y-%m-%dT%H:%M:%SZ")


def _age(manifest: JsonObject, streams: Streams) -> str:
    return age_text(str(manifest["metadata"].get("creationTimestamp")), streams.now())
