"""The webhook, the audit and the command give one verdict, on random policies and objects.

``tests/cluster/test_policy.py`` does the same on a real API server.
"""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import concerns, judge
from serve_core.audit import dry_run
from serve_core.audit.stored_objects import Auditor
from serve_core.base.json import JsonObject
from serve_core.policy.parse import read_policy
from serve_webhook.admission import review, validation
from support.policy_objects import MAKERS, policy, rules

NOW = datetime(2026, 11, 18, tzinfo=UTC)
FACTS = default_context()
OBJECTS = 25


def admitted(manifest: JsonObject, policies: list[JsonObject]) -> tuple[list[str], JsonObject | None]:
    """What both webhooks say of a new object, in bytes, and what would be stored."""
    context = replace(FACTS, policies=tuple(map(read_policy, policies)))
    if concerns(manifest):
        lines = asked(manifest, lambda request: review.mutate(request, context))
        completed = judge(manifest, context).deployment
        if lines or completed is None:
            return lines, None
        manifest = completed
    return asked(manifest, lambda request: validation.validate(request, context, (), NOW, lambda *_: None)), manifest


def asked(manifest: JsonObject, reviewer: review.Reviewer) -> list[str]:
    metadata = manifest["metadata"]
    request = {
        "uid": "u",
        "operation": "CREATE",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "userInfo": {"username": "alice"},
        "object": manifest,
    }
    body = {"apiVersion": review.API_VERSION, "kind": "AdmissionReview", "request": request}
    response = json.loads(review.review(json.dumps(body).encode(), reviewer)[0])["response"]
    return [] if response["allowed"] else response["status"]["message"].split("\n")


@pytest.mark.parametrize("batches", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_the_webhook_the_audit_and_the_command_agree_word_for_word(batches: int) -> None:
    rng = random.Random(batches)
    pairs = refused = 0
    for _ in range(batches):
        policies = [policy("ml", f"p{i}", rules(rng), rng.choice(["Deny", "Deny", "Warn", "Audit"])) for i in range(4)]
        context = replace(FACTS, policies=tuple(map(read_policy, policies)))
        for index in range(OBJECTS):
            manifest = rng.choice(MAKERS)[1](rng, "ml", f"o{index}")
            lines, stored = admitted(manifest, policies)
            desk = dry_run.run([*policies, manifest], FACTS, NOW)
            (tried,) = desk.tried
            assert lines == [*map(str, tried.refused), *map(str, tried.verdict.problems)], manifest
            pairs += len(policies)
            refused += bool(lines)
            if stored is None:
                continue
            audited = Auditor(context, (), NOW).judge(stored)
            assert audited is not None
            assert audited.verdict == tried.verdict, manifest
    print(f"\n{pairs} pairs of a policy and an object, {refused} objects refused, no difference by any of three ways")
    assert pairs // 20 < refused < pairs // 4
