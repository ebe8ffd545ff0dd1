"""The drivers of the node cache, asked through the API server.

Who may forward ports to pods in the drivers' namespace is an operator: the answers name the models of all namespaces.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from kubectl_serve import PROGRAM
from kubectl_serve.cluster import Cluster
from kubectl_serve.errors import NotInstalledError, ServeError
from kubectl_serve.forward import HOST, forwarded
from kubectl_serve.status import model
from serve_core.base.constants import DEPLOYMENT_LABEL, NODE_CACHE_NAMESPACE
from serve_core.base.json import JsonObject, list_of, object_of, objects_in, value_at
from serve_kube import errors
from serve_kube.resources import PODS

PORT = 8081
"""Of the drivers' requests for operators; manifests/cache has it too."""
_LABELS = f"app.kubernetes.io/name={NODE_CACHE_NAMESPACE}"


@dataclass(frozen=True)
class Driver:
    """The driver of one node."""

    node: str
    pod: str
    ready: bool


@dataclass(frozen=True)
class User:
    """A pod that has a model mounted. Without a name if the user may not see it."""

    uid: str
    namespace: str = ""
    name: str = ""
    deployment: str = ""


@dataclass(frozen=True)
class CachedModel:
    """A model on a node. ``used`` and ``verified`` are times in ISO 8601; empty if unknown."""

    node: str
    name: str
    sources: tuple[str, ...]
    digest: str
    bytes: int
    files: int
    used: str
    verified: str
    pods: tuple[User, ...]

    @property
    def source(self) -> str:
        """The sources as one text."""
        return " ".join(self.sources)

    @property
    def short(self) -> str:
        """The beginning of the name, as the commands take it."""
        return self.name[:12]


@dataclass(frozen=True)
class NodeContent:
    """What a node has, in bytes."""

    node: str
    used: int
    limit: int
    models: tuple[CachedModel, ...]


async def running(cluster: Cluster) -> list[Driver]:
    """The drivers, by node. Raises NotInstalledError without one, ForbiddenError for others than operators."""
    found, _ = await cluster.list(PODS, NODE_CACHE_NAMESPACE, labels=_LABELS)
    drivers = [
        Driver(str(value_at(pod, "spec", "nodeName") or ""), model.name_of(pod), model.pod_is_ready(pod))
        for pod in found
        if "deletionTimestamp" not in pod["metadata"]
    ]
    if not drivers:
        raise NotInstalledError("this cluster has no node cache.", f"Install it with `{PROGRAM} install --cache`.")
    return sorted(drivers, key=lambda driver: driver.node)


async def request(cluster: Cluster, driver: Driver, method: str, path: str) -> tuple[int, JsonObject]:
    """Ask a driver; returns the status and its answer. Raises ServeError, ApiError."""
    import aiohttp

    async with forwarded(cluster, NODE_CACHE_NAMESPACE, driver.pod, PORT) as port:
        try:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(method, f"http://{HOST}:{port}{path}") as response,
            ):
                return response.status, object_of(await response.text())
        except (aiohttp.ClientError, OSError, UnicodeDecodeError) as error:
            raise ServeError(
                f"the driver on node {driver.node} does not answer: {error}.",
                f"`kubectl logs -n {NODE_CACHE_NAMESPACE} {driver.pod}` shows why.",
            ) from error


async def contents(cluster: Cluster, drivers: Iterable[Driver]) -> list[NodeContent]:
    """What each node has, with the pods that use it, as far as the user may see pods."""
    chosen = [driver for driver in drivers if driver.ready]
    answers = await asyncio.gather(*(request(cluster, driver, "GET", "/models") for driver in chosen))
    found = [
        (driver, answer) for driver, (status, answer) in zip(chosen, answers, strict=True) if _is_ok(status, answer)
    ]
    uids = {str(uid) for _, answer in found for each in _models(answer) for uid in list_of(each.get("pods"))}
    users = await _users(cluster, uids)
    return [
        NodeContent(
            driver.node,
            _number(answer.get("used")),
            _number(answer.get("limit")),
            tuple(_model(driver.node, each, users) for each in _models(answer)),
        )
        for driver, answer in found
    ]


def _is_ok(status: int, answer: JsonObject) -> bool:
    if status != HTTPStatus.OK:
        raise ServeError(f"the driver refuses the request ({status}): {answer.get('message') or 'no reason'}.")
    return True


def _models(answer: JsonObject) -> list[JsonObject]:
    return objects_in(answer.get("models"))


def _model(node: str, found: JsonObject, users: dict[str, User]) -> CachedModel:
    return CachedModel(
        node=node,
        name=str(found.get("name")),
        sources=tuple(map(str, list_of(found.get("sources")))),
        digest=str(found.get("digest") or ""),
        bytes=_number(found.get("bytes")),
        files=_number(found.get("files")),
        used=_time(found.get("used")),
        verified=_time(found.get("verified")),
        pods=tuple(users.get(str(uid), User(str(uid))) for uid in list_of(found.get("pods"))),
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _time(seconds: object) -> str:
    if not isinstance(seconds, int | float) or seconds <= 0:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _users(cluster: Cluster, uids: set[str]) -> dict[str, User]:
    """The pods with these UIDs, if the user may list pods."""
    found: dict[str, User] = {}
    if not uids:
        return found
    try:
        async for page in cluster.pages(PODS, None):
            for pod in page:
                metadata = pod["metadata"]
                if (uid := str(metadata.get("uid"))) in uids:
                    labels = metadata.get("labels") or {}
                    found[uid] = User(
                        uid, metadata.get("namespace", ""), metadata["name"], labels.get(DEPLOYMENT_LABEL, "")
                    )
    except errors.ForbiddenError:
        return found
    return found


async def evict(cluster: Cluster, driver: Driver, found: CachedModel) -> str:
    """Remove a model from a node; returns why it stays, or an empty text."""
    status, answer = await request(cluster, driver, "DELETE", f"/models/{found.name}")
    return "" if status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND) else str(answer.get("message") or status)


async def verify(cluster: Cluster, driver: Driver, found: CachedModel) -> bool:
    """Read a model completely on its node; returns whether it has its content. A changed one is removed."""
    status, answer = await request(cluster, driver, "POST", f"/models/{found.name}")
    return status == HTTPStatus.OK and answer.get("verified") is True


def chosen(found: Sequence[CachedModel], words: Sequence[str]) -> list[CachedModel]:
    """The models that words name: by the beginning of a name, or by a source. Raises ServeError for an unknown one."""
    if not words:
        return list(found)
    picked: dict[tuple[str, str], CachedModel] = {}
    for word in words:
        matching = [each for each in found if (len(word) >= 4 and each.name.startswith(word)) or word in each.sources]
        if not matching:
            raise ServeError(
                f"no node has a model {json.dumps(word)}.", f"`{PROGRAM} cache list` shows names and sources."
            )
        picked |= {(each.node, each.name): each for each in matching}
    return list(picked.values())
