"""The audit: everything that exists, held against the policies of now, as often as they change and by the clock.

What it finds stands in a bounded PolicyReport for each namespace (wgpolicyk8s.io, where the cluster has that), in a
condition of each Deployment, in Events and in metrics. An exception that has expired stops to count here too.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn

from serve_core.facts import PlatformFacts
from serve_core.json import JsonObject
from serve_core.names import CONDITION_COMPLIANT
from serve_core.policy.documents import PolicyException
from serve_core.policy.evaluate import Outcome, PolicyVerdict, Result, judge_policies
from serve_core.policy.subjects import Subject, subject_of
from serve_core.policy.trial import without_twins
from serve_core.reasons import condition_message
from serve_webhook import conditions
from serve_webhook.api import (
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    KNATIVE_SERVICES,
    POLICY_REPORTS,
    Api,
    ApiError,
    NotFoundError,
    Resource,
)
from serve_webhook.conditions import Condition
from serve_webhook.events import Recorder
from serve_webhook.informers import Informer
from serve_webhook.metrics import Metrics
from serve_webhook.policies import Policies

INTERVAL = timedelta(minutes=10)
SETTLE_SECONDS = 2.0
"""Policies that change together are audited together."""
MOST_RESULTS = 100
"""Entries of one namespace's report; its summary counts all of them."""
MANAGER = "kubectl-serve-audit"
"""Field manager of the condition: the reconciler owns the others."""
REPORT = "kubectl-serve"

_RESULTS = {
    Outcome.DENY: ("fail", "high"),
    Outcome.WARN: ("warn", "medium"),
    Outcome.AUDIT: ("fail", "low"),
    Outcome.EXCEPTED: ("skip", "info"),
}
_BROKEN = (Outcome.DENY, Outcome.WARN, Outcome.AUDIT)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Audited:
    subject: Subject
    verdict: PolicyVerdict


class Audit:
    """The leader's audit."""

    def __init__(
        self,
        api: Api,
        *,
        deployments: Informer,
        policies: Policies,
        facts: Callable[[], PlatformFacts],
        recorder: Recorder,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._deployments = deployments
        self._policies = policies
        self._facts = facts
        self._recorder = recorder
        self._metrics = metrics
        self._now = now
        self._asked = asyncio.Event()
        deployments.subscribe(self._deployment_changed)

    def _deployment_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if old is None or new is None or old["metadata"].get("generation") != new["metadata"].get("generation"):
            self.refresh()

    def refresh(self) -> None:
        """Audit soon: something has changed that verdicts rest on."""
        self._asked.set()

    async def run(self) -> NoReturn:
        """Audit until cancelled."""
        await self._deployments.synced.wait()
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            self._asked.clear()
            try:
                await self.once()
            except ApiError as error:
                logger.warning("The audit broke off: %s", error)
            seconds = seconds_to_next(self._policies.exceptions, self._now())
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._asked.wait()

    async def once(self) -> None:
        """Audit everything once."""
        facts, now = self._facts(), self._now()
        served = {(each["metadata"].get("namespace", ""), each["metadata"]["name"]): each for each in self._deployments}
        objects = list(served.values())
        if facts.policies:
            for resource in (KNATIVE_SERVICES, INFERENCE_SERVICES):
                objects += await self._listed(resource)
        audited = list(audit(objects, facts, self._policies.exceptions, now))
        self._measure(audited, now)
        for one in audited:
            if one.subject.kind == "Deployment":
                await self._tell(served[one.subject.namespace, one.subject.name], one, now)
            # Let reviews through between two objects.
            await asyncio.sleep(0)
        await self._report(audited)

    async def _listed(self, resource: Resource) -> list[JsonObject]:
        try:
            found, _ = await self._api.list(resource, "", {})
        except NotFoundError:
            return []
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        return [head | each for each in found]

    def _measure(self, audited: list[Audited], now: datetime) -> None:
        count = Counter((r.policy, r.rule, str(r.outcome)) for one in audited for r in broken(one.verdict))
        self._metrics.policy_violations.clear()
        for labels, number in count.items():
            self._metrics.policy_violations.labels(*labels).set(number)
        self._metrics.audited.set(now.timestamp())

    async def _tell(self, deployment: JsonObject, one: Audited, now: datetime) -> None:
        told = compliance(one)
        before = conditions.stored(deployment, CONDITION_COMPLIANT)
        if told == before or (told is None and before is None):
            return
        metadata = deployment["metadata"]
        manifest = DEPLOYMENTS.identity(metadata["namespace"], metadata["name"])
        # Never brings back what was deleted meanwhile.
        manifest["metadata"]["uid"] = metadata["uid"]
        entries = conditions.entries([told] if told else [], deployment, now)
        manifest["status"] = {"conditions": entries} if entries else {}
        with suppress(NotFoundError):
            await self._api.apply(DEPLOYMENTS, manifest, subresource="status", manager=MANAGER)
        if told is not None and told.status == "False":
            await self._recorder.record(deployment, warning=True, reason=told.reason, note=told.message)

    async def _report(self, audited: list[Audited]) -> None:
        wanted = reports(audited)
        try:
            live, _ = await self._api.list(
                POLICY_REPORTS, "", {"labelSelector": "app.kubernetes.io/managed-by=kubectl-serve"}
            )
        except NotFoundError:
            return
        for manifest in wanted:
            await self._api.apply(POLICY_REPORTS, manifest)
        kept = {manifest["metadata"]["namespace"] for manifest in wanted}
        for each in live:
            metadata = each["metadata"]
            if metadata["namespace"] not in kept:
                await self._api.delete(POLICY_REPORTS, metadata["namespace"], metadata["name"], uid=metadata["uid"])


def audit(
    objects: Iterable[JsonObject], facts: PlatformFacts, exceptions: tuple[PolicyException, ...], now: datetime
) -> Iterator[Audited]:
    """Judge objects as they are stored."""
    found = []
    for document in objects:
        namespace = document["metadata"].get("namespace", "")
        subject = subject_of(document, facts, namespace_labels=facts.namespace_labels.get(namespace, {}))
        if subject is not None:
            found.append(subject)
    for subject in without_twins(found):
        yield Audited(subject, judge_policies(subject, facts.policies, exceptions, now))


def broken(verdict: PolicyVerdict) -> list[Result]:
    """The rules that are broken, whatever their action."""
    return [result for result in verdict.results if result.outcome in _BROKEN]


def compliance(one: Audited) -> Condition | None:
    """The condition of a Deployment; ``None`` where no policy is about it."""
    if not one.verdict.results:
        return None
    found = [str(finding) for result in broken(one.verdict) for finding in result.findings]
    if not found:
        return Condition(CONDITION_COMPLIANT, "True", "Compliant", condition_message("Compliant"))
    text = "; ".join(found)
    text = text if len(text) <= conditions.LONGEST - 200 else text[: conditions.LONGEST - 200] + "…"
    message = condition_message("PolicyViolated", found=text.rstrip("."), name=one.subject.name)
    return Condition(CONDITION_COMPLIANT, "False", "PolicyViolated", message)


def reports(audited: Iterable[Audited]) -> list[JsonObject]:
    """One PolicyReport for each namespace in which a rule is broken or excepted; what is worst comes first."""
    by_namespace: dict[str, list[tuple[Subject, Result]]] = defaultdict(list)
    summary: dict[str, Counter[str]] = defaultdict(Counter)
    for one in audited:
        for result in one.verdict.results:
            kind, _ = _RESULTS.get(result.outcome, ("pass", ""))
            summary[one.subject.namespace][kind] += 1
            if kind != "pass":
                by_namespace[one.subject.namespace].append((one.subject, result))
    order = list(_RESULTS)
    made = []
    for namespace, found in sorted(by_namespace.items()):
        found.sort(key=lambda item: (order.index(item[1].outcome), item[0].kind, item[0].name, item[1].by))
        manifest = POLICY_REPORTS.identity(namespace, REPORT)
        manifest["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "kubectl-serve"}
        counts = summary[namespace]
        manifest["summary"] = {kind: counts[kind] for kind in ("pass", "fail", "warn", "error", "skip")}
        manifest["results"] = [_entry(subject, result) for subject, result in found[:MOST_RESULTS]]
        made.append(manifest)
    return made


def _entry(subject: Subject, result: Result) -> JsonObject:
    kind, severity = _RESULTS[result.outcome]
    message = str(result.excuse or "; ".join(map(str, result.findings)))
    return {
        "source": "kubectl-serve",
        "policy": result.policy,
        "rule": result.rule,
        "result": kind,
        "severity": severity,
        "message": message[:1024],
        "resources": [
            {
                "apiVersion": subject.document["apiVersion"],
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
            }
        ],
    }


def seconds_to_next(exceptions: Iterable[PolicyException], now: datetime) -> float:
    """How long to wait: until the next exception ends, but no longer than the interval."""
    ends = [exception.spec.expires for exception in exceptions if exception.counts(now)]
    until = min([now + INTERVAL, *ends])
    return max((until - now).total_seconds(), 0.0) + 0.1
