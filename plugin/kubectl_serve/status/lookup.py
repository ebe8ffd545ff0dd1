"""The served Deployment that a command is about."""

from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from shlex import quote

from kubectl_serve import PROGRAM
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect, namespace_of
from kubectl_serve.errors import ServeError
from kubectl_serve.status import model
from serve_core.base.constants import SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_core.base.reasons import meant
from serve_kube import errors
from serve_kube.resources import DEPLOYMENTS

_MAX_NAMES = 10
"""Maximum names of a namespace in a hint."""


def not_installed(left: str = "") -> ServeError:
    """The error that no webhook completed a Deployment; ``left``: a clause about what remains."""
    return ServeError(
        f"kubectl-serve is not installed in this cluster: nothing completed the Deployment{left}.",
        f"An administrator can install it with `{PROGRAM} install`.",
    )


def is_uncompleted(error: errors.InvalidError) -> bool:
    """Whether the API server reports fields as missing that the webhook would have set."""
    return any(field.startswith(("spec.selector", "spec.template")) for field in error.fields)


@asynccontextmanager
async def open_deployment(
    args: Namespace, streams: Streams, connect: Connect
) -> AsyncIterator[tuple[Cluster, str, JsonObject]]:
    """The cluster, the namespace and the served Deployment that the flags name. Raises ServeError."""
    async with connect(args, streams) as cluster:
        namespace = namespace_of(args, cluster)
        yield cluster, namespace, await find(cluster, namespace, args.name)


async def _nearest(cluster: Cluster, namespace: str, name: str) -> str:
    """A hint for the name of a model that does not exist."""
    try:
        found, _ = await cluster.list(DEPLOYMENTS, None, labels=f"{SERVED_LABEL}=true")
    except errors.ApiError:  # no permission for all namespaces
        try:
            found, _ = await cluster.list(DEPLOYMENTS, namespace, labels=f"{SERVED_LABEL}=true")
        except errors.ApiError:
            return f"`{PROGRAM} get` lists what is served."
    places = [(model.name_of(each), each["metadata"].get("namespace", "")) for each in found]
    elsewhere = [place for there, place in places if there == name]
    if elsewhere:
        return f"There is one in namespace {elsewhere[0]}: -n {quote(elsewhere[0])}."
    here = [there for there, place in places if place == namespace]
    if not here:
        return f"Nothing is served in this namespace; `{PROGRAM} get -A` lists what is served."
    listed = ", ".join(sorted(here)[:_MAX_NAMES]) + (", …" if len(here) > _MAX_NAMES else "")
    return f"{meant(name, here)}Served here: {listed}."


async def find(cluster: Cluster, namespace: str, name: str) -> JsonObject:
    """The served Deployment ``name``. Raises ServeError if there is none, or if it is not served."""
    try:
        found = await cluster.get(DEPLOYMENTS, namespace, name)
    except errors.NotFoundError as error:
        raise ServeError(
            f"there is no Deployment {name} in namespace {namespace}.", await _nearest(cluster, namespace, name)
        ) from error
    if not model.is_served(found):
        raise ServeError(
            f"the Deployment {name} is not served.",
            f"`kubectl annotate deployment {name} -n {quote(namespace)} kubectl-serve.dev/model=URI` "
            "serves a model with it.",
        )
    return found
