"""Brings the objects that served Deployments become, and what is said about them, in line with the Deployments.

Level-based: whatever happens only adds a name to the queue, and each name is handled from the present state.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

from serve_core.admission.decide import Verdict, render_stored
from serve_core.api.annotations import NOTED
from serve_core.api.loader_protocol import NOTHING, LoaderOutput
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_READY, LOADER_CONTAINER, SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_core.base.ownership import Identity, identity, owns
from serve_core.context.cluster import ClusterContext
from serve_webhook.api import (
    DEPLOYMENTS,
    EVENTS,
    KNATIVE_SERVICES,
    Api,
    ApiError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RejectedError,
    Resource,
    UnavailableError,
    Unread,
    UnreadableError,
    key,
    owned_resource,
)
from serve_webhook.cache.index import DeploymentIndex
from serve_webhook.cache.informers import Informer, NamespacedName
from serve_webhook.metrics import Metrics
from serve_webhook.reconcile import conditions, plan, pods
from serve_webhook.reconcile.conditions import Condition
from serve_webhook.reconcile.events import Recorder
from serve_webhook.reconcile.plan import Action, Annotate, Applied, Apply, Delete, Merge, Observed, SetConditions
from serve_webhook.work_queue import WorkQueue

WORKERS = 4
LOADING_SECONDS = 3.0
"""Between two looks at a loader that runs: its log is the only place where it says what it is waiting for."""
STUCK_SECONDS = 2.0
"""A pod whose containers have not started after that long is asked for its Events: nothing else says why."""
LONGEST_LOOK_SECONDS = 60.0
"""Between two looks at a pod that does not start; the first ones follow faster."""
UNWATCHED_SECONDS = 2.0
"""Between two looks at a Deployment that is served no more and lost its label before its pods were back."""
LOGS = 3
"""Pods of one Deployment whose logs or Events are read."""
MOST_EVENTS = 500
"""Events of one pod that are looked at, as anybody can make thousands."""
LOG_LINES = 5
LOG_BYTES = 8192

logger = logging.getLogger(__name__)


class Reconciler:
    """The leader's work. ``owned`` has an informer for each of :data:`serve_webhook.api.OWNED`; ``context`` must be
    known before :meth:`run`."""

    def __init__(
        self,
        api: Api,
        *,
        deployments: Informer,
        owned: Mapping[Resource, Informer],
        pods: Informer,
        context: Callable[[], ClusterContext],
        recorder: Recorder,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._deployments = deployments
        self._owned = owned
        self._pods = pods
        self._context = context
        self._recorder = recorder
        self._metrics = metrics
        self._now = now
        self._queue: WorkQueue[NamespacedName] = WorkQueue(owner=lambda name: name[0], most=WORKERS - 1)
        self._applied: dict[NamespacedName, dict[Identity, Applied]] = {}
        self._unread: dict[NamespacedName, str] = {}
        """Why a Deployment is left as it is, as it was said on it."""
        self._live_index: list[DeploymentIndex] = []
        self._pod_index: DeploymentIndex | None = None

    async def run(self) -> NoReturn:
        """Reconcile until cancelled."""
        with ExitStack() as stack:
            stack.callback(self._queue.close)
            for informer in (self._deployments, self._pods, *self._owned.values()):
                await informer.synced.wait()
            stack.callback(self._deployments.subscribe(self._deployment_changed))
            stack.callback(self._deployments.on_unread(self._add))
            self._live_index = [DeploymentIndex(informer, self._add) for informer in self._owned.values()]
            self._pod_index = DeploymentIndex(self._pods, self._add)
            stack.callback(self._pods.subscribe(self._pod_changed))
            for index in (*self._live_index, self._pod_index):
                stack.callback(index.close)
            self.refresh()
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work())
        raise AssertionError("workers do not end")

    def refresh(self, namespace: str | None = None) -> None:
        """Look at every Deployment again, or at those of one namespace: something that they depend on has changed."""
        for name in self._deployments.names():
            if namespace in (None, name[0]):
                self._add(name)

    def _add(self, name: NamespacedName) -> None:
        self._queue.add(name)
        self._metrics.queue.set(len(self._queue))

    def _deployment_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        self._add(key(new or old or {}))

    def _pod_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        """Count a loader that has ended. One that ended before anybody looked is not counted: it may have been."""
        if old and new and (end := pods.loader_end(new)) and end != pods.loader_end(old):
            code, seconds = end
            self._metrics.load_seconds.labels(code).observe(seconds)

    async def _work(self) -> NoReturn:
        while True:
            name = await self._queue.get()
            self._metrics.queue.set(len(self._queue))
            try:
                result = await self._handle(name)
            finally:
                self._queue.done(name)
            self._metrics.reconciles.labels(result).inc()

    async def _handle(self, name: NamespacedName) -> str:
        """Reconcile one name and see to its next turn; returns the result in a word."""
        try:
            again = await self._reconcile(name)
        except (ConflictError, NotFoundError) as error:
            # Somebody wrote or deleted it at the same time: the watch brings what it is now.
            logger.info("%s/%s has changed meanwhile: %s", *name, error)
            self._queue.retry(name)
            return "conflict"
        except ApiError as error:
            seconds = self._queue.retry(name)
            logger.warning("%s/%s is tried again in %.1f s: %s", *name, seconds, error)
            return "error"
        except Exception as error:  # one Deployment's defect must not stop the others
            self._queue.retry(name)
            logger.exception("%s/%s cannot be reconciled.", *name)
            await self._say_defect(name, error)
            return "defect"
        if again == 0:
            self._queue.retry(name)
            return "blocked"
        self._queue.forget(name)
        if again is not None:
            self._queue.add_after(name, again)
        return "ok"

    async def _say_defect(self, name: NamespacedName, error: Exception) -> None:
        """Let Ready say that nothing is known, whatever it is that made the turn fail."""
        try:
            if (deployment := self._deployments.get(*name)) is None:
                return
            ready = conditions.defect(CONDITION_READY, error)
            if ready != conditions.stored(deployment, CONDITION_READY):
                loaded = conditions.stored(deployment, CONDITION_MODEL_LOADED)
                entries = conditions.entries([*([loaded] if loaded else []), ready], deployment, self._now())
                await self._execute(deployment, (SetConditions(entries, (ready,)),))
        except Exception as again:  # noqa: BLE001 - the turn has failed, and comes again
            logger.warning("%s/%s cannot be given a condition: %s", *name, again)

    async def _say_unread(self, name: NamespacedName, unread: Unread) -> None:
        """Let Ready say why a served Deployment is left as it is. What it became stays."""
        if self._unread.get(name) == unread.why:
            return  # what is written makes another version of it, which cannot be read either
        manifest = DEPLOYMENTS.identity(*name)
        manifest["metadata"]["uid"] = unread.metadata.get("uid")
        said = f"{pods.sentence('Unreadable', kind=DEPLOYMENTS.kind, name=name[1])} The server says: {unread.why}."
        ready = Condition(CONDITION_READY, "False", "Unreadable", said)
        manifest["status"] = {"conditions": conditions.entries([ready], {}, self._now())}
        with suppress(UnreadableError):  # it was written
            await self._api.apply(DEPLOYMENTS, manifest, subresource="status")
        self._unread[name] = unread.why

    async def _reconcile(self, name: NamespacedName) -> float | None:
        """Returns the seconds until the next look, 0 for a back-off, or ``None`` to wait for a change."""
        deployment = self._deployments.get(*name)
        if deployment is None and (unread := self._deployments.unread(*name)):
            await self._say_unread(name, unread)
            return None
        self._unread.pop(name, None)
        verdict = render_stored(deployment, self._context()) if deployment else Verdict()
        live = {identity(manifest): manifest for index in self._live_index for manifest in index.of(name)}
        observed = Observed(
            deployment or {},
            verdict,
            live,
            self._pod_index.of(name) if self._pod_index else (),
            applied=self._applied.get(name, {}),
        )
        if deployment is None or not observed.served:
            return await self._release(name, observed)
        found = await self._with_objects(name, observed)
        if found is None:
            return None
        observed = found
        observed, again = await self._with_words(observed)
        await self._execute(observed.deployment, (*plan.surplus(observed), *plan.report(observed, self._now())))
        if observed.fault or observed.taken:
            return 0
        return again

    async def _with_objects(self, name: NamespacedName, observed: Observed) -> Observed | None:
        """What is observed once every wanted object is as it should be, or the reason why one cannot be.

        ``None`` where the Deployment had to be written first: the watch brings it as it is now.
        """
        for wanted in observed.wanted:
            at, change = identity(wanted), plan.change(observed, wanted)
            if change is not None:
                # The watch sees only what has our label: something of this name may be there without it. And what it
                # has seen may be gone.
                live = {here: each for here, each in observed.live.items() if here != at}
                try:
                    live[at] = await self._api.get(owned_resource(wanted), name[0], wanted["metadata"]["name"])
                except NotFoundError:
                    pass
                except UnreadableError as error:
                    return replace(observed, fault=_fault(wanted, error))
                observed = replace(observed, live=live)
                change = plan.change(observed, wanted)
            if change is None and observed.taken:
                return observed  # what comes after it may rest on it, as a model does on its guards
            if change is None:
                continue
            if first := plan.preparation(observed, change, self._now()):
                await self._execute(observed.deployment, (first,))
                return None
            try:
                applied = await self._apply(name, change, observed.live.get(at))
            except (RejectedError, NotFoundError, ForbiddenError, UnavailableError, UnreadableError) as error:
                return replace(observed, fault=_fault(wanted, error))
            observed = replace(observed, live={**observed.live, at: applied})
        return observed

    async def _apply(self, name: NamespacedName, change: Apply, found: JsonObject | None) -> JsonObject:
        """``found``: what is there."""
        manifest = change.manifest
        resource = owned_resource(manifest)
        if found is not None:
            bare = await self._api.merge(resource, *key(manifest), plan.overwriting(manifest, found))
            # The version keeps what is written in between from being taken for ours.
            versions = {"uid": change.uid, "resourceVersion": bare["metadata"]["resourceVersion"]}
            manifest = manifest | {"metadata": manifest["metadata"] | versions}
        live = await self._api.apply(resource, manifest, force=change.uid is not None)
        applied = Applied(change.fingerprint, live["metadata"]["uid"], plan.fingerprint_of(live.get("spec")))
        self._applied.setdefault(name, {})[identity(manifest)] = applied
        self._owned[resource].update_cache(live)
        self._metrics.writes.labels(resource.plural).inc()
        return live

    async def _with_words(self, observed: Observed) -> tuple[Observed, float | None]:
        """What is observed, with the last words of the loaders that run and of nodes that cannot start a pod.

        Also the seconds until the next look: no watch tells that there are new ones.
        """
        own = observed.own_pods
        running = [pod for pod in own if pods.loader_is_running(pod)][:LOGS]
        lines = {pod["metadata"]["name"]: await self._line(pod) for pod in running}
        waiting = {pod["metadata"]["name"]: (pod, since) for pod in own if (since := pods.waits_since(pod))}
        seconds = {name: (self._now() - since).total_seconds() for name, (_, since) in waiting.items()}
        stuck = [name for name in waiting if seconds[name] >= STUCK_SECONDS][:LOGS]
        warnings = {name: await self._warning(waiting[name][0]) for name in stuck}
        looks = [LOADING_SECONDS for _ in running]
        looks += [min(max(seconds[name], LOADING_SECONDS), LONGEST_LOOK_SECONDS) for name in waiting]
        return replace(observed, lines=lines, warnings=warnings), min(looks, default=None)

    async def _warning(self, pod: JsonObject) -> str:
        """What the node says of a pod that it cannot start."""
        metadata = pod["metadata"]
        newest: JsonObject = {}
        seen = 0
        selectors = {"fieldSelector": f"regarding.uid={metadata['uid']}"}
        try:
            async for page in self._api.pages(EVENTS, metadata["namespace"], selectors):
                newest = pods.newest((*page.items, newest))
                seen += len(page.items) + len(page.unread)
                if seen >= MOST_EVENTS:
                    break
        except ApiError as error:
            logger.info("The Events of %s/%s cannot be read: %s", *key(pod), error)
            return ""
        return pods.warning(newest)

    async def _line(self, pod: JsonObject) -> LoaderOutput:
        try:
            log = await self._api.log(*key(pod), LOADER_CONTAINER, lines=LOG_LINES, size=LOG_BYTES)
        except ApiError as error:
            logger.info("The loader's log in %s/%s cannot be read: %s", *key(pod), error)
            return NOTHING
        return pods.last_line(log)

    async def _release(self, name: NamespacedName, observed: Observed) -> float | None:
        """See to what a Deployment that is gone, or is served no more, has left."""
        self._applied.pop(name, None)
        watched = bool(observed.deployment)
        if not watched:
            if not observed.live:
                return None
            try:
                deployment = await self._api.get(DEPLOYMENTS, *name)
            except NotFoundError:
                return None  # the garbage collector's
            if SERVED_LABEL in (deployment["metadata"].get("labels") or {}):
                return None  # served again: the watch is about to say so
            observed = replace(observed, deployment=deployment)
        if observed.going:
            return None
        if any(owns(observed.deployment, live) for live in observed.live.values()):
            await self._execute(observed.deployment, plan.surplus(observed))
            return None if watched else UNWATCHED_SECONDS
        await self._execute(observed.deployment, plan.release(observed.deployment))
        return None

    async def _execute(self, deployment: JsonObject, actions: tuple[Action, ...]) -> JsonObject:
        """Returns the Deployment as it is after them."""
        watched = self._deployments.get(*key(deployment)) is not None
        for action in actions:
            written = await self._do(action, deployment)
            if written is not None:
                # Conditions are applied whatever its version; what follows from what was seen of it is not.
                generation = written["metadata"]["generation"]
                if isinstance(action, SetConditions) and generation != deployment["metadata"]["generation"]:
                    raise ConflictError("the Deployment has a new generation")
                deployment = written
                if watched and SERVED_LABEL in (written["metadata"].get("labels") or {}):
                    self._deployments.update_cache(written)
        return deployment

    async def _do(self, action: Action, deployment: JsonObject) -> JsonObject | None:
        """Carry out one action; returns the Deployment if it was written."""
        namespace, name = key(deployment)
        metadata = deployment["metadata"]
        notes: JsonObject = metadata.get("annotations") or {}
        match action:
            case Merge(patch, why):
                self._metrics.writes.labels(why).inc()
                # The version is a precondition here as well: it may not be served, or parked, as it was a moment ago.
                version = {key: metadata[key] for key in ("uid", "resourceVersion")}
                change = {**patch, "metadata": {**patch.get("metadata", {}), **version}}
                return await self._api.merge(DEPLOYMENTS, namespace, name, change)
            case Annotate(annotations) if gone := (notes.keys() & set(NOTED)) - annotations.keys():
                # An apply takes nothing off that somebody else has set as well.
                versions = {key: metadata[key] for key in ("uid", "resourceVersion")}
                change = {"metadata": {**versions, "annotations": {**annotations, **dict.fromkeys(gone)}}}
                self._metrics.writes.labels("annotations").inc()
                return await self._api.merge(DEPLOYMENTS, namespace, name, change)
            case Annotate(annotations):
                # The version makes the generation that is written the right one.
                manifest = _head(deployment, annotations=dict(annotations), resourceVersion=metadata["resourceVersion"])
                self._metrics.writes.labels("annotations").inc()
                return await self._api.apply(DEPLOYMENTS, manifest)
            case SetConditions(entries, told):
                manifest = _head(deployment) | {"status": {"conditions": list(entries)} if entries else {}}
                self._metrics.writes.labels("conditions").inc()
                written = await self._api.apply(DEPLOYMENTS, manifest, subresource="status")
                for condition in told:
                    await self._recorder.record(
                        deployment,
                        warning=condition.status != "True",
                        reason=condition.reason,
                        note=condition.message,
                    )
                return written
            case Delete(manifest):
                self._metrics.writes.labels("delete").inc()
                await self._delete(manifest)
                return None

    async def _delete(self, manifest: JsonObject) -> None:
        try:
            await self._api.delete(owned_resource(manifest), *key(manifest), uid=manifest["metadata"]["uid"])
        except NotFoundError:
            logger.info("%s %s/%s is gone already.", manifest["kind"], *key(manifest))


def _head(deployment: JsonObject, **metadata: object) -> JsonObject:
    """The head of an apply to this very Deployment: never to another one of its name."""
    head = DEPLOYMENTS.identity(*key(deployment))
    return head | {"metadata": head["metadata"] | {"uid": deployment["metadata"]["uid"]} | metadata}


def _fault(wanted: JsonObject, error: ApiError) -> Condition:
    """What Ready says of an object that could not be applied."""
    status, code = "False", "NotAccepted"
    if isinstance(error, UnavailableError):
        if not error.status:
            raise error  # nobody answers: nothing can be said either
        # The API server is there, one of its webhooks is not: Knative's own, as a rule.
        status, code = "Unknown", "Progressing"
    elif isinstance(error, UnreadableError):
        code = "Unreadable"
    elif isinstance(error, NotFoundError) and owned_resource(wanted) is KNATIVE_SERVICES:
        code = "KnativeMissing"
    said = pods.sentence(code, **plan.named(wanted))
    return Condition(CONDITION_READY, status, code, f"{said} {' '.join(error.message.split())}")
