"""The hostile tenant of the benchmark: it sends the same again, and its oracle finds what policies forbid."""

import itertools
import json
import random
from collections.abc import Iterator

import pytest
import yaml

from attacker import corpus, oracle
from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge
from serve_core.base.json import JsonObject
from support.paths import ROOT

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
