"""Connects to the cluster: the one module of the server that makes a client of the Kubernetes API."""

import os

from serve_core.base.constants import FIELD_MANAGER
from serve_kube.access import ConfigException, Connection
from serve_kube.errors import UnavailableError
from serve_kube.http_client import HttpClient

_REQUEST_SECONDS = 15
_CONNECT_SECONDS = 5


async def connect(kubeconfig: str | None = None) -> HttpClient:
    """The cluster that this pod runs in, or that ``kubeconfig`` names. Raises UnavailableError if there is neither."""
    try:
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            return client(Connection.in_cluster())
        return client(await Connection.of_kubeconfig(kubeconfig))
    except ConfigException as error:
        raise UnavailableError(f"There is no cluster to connect to: {error}.") from error


def client(connection: Connection) -> HttpClient:
    """A client that writes as the server."""
    return HttpClient(
        connection,
        user_agent="kubectl-serve-server",
        field_manager=FIELD_MANAGER,
        request_seconds=_REQUEST_SECONDS,
        connect_seconds=_CONNECT_SECONDS,
    )
