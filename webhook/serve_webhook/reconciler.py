"""Brings Knative Services and what is said about them in line with the served Deployments.

Level-based: whatever happens only adds a name to the queue, and each name is handled from the present state.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

from serve_core.facts import PlatformFacts
from serve_core.json import JsonObject
from serve_core.names import CONDITION_READY, DEPLOYMENT_LABEL, LOADER_CONTAINER, SERVED_LABEL
from serve_core.reasons import condition_message
from serve_core.verdict import render_stored
from serve_webhook import planning, pods
from serve_webhook.api import (
    DEPLOYMENTS,
    KNATIVE_SERVICES,
    Api,
    ApiError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RejectedError,
    UnavailableError,
    key,
)
from serve_webhook.conditions import Condition
from serve_webhook.events import Recorder
from serve_webhook.informers import Informer, Name
from serve_webhook.metrics import Metrics
from serve_webhook.planning import (
    Action,
    Annotate,
    Applied,
    ApplyService,
    DeleteService,
    Observed,
    Park,
    SetConditions,
)
from serve_webhook.workqueue import WorkQueue

WORKERS = 4
LOADING_SECONDS = 3.0
"""Between two looks at a loader that runs: its log is the only place where it says what it is waiting for."""
HANDOVER_SECONDS = 2.0
"""Between two looks at a Deployment that is served no more and is not watched any more."""
LOGS = 3
"""Pods of one Deployment whose logs are read."""
LOG_LINES = 5
LOG_BYTES = 8192

logger = logging.getLogger(__name__)


class Reconciler:
    """The leader's work. ``facts`` must be there before :meth:`run`."""

    def __init__(
        self,
        api: Api,
        *,
        deployments: Informer,
        services: Informer,
        pods: Informer,
        facts: Callable[[], PlatformFacts],
        recorder: Recorder,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._deployments = deployments
        self._services = services
        self._pods = pods
        self._facts = facts
        self._recorder = recorder
        self._metrics = metrics
        self._now = now
        self._queue: WorkQueue[Name] = WorkQueue()
        self._applied: dict[Name, Applied] = {}
        self._pods_by_name: dict[Name, dict[str, JsonObject]] = {}

    async def run(self) -> NoReturn:
        """Reconcile until cancelled."""
        with ExitStack() as stack:
            stack.callback(self._queue.close)
            stack.callback(self._deployments.subscribe(self._deployment_changed))
            stack.callback(self._services.subscribe(self._service_changed))
            stack.callback(self._pods.subscribe(self._pod_changed))
            for informer in (self._deployments, self._services, self._pods):
                await informer.synced.wait()
            for pod in self._pods:
                self._pod_changed(None, pod)
            for service in self._services:
                self._add(_owner_name(service))
            self.refresh()
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work())
        raise AssertionError("workers do not end")

    def refresh(self) -> None:
        """Look at every Deployment again: something that all depend on has changed."""
        for deployment in self._deployments:
            self._add(key(deployment))

    def _add(self, name: Name | None) -> None:
        if name is not None:
            self._queue.add(name)
            self._metrics.queue.set(len(self._queue))

    def _deployment_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        self._add(key(new or old or {}))

    def _service_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        name = _owner_name(new or old or {})
        if new is None and name is not None:
            self._applied.pop(name, None)
        self._add(name)

    def _pod_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        pod = new or old or {}
        if (name := _owner_name(pod)) is None:
            return
        known = self._pods_by_name.setdefault(name, {})
        if new is None:
            known.pop(pod["metadata"]["name"], None)
        else:
            known[pod["metadata"]["name"]] = new
        if not known:
            del self._pods_by_name[name]
        self._add(name)

    async def _work(self) -> NoReturn:
        while True:
            name = await self._queue.get()
            self._metrics.queue.set(len(self._queue))
            try:
                result = await self._handle(name)
            finally:
                self._queue.done(name)
            self._metrics.reconciles.labels(result).inc()

    async def _handle(self, name: Name) -> str:
        """Reconcile one name and see to its next turn; returns the result in a word."""
        try:
            again = await self._reconcile(name)
        except ConflictError as error:
            # Somebody wrote at the same time: the watch brings their version.
            logger.info("%s/%s has changed meanwhile: %s", *name, error)
            self._queue.retry(name)
            return "conflict"
        except ApiError as error:
            seconds = self._queue.retry(name)
            logger.warning("%s/%s is tried again in %.1f s: %s", *name, seconds, error)
            return "error"
        except Exception:  # one Deployment's defect must not stop the others
            self._queue.retry(name)
            logger.exception("%s/%s cannot be reconciled.", *name)
            return "defect"
        if again is None:
            self._queue.forget(name)
        elif again:
            self._queue.forget(name)
            self._queue.add_after(name, again)
        else:
            self._queue.retry(name)
        return "ok"

    async def _reconcile(self, name: Name) -> float | None:
        """Returns the seconds until the next look, 0 for a back-off, or ``None`` to wait for a change."""
        deployment = self._deployments.get(*name)
        verdict = None if deployment is None else render_stored(deployment, self._facts())
        if deployment is None or verdict is None or not (verdict.service or verdict.refused):
            return await self._release(name)
        observed = Observed(
            deployment,
            verdict,
            self._services.get(*name),
            tuple(self._pods_by_name.get(name, {}).values()),
            applied=self._applied.get(name),
        )
        observed = await self._with_service(name, observed)
        observed = await self._with_lines(observed)
        await self._execute(deployment, planning.report(observed, self._now()))
        if observed.fault or (observed.service is not None and not observed.owned):
            return 0
        return LOADING_SECONDS if observed.lines else None

    async def _with_service(self, name: Name, observed: Observed) -> Observed:
        """What is observed once the Knative Service is as it should be, or the reason that it cannot be."""
        change = planning.service_change(observed)
        if change is not None and change.uid is None:
            # The watch sees only those with our label: one of this name may be there without it.
            try:
                observed = replace(observed, service=await self._api.get(KNATIVE_SERVICES, *name))
                change = planning.service_change(observed)
            except NotFoundError:
                pass
        if change is None:
            return observed
        try:
            service = await self._apply(name, change)
        except (RejectedError, NotFoundError, ForbiddenError) as error:
            code = "KnativeMissing" if isinstance(error, NotFoundError) else "NotAccepted"
            return replace(observed, fault=_fault("False", code, error))
        except UnavailableError as error:
            if not error.status:
                raise
            # The API server is there, one of its webhooks is not: Knative's own, as a rule.
            return replace(observed, fault=_fault("Unknown", "Progressing", error))
        return replace(observed, service=service)

    async def _apply(self, name: Name, change: ApplyService) -> JsonObject:
        manifest = change.manifest
        if change.uid is not None:
            manifest = manifest | {"metadata": manifest["metadata"] | {"uid": change.uid}}
        service = await self._api.apply(KNATIVE_SERVICES, manifest, force=change.uid is not None)
        metadata = service["metadata"]
        self._applied[name] = Applied(change.fingerprint, metadata["uid"], metadata["generation"])
        self._services.remember(service)
        self._metrics.writes.labels("service").inc()
        return service

    async def _with_lines(self, observed: Observed) -> Observed:
        """What is observed, with the last words of the loaders that run."""
        revision = ((observed.service or {}).get("status") or {}).get("latestCreatedRevisionName") or ""
        running = [pod for pod in pods.of_revision(observed.pods, revision) if pods.loader_is_running(pod)]
        return replace(observed, lines={pod["metadata"]["name"]: await self._line(pod) for pod in running[:LOGS]})

    async def _line(self, pod: JsonObject) -> JsonObject:
        try:
            log = await self._api.log(*key(pod), LOADER_CONTAINER, lines=LOG_LINES, size=LOG_BYTES)
        except ApiError as error:
            logger.info("The loader's log in %s/%s cannot be read: %s", *key(pod), error)
            return {}
        return pods.last_line(log)

    async def _release(self, name: Name) -> float | None:
        """See to a Knative Service whose Deployment is gone or is served no more."""
        self._applied.pop(name, None)
        service = self._services.get(*name)
        if service is None:
            return None
        try:
            deployment = await self._api.get(DEPLOYMENTS, *name)
        except NotFoundError:
            return None  # the garbage collector's
        cached = self._deployments.get(*name)
        if cached is None and SERVED_LABEL in (deployment["metadata"].get("labels") or {}):
            return None  # served again: the watch is about to say so
        actions = planning.release(deployment, service)
        if actions is None:
            return HANDOVER_SECONDS
        await self._execute(deployment, actions)
        return None

    async def _execute(self, deployment: JsonObject, actions: tuple[Action, ...]) -> None:
        watched = self._deployments.get(*key(deployment)) is not None
        for action in actions:
            written = await self._do(action, deployment)
            if written is not None:
                deployment = written
                if watched:
                    self._deployments.remember(written)

    async def _do(self, action: Action, deployment: JsonObject) -> JsonObject | None:
        """Carry out one action; returns the Deployment if it was written."""
        namespace, name = key(deployment)
        metadata = deployment["metadata"]
        match action:
            case Park():
                self._metrics.writes.labels("park").inc()
                return await self._api.merge(DEPLOYMENTS, namespace, name, {"spec": {"replicas": 0}})
            case Annotate(annotations, generation):
                if metadata["generation"] != generation:
                    raise ConflictError("the Deployment has a new generation")
                # The version makes the generation that is written the right one.
                manifest = _head(deployment, annotations=dict(annotations), resourceVersion=metadata["resourceVersion"])
                self._metrics.writes.labels("annotations").inc()
                return await self._api.apply(DEPLOYMENTS, manifest)
            case SetConditions(entries, told):
                manifest = _head(deployment) | {"status": {"conditions": list(entries)} if entries else {}}
                self._metrics.writes.labels("conditions").inc()
                written = await self._api.apply(DEPLOYMENTS, manifest, subresource="status")
                for condition in told:
                    warning = condition.status != "True"
                    await self._recorder.record(
                        deployment, warning=warning, reason=condition.reason, note=condition.message
                    )
                return written
            case DeleteService(uid):
                self._metrics.writes.labels("delete").inc()
                await self._api.delete(KNATIVE_SERVICES, namespace, name, uid=uid)
                return None
            case ApplyService():
                raise AssertionError("a report has no such action")


def _owner_name(manifest: JsonObject) -> Name | None:
    """Namespace and name of the Deployment that an object's label names."""
    metadata = manifest["metadata"]
    name = (metadata.get("labels") or {}).get(DEPLOYMENT_LABEL)
    return (metadata["namespace"], name) if name else None


def _head(deployment: JsonObject, **metadata: object) -> JsonObject:
    """The head of an apply to this very Deployment: never to another one of its name."""
    head = DEPLOYMENTS.identity(*key(deployment))
    return head | {"metadata": head["metadata"] | {"uid": deployment["metadata"]["uid"]} | metadata}


def _fault(status: str, code: str, error: ApiError) -> Condition:
    message = f"{condition_message(code)} {' '.join(error.message.split())}"
    return Condition(CONDITION_READY, status, code, message[:1].upper() + message[1:])
