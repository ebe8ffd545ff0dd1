"""The shapes that the commands need. Objects with another shape are left out, and all others are shown.

The API server checks the shapes of built-in kinds. Other kinds may have any content that their definitions allow, and
the API server itself may send anything.
"""

from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from shlex import quote
from typing import Any, cast

from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect
from kubectl_serve.errors import ServeError
from serve_core.base.json import JsonObject, field_path, value_at
from serve_kube.resources import Resource
from serve_kube.watch import WatchEvent

_Shape = Any
"""A type, a list of one shape, or the shapes of an object's fields: ``name!`` is required, ``*`` is any other field."""

_TEXTS = {"*": str}
_PORTS = [{"name": str, "containerPort": int, "port": int, "targetPort": int | str, "nodePort": int, "protocol": str}]
_CONTAINERS = [{"name!": str, "image": str, "env": [{"name!": str}], "ports": _PORTS}]
_STATE = {"*": {"reason": str, "message": str, "exitCode": int, "startedAt": str, "finishedAt": str}}
_STATUSES = [{"name!": str, "restartCount": int, "state": _STATE, "lastState": _STATE, "image": str, "imageID": str}]
_BALANCER = {"ingress": [{"ip": str, "hostname": str, "domainInternal": str}]}
_POD = {
    "nodeName": str,
    "containers": _CONTAINERS,
    "initContainers": _CONTAINERS,
    "volumes": [{"name!": str}],
    "serviceAccountName": str,
}
_METADATA = {
    "name!": str,
    "namespace": str,
    "creationTimestamp": str,
    "deletionTimestamp": str,
    "resourceVersion": str,
    "uid": str,
    "generation": int,
    "labels": _TEXTS,
    "annotations": _TEXTS,
    "finalizers": [str],
    "ownerReferences": [{"apiVersion": str, "kind": str, "name": str, "uid": str, "controller": bool}],
}
_READ: _Shape = {
    "metadata!": _METADATA,
    "spec": {
        **_POD,
        "replicas": int,
        "selector": {},
        "template": {"metadata": {"labels": _TEXTS, "annotations": _TEXTS}, "spec": _POD},
        "ports": _PORTS,
        "traffic": [{"revisionName": str, "percent": int, "latestRevision": bool}],
        "jwtRules": [{"issuer": str, "forwardOriginalToken": bool}],
        "mtls": {"mode": str},
        "hosts": [str],
        "externalIPs": [str],
    },
    "status": {
        "conditions": [{"type!": str, "status": str, "reason": str, "message": str}],
        "traffic": [{"revisionName": str, "percent": int, "latestRevision": bool}],
        "initContainerStatuses": _STATUSES,
        "containerStatuses": _STATUSES,
        "url": str,
        "availableReplicas": int,
        "readyReplicas": int,
        "observedGeneration": int,
        "latestCreatedRevisionName": str,
        "latestReadyRevisionName": str,
        "nodeInfo": {"kubeletVersion": str, "containerRuntimeVersion": str},
        "images": [{"names!": [str]}],
        "addresses": [{"type!": str, "address!": str}],
        "loadBalancer": _BALANCER,
        "publicLoadBalancer": _BALANCER,
        "privateLoadBalancer": _BALANCER,
    },
    "data": _TEXTS,
    "webhooks": [{"name!": str, "clientConfig": {"service": {"name": str, "namespace": str}, "caBundle": str}}],
    # Fields of Events.
    "type": str,
    "reason": str,
    "note": str,
    "eventTime": str,
    "deprecatedLastTimestamp": str,
    "regarding": {"kind": str, "name": str},
    "series": {"lastObservedTime": str},
}
"""The fields that the commands read, of objects of any kind, with their shapes."""
_NAMES = {int: "a whole number", bool: "true or false", int | str: "a number or a string"}


def fault(thing: object) -> str:
    """Why an object cannot be read: its first field of a wrong type; empty if there is none."""
    return next(_faults(thing, _READ, ()), "")


def _faults(value: Any, shape: _Shape, path: tuple[str | int, ...]) -> Iterator[str]:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{field_path(*path)} is not an object"
            return
        for key in [key for key, each in value.items() if each is None]:
            del value[key]  # as in Kubernetes, null means missing
        for key in (key.removesuffix("!") for key in shape if key.endswith("!")):
            if key not in value:
                yield f"it has no {field_path(*path, key)}"
        for key, each in value.items():
            wanted = shape.get(key, shape.get(f"{key}!", shape.get("*")))
            if wanted is not None:
                yield from _faults(each, wanted, (*path, key))
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{field_path(*path)} is not a list"
            return
        for index, each in enumerate(value):
            yield from _faults(each, shape[0], (*path, index))
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        yield f"{field_path(*path)} is not {_NAMES.get(shape, 'a string')}"


class _Readable:
    """A cluster without the objects that cannot be read."""

    def __init__(self, cluster: Cluster, warn: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._warn = warn
        self._warned: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject:
        found = await self._cluster.get(resource, namespace, name)
        if why := fault(found):
            where = f" -n {quote(namespace)}" if namespace and resource.namespaced else ""
            raise ServeError(
                f"{resource.title} {name} cannot be read: {why}.",
                f"`kubectl get {resource.title} {quote(name)}{where} -o yaml` shows it.",
            )
        return found

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], str]:
        found, version = await self._cluster.list(resource, namespace, labels=labels, fields=fields)
        return [each for each in found if not self._left_out(resource, each)], version

    async def pages(self, resource: Resource, namespace: str | None) -> AsyncIterator[Sequence[JsonObject]]:
        async for page in self._cluster.pages(resource, namespace):
            yield [each for each in page if not self._left_out(resource, each)]

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[JsonObject]]:
        async for event in self._cluster.watch(resource, namespace, version, labels=labels, fields=fields):
            if event.type == "BOOKMARK" or not self._left_out(resource, event.object):
                yield event

    def _left_out(self, resource: Resource, thing: JsonObject) -> bool:
        if not (why := fault(thing)):
            return False
        place = (value_at(thing, "metadata", step) for step in ("namespace", "name"))
        sentence = f"{resource.title} {'/'.join(str(step) for step in place if step)} is left out: {why}."
        if sentence not in self._warned:
            self._warned.add(sentence)
            self._warn(sentence)
        return True


def readable(connect: Connect) -> Connect:
    """Opens the same cluster; what cannot be read of it is left out, and named once on standard error."""

    @asynccontextmanager
    async def opened(args: Namespace, streams: Streams) -> AsyncIterator[Cluster]:
        async with connect(args, streams) as cluster:
            yield cast("Cluster", _Readable(cluster, streams.note))

    return opened
