"""The served Deployment that a command is about."""

from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from shlex import quote

from kubectl_serve import errors, view
from kubectl_serve.api import DEPLOYMENTS, Api, Connect, namespace_of
from kubectl_serve.errors import ServeError
from kubectl_serve.streams import Streams
from kubectl_serve.verbs import PROGRAM
from serve_core.json import JsonObject


def not_installed(left: str = "") -> ServeError:
    """Nothing completed a Deployment; ``left`` says what stays of it."""
    return ServeError(
        f"kubectl-serve is not installed in this cluster: nothing completed the Deployment{left}.",
        f"An administrator can install it with `{PROGRAM} install`.",
    )


def is_uncompleted(error: errors.InvalidError) -> bool:
    """Whether the API server misses what the webhook would have completed."""
    return "spec.selector" in error.sentence or "spec.template" in error.sentence


@asynccontextmanager
async def opened(args: Namespace, streams: Streams, connect: Connect) -> AsyncIterator[tuple[Api, str, JsonObject]]:
    """The cluster, the namespace and the served Deployment that the flags name. Raises ServeError."""
    async with connect(args, streams) as cluster:
        namespace = namespace_of(args, cluster)
        yield cluster, namespace, await find(cluster, namespace, args.name)


async def find(cluster: Api, namespace: str, name: str) -> JsonObject:
    """The served Deployment ``name``. Raises ServeError if there is none, or if it is not served."""
    try:
        found = await cluster.get(DEPLOYMENTS, namespace, name)
    except errors.NotFoundError as error:
        raise ServeError(
            f"there is no Deployment {name} in namespace {namespace}.",
            f"`{PROGRAM} get -A` lists what is served. `{PROGRAM} create {name} --model URI` serves a model.",
        ) from error
    if not view.is_served(found):
        raise ServeError(
            f"the Deployment {name} is not served.",
            f"`kubectl annotate deployment {name} -n {quote(namespace)} kubectl-serve.dev/model=URI` "
            "serves a model with it.",
        )
    return found
