"""The audit's findings as PolicyReports (wgpolicyk8s.io), one of bounded size for each namespace. Pure."""

import itertools
from collections import Counter
from collections.abc import Collection

from serve_core.base.escaping import inline
from serve_core.base.json import JsonObject
from serve_core.policy.evaluate import RuleOutcome, RuleResult
from serve_kube.resources import POLICY_REPORTS
from serve_webhook.audit.findings import AuditFindings, ObjectKey, severity

NAME = "kubectl-serve"
MAX_ENTRIES = 100
"""Of one namespace's report; its summary counts all results."""

_RESULT_AND_SEVERITY = {
    RuleOutcome.DENY: ("fail", "high"),
    RuleOutcome.WARN: ("warn", "medium"),
    RuleOutcome.AUDIT: ("fail", "low"),
    RuleOutcome.EXCEPTED: ("skip", "info"),
}


def reports(*findings: AuditFindings, namespaces: Collection[str] | None = None) -> list[JsonObject]:
    """A PolicyReport for each of these namespaces, or of all, in which a rule is broken or excepted; worst first."""
    made = []
    for namespace in sorted({namespace for each in findings for namespace in each.namespaces()}):
        if namespaces is not None and namespace not in namespaces:
            continue
        summary: Counter[str] = Counter()
        for counted, number in itertools.chain.from_iterable(each.counts(namespace).items() for each in findings):
            summary[_RESULT_AND_SEVERITY.get(counted[2], ("pass", ""))[0]] += number
        if summary.total() == summary["pass"]:
            continue
        results = list(itertools.chain.from_iterable(each.results(namespace) for each in findings))
        results.sort(key=lambda item: (severity(item[1])[0], item[0][1], item[0][2], item[1].by))
        manifest = POLICY_REPORTS.identity(namespace, NAME)
        manifest["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "kubectl-serve"}
        manifest["summary"] = {kind: summary[kind] for kind in ("pass", "fail", "warn", "error", "skip")}
        manifest["results"] = [_entry(namespace, *each) for each in results[:MAX_ENTRIES]]
        made.append(manifest)
    return made


def _entry(namespace: str, object_key: ObjectKey, result: RuleResult) -> JsonObject:
    api_version, object_kind, name = object_key
    kind, severity_text = _RESULT_AND_SEVERITY[result.outcome]
    message = str(result.excuse or "; ".join(map(str, result.findings)))
    return {
        "source": "kubectl-serve",
        "policy": result.policy,
        "rule": result.rule,
        "result": kind,
        "severity": severity_text,
        "message": inline(message)[:1024],
        "resources": [{"apiVersion": api_version, "kind": object_kind, "namespace": namespace, "name": name}],
    }
