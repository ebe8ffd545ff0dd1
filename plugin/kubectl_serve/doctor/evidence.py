"""The input of all checks: objects of the cluster, and answers of the API server."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kubectl_serve.cluster import Cluster
from kubectl_serve.errors import ServeError
from kubectl_serve.install import manifests, probe
from kubectl_serve.node_cache import drivers
from kubectl_serve.node_cache.drivers import NodeContent
from kubectl_serve.status import model
from serve_core.base.constants import NAMESPACE, NEVER_JUDGED, NODE_CACHE_NAMESPACE, SERVED_LABEL, SERVER_USERNAME
from serve_core.base.json import JsonObject, value_at
from serve_core.context import istio
from serve_kube import errors
from serve_kube.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    DEFINITIONS,
    DEPLOYMENTS,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    NODES,
    PEER_AUTHENTICATIONS,
    PODS,
    REQUEST_AUTHENTICATIONS,
    SECRETS,
    SELF_SUBJECT_ACCESS_REVIEWS,
    SERVICE_ENTRIES,
    SUBJECT_ACCESS_REVIEWS,
    VALIDATING_WEBHOOKS,
    Resource,
)

SERVER = "kubectl-serve"
CERTIFICATES = "kubectl-serve-certificates"
"""The Secret with the certificate that the server makes."""
KNATIVE = istio.KNATIVE_NAMESPACE
KNATIVE_DEFINITION = "services.serving.knative.dev"

Objects = list[JsonObject] | None
"""``None``: the user may not read them."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Right:
    """One permission: a verb on a resource."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        place = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {resource}{'/' + self.name if self.name else ''}{place}"

    def attributes(self) -> JsonObject:
        resource, _, subresource = self.resource.partition("/")
        found = {
            "verb": self.verb,
            "group": self.group,
            "resource": resource,
            "subresource": subresource,
            "namespace": self.namespace,
            "name": self.name,
        }
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True)
class Evidence:
    """The input of all checks. ``None``: the user may not read it. An empty object: it does not exist."""

    now: float
    """Seconds since the epoch."""
    namespace: str
    """The user's namespace for models."""
    version: JsonObject = field(default_factory=dict)
    nodes: Objects = None
    namespaces: Objects = None
    knative: JsonObject | None = None
    """The definition of Knative Services."""
    knative_config: Mapping[str, Mapping[str, str]] | None = None
    """ConfigMaps of Knative by name."""
    knative_deployments: Objects = None
    knative_pods: Objects = None
    ingresses: Objects = None
    """Deployments outside of Knative's namespace that serve its ingress."""
    server: JsonObject | None = None
    """The server's Deployment."""
    config: Mapping[str, Mapping[str, str]] | None = None
    """kubectl-serve's ConfigMaps by name."""
    mutating: JsonObject | None = None
    validating: JsonObject | None = None
    """kubectl-serve's webhook configurations."""
    secret: JsonObject | None = None
    probe: str | None = None
    """The fault of the webhook's answer; empty if there is none. ``None``: the user may not send the probe."""
    my_rights: Mapping[Right, bool] | None = None
    server_rights: Mapping[Right, bool] | None = None
    injectors: Objects = None
    istio_config: Objects = None
    istio_daemons: Objects = None
    peers: Objects = None
    """PeerAuthentications."""
    tokens: Objects = None
    """RequestAuthentications."""
    entries: Objects = None
    served: Objects = None
    node_cache: JsonObject | None = None
    """The DaemonSet of the node cache."""
    cached: Sequence[NodeContent] | None = None
    """What its drivers keep."""

    @property
    def istio(self) -> istio.IstioInstallation | None:
        return istio.detect(
            injectors=self.injectors or (),
            config_maps=self.istio_config or (),
            nodes=self.nodes or (),
            namespaces=self.namespaces or (),
            daemon_sets=self.istio_daemons or (),
            service_entries=self.entries or (),
        )


MY_RIGHTS = tuple(Right(verb, "apps", "deployments") for verb in ("create", "get", "list", "watch", "patch", "delete"))


async def gather(cluster: Cluster, now: float, namespace: str) -> Evidence:
    """Read all evidence concurrently.

    Raises UnreachableError if the API server does not answer, NotFoundError if there is no such namespace.
    """
    if namespace in NEVER_JUDGED:
        namespace = "default"  # no model is served there, and the webhook is not called
    version = await cluster.version()
    mine = [Right(right.verb, right.group, right.resource, namespace) for right in MY_RIGHTS]
    try:
        async with asyncio.TaskGroup() as group:
            ask = group.create_task
            nodes = ask(_list(cluster, NODES, None))
            namespaces = ask(_list(cluster, NAMESPACES, None))
            knative = ask(_get(cluster, DEFINITIONS, None, KNATIVE_DEFINITION))
            knative_config = ask(_data(cluster, KNATIVE))
            knative_deployments = ask(_list(cluster, DEPLOYMENTS, KNATIVE))
            knative_pods = ask(_list(cluster, PODS, KNATIVE))
            ingresses = ask(_list(cluster, DEPLOYMENTS, None, "app.kubernetes.io/name"))
            server = ask(_get(cluster, DEPLOYMENTS, NAMESPACE, SERVER))
            config = ask(_data(cluster, NAMESPACE))
            mutating = ask(_get(cluster, MUTATING_WEBHOOKS, None, SERVER))
            validating = ask(_get(cluster, VALIDATING_WEBHOOKS, None, SERVER))
            secret = ask(_certificate(cluster))
            probed = ask(_probe(cluster, namespace))
            my_rights = ask(_rights(cluster, mine, None))
            server_rights = ask(_rights(cluster, rights_of_manifests(), SERVER_USERNAME))
            injectors = ask(_list(cluster, MUTATING_WEBHOOKS, None, istio.INJECTORS))
            istio_config = ask(_list(cluster, CONFIG_MAPS, istio.NAMESPACE))
            istio_daemons = ask(_list(cluster, DAEMON_SETS, istio.NAMESPACE))
            peers = ask(_list(cluster, PEER_AUTHENTICATIONS, None))
            tokens = ask(_list(cluster, REQUEST_AUTHENTICATIONS, None))
            entries = ask(_list(cluster, SERVICE_ENTRIES, None))
            served = ask(_list(cluster, DEPLOYMENTS, None, f"{SERVED_LABEL}=true"))
            node_cache = ask(_get(cluster, DAEMON_SETS, NODE_CACHE_NAMESPACE, NODE_CACHE_NAMESPACE))
            cached = ask(_cached(cluster))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return Evidence(
        now=now,
        namespace=namespace,
        version=version,
        nodes=nodes.result(),
        namespaces=namespaces.result(),
        knative=knative.result(),
        knative_config=knative_config.result(),
        knative_deployments=knative_deployments.result(),
        knative_pods=knative_pods.result(),
        ingresses=ingresses.result(),
        server=server.result(),
        config=config.result(),
        mutating=mutating.result(),
        validating=validating.result(),
        secret=secret.result(),
        probe=probed.result(),
        my_rights=my_rights.result(),
        server_rights=server_rights.result(),
        injectors=injectors.result(),
        istio_config=istio_config.result(),
        istio_daemons=istio_daemons.result(),
        peers=peers.result(),
        tokens=tokens.result(),
        entries=entries.result(),
        served=served.result(),
        node_cache=node_cache.result(),
        cached=cached.result(),
    )


def rights_of_manifests() -> list[Right]:
    """The server's permissions in the manifests."""
    rights = []
    for manifest in (*manifests.all_objects(), *manifests.istio_objects()):
        if manifest["kind"] in ("ClusterRole", "Role"):
            namespace = manifest["metadata"].get("namespace", "")
            rights += [
                Right(verb, group, resource, namespace, name)
                for rule in manifest["rules"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
                for name in rule.get("resourceNames", [""])
            ]
    return rights


async def _seen(answer: Coroutine[Any, Any, _T], absent: _T) -> _T | None:
    try:
        return await answer
    except errors.ForbiddenError:
        return None
    except errors.NotFoundError:
        return absent


async def _list(cluster: Cluster, resource: Resource, namespace: str | None, labels: str = "") -> Objects:
    async def objects() -> list[JsonObject]:
        return (await cluster.list(resource, namespace, labels=labels))[0]

    return await _seen(objects(), [])


async def _get(cluster: Cluster, resource: Resource, namespace: str | None, name: str) -> JsonObject | None:
    return await _seen(cluster.get(resource, namespace, name), {})


def certificate_secret(server: JsonObject | None) -> str:
    """The Secret with the server's certificate: what the Deployment mounts, or what the server writes itself."""
    for volume in value_at(server or {}, "spec", "template", "spec", "volumes") or []:
        if volume["name"] == "certificate":
            return str(value_at(volume, "secret", "secretName"))
    return CERTIFICATES


async def _certificate(cluster: Cluster) -> JsonObject | None:
    server = await _get(cluster, DEPLOYMENTS, NAMESPACE, SERVER)
    return await _get(cluster, SECRETS, NAMESPACE, certificate_secret(server))


async def _data(cluster: Cluster, namespace: str) -> Mapping[str, Mapping[str, str]] | None:
    found = await _list(cluster, CONFIG_MAPS, namespace)
    return None if found is None else {model.name_of(each): each.get("data") or {} for each in found}


async def _cached(cluster: Cluster) -> Sequence[NodeContent] | None:
    """What the nodes keep; ``None`` for users who may not ask, and where a driver does not answer."""
    try:
        return await drivers.contents(cluster, await drivers.running(cluster))
    except (ServeError, errors.ApiError):
        return None


async def _probe(cluster: Cluster, namespace: str) -> str | None:
    try:
        return await probe.probe(cluster, namespace)
    except errors.ForbiddenError:
        return None


async def _rights(cluster: Cluster, rights: Sequence[Right], user: str | None) -> Mapping[Right, bool] | None:
    resource = SELF_SUBJECT_ACCESS_REVIEWS if user is None else SUBJECT_ACCESS_REVIEWS

    async def allowed(right: Right) -> bool:
        spec: JsonObject = {"resourceAttributes": right.attributes(), **({"user": user} if user else {})}
        review: JsonObject = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {}, "spec": spec}
        answer: Any = (await cluster.create(resource, review)).get("status") or {}
        return bool(answer.get("allowed"))

    async def all_of_them() -> Mapping[Right, bool]:
        return dict(zip(rights, await asyncio.gather(*map(allowed, rights)), strict=True))

    return await _seen(all_of_them(), {})
