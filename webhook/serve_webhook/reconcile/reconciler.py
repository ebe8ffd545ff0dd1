"""Reconciles served Deployments: the objects that they own, and their conditions.

Level-based: an event only adds a name to the queue, and each name is handled from the present state.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

from serve_core.admission import neighbours
from serve_core.admission.decide import Verdict, render_stored
from serve_core.api.state import is_current
from serve_core.base.constants import (
    CONDITION_MODEL_LOADED,
    CONDITION_PREFETCHED,
    CONDITION_READY,
    CONDITION_STATE,
    FIELD_MANAGER,
    SERVED_LABEL,
)
from serve_core.base.json import JsonObject
from serve_core.base.ownership import Identity, belongs_to, identity, is_sole_owner, owns
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext
from serve_core.knative import name_conflict
from serve_core.workload.prefetch import is_of_others, is_prefetch
from serve_kube.client import Client
from serve_kube.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    UnreadableError,
)
from serve_kube.paging import Unread
from serve_kube.resources import DEPLOYMENTS, KNATIVE_SERVICES, Resource, key, owned_resource
from serve_webhook.cache.index import DeploymentIndex
from serve_webhook.cache.informers import Informer, NamespacedName
from serve_webhook.cache.services import ServiceChange
from serve_webhook.metrics import Metrics
from serve_webhook.reconcile import conditions, plan, pod_reports, pods, prefetch, surroundings
from serve_webhook.reconcile.actions import Apply, SetConditions, SetScaling
from serve_webhook.reconcile.conditions import Condition
from serve_webhook.reconcile.events import Recorder
from serve_webhook.reconcile.executor import Executor
from serve_webhook.reconcile.observed import LastApplied, Observed, is_knative_service
from serve_webhook.work_queue import WorkQueue

WORKERS = 4
REST_SECONDS = 0.1
"""Between two turns of a Deployment: Knative and the kubelet write several times within that."""
SETTLE_SECONDS = 0.5
"""After a change of a Service, so that Services that are created together make one turn of each Deployment."""
PREFETCH_SECONDS = 30.0
"""Until what loads a model on nodes in advance is applied again, after the API server refused it."""
UNWATCHED_SECONDS = 2.0
"""Between two reads of a Deployment that is no longer served and lost its label before its own pods were ready."""
_KEPT_CONDITIONS = (CONDITION_MODEL_LOADED, CONDITION_PREFETCHED, CONDITION_STATE)
UNREAD_MANAGER = f"unread.{FIELD_MANAGER}"
"""Field manager of Ready on a Deployment that cannot be read: the conditions that are not known then stay."""
logger = logging.getLogger(__name__)


class Reconciler:
    """Runs on the leader. ``owned`` has an informer for each of :data:`serve_kube.resources.OWNED`; the context must be
    complete before :meth:`run`."""

    def __init__(
        self,
        api: Client,
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
        self._executor = Executor(api, deployments=deployments, owned=owned, recorder=recorder, metrics=metrics)
        self._queue: WorkQueue[NamespacedName] = WorkQueue(
            owner=lambda name: name[0], most=WORKERS - 1, rest=REST_SECONDS
        )
        self._applied: dict[NamespacedName, dict[Identity, LastApplied]] = {}
        self._scaling: dict[NamespacedName, dict[tuple[str, str], Mapping[str, str | None]]] = {}
        self._unread: dict[NamespacedName, str] = {}
        """Why a Deployment is not reconciled, as its condition says."""
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
        """Reconcile all Deployments, or those of one namespace: something that they depend on has changed."""
        for name in self._deployments.names():
            if namespace in (None, name[0]):
                self._add(name)

    def service_changed(self, change: ServiceChange) -> None:
        """Reconcile the Deployments to which the change of a Service can matter."""
        for name in self._deployments.names():
            if name[0] == change.namespace and name_conflict.may_affect(change.name, change.states, name[1]):
                self._queue.add_after(name, SETTLE_SECONDS)

    def _add(self, name: NamespacedName) -> None:
        self._queue.add(name)
        self._metrics.queue.set(len(self._queue))

    def _deployment_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        self._add(key(new or old or {}))

    def _pod_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        """Count a loader that has ended. A pod that is new here is not counted: an earlier leader may have counted
        it."""
        if old and new and (result := pods.loader_result(new)) and result != pods.loader_result(old):
            code, seconds = result
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
        """Reconcile one name and schedule it again; returns the result for the metrics."""
        try:
            delay = await self._reconcile(name)
        except (ConflictError, NotFoundError) as error:
            # Another client wrote or deleted it at the same time: the watch brings the present state.
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
            await self._report_defect(name, error)
            return "defect"
        if delay == 0:
            self._queue.retry(name)
            return "blocked"
        self._queue.forget(name)
        if delay is not None:
            self._queue.add_after(name, delay)
        return "ok"

    async def _report_defect(self, name: NamespacedName, error: Exception) -> None:
        """Set Ready to Unknown after an unexpected exception."""
        try:
            if (deployment := self._deployments.get(*name)) is None:
                return
            ready = conditions.defect(CONDITION_READY, error)
            if ready != conditions.stored(deployment, CONDITION_READY):
                kept = (conditions.stored(deployment, kind) for kind in _KEPT_CONDITIONS)
                entries = conditions.entries([*filter(None, kept), ready], deployment, self._now())
                await self._executor.execute(deployment, (SetConditions(entries, (ready,)),))
        except Exception as second:  # noqa: BLE001 - the queue has the name for a retry
            logger.warning("The condition of %s/%s cannot be written: %s", *name, second)

    async def _report_unread(self, name: NamespacedName, unread: Unread) -> None:
        """Let Ready say why a served Deployment is not reconciled. Its objects stay."""
        if self._unread.get(name) == unread.why:
            return  # the condition itself made a new version, which cannot be read either
        manifest = DEPLOYMENTS.identity(*name)
        manifest["metadata"]["uid"] = unread.metadata.get("uid")
        message = (
            f"{pods.sentence('Unreadable', kind=DEPLOYMENTS.kind, name=name[1])} The server reports: {unread.why}."
        )
        ready = Condition(CONDITION_READY, "False", "Unreadable", message)
        manifest["status"] = {"conditions": conditions.entries([ready], {}, self._now())}
        with suppress(UnreadableError):  # the response; the write succeeded
            await self._api.apply(DEPLOYMENTS, manifest, subresource="status", manager=UNREAD_MANAGER)
        self._unread[name] = unread.why

    async def _reconcile(self, name: NamespacedName) -> float | None:
        """Returns the seconds until the next turn, 0 for a back-off, or ``None`` to wait for a change."""
        deployment = self._deployments.get(*name)
        if deployment is None and (unread := self._deployments.unread(*name)):
            await self._report_unread(name, unread)
            return None
        if self._unread.pop(name, None) and deployment:
            head = DEPLOYMENTS.identity(*name)
            head["metadata"]["uid"] = deployment["metadata"]["uid"]
            await self._api.apply(DEPLOYMENTS, head | {"status": {}}, subresource="status", manager=UNREAD_MANAGER)
        context = self._context()
        if deployment and not is_current(deployment):
            context = replace(context, neighbours=await surroundings.read(self._api, name[0]))
        verdict = render_stored(deployment, context) if deployment else Verdict()
        labelled = (manifest for index in self._live_index for manifest in index.of(name))
        live = {identity(manifest): manifest for manifest in labelled if not is_of_others(manifest)}
        observed = Observed(
            deployment or {},
            verdict,
            live,
            self._pod_index.of(name) if self._pod_index else (),
            applied=self._applied.get(name, {}),
            scaling=self._scaling.get(name, {}),
            autoscaler=context.knative_autoscaler,
        )
        if deployment is None or not observed.served:
            return await self._release(name, observed)
        # Before the write that makes the conditions current: later turns do not list the neighbours.
        await self._report_neighbours(observed)
        observed, next_look = await self._with_prefetch(name, observed)
        found = await self._with_objects(name, observed)
        if found is None:
            return None
        observed = found
        reports = await pod_reports.read(self._api, observed.own_pods, self._now())
        observed = replace(observed, outputs=reports.outputs, warnings=reports.warnings)
        writes = plan.status_writes(observed, self._now())
        actions = (*plan.deletions(observed), *writes.actions)
        await self._executor.execute(observed.deployment, actions)
        if set_now := {(a.service, a.revision): a.annotations for a in actions if isinstance(a, SetScaling)}:
            self._scaling.setdefault(name, {}).update(set_now)
        if observed.fault or observed.name_conflict:
            return 0
        delays = (reports.next_read, writes.wait, next_look)
        return min((each for each in delays if each is not None), default=None)

    async def _report_neighbours(self, observed: Observed) -> None:
        """Record an Event for each warning about an autoscaler or a disruption budget."""
        for warning in observed.verdict.warnings:
            if warning.code in neighbours.CODES:
                note = f"{warning.message} {warning.hint}"
                await self._recorder.record(observed.deployment, warning=True, reason=warning.code, note=note)

    async def _with_prefetch(self, name: NamespacedName, observed: Observed) -> tuple[Observed, float | None]:
        """Apply what loads the model on nodes in advance, and find out why they do not.

        Returns the seconds until the next look as well. Nothing else fails because this does.
        """
        wanted = observed.wanted_prefetch
        if wanted is None:
            return observed, None
        if (change := plan.required_apply(observed, wanted)) is not None:
            at = identity(wanted)
            try:
                observed = replace(
                    observed, live={**observed.live, at: await self._apply(name, change, observed.live.get(at))}
                )
            except ConflictError:
                raise
            except ApiError as error:
                refusal = pods.PodFinding(
                    "False", "PrefetchRefused", f"{pods.sentence('PrefetchRefused')} {error.message}"
                )
                return replace(observed, prefetch_cause=refusal), PREFETCH_SECONDS
        if (live := observed.prefetch) is None or prefetch.is_done(live):
            return observed, None
        cause, next_look = await pod_reports.prefetch_cause(self._api, live, prefetch.share(live)[1], self._now())
        seconds = pod_reports.age(live, self._now())
        return replace(observed, prefetch_cause=cause, prefetch_seconds=seconds), next_look

    async def _with_objects(self, name: NamespacedName, observed: Observed) -> Observed | None:
        """Apply every wanted object; returns the observed state after that, with the reason where an apply fails.

        ``None`` where the Deployment had to be written first: the watch brings its new state.
        """
        for wanted in (plan.held_back(observed, each) for each in observed.wanted if not is_prefetch(each)):
            if is_knative_service(wanted) and prefetch.holds(observed):
                continue
            at, change = identity(wanted), plan.required_apply(observed, wanted)
            if change is not None:
                # The watch selects by label: an object of this name can exist without the label. And an object that the
                # watch has brought may be deleted by now.
                live = {here: each for here, each in observed.live.items() if here != at}
                try:
                    live[at] = await self._api.get(owned_resource(wanted), name[0], wanted["metadata"]["name"])
                except NotFoundError:
                    pass
                except UnreadableError as error:
                    return replace(observed, fault=_fault(wanted, error))
                observed = replace(observed, live=live)
                change = plan.required_apply(observed, wanted)
            if change is None and observed.name_conflict:
                return observed  # later objects may depend on it, as a Knative Service does on its access policies
            if change is None:
                continue
            if first := plan.preparation(observed, change, self._now()):
                await self._executor.execute(observed.deployment, (first,))
                return None
            try:
                applied = await self._apply(name, change, observed.live.get(at))
            except (InvalidError, NotFoundError, ForbiddenError, UnavailableError, UnreadableError) as error:
                return replace(observed, fault=_fault(wanted, error))
            observed = replace(observed, live={**observed.live, at: applied})
        return observed

    async def _apply(self, name: NamespacedName, change: Apply, found: JsonObject | None) -> JsonObject:
        live = await self._executor.apply(change, found)
        applied = LastApplied(change.fingerprint, live["metadata"]["uid"], plan.fingerprint(live.get("spec")))
        self._applied.setdefault(name, {})[identity(change.manifest)] = applied
        return live

    async def _release(self, name: NamespacedName, observed: Observed) -> float | None:
        """Clean up after a Deployment that is deleted or no longer served."""
        self._applied.pop(name, None)
        self._scaling.pop(name, None)
        watched = bool(observed.deployment)
        if not watched:
            if not any(belongs_to(name[1], live) for live in observed.live.values()):
                return None
            try:
                deployment = await self._api.get(DEPLOYMENTS, *name)
            except NotFoundError:
                await self._executor.collect(live for live in observed.live.values() if is_sole_owner(name[1], live))
                return None
            if SERVED_LABEL in Workload(deployment).labels:
                return None  # served again: the watch is about to bring it
            observed = replace(observed, deployment=deployment)
        if observed.is_deleting:
            return None
        if any(owns(observed.deployment, live) for live in observed.live.values()):
            await self._executor.execute(observed.deployment, plan.deletions(observed))
            return None if watched else UNWATCHED_SECONDS
        await self._executor.execute(observed.deployment, plan.release(observed.deployment))
        return None


def _fault(wanted: JsonObject, error: ApiError) -> Condition:
    """Ready where an object could not be applied."""
    status, code = "False", "NotAccepted"
    if isinstance(error, UnavailableError):
        if not error.status:
            raise error  # no connection: the condition could not be written either
        # The API server answers, one of its webhooks does not: usually Knative's.
        status, code = "Unknown", "Progressing"
    elif isinstance(error, UnreadableError):
        code = "Unreadable"
    elif isinstance(error, NotFoundError) and owned_resource(wanted) is KNATIVE_SERVICES:
        code = "KnativeMissing"
    sentence = pods.sentence(code, **plan.title_words(wanted))
    return Condition(CONDITION_READY, status, code, f"{sentence} {' '.join(error.message.split())}")
