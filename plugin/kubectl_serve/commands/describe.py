"""``kubectl serve describe``: the annotations, the choices and their reasons, what runs, and why it does not."""

import re
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect, visible
from kubectl_serve.errors import NotInstalledError
from kubectl_serve.install import manifests, platform
from kubectl_serve.io import documents, tables
from kubectl_serve.status import lookup, model
from kubectl_serve.status.describe import Description, describe
from serve_core.admission.decide import judge
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.escaping import inline
from serve_core.context.cluster import ClusterContext
from serve_core.context.services import read
from serve_core.knative.name_conflict import service_name
from serve_kube import errors
from serve_kube.resources import EVENTS, KNATIVE_SERVICES, PODS, REVISIONS, SERVICES

EXAMPLES = """\
  kubectl serve describe iris
  kubectl serve describe iris -o json"""

_MAX_EVENTS = 10


def configure(parser: options.Parser) -> None:
    options.name(parser)
    options.output(parser, "json", "yaml")
    options.namespace(parser)
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    async with lookup.open_deployment(args, streams, connect) as (cluster, namespace, deployment):
        labels = f"{DEPLOYMENT_LABEL}={args.name}"
        unseen: set[str] = set()
        service = service_name(deployment)
        found = await visible(cluster, KNATIVE_SERVICES, namespace, fields=f"metadata.name={service}")
        # The choices may depend on existing Services.
        around = {model.name_of(each): read(each) for each in await visible(cluster, SERVICES, namespace)}
        context = replace(await _context(cluster), services={namespace: around})
        shown = describe(
            deployment,
            found[0] if found else None,
            await visible(
                cluster, REVISIONS, namespace, labels=f"serving.knative.dev/service={service}", unseen=unseen
            ),
            await visible(cluster, PODS, namespace, labels=labels, unseen=unseen),
            await visible(cluster, EVENTS, namespace, unseen=unseen),
            judge(deployment, context).explanations,
        )
    if unseen:
        streams.note(
            f"You are not allowed to see {', '.join(sorted(unseen))} in namespace {namespace}: they are omitted."
        )
    if args.output:
        streams.stdout.write(documents.dump(shown.as_json(), args.output))
    else:
        streams.stdout.write(_text(shown, streams.now()))
    return 0


async def _context(cluster: Cluster) -> ClusterContext:
    """The webhook's context, as far as this user may read it."""
    try:
        return (await platform.context(cluster))[0]
    except (errors.ForbiddenError, NotInstalledError):
        return replace(manifests.default_context(), istio=await platform.mesh(cluster))


def _text(description: Description, now: float) -> str:
    served = description.served
    ready = served.ready + (f" ({served.reason})" if served.reason and served.ready != "True" else "")
    cause = [("Cause", _without_own_hint(served.message))] if served.ready != "True" and served.message else []
    lines = [
        *_pairs(
            [
                *cause,
                ("Name", served.name),
                ("Namespace", served.namespace),
                ("Service", served.service),
                ("Ready", ready),
                ("URL", served.url or tables.NONE),
                ("Age", tables.age_text(served.created, now)),
            ]
        ),
        *_section("Settings", _pairs(description.asked)),
        *_section("Choices", [f"{each.code}: {each.message}" for each in description.choices]),
        *_section("Set by kubectl-serve", description.filled),
        *_section("Conditions", _conditions(description)),
        *_section("Revisions", _table(["NAME", "READY", "TRAFFIC", "REASON", "AGE"], _revisions(description, now))),
        *_section("Pods", _table(["NAME", "STATE", "RESTARTS", "NODE", "AGE"], _pods(description, now))),
        *_section("Events", _table(["LAST", "TYPE", "REASON", "ABOUT", "MESSAGE"], _events(description, now))),
    ]
    return "".join(f"{line}\n" for line in lines)


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    pairs = list(pairs)
    width = max((len(key) for key, _ in pairs), default=0) + 3
    return [f"{key + ':':<{width}}{inline(value)}" for key, value in pairs]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}:", *(f"  {inline(line)}" for line in lines or [tables.NONE])]


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    return tables.render([headings, *rows]).splitlines() if rows else []


def _conditions(description: Description) -> list[str]:
    return [
        line
        for each in description.conditions
        for line in (
            f"{each.type}: {each.status} ({each.reason or tables.UNKNOWN})",
            *_indented(each.message),
        )
    ]


def _without_own_hint(message: str) -> str:
    """A message without the hint to run this command.

    A condition stores sentence and hint as one text, possibly of an older server, so the text is all there is.
    """
    return re.sub(rf" ?(?:Run|Read) `{PROGRAM} describe [^`]*`\.", "", message)


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in _without_own_hint(text).splitlines()]


def _revisions(description: Description, now: float) -> list[list[str]]:
    return [
        [each.name, each.ready, f"{each.percent}%", each.reason or tables.NONE, tables.age_text(each.created, now)]
        for each in description.revisions
    ]


def _pods(description: Description, now: float) -> list[list[str]]:
    return [
        [each.name, each.state, str(each.restarts), each.node or tables.NONE, tables.age_text(each.created, now)]
        for each in description.pods
    ]


def _events(description: Description, now: float) -> list[list[str]]:
    return [
        [tables.age_text(each.last, now), each.type, each.reason, each.about, each.message]
        for each in description.events[-_MAX_EVENTS:]
    ]
