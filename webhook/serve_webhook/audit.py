"""The audit: everything that exists, held against the policies of now, as often as they change and by the clock.

Served Deployments are at hand, and one that changes is judged again at once. Everything else is listed page by page,
pods of the whole cluster among them: that costs more, and is done less often.

What it finds stands in a bounded PolicyReport for each namespace (wgpolicyk8s.io, where the cluster has that), in a
condition of each Deployment, in Events and in metrics. An exception that has expired stops to count here too.
"""

import asyncio
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NoReturn

from serve_core.audit.stored_objects import AuditedObject, Auditor
from serve_core.base.constants import CONDITION_COMPLIANT
from serve_core.base.escaping import inline
from serve_core.base.json import JsonObject
from serve_core.base.reasons import condition_message
from serve_core.context.cluster import ClusterContext
from serve_core.policy.evaluate import PolicyVerdict, RuleOutcome, RuleResult
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
from serve_webhook.cache.informers import Informer, NamespacedName
from serve_webhook.cache.policies import Policies
from serve_webhook.metrics import Metrics
from serve_webhook.reconcile import conditions
from serve_webhook.reconcile.conditions import Condition
from serve_webhook.reconcile.events import Recorder

INTERVAL = timedelta(minutes=10)
SETTLE_SECONDS = 2.0
"""Policies that change together are audited together."""
REST = 9
"""How many times as long as everything took to judge the audit lets go by before it does that again."""
RETRY_SECONDS = 30.0
"""How long it rests where the API server did not let it finish."""
LISTED = (
    SERVING_RUNTIMES, INFERENCE_SERVICES, TRAINED_MODELS,
    KNATIVE_SERVICES, CONFIGURATIONS, REVISIONS, ROUTES, DOMAIN_MAPPINGS, PODS,
)  # fmt: skip
"""What is judged beside Deployments, in the order of :data:`serve_core.policy.subject.SUBJECT_KINDS`."""
MOST_RESULTS = 100
"""Entries of one namespace's report; its summary counts all of them."""
MOST_IN_WORDS = 1000
"""Results of one namespace that are kept in words, of which its report has the worst; the others are counted."""
MANAGER = "kubectl-serve-audit"
"""Field manager of the condition: the reconciler owns the others."""
REPORT = "kubectl-serve"

_RESULTS = {
    RuleOutcome.DENY: ("fail", "high"),
    RuleOutcome.WARN: ("warn", "medium"),
    RuleOutcome.AUDIT: ("fail", "low"),
    RuleOutcome.EXCEPTED: ("skip", "info"),
}
_PLURALS = {resource.kind: resource.plural for resource in (DEPLOYMENTS, *LISTED)}
_OF_ONE_OBJECT = (ForbiddenError, InvalidError, UnreadableError)
"""What the API server says of one object, and does not keep the others from being written."""
_BROKEN = (RuleOutcome.DENY, RuleOutcome.WARN, RuleOutcome.AUDIT)
_ORDER = list(_RESULTS)

_Said = tuple[str, str, RuleOutcome]
"""Policy, rule and outcome."""
_Object = tuple[str, str, str]
"""API version, kind and name."""

logger = logging.getLogger(__name__)


class Found:
    """What the policies say of many objects, in little memory: how often what is said, and the words of some of it.

    Anybody can make thousands of pods, and each may break every rule.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Counter[_Said]] = defaultdict(Counter)
        """By namespace."""
        self._words: dict[str, dict[_Object, tuple[RuleResult, ...]]] = defaultdict(dict)
        """What is broken or excepted in some objects of each namespace."""
        self._room: dict[str, int] = {}
        """How many more results of each namespace may be kept in words."""
        self._deployments: dict[NamespacedName, tuple[_Said, ...]] = {}
        self._known: dict[_Said, _Said] = {}
        """One of each, which all share."""

    def add(self, one: AuditedObject) -> None:
        about = ((result.policy, result.rule, result.outcome) for result in one.verdict.results)
        said = tuple(self._known.setdefault(each, each) for each in about)
        self._counts[one.namespace].update(said)
        if one.kind == DEPLOYMENTS.kind:
            self._deployments[one.namespace, one.name] = said
        told = tuple(result for result in one.verdict.results if result.outcome in _RESULTS)
        room = self._room.get(one.namespace, MOST_IN_WORDS)
        if told and room:
            kept = tuple(sorted(told, key=_badness)[:room])
            self._room[one.namespace] = room - len(kept)
            self._words[one.namespace][one.api_version, one.kind, one.name] = kept

    def remove(self, namespace: str, name: str) -> None:
        """Take out what was found in a Deployment."""
        self._counts[namespace].subtract(self._deployments.pop((namespace, name), ()))
        self._counts[namespace] = +self._counts[namespace]
        kept = self._words[namespace].pop((DEPLOYMENTS.api_version, "Deployment", name), ())
        if kept:
            self._room[namespace] += len(kept)

    def namespaces(self) -> list[str]:
        return [namespace for namespace, counts in self._counts.items() if counts]

    def counts(self, namespace: str) -> Mapping[_Said, int]:
        return self._counts.get(namespace, {})

    def words(self, namespace: str) -> Iterator[tuple[_Object, RuleResult]]:
        for found, results in self._words.get(namespace, {}).items():
            yield from ((found, result) for result in results)

    def broken(self) -> Counter[_Said]:
        """How often each rule is broken."""
        total: Counter[_Said] = Counter()
        for counts in self._counts.values():
            total.update({said: number for said, number in counts.items() if said[2] in _BROKEN})
        return total


def _badness(result: RuleResult) -> tuple[int, str]:
    return _ORDER.index(result.outcome), result.by


class Audit:
    """The leader's audit."""

    def __init__(
        self,
        api: Client,
        *,
        deployments: Informer,
        policies: Policies,
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
        self._of_deployments = Found()
        self._of_others = Found()
        self._changed: set[NamespacedName] = set()
        self._unjudged: dict[tuple[str, ...], None] = {}
        self._unjudged_before: dict[tuple[str, ...], None] = {}
        """What the last audit could not judge: kind, namespace, name and version."""
        self._asked = asyncio.Event()
        self._stale = True

    def _deployment_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if old is None or new is None or old["metadata"].get("generation") != new["metadata"].get("generation"):
            self._changed.add(key(new or old or {}))
            self._asked.set()

    def refresh(self) -> None:
        """Judge everything again soon: something has changed that verdicts rest on."""
        self._stale = True
        self._asked.set()

    async def run(self) -> NoReturn:
        """Audit until cancelled."""
        stop = self._deployments.subscribe(self._deployment_changed)
        try:
            await self._deployments.synced.wait()
            await self._go_on()
        finally:
            stop()

    async def _go_on(self) -> NoReturn:
        clock = asyncio.get_running_loop().time
        rests_until, ends = clock(), self._now()
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            self._asked.clear()
            began, now = clock(), self._now()
            everything = self._stale and began >= rests_until
            try:
                if everything:
                    self._stale = False
                    ends = next_audit(self._policies.exceptions, now)
                    await self.once()
                    rests_until = clock() + REST * (clock() - began)
                else:
                    await self.of_changes()
            except ApiError as error:
                logger.warning("The audit broke off: %s", error)
                self._stale, rests_until = True, clock() + RETRY_SECONDS
            except Exception:  # what others store must not end the process
                logger.exception("The audit broke off.")
                self._stale, rests_until = True, clock() + RETRY_SECONDS
            seconds = rests_until - clock() if self._stale else (ends - self._now()).total_seconds() + 0.1
            try:
                async with asyncio.timeout(max(seconds, 0)):
                    await self._asked.wait()
            except TimeoutError:
                self._stale = True

    async def once(self) -> None:
        """Judge everything that exists."""
        context, now = self._context(), self._now()
        self._changed.clear()
        existing = Auditor(context, self._policies.exceptions, now)
        self._unjudged = {}
        deployments, others = Found(), Found()
        await self._judge(existing, self._deployments, deployments)
        if context.policies:
            async for page in self._pages():
                await self._judge(existing, page, others)
        self._of_deployments, self._of_others = deployments, others
        self._unjudged_before = self._unjudged
        self._measure()
        await self._report()
        self._metrics.audited.set(now.timestamp())

    async def of_changes(self) -> None:
        """Judge the Deployments that have changed; what was found in everything else stands as it was."""
        now, changed, self._changed = self._now(), self._changed, set()
        existing = Auditor(self._context(), self._policies.exceptions, now)
        found = [live for name in changed if (live := self._deployments.get(*name)) is not None]
        for namespace, name in changed:
            self._of_deployments.remove(namespace, name)
        await self._judge(existing, found, self._of_deployments)
        self._measure()
        if changed:
            await self._report({namespace for namespace, _ in changed})

    async def _judge(self, existing: Auditor, documents: Iterable[JsonObject], found: Found) -> None:
        """Note what is found in each object; what is found in a Deployment is said on it."""
        for document in documents:
            try:
                judged = existing.judge(document)
            except Exception as error:  # noqa: BLE001 - one object's defect must not keep the others from being judged
                self._skip(document.get("kind", ""), document["metadata"], type(error).__name__)
                if document.get("kind") == DEPLOYMENTS.kind:
                    await self._say(document, conditions.defect(CONDITION_COMPLIANT, error))
                continue
            if judged is not None:
                found.add(judged)
                live = self._deployments.get(judged.namespace, judged.name)
                if judged.kind == DEPLOYMENTS.kind and live is not None:
                    await self._say(live, compliance(judged))
            # Let reviews through between two objects.
            await asyncio.sleep(0)

    async def _pages(self) -> AsyncIterator[list[JsonObject]]:
        for resource in LISTED:
            # Items of a list carry neither kind nor version of their own.
            head = {"apiVersion": resource.api_version, "kind": resource.kind}
            with suppress(NotFoundError):
                async for page in self._api.pages(resource):
                    for unread in page.unread:
                        self._skip(resource.kind, unread.metadata, unread.why)
                    yield [head | each for each in page.items]

    def _skip(self, kind: str, metadata: JsonObject, why: str) -> None:
        """Say once for each version of an object that it is not judged."""
        at = (kind, *(str(metadata.get(part) or "") for part in ("namespace", "name", "resourceVersion")))
        self._unjudged[at] = None
        if at not in self._unjudged_before:
            self._unjudged_before[at] = None
            self._metrics.object_skipped(_PLURALS.get(kind, kind))
            logger.warning("%s %s/%s is not judged: %s.", *at[:3], why)

    def _measure(self) -> None:
        count = self._of_deployments.broken() + self._of_others.broken()
        self._metrics.policy_violations.clear()
        for labels, number in count.items():
            self._metrics.policy_violations.labels(*labels).set(number)

    async def _say(self, deployment: JsonObject, told: Condition | None) -> None:
        """Set the condition of a Deployment, or take it off, and say what is wrong by an Event."""
        try:
            before = conditions.stored(deployment, CONDITION_COMPLIANT)
            entries = conditions.entries([told] if told else [], deployment, self._now())
        except Exception as error:  # noqa: BLE001 - whatever somebody has made of its conditions
            self._skip(DEPLOYMENTS.kind, deployment["metadata"], type(error).__name__)
            return
        if told == before or (told is None and before is None):
            return
        metadata = deployment["metadata"]
        manifest = DEPLOYMENTS.identity(metadata["namespace"], metadata["name"])
        # Never brings back what was deleted meanwhile.
        manifest["metadata"]["uid"] = metadata["uid"]
        manifest["status"] = {"conditions": entries} if entries else {}
        try:
            await self._api.apply(DEPLOYMENTS, manifest, subresource="status", manager=MANAGER)
        except (NotFoundError, ConflictError):
            pass
        except _OF_ONE_OBJECT as error:
            logger.warning("The condition of %s/%s is not written: %s", *key(deployment), error)
            return
        if told is not None and told.status == "False":
            await self._recorder.record(deployment, warning=True, reason=told.reason, note=told.message)

    async def _report(self, namespaces: Collection[str] | None = None) -> None:
        """Write the reports of these namespaces, or of all."""
        managed = {"labelSelector": "app.kubernetes.io/managed-by=kubectl-serve"}
        listed = next(iter(namespaces)) if namespaces and len(namespaces) == 1 else ""
        made = reports(self._of_deployments, self._of_others, namespaces=namespaces)
        wanted = {manifest["metadata"]["namespace"]: manifest for manifest in made}
        right: set[str] = set()
        stale: list[JsonObject] = []
        try:
            async for page in self._api.pages(POLICY_REPORTS, listed, managed):
                # Others may label theirs so: only what has our name is ours.
                for live in (each for each in page.items if each["metadata"]["name"] == REPORT):
                    at = live["metadata"]["namespace"]
                    if namespaces is not None and at not in namespaces:
                        continue
                    if at not in wanted:
                        stale.append(live["metadata"])
                    elif all(live.get(part) == wanted[at][part] for part in ("summary", "results")):
                        right.add(at)
        except NotFoundError:
            return
        for at, manifest in wanted.items():
            if at in right:
                continue
            try:
                await self._api.apply(POLICY_REPORTS, manifest)
            except _OF_ONE_OBJECT as error:  # the namespace is being deleted, for instance
                logger.warning("The report of namespace %s is not written: %s", at, error)
        for metadata in stale:
            with suppress(NotFoundError, ConflictError):
                await self._api.delete(POLICY_REPORTS, metadata["namespace"], metadata["name"], uid=metadata["uid"])


def broken(verdict: PolicyVerdict) -> list[RuleResult]:
    """The rules that are broken, whatever their action."""
    return [result for result in verdict.results if result.outcome in _BROKEN]


def compliance(one: AuditedObject) -> Condition | None:
    """The condition of a Deployment; ``None`` where no policy is about it."""
    if not one.verdict.results:
        return None
    found = [str(finding) for result in broken(one.verdict) for finding in result.findings]
    if not found:
        return Condition(CONDITION_COMPLIANT, "True", "Compliant", condition_message("Compliant"))
    text = "; ".join(found)
    text = text if len(text) <= conditions.MAX_MESSAGE - 200 else text[: conditions.MAX_MESSAGE - 200] + "…"
    message = condition_message("PolicyViolated", found=text.rstrip("."), name=one.name, namespace=one.namespace)
    return Condition(CONDITION_COMPLIANT, "False", "PolicyViolated", message)


def reports(*found: Found, namespaces: Collection[str] | None = None) -> list[JsonObject]:
    """One PolicyReport for each of these namespaces, or of all, in which a rule is broken or excepted; what is worst
    comes first."""
    made = []
    for namespace in sorted({namespace for one in found for namespace in one.namespaces()}):
        if namespaces is not None and namespace not in namespaces:
            continue
        summary: Counter[str] = Counter()
        for said, number in itertools.chain.from_iterable(one.counts(namespace).items() for one in found):
            summary[_RESULTS.get(said[2], ("pass", ""))[0]] += number
        if summary.total() == summary["pass"]:
            continue
        words = list(itertools.chain.from_iterable(one.words(namespace) for one in found))
        words.sort(key=lambda item: (_ORDER.index(item[1].outcome), item[0][1], item[0][2], item[1].by))
        manifest = POLICY_REPORTS.identity(namespace, REPORT)
        manifest["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "kubectl-serve"}
        manifest["summary"] = {kind: summary[kind] for kind in ("pass", "fail", "warn", "error", "skip")}
        manifest["results"] = [_entry(namespace, *each) for each in words[:MOST_RESULTS]]
        made.append(manifest)
    return made


def _entry(namespace: str, found: _Object, result: RuleResult) -> JsonObject:
    api_version, object_kind, name = found
    kind, severity = _RESULTS[result.outcome]
    message = str(result.excuse or "; ".join(map(str, result.findings)))
    return {
        "source": "kubectl-serve",
        "policy": result.policy,
        "rule": result.rule,
        "result": kind,
        "severity": severity,
        "message": inline(message)[:1024],
        "resources": [{"apiVersion": api_version, "kind": object_kind, "namespace": namespace, "name": name}],
    }


def next_audit(exceptions: Iterable[PolicyException], now: datetime) -> datetime:
    """When everything has to be judged again, if nothing changes: when the next exception ends, or by the clock."""
    return min([now + INTERVAL, *(exception.spec.expires for exception in exceptions if exception.counts(now))])
