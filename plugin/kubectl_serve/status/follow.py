"""Follows one served model, its objects and its loader's output, until it is ready or has failed."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self

from kubectl_serve.cluster import Cluster
from kubectl_serve.status import model, wait
from kubectl_serve.status.model import ModelSnapshot
from kubectl_serve.status.wait import WaitResult
from serve_core.api import loader_protocol
from serve_core.base.constants import DEPLOYMENT_LABEL, LOADER_CONTAINER
from serve_core.base.json import JsonObject
from serve_core.knative.name_conflict import service_name
from serve_kube import errors
from serve_kube.resources import DEPLOYMENTS, KNATIVE_SERVICES, PODS, Resource, key

State = dict[tuple[str, str], JsonObject]
"""Objects by namespace and name."""

_AGAIN_SECONDS = 1.0
"""Pause before a broken watch is opened again."""


@dataclass(frozen=True)
class WaitPolicy:
    """Seconds that a failure must last until it counts: Knative's conditions are False for a moment before they are
    True."""

    definite: float = 3.0
    passing: float = 60.0
    """For a cause that may be temporary."""
    calm: float = 10.0
    """How long there must be no failure until a cause has passed: a restarted container looks healthy at first."""


async def watch_states(
    cluster: Cluster, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
) -> AsyncIterator[State]:
    """All matching objects, now and after each change, without end. After a gap they are listed again, so none is
    missed."""
    while True:
        objects, version = await cluster.list(resource, namespace, labels=labels, fields=fields)
        state = {key(each): each for each in objects}
        yield dict(state)
        try:
            while True:
                async for event in cluster.watch(resource, namespace, version, labels=labels, fields=fields):
                    version = event.object["metadata"]["resourceVersion"]
                    if event.type == "BOOKMARK":
                        continue
                    if event.type == "DELETED":
                        state.pop(key(event.object), None)
                    else:
                        state[key(event.object)] = event.object
                    yield dict(state)
        except errors.GoneError:
            continue
        except errors.UnreachableError:
            await asyncio.sleep(_AGAIN_SECONDS)


class Follower:
    """The present :class:`ModelSnapshot` of one Deployment, updated while the context manager is open."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None
        self._deployments: State | None = None
        self._services: State | None = None
        self._pods: State | None = None
        self._line = loader_protocol.NOTHING
        self._listened: set[tuple[str, str]] = set()

    async def __aenter__(self) -> Self:
        self._start(self._follow_deployment())
        self._start(self._follow_services())
        self._start(self._follow_pods())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def snapshot(self, seconds: float | None) -> ModelSnapshot:
        """The snapshot after the next change, or after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
                while None in (self._deployments, self._services, self._pods) and self._failure is None:
                    self._changed.clear()
                    await self._changed.wait()
        self._changed.clear()
        if self._failure is not None:
            raise self._failure
        if self._deployments is None:
            raise errors.UnreachableError("the API server did not return the Deployment in time.")
        deployment = self._deployments.get((self._namespace, self._name))
        name = service_name(deployment) if deployment else self._name
        service = (self._services or {}).get((self._namespace, name))
        return ModelSnapshot(deployment, service, tuple((self._pods or {}).values()), self._line)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(self._capture_failure(work)))

    async def _capture_failure(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  # raised again by snapshot()
            self._failure = error
            self._changed.set()

    async def _follow_deployment(self) -> None:
        fields = f"metadata.name={self._name}"
        async for state in watch_states(self._cluster, DEPLOYMENTS, self._namespace, fields=fields):
            self._deployments = state
            self._changed.set()

    async def _follow_services(self) -> None:
        # Only details: without the permission, or without Knative, the Deployment has enough information.
        with contextlib.suppress(errors.NotFoundError, errors.ForbiddenError):
            labels = f"{DEPLOYMENT_LABEL}={self._name}"
            async for state in watch_states(self._cluster, KNATIVE_SERVICES, self._namespace, labels=labels):
                self._services = state
                self._changed.set()
        self._services = {}
        self._changed.set()

    async def _follow_pods(self) -> None:
        with contextlib.suppress(errors.ForbiddenError):
            labels = f"{DEPLOYMENT_LABEL}={self._name}"
            async for state in watch_states(self._cluster, PODS, self._namespace, labels=labels):
                self._pods = state
                for pod in model.newest_pods(state.values())[:1]:
                    self._listen(pod)
                self._changed.set()
        self._pods = {}
        self._changed.set()

    def _listen(self, pod: JsonObject) -> None:
        """Follow the loader's log, once for each run of its container."""
        kind, detail = model.state_of(pod, LOADER_CONTAINER)
        run = (model.name_of(pod), str(detail.get("startedAt")))
        if kind == "running" and run not in self._listened:
            self._listened.add(run)
            self._start(self._follow_log(run[0]))

    async def _follow_log(self, pod: str) -> None:
        with contextlib.suppress(errors.ApiError):
            async for line in self._cluster.logs(self._namespace, pod, LOADER_CONTAINER, follow=True, tail=1):
                output = loader_protocol.parse(line)
                if output.event:
                    self._line = output
                    self._changed.set()


async def run_together(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until they end. After a failure, cancel the others and raise it."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(work)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def wait_for_end(
    follower: Follower, seconds: float, policy: WaitPolicy, show: Callable[[ModelSnapshot], None]
) -> WaitResult | None:
    """Follow until the model is ready, or has failed for longer than ``policy`` allows; None after ``seconds``.

    ``show`` is called with each snapshot.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    doubt = _FailureTimer(policy)
    while True:
        snapshot = await follower.snapshot(max(min(deadline, doubt.look_again_at) - clock(), 0))
        end = wait.result_of(snapshot.deployment)
        show(snapshot)
        if end is not None and (end.ready or snapshot.deployment is None):
            return end
        believed = doubt.see(end, clock())
        if believed is not None:
            return believed
        if clock() >= deadline:
            return None


class _FailureTimer:
    """Measures how long a failure lasts, and whether it is final by the wait policy."""

    def __init__(self, policy: WaitPolicy) -> None:
        self._patience = policy
        self._cause: tuple[bool, str] | None = None
        self._calm_since: float | None = None
        self._believed_at = math.inf
        self.look_again_at = math.inf
        """When the result can change without a new snapshot."""

    def see(self, end: WaitResult | None, now: float) -> WaitResult | None:
        """Record the present outcome, if any. Returns it once it is final."""
        if end is None:
            self._calm_since = now if self._calm_since is None else self._calm_since
            self.look_again_at = self._calm_since + self._patience.calm if self._cause else math.inf
            if now >= self.look_again_at:
                self._cause, self.look_again_at = None, math.inf
            return None
        self._calm_since = None
        cause = (end.definite, end.code if end.definite else "")
        if cause != self._cause:
            self._cause = cause
            self._believed_at = now + (self._patience.definite if end.definite else self._patience.passing)
        self.look_again_at = self._believed_at
        return end if now >= self._believed_at else None
