"""``policy list``, ``explain`` and ``audit``: the policies of a cluster, and what its objects break."""

from argparse import Namespace
from collections import Counter
from collections.abc import Collection

from kubectl_serve import PROGRAM
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, namespace_of, visible
from kubectl_serve.errors import ServeError
from kubectl_serve.install import manifests, platform
from kubectl_serve.io import documents, tables
from kubectl_serve.policy import output
from serve_core.admission.decide import given_by_policies
from serve_core.api.loader_protocol import count_text
from serve_core.audit import dry_run
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject, value_at
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

_JUDGED = (
    DEPLOYMENTS, SERVING_RUNTIMES, INFERENCE_SERVICES, TRAINED_MODELS,
    KNATIVE_SERVICES, CONFIGURATIONS, REVISIONS, ROUTES, DOMAIN_MAPPINGS, PODS,
)  # fmt: skip


async def list_all(args: Namespace, streams: Streams, cluster: Cluster) -> int:
    policies, exceptions = await _policies(cluster)
    if args.output:
        for each in (*policies, *exceptions):
            each["metadata"].pop("managedFields", None)
        streams.stdout.write(documents.dump(documents.as_list([*policies, *exceptions]), args.output))
        return 0
    if not policies and not exceptions:
        streams.note("No policies found.")
        return 0
    rows = [["NAME", "ACTION", "RULES", "DEFAULTS", "ADOPTS", "EXCEPTIONS", "AGE"]]
    live = [each for each in exceptions if _text(each, "expires") > output.timestamp(streams)]
    count = Counter(_text(each, "policy") for each in live)
    for policy in policies:
        name = policy["metadata"]["name"]
        rules, defaults = str(len(_some(policy, "rules"))), str(len(_some(policy, "defaults")))
        adopts, left = "yes" if value_at(policy, "spec", "adopt") else "no", str(count[name])
        rows.append(
            [name, _text(policy, "action") or "Deny", rules, defaults, adopts, left, output.age(policy, streams)]
        )
    streams.stdout.write(tables.render(rows))
    if exceptions:
        streams.out()
        rows = [["EXCEPTION", "POLICY", "RULES", "FOR", "EXPIRES", "TICKET", "AGE"]]
        for each in exceptions:
            about = f"{_text(each, 'match', 'namespace')}/{_text(each, 'match', 'name') or '*'}"
            expires = _text(each, "expires") + ("" if each in live else " (expired)")
            name, rules = each["metadata"]["name"], ",".join(map(str, _some(each, "rules")))
            of, ticket = _text(each, "policy"), _text(each, "ticket")
            rows.append([name, of, rules, about, expires, ticket, output.age(each, streams)])
        streams.stdout.write(tables.render(rows))
    return 0


def _text(document: JsonObject, *steps: str) -> str:
    return str(value_at(document, "spec", *steps) or "")


def _some(document: JsonObject, field: str) -> Collection[object]:
    found = value_at(document, "spec", field)
    return found if isinstance(found, list | dict) else ()


async def explain(args: Namespace, streams: Streams, cluster: Cluster) -> int:
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
    found = dry_run.run([*known, deployment], context, output.now(streams), stored=True)
    if not found.tried:
        raise ServeError(f"the Deployment {args.name} is not served.", "Policies apply to served Deployments.")
    output.print_results(found.tried, streams, args, every_rule=True)
    if not args.output:
        given = given_by_policies(deployment, dry_run.read_documents(known, context, stored=True).context)
        for choice in given:
            streams.note(str(choice))
        if not found.tried[0].verdict.results and not given:
            streams.note("No policy applies to it.")
    return 0


async def audit(args: Namespace, streams: Streams, cluster: Cluster) -> int:
    namespace = None if args.all_namespaces else namespace_of(args, cluster)
    policies, exceptions = await _policies(cluster)
    if args.filename:
        policies = [each.object for each in documents.read(args.filename, streams, recursive=args.recursive)]
        output.print_faults(dry_run.run(policies, manifests.default_context(), output.now(streams)), streams)
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
            continue  # the kind does not exist in the cluster
    found = dry_run.run(
        [*policies, *exceptions, *spaces, *served], context, output.now(streams), stored=True, failed=failed
    )
    output.print_results(found.tried, streams, args, every_rule=args.all)
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
