"""The hostile tenant of the benchmark: it sends the same again, and its oracle finds what policies forbid."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml

from attacker import corpus, oracle
from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.evaluate import User, judge_policies
from serve_core.policy.parse import read_policy
from serve_core.subjects.build import subject_of
from support.paths import ROOT

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXAMPLES = ROOT / "manifests/policies/examples"


def drawn(seed: int, number: int) -> list[corpus.Operation]:
    rng = random.Random(seed)
    return [corpus.operation(rng, "hostile") for _ in range(number)]


def test_a_seed_gives_the_same_requests_again() -> None:
    assert drawn(7, 40) == drawn(7, 40)
    assert drawn(7, 40) != drawn(8, 40)


def test_what_is_sent_is_for_the_attackers_namespace_and_most_of_it_can_be_read() -> None:
    operations = drawn(1, 200)
    assert all("/namespaces/hostile/" in operation.path for operation in operations)
    assert {operation.what for operation in operations} >= set(corpus.FAMILIES)
    for operation in operations:
        if operation.body and b"@" not in operation.body and len(operation.body) < 50_000:
            with_depth = operation.body.count(b'{"f:a":') > 500
            assert with_depth or json.loads(operation.body)


def test_a_pod_says_what_fits_into_its_last_words() -> None:
    rng = random.Random(1)
    for _ in range(50):
        pod = json.loads(corpus.written(corpus.speaking_pod(rng, "w0")))
        (init,) = pod["spec"]["initContainers"]
        assert init["name"] == "model-loader"
        assert len(init["command"][3].encode()) <= 4_300


def examples(policy: str, kind: str) -> Iterator[dict[str, object]]:
    text = (EXAMPLES / f"{policy}.{kind}.yaml").read_text()
    for each in yaml.safe_load_all(text):
        # The run has neither KServe nor a namespace for the public.
        if each and each["kind"] != "InferenceService" and "namespace" not in each["metadata"]:
            yield each


@pytest.mark.parametrize("policy", oracle.POLICIES)
def test_the_oracle_finds_what_a_policy_forbids(policy: str) -> None:
    failing = list(examples(policy, "fails"))
    assert failing
    for manifest in failing:
        assert any(why.startswith(policy) for why in oracle.forbidden(manifest)), manifest


@pytest.mark.parametrize("policy", oracle.POLICIES)
def test_the_oracle_lets_through_what_a_policy_allows(policy: str) -> None:
    for manifest in examples(policy, "passes"):
        assert [why for why in oracle.forbidden(manifest) if why.startswith(policy)] == [], manifest


def test_of_what_was_thought_out_to_be_denied_the_oracle_finds_most() -> None:
    rng = random.Random(1)
    _, denied = corpus.FAMILIES["what is denied"]
    _, loaders = corpus.FAMILIES["false loaders"]
    made = list(itertools.chain(denied(rng, "w0"), loaders(rng, "w0")))
    found = [manifest for manifest in made if list(oracle.forbidden(manifest))]
    assert len(found) > 0.8 * len(made)
    assert list(oracle.forbidden(as_stored(corpus.honest("w0")))) == []


def starter_policies() -> ClusterContext:
    files = (ROOT / "manifests/policies" / f"{name}.yaml" for name in oracle.POLICIES)
    documents = (each for file in files for each in yaml.safe_load_all(file.read_text()))
    policies = tuple(read_policy(each) for each in documents if each["kind"] == "ServingPolicy")
    return replace(default_context(), policies=policies)


def test_what_the_oracle_finds_in_pods_with_models_on_nodes_policies_refuse() -> None:
    context, found = starter_policies(), 0
    for seed in range(3):
        for manifest in corpus._on_nodes(random.Random(seed), "w0"):
            if manifest["kind"] != "Pod" or not list(oracle.forbidden(manifest)):
                continue
            subject = subject_of(manifest, context, namespace="hostile", namespace_labels={})
            assert subject is not None, manifest
            assert judge_policies(subject, context.policies, [], NOW, User("mallory", ())).problems, manifest
            found += 1
    assert found > 40


def test_what_loads_an_allowed_model_in_advance_is_no_finding() -> None:
    first = next(corpus._on_nodes(random.Random(1), "w0"))
    assert first["kind"] == "Pod"
    assert list(oracle.forbidden(first)) == []
    context = starter_policies()
    subject = subject_of(first, context, namespace="hostile", namespace_labels={})
    assert subject is not None
    assert not judge_policies(subject, context.policies, [], NOW, User("mallory", ())).problems


def as_stored(manifest: JsonObject) -> JsonObject:
    verdict = judge(manifest, default_context())
    assert verdict.deployment, verdict.problems
    return verdict.deployment


@pytest.mark.parametrize(
    "changed",
    [{"args": ["x"]}, {"envFrom": []}, {"env": []}, {"workingDir": "/x"}, {"image": "dev.local/kubectl-serve/x"}],
)
def test_the_oracle_sees_what_the_catalogues_server_is_told_otherwise(changed: JsonObject) -> None:
    stored = as_stored(corpus.honest("w0"))
    stored["spec"]["template"]["spec"]["containers"][0] |= changed
    assert bool(list(oracle.forbidden(stored))) == (changed != {"envFrom": []})
