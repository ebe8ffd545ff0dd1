"""The way from this machine to a model's URL.

If the host name resolves, the request goes there. Otherwise Knative names the Service of its ingress, and the request
goes to that Service's address, to its port on a node, or through the API server to one of its pods.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from shlex import quote
from urllib.parse import urlsplit

from kubectl_serve.cluster import Cluster
from kubectl_serve.errors import ServeError
from kubectl_serve.forward import HOST, forwarded
from kubectl_serve.status import model
from serve_core.base.json import JsonObject, value_at
from serve_kube import errors
from serve_kube.resources import INGRESSES, NODES, PODS, SERVICES

ENVIRONMENT = "KUBECTL_SERVE_INGRESS"
_RESOLVE_SECONDS = 2.0
_CONNECT_SECONDS = 1.5


@dataclass(frozen=True)
class Way:
    """The address to connect to. The URL's host is in the Host header and in TLS."""

    host: str
    port: int
    how: str
    """For -v."""


Report = Callable[[str], None]
"""Called with each step of the search, for -v."""


@contextlib.asynccontextmanager
async def way_to(
    url: str, cluster: Cluster, namespace: str, name: str, override: str | None, report: Report
) -> AsyncIterator[Way]:
    """The first way to ``url`` that accepts a connection. Raises ServeError if there is none."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    if override:
        yield _overridden(override, port)
        return
    is_local = host.endswith((".svc.cluster.local", ".svc"))
    if not is_local and await _resolves(host, port):
        yield Way(host, port, f"{host} resolves")
        return
    report(f"{host} is inside the cluster only" if is_local else f"{host} does not resolve")
    own = await _own_service(cluster, host) if is_local else None
    service = own or await _ingress_service(cluster, namespace, name, private=is_local)
    for way in [] if is_local else await _addresses(cluster, service, port):
        if await _connects(way):
            yield way
            return
        report(f"{way.how}: no connection")
    async with _forwarded(cluster, service, port) as way:
        yield way


def _overridden(text: str, port: int) -> Way:
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, own_port = parts.hostname if parts.scheme in ("", "http", "https") else None, parts.port
    except ValueError:
        host = None
    if not host:
        raise ServeError(f"{text} is not the address of an ingress.", "Write it as http://10.0.0.1:8080 or 10.0.0.1.")
    return Way(host, own_port or (443 if parts.scheme == "https" else port), f"ingress {text}, as specified")


async def _resolves(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return False
    return True


async def _connects(way: Way) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(way.host, way.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _own_service(cluster: Cluster, host: str) -> JsonObject | None:
    """The Service of a cluster-local host name, if it has pods: the Services of Knative have none."""
    service, service_namespace = host.split(".")[:2]
    try:
        found = await cluster.get(SERVICES, service_namespace, service)
    except (errors.ForbiddenError, errors.NotFoundError):
        return None
    return found if value_at(found, "spec", "selector") else None


async def _ingress_service(cluster: Cluster, namespace: str, name: str, *, private: bool) -> JsonObject:
    """The Service of the ingress that Knative uses for this model."""
    try:
        ingress = await cluster.get(INGRESSES, namespace, name)
        balancer = value_at(ingress, "status", "privateLoadBalancer" if private else "publicLoadBalancer", "ingress")
        internal = next((each["domainInternal"] for each in balancer or [] if each.get("domainInternal")), None)
        if internal is None:
            raise ServeError("Knative's ingress has no address yet.", "Try again in a moment, or pass --ingress URL.")
        service, service_namespace = internal.split(".")[:2]
        return await cluster.get(SERVICES, service_namespace, service)
    except (errors.ForbiddenError, errors.NotFoundError) as error:
        raise ServeError(
            f"no way to the ingress was found: {error.message}",
            f"Set --ingress URL, or {ENVIRONMENT}.",
        ) from error


async def _addresses(cluster: Cluster, service: JsonObject, port: int) -> list[Way]:
    title = f"Service {service['metadata']['namespace']}/{service['metadata']['name']}"
    balancer = [
        each.get("ip") or each.get("hostname") for each in value_at(service, "status", "loadBalancer", "ingress") or []
    ]
    ways = [Way(str(host), port, f"{title} at {host}:{port}") for host in balancer if host]
    ways += [Way(ip, port, f"{title} at {ip}:{port}") for ip in value_at(service, "spec", "externalIPs") or []]
    node_port = next((each.get("nodePort") for each in _ports(service, port)), None)
    if node_port:
        with contextlib.suppress(errors.ForbiddenError):
            nodes, _ = await cluster.list(NODES, None)
            ways += [Way(ip, node_port, f"{title} at node {ip}:{node_port}") for ip in _node_addresses(nodes)]
    return ways


def _ports(service: JsonObject, port: int) -> list[JsonObject]:
    return [each for each in value_at(service, "spec", "ports") or [] if each.get("port") == port]


def _node_addresses(nodes: Iterable[JsonObject]) -> list[str]:
    """At most two addresses of nodes, external ones first."""
    found = [each for node in nodes for each in value_at(node, "status", "addresses") or []]
    return [each["address"] for kind in ("ExternalIP", "InternalIP") for each in found if each["type"] == kind][:2]


@contextlib.asynccontextmanager
async def _forwarded(cluster: Cluster, service: JsonObject, port: int) -> AsyncIterator[Way]:
    """A port on the loopback address, forwarded by the API server to a pod of the ingress."""
    namespace = service["metadata"]["namespace"]
    pod = await _ready_pod(cluster, service)
    target = _target_port(service, pod, port)
    name = model.name_of(pod)
    async with forwarded(cluster, namespace, name, target) as own_port:
        yield Way(HOST, own_port, f"forwarded through the API server to pod {namespace}/{name}")


async def _ready_pod(cluster: Cluster, service: JsonObject) -> JsonObject:
    namespace, selector = service["metadata"]["namespace"], value_at(service, "spec", "selector") or {}
    title = f"{namespace}/{service['metadata']['name']}"
    if not selector:
        raise ServeError(f"the ingress {title} cannot be reached from here.", "Set --ingress URL.")
    try:
        pods, _ = await cluster.list(PODS, namespace, labels=",".join(f"{k}={v}" for k, v in selector.items()))
    except errors.ForbiddenError as error:
        raise ServeError(
            f"the ingress {title} cannot be reached, and you are not allowed to see its pods: {error.message}",
            "Set --ingress URL.",
        ) from error
    ready = [pod for pod in pods if model.pod_is_ready(pod)]
    if not ready:
        raise ServeError(
            f"no pod of the ingress {title} is ready.", f"`kubectl get pods -n {quote(namespace)}` shows them."
        )
    return ready[0]


def _target_port(service: JsonObject, pod: JsonObject, port: int) -> int:
    entry = next(iter(_ports(service, port)), None)
    if entry is None:
        raise ServeError(f"the ingress has no port {port}.", "Set --ingress URL.")
    target = entry.get("targetPort", port)
    if isinstance(target, int):
        return target
    for container in value_at(pod, "spec", "containers") or []:
        for named in container.get("ports") or []:
            if named.get("name") == target:
                return int(named["containerPort"])
    raise ServeError(f"no pod of the ingress has a port {target}.", "Set --ingress URL.")
