"""Results of policies as a table, as JSON or as lines."""

from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime

from kubectl_serve.cli.streams import Streams
from kubectl_serve.io import documents, tables
from kubectl_serve.io.tables import age_text
from serve_core.audit.dry_run import DryRun, DryRunObject
from serve_core.base.json import JsonObject
from serve_core.policy.evaluate import RuleOutcome


def print_faults(tried: DryRun, streams: Streams) -> None:
    for title, fault in tried.faults:
        streams.error(f"{title}: {fault}")
    for title, warning in tried.warnings:
        streams.note(f"Warning: {title}: {warning}")


def print_results(tried: Sequence[DryRunObject], streams: Streams, args: Namespace, *, every_rule: bool) -> None:
    if args.output:
        streams.stdout.write(documents.dump({"items": [_as_json(each) for each in tried]}, args.output))
        return
    rows = [["OBJECT", "NAMESPACE", "RULE", "VERDICT"]]
    for each in tried:
        if each.refused:
            rows.append([each.title, each.namespace, "<none>", "Refused"])
        rows += [
            [each.title, each.namespace, result.by, str(result.outcome)]
            for result in each.verdict.results
            if every_rule or result.findings
        ]
    if len(rows) > 1:
        streams.stdout.write(tables.render(rows))
        streams.stdout.flush()
    for each in tried:
        for refusal in each.refused:
            streams.note(f"{each.title}: {refusal}")
        for result in each.verdict.results:
            mark = "" if result.outcome is RuleOutcome.DENY else f"{result.outcome}: "
            for finding in [result.excuse] if result.excuse else result.findings:
                streams.note(f"{mark}{each.title}: {finding}")


def _as_json(each: DryRunObject) -> JsonObject:
    def findings(found: Sequence[object]) -> list[JsonObject]:
        return [vars(problem) for problem in found]

    return {
        "object": each.title,
        "namespace": each.namespace,
        "verdict": each.outcome,
        "refused": findings(each.refused),
        "results": [
            {
                "policy": result.policy,
                "rule": result.rule,
                "verdict": str(result.outcome),
                "findings": findings(result.findings),
            }
            | ({"exception": result.exception.name} if result.exception else {})
            for result in each.verdict.results
        ],
    }


def now(streams: Streams) -> datetime:
    return datetime.fromtimestamp(streams.now(), UTC)


def timestamp(streams: Streams) -> str:
    return now(streams).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(manifest: JsonObject, streams: Streams) -> str:
    return age_text(str(manifest["metadata"].get("creationTimestamp")), streams.now())
