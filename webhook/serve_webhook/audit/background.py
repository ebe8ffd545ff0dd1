"""Judges everything that exists by the present policies, when they change and at intervals. Runs on the leader.

Served Deployments are watched, and judged again when they change. All other objects, the cluster's pods among them, are
listed page by page, which costs more and happens less often.

Results appear in PolicyReports, in a condition of each Deployment, in Events and in metrics. An expired exception ends
here as well.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NoReturn

from serve_core.audit.stored_objects import AuditedObject, Auditor
from serve_core.base.constants import CONDITION_COMPLIANT
from serve_core.base.json import JsonObject
from serve_core.base.reasons import condition_message
from serve_core.context.cluster import ClusterContext
from serve_core.policy.v1alpha1 import PolicyException
from serve_kube.client import Client
from serve_kube.errors import ApiError, ConflictError, ForbiddenError, InvalidError, NotFoundError, UnreadableError
from serve_kube.resources import (
    CONFIGURATIONS,
    DEPLOYMENTS,
    DOMAIN_MAPPINGS,
    INFERENCE_SERVICES,
    KNATIVE_SERVICES,
    PODS,
    POLICY_REPORTS,
    REVISIONS,
    ROUTES,
    SERVING_RUNTIMES,
    TRAINED_MODELS,
    key,
)
from serve_webhook.audit import policy_report
from serve_webhook.audit.findings import AuditFindings, broken
from serve_webhook.cache.informers import Informer, NamespacedName
from serve_webhook.cache.policies import PolicyCache
from serve_webhook.metrics import Metrics
from serve_webhook.reconcile import conditions
from serve_webhook.reconcile.conditions import Condition
from serve_webhook.reconcile.events import Recorder

INTERVAL = timedelta(minutes=10)
SETTLE_SECONDS = 2.0
"""After a change, so that policies that change together are audited together."""
PAUSE_FACTOR = 9
"""The pause after a full audit, as a multiple of its duration."""
RETRY_SECONDS = 30.0
"""Until the next attempt after an audit that failed."""
LISTED = (
    SERVING_RUNTIMES, INFERENCE_SERVICES, TRAINED_MODELS,
    KNATIVE_SERVICES, CONFIGURATIONS, REVISIONS, ROUTES, DOMAIN_MAPPINGS, PODS,
)  # fmt: skip
"""Resources that are judged besides Deployments, in the order of :data:`serve_core.policy.subject.SUBJECT_KINDS`."""
MANAGER = "kubectl-serve-audit"
"""Field manager of the condition: the reconciler owns the others."""
_PLURALS = {resource.kind: resource.plural for resource in (DEPLOYMENTS, *LISTED)}
_OBJECT_ERRORS = (ForbiddenError, InvalidError, UnreadableError)
"""Errors of one object, after which the others can still be written."""

logger = logging.getLogger(__name__)


class BackgroundAudit:
    """Runs on the leader."""

    def __init__(
        self,
        api: Client,
        *,
        deployments: Informer,
        policies: PolicyCache,
        context: Callable[[], ClusterContext],
        recorder: Recorder,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._deployments = deployments
        self._policies = policies
        self._context = context
        self._recorder = recorder
        self._metrics = metrics
        self._now = now
        self._deployment_findings = AuditFindings()
        self._other_findings = AuditFindings()
        self._changed: set[NamespacedName] = set()
        self._unjudged: dict[tuple[str, ...], None] = {}
        self._unjudged_before: dict[tuple[str, ...], None] = {}
        """What the last audit could not judge: kind, namespace, name and resource version."""
        self._requested = asyncio.Event()
        self._stale = True

    def _deployment_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if old is None or new is None or old["metadata"].get("generation") != new["metadata"].get("generation"):
            self._changed.add(key(new or old or {}))
            self._requested.set()

    def refresh(self) -> None:
        """Judge everything again soon, after a change of something that verdicts depend on."""
        self._stale = True
        self._requested.set()

    async def run(self) -> NoReturn:
        """Audit until cancelled."""
        stop = self._deployments.subscribe(self._deployment_changed)
        try:
            await self._deployments.synced.wait()
            await self._run()
        finally:
            stop()

    async def _run(self) -> NoReturn:
        clock = asyncio.get_running_loop().time
        pause_ends, next_full = clock(), self._now()
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            self._requested.clear()
            began, now = clock(), self._now()
            everything = self._stale and began >= pause_ends
            try:
                if everything:
                    self._stale = False
                    next_full = next_audit(self._policies.exceptions, now)
                    await self.audit_all()
                    pause_ends = clock() + PAUSE_FACTOR * (clock() - began)
                else:
                    await self.audit_changed()
            except ApiError as error:
                logger.warning("The audit failed: %s", error)
                self._stale, pause_ends = True, clock() + RETRY_SECONDS
            except Exception:  # objects of users must not end the process
                logger.exception("The audit failed.")
                self._stale, pause_ends = True, clock() + RETRY_SECONDS
            seconds = pause_ends - clock() if self._stale else (next_full - self._now()).total_seconds() + 0.1
            try:
                async with asyncio.timeout(max(seconds, 0)):
                    await self._requested.wait()
            except TimeoutError:
                self._stale = True

    async def audit_all(self) -> None:
        """Judge everything that exists."""
        context, now = self._context(), self._now()
        self._changed.clear()
        auditor = Auditor(context, self._policies.exceptions, now)
        self._unjudged = {}
        deployments, others = AuditFindings(), AuditFindings()
        await self._judge(auditor, self._deployments, deployments)
        if context.policies:
            async for page in self._pages():
                await self._judge(auditor, page, others)
        self._deployment_findings, self._other_findings = deployments, others
        self._unjudged_before = self._unjudged
        self._update_metrics()
        await self._report()
        self._metrics.audited.set(now.timestamp())

    async def audit_changed(self) -> None:
        """Judge the Deployments that have changed. All other results stay."""
        context, now, changed, self._changed = self._context(), self._now(), self._changed, set()
        if not context.policies:
            return  # an audit of everything has removed the conditions and reports of earlier ones
        auditor = Auditor(context, self._policies.exceptions, now)
        live_objects = [live for name in changed if (live := self._deployments.get(*name)) is not None]
        for namespace, name in changed:
            self._deployment_findings.remove(namespace, name)
        await self._judge(auditor, live_objects, self._deployment_findings)
        self._update_metrics()
        if changed:
            await self._report({namespace for namespace, _ in changed})

    async def _judge(self, auditor: Auditor, documents: Iterable[JsonObject], findings: AuditFindings) -> None:
        """Add the results of each object to ``findings``, and those of a Deployment to its conditions."""
        for document in documents:
            try:
                judged = auditor.judge(document)
            except Exception as error:  # noqa: BLE001 - one object's defect must not keep the others from being judged
                self._skip(document.get("kind", ""), document["metadata"], type(error).__name__)
                if document.get("kind") == DEPLOYMENTS.kind:
                    await self._set_condition(document, conditions.defect(CONDITION_COMPLIANT, error))
                continue
            if judged is not None:
                findings.add(judged)
                live = self._deployments.get(judged.namespace, judged.name)
                if judged.kind == DEPLOYMENTS.kind and live is not None:
                    await self._set_condition(live, compliance(judged))
            # Let reviews run between two objects.
            await asyncio.sleep(0)

    async def _pages(self) -> AsyncIterator[list[JsonObject]]:
        for resource in LISTED:
            # Items of a list have neither kind nor version of their own.
            head = {"apiVersion": resource.api_version, "kind": resource.kind}
            with suppress(NotFoundError):
                async for page in self._api.pages(resource):
                    for unread in page.unread:
                        self._skip(resource.kind, unread.metadata, unread.why)
                    yield [head | each for each in page.items]

    def _skip(self, kind: str, metadata: JsonObject, why: str) -> None:
        """Log and count an object that cannot be judged, once for each version."""
        at = (kind, *(str(metadata.get(part) or "") for part in ("namespace", "name", "resourceVersion")))
        self._unjudged[at] = None
        if at not in self._unjudged_before:
            self._unjudged_before[at] = None
            self._metrics.object_skipped(_PLURALS.get(kind, kind))
            logger.warning("%s %s/%s was not evaluated: %s.", *at[:3], why)

    def _update_metrics(self) -> None:
        count = self._deployment_findings.violations() + self._other_findings.violations()
        self._metrics.policy_violations.clear()
        for labels, number in count.items():
            self._metrics.policy_violations.labels(*labels).set(number)

    async def _set_condition(self, deployment: JsonObject, condition: Condition | None) -> None:
        """Set a Deployment's condition, or remove it, and record an Event where a rule is broken."""
        try:
            before = conditions.stored(deployment, CONDITION_COMPLIANT)
            entries = conditions.entries([condition] if condition else [], deployment, self._now())
        except Exception as error:  # noqa: BLE001 - users can write conditions of any shape
            self._skip(DEPLOYMENTS.kind, deployment["metadata"], type(error).__name__)
            return
        if condition == before:
            return
        metadata = deployment["metadata"]
        manifest = DEPLOYMENTS.identity(metadata["namespace"], metadata["name"])
        # With the UID, the apply does not create a Deployment that was deleted meanwhile.
        manifest["metadata"]["uid"] = metadata["uid"]
        manifest["status"] = {"conditions": entries} if entries else {}
        try:
            await self._api.apply(DEPLOYMENTS, manifest, subresource="status", manager=MANAGER)
        except (NotFoundError, ConflictError):
            pass
        except _OBJECT_ERRORS as error:
            logger.warning("The condition of %s/%s is not written: %s", *key(deployment), error)
            return
        if condition is not None and condition.status == "False":
            await self._recorder.record(deployment, warning=True, reason=condition.reason, note=condition.message)

    async def _report(self, namespaces: Collection[str] | None = None) -> None:
        """Write the reports of these namespaces, or of all."""
        managed = {"labelSelector": "app.kubernetes.io/managed-by=kubectl-serve"}
        listed = next(iter(namespaces)) if namespaces and len(namespaces) == 1 else ""
        made = policy_report.reports(self._deployment_findings, self._other_findings, namespaces=namespaces)
        wanted = {manifest["metadata"]["namespace"]: manifest for manifest in made}
        current: set[str] = set()
        stale: list[JsonObject] = []
        try:
            async for page in self._api.pages(POLICY_REPORTS, listed, managed):
                # Others can use the label as well: only reports of our name are ours.
                for live in (each for each in page.items if each["metadata"]["name"] == policy_report.NAME):
                    at = live["metadata"]["namespace"]
                    if namespaces is not None and at not in namespaces:
                        continue
                    if at not in wanted:
                        stale.append(live["metadata"])
                    elif all(live.get(part) == wanted[at][part] for part in ("summary", "results")):
                        current.add(at)
        except NotFoundError:
            return
        for at, manifest in wanted.items():
            if at in current:
                continue
            try:
                await self._api.apply(POLICY_REPORTS, manifest)
            except _OBJECT_ERRORS as error:  # the namespace is being deleted, for instance
                logger.warning("The report of namespace %s is not written: %s", at, error)
        for metadata in stale:
            with suppress(NotFoundError, ConflictError):
                await self._api.delete(POLICY_REPORTS, metadata["namespace"], metadata["name"], uid=metadata["uid"])


def compliance(judged: AuditedObject) -> Condition | None:
    """A Deployment's condition; ``None`` where no policy selects it."""
    if not judged.verdict.results:
        return None
    found = [str(finding) for result in broken(judged.verdict) for finding in result.findings]
    if not found:
        return Condition(CONDITION_COMPLIANT, "True", "Compliant", condition_message("Compliant"))
    text = "; ".join(found)
    text = text if len(text) <= conditions.MAX_MESSAGE - 200 else text[: conditions.MAX_MESSAGE - 200] + "…"
    message = condition_message("PolicyViolated", found=text.rstrip("."), name=judged.name, namespace=judged.namespace)
    return Condition(CONDITION_COMPLIANT, "False", "PolicyViolated", message)


def next_audit(exceptions: Iterable[PolicyException], now: datetime) -> datetime:
    """When to judge everything again if nothing changes: when the next exception expires, or after :data:`INTERVAL`."""
    return min([now + INTERVAL, *(exception.spec.expires for exception in exceptions if exception.counts(now))])
