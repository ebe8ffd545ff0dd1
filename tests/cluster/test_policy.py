"""Policies on the real API server: the same messages as offline, and no bypass.

They need an API server with kubectl-serve's webhooks and Knative's CRDs, and no running pods.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
from argparse import Namespace as Flags
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from cluster.support import Namespace, measured
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster
from kubectl_serve.connection import connect
from kubectl_serve.install.platform import context_for_policies
from serve_core.api.annotations import STATE
from serve_core.audit import dry_run
from serve_core.base.constants import CONDITION_COMPLIANT
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.knative.limits import VISIBILITY_LABEL
from serve_core.policy.evaluate import RuleOutcome
from serve_core.policy.subject import SUBJECT_KINDS
from serve_kube import errors
from serve_kube.resources import (
    CONFIGURATIONS,
    DEFINITIONS,
    DEPLOYMENTS,
    DOMAIN_MAPPINGS,
    EVENTS,
    INFERENCE_SERVICES,
    KNATIVE_SERVICES,
    NAMESPACES,
    PODS,
    POLICIES,
    POLICY_EXCEPTIONS,
    REVISIONS,
    ROUTES,
    VALIDATING_WEBHOOKS,
    Resource,
)
from serve_webhook.failure_policy import GUARDED
from support import policy_objects
from support.paths import ROOT
from support.policy_objects import (
    IMAGES,
    MAKERS,
    PLAIN,
    URIS,
    definition,
    deployment,
    domain_mapping,
    knative,
    loading,
    pod,
    policy,
    route,
    rules,
)

SEED = int(os.environ.get("POLICY_SEED", "7"))
BATCHES = int(os.environ.get("POLICY_BATCHES", "12"))
"""Sets of policies; each judges 60 objects."""
AUDITS = int(os.environ.get("POLICY_AUDITS", "3"))
"""Sets of policies by which what exists is audited."""
OPERATIONS = int(os.environ.get("POLICY_OPERATIONS", "300"))
POLICY_REPORTS = Resource("wgpolicyk8s.io/v1alpha2", "PolicyReport", "policyreports")
STARTERS = [yaml.safe_load(file.read_text()) for file in sorted((ROOT / "manifests/policies").glob("*.yaml"))]
PREFIX = "kubectl-serve.dev/"
FLAGS = dict.fromkeys(("kubeconfig", "context", "cluster", "user", "server", "token", "namespace", "as_user"))
FINALIZER = "example.com/keep"
_STATE = {annotation.key for annotation in STATE}


@pytest.fixture
async def api() -> AsyncIterator[Cluster]:
    if "KUBECONFIG" not in os.environ:
        pytest.fail("no cluster: run scripts/test cluster, or eval the output of scripts/cluster env", pytrace=False)
    flags = Flags(**FLAGS, as_groups=[], insecure_skip_tls_verify=False, request_timeout=30.0)
    async with connect(flags, Streams.of_process()) as connected:
        yield connected


@pytest.fixture
async def context(api: Cluster, monkeypatch: pytest.MonkeyPatch) -> ClusterContext:
    """What the server knows of this cluster."""
    known = await context_for_policies(api)
    monkeypatch.setattr(policy_objects, "LOADER", known.loader)
    return known


@contextlib.asynccontextmanager
async def defined(api: Cluster, resource: Resource) -> AsyncIterator[None]:
    """Somebody else's kind of objects, for the time of a block."""
    made = definition(resource)

    async def is_there(what: Resource, name: str = "") -> bool:
        with contextlib.suppress(errors.NotFoundError):
            await (api.get(what, None, name) if name else api.list(what, None))
            return True
        return False

    async def is_gone() -> bool:
        return not await is_there(DEFINITIONS, made["metadata"]["name"])

    await api.apply(DEFINITIONS, made, manager="test")
    await until(lambda: is_there(resource))
    yield
    await api.delete(DEFINITIONS, None, made["metadata"]["name"])
    # What is applied while it goes goes with it.
    await until(is_gone)


@pytest.fixture
async def reporting(api: Cluster) -> AsyncIterator[None]:
    """A cluster that has PolicyReports."""
    async with defined(api, POLICY_REPORTS):
        yield


@pytest.fixture
async def kserve(api: Cluster) -> AsyncIterator[None]:
    """A cluster that knows InferenceServices."""
    async with defined(api, INFERENCE_SERVICES):
        yield


@pytest.fixture
async def space(api: Cluster) -> AsyncIterator[str]:
    """A namespace of its own; the policies that are named after it go with it."""
    name = f"policy-{random.randrange(16**6):06x}"
    await api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    for resource, namespace in ((POLICIES, None), (POLICY_EXCEPTIONS, "kubectl-serve")):
        for each in (await api.list(resource, namespace))[0]:
            if each["metadata"]["name"].startswith(name):
                await api.delete(resource, namespace, each["metadata"]["name"])
    for resource, _ in MAKERS:
        for each in (await api.list(resource, name))[0]:
            kept = each["metadata"].get("finalizers") or []
            if FINALIZER in kept:
                left = {"metadata": {"finalizers": [other for other in kept if other != FINALIZER]}}
                with contextlib.suppress(errors.NotFoundError):
                    await api.merge(resource, name, each["metadata"]["name"], left)
    await api.delete(NAMESPACES, None, name)


async def answer(work: Awaitable[JsonObject]) -> tuple[JsonObject | None, list[str]]:
    """What the API server stored, or the lines by which our webhook refused it."""
    try:
        return await work, []
    except errors.DeniedError as error:
        return None, error.denial.splitlines()


async def until(condition: Callable[[], Awaitable[bool]], times: int = 3, seconds: float = 60) -> None:
    """Until it holds ``times`` in a row: every replica has a watch of its own."""
    held = 0
    async with asyncio.timeout(seconds):
        while held < times:
            held = held + 1 if await condition() else 0
            await asyncio.sleep(0.05)


async def known(api: Cluster, space: str, batch: str) -> None:
    """Until the webhook judges by the policies of this batch: the gate, the last of them, is known."""
    gate = policy(space, "z-gate", [{"name": "gate", "label": {"key": "batch", "values": [batch]}}])
    await api.apply(POLICIES, gate, manager="test")
    probe = knative(random.Random(1), space, "probe")
    probe["metadata"]["labels"] = {"batch": "other"}

    async def reported() -> bool:
        _, lines = await answer(api.create(KNATIVE_SERVICES, probe, dry_run=True))
        return any(f"one of {batch}," in line for line in lines)

    await until(reported)


def at_the_desk(documents: list[JsonObject], context: ClusterContext, *, stored: bool = False) -> list[str]:
    """The refusals of ``kubectl serve policy test``, with its messages."""
    tried = dry_run.run(documents, context, datetime.now(UTC), stored=stored)
    assert not tried.faults, tried.faults
    return [str(found) for each in tried.tried for found in (*each.refused, *each.verdict.problems)]


async def test_the_api_server_and_the_desk_say_the_same_word_for_word(
    api: Cluster, space: str, context: ClusterContext
) -> None:
    rng = random.Random(SEED)
    pairs = refused = 0
    for number in range(BATCHES):
        for each in (await api.list(POLICIES, None))[0]:
            if each["metadata"]["name"].startswith(f"{space}-p"):
                await api.delete(POLICIES, None, each["metadata"]["name"])
        policies = [policy(space, f"p{i}", rules(rng), rng.choice(["Deny", "Deny", "Warn", "Audit"])) for i in range(4)]
        for each in policies:
            await api.create(POLICIES, each)
        await known(api, space, f"b{number}")
        for index in range(60):
            resource, make = rng.choice(MAKERS)
            manifest = make(rng, space, f"o{index}")
            manifest["metadata"]["labels"]["batch"] = f"b{number}"
            stored, lines = await answer(api.create(resource, json.loads(json.dumps(manifest)), dry_run=True))
            expected = at_the_desk([*policies, manifest], context)
            assert lines == expected, manifest
            if stored is not None:
                assert at_the_desk([*policies, stored], context, stored=True) == []
            pairs += len(policies)
            refused += stored is None
    print(f"\n{pairs} pairs of a policy and an object, {refused} objects refused, no difference")


@pytest.mark.usefixtures("reporting")
async def test_the_audit_the_api_server_and_the_desk_say_the_same_of_what_exists(
    api: Cluster, space: str, context: ClusterContext
) -> None:
    """Word for word: the leader's report, the refusals of a touch, and ``policy test`` on what is stored."""
    rng, pairs, entries = random.Random(SEED), 0, 0
    for index in range(2):
        for resource, make in MAKERS:
            await answer(api.create(resource, make(rng, space, f"{resource.kind.lower()}-{index}")))
    for number in range(AUDITS):
        for each in (await api.list(POLICIES, None))[0]:
            if each["metadata"]["name"].startswith(space):
                await api.delete(POLICIES, None, each["metadata"]["name"])
        policies = [policy(space, f"p{i}", rules(rng), rng.choice(["Deny", "Deny", "Warn", "Audit"])) for i in range(3)]
        # Every object breaks the gate, which names the batch: so it is seen when the audit is of this batch.
        gate = policy(space, "z-gate", [{"name": "gate", "label": {"key": "batch", "values": [f"b{number}"]}}], "Audit")
        for each in [*policies, gate]:
            await api.create(POLICIES, each)
        entries += await the_audit_says_what_the_desk_says(api, space, context, gate)
        for resource, each in await _made_by_hand(api, space):
            touch = {"metadata": {"annotations": {"touched": f"b{number}"}}}
            _, lines = await answer(api.merge(resource, space, each["metadata"]["name"], touch, dry_run=True))
            # A Deployment is completed again: its loader is then bound to the stores of these policies.
            stored = resource is not DEPLOYMENTS
            assert lines == at_the_desk([*policies, gate, each], context, stored=stored), each
            pairs += len(policies) + 1
    print(f"\n{pairs} pairs of a policy and a stored object, {entries} entries of the audit's report, no difference")


_RESULTS = {RuleOutcome.DENY: "fail", RuleOutcome.WARN: "warn", RuleOutcome.AUDIT: "fail", RuleOutcome.EXCEPTED: "skip"}
_KINDS = {resource.kind.lower(): resource.kind for resource, _ in MAKERS}


async def until_audited(api: Cluster, policy: JsonObject, condition: Callable[[], Awaitable[bool]]) -> None:
    """Until it holds. The leader looks again soon and not by the clock: the policy changes, and says what it said.

    On a slow machine an audit takes seconds, and is followed by a rest of nine times that.
    """
    polls = itertools.count()

    async def holds() -> bool:
        if (poll := next(polls)) % 60 == 0:
            note = {"metadata": {"annotations": {"looked": str(poll)}}}
            await api.merge(POLICIES, None, policy["metadata"]["name"], note)
        return await condition()

    await until(holds, times=1, seconds=240)


async def the_audit_says_what_the_desk_says(
    api: Cluster, space: str, context: ClusterContext, policy: JsonObject
) -> int:
    """Word for word, of all that exists and by all that counts now. Returns how many entries the report has."""
    reported: list[list[str]] = []
    expected: list[list[str]] = []

    async def same() -> bool:
        reported[:] = sorted(
            [entry["resources"][0]["kind"], entry["resources"][0]["name"], entry["policy"], entry["rule"],
             entry["result"], entry["message"]]
            for report in await _existing(api, POLICY_REPORTS, space) for entry in report["results"]
        )  # fmt: skip
        documents = [each for each in (await api.list(POLICIES, None))[0] if each["metadata"]["name"].startswith(space)]
        documents += [*(await api.list(POLICY_EXCEPTIONS, "kubectl-serve"))[0], await api.get(NAMESPACES, None, space)]
        documents += [each for resource, _ in MAKERS for each in await _existing(api, resource, space)]
        tried = dry_run.run(documents, context, datetime.now(UTC), stored=True).tried
        expected[:] = sorted(
            [_KINDS[kind], name, result.policy, result.rule, _RESULTS[result.outcome],
             str(result.excuse or "; ".join(map(str, result.findings)))[:1024]]
            for each in tried for kind, _, name in [each.title.partition("/")]
            for result in each.verdict.results if result.outcome in _RESULTS
        )  # fmt: skip
        return reported == expected

    try:
        await until_audited(api, policy, same)
    except TimeoutError:
        assert reported == expected
    assert len(reported) < 100, "a report has no more entries"
    return len(reported)


async def _made_by_hand(api: Cluster, space: str) -> list[tuple[Resource, JsonObject]]:
    """Without what became of another object: Knative's own webhook may be the first to refuse a change of that."""
    found = [(resource, each) for resource, _ in MAKERS for each in await _existing(api, resource, space)]
    return [(resource, each) for resource, each in found if not each["metadata"].get("ownerReferences")]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"rules": [{"name": "a", "pinned": {}, "images": {"digest": True}}]}, "a rule is about exactly one thing"),
        ({"rules": [{"name": "a", "resources": {}}]}, "bound something"),
        ({"rules": [{"name": "A", "pinned": {}}]}, "spec.rules[0].name"),
        ({"action": "Deny"}, "a policy has rules, defaults, or adopts"),
        ({"rules": [], "action": "Ignore"}, "spec.action"),
    ],
)
async def test_the_schema_alone_refuses_a_policy_that_says_nothing_or_two_things(
    api: Cluster, space: str, spec: JsonObject, why: str
) -> None:
    with pytest.raises(errors.InvalidError) as refused:
        await api.create(POLICIES, policy(space, "p", []) | {"spec": spec}, dry_run=True)
    assert why in refused.value.message


@pytest.mark.parametrize("starter", STARTERS, ids=lambda starter: starter["metadata"]["name"])
async def test_the_schema_takes_the_starter_set(api: Cluster, starter: JsonObject) -> None:
    await api.create(POLICIES, starter, dry_run=True)


async def test_kubectl_shows_of_a_policy_and_an_exception_what_matters(api: Cluster, space: str) -> None:
    await api.create(POLICIES, policy(space, "stores", [{"name": "r", "pinned": {}}], "Warn"))
    await api.create(POLICY_EXCEPTIONS, exception(space, "stores", "r", "iris", "2999-01-01T00:00:00Z"))
    kubectl = Namespace("kubectl-serve").kubectl
    rows = [kubectl("get", kind, name).splitlines() for kind, name in
            (("servingpolicies", f"{space}-stores"), ("policyexceptions", f"{space}-e"))]  # fmt: skip
    assert [heading.split() for heading, _ in rows] == [
        ["NAME", "ACTION", "NAMESPACES", "AGE"], ["NAME", "POLICY", "FOR", "NAME", "EXPIRES", "TICKET", "AGE"],
    ]  # fmt: skip
    assert rows[0][1].split()[1:3] == ["Warn", f'["{space}"]']
    assert rows[1][1].split()[1:6] == [f"{space}-stores", space, "iris", "2999-01-01T00:00:00Z", "T-1"]


def exception(space: str, policy: str, rule: str, name: str, expires: str) -> JsonObject:
    return {
        "apiVersion": "kubectl-serve.dev/v1alpha1",
        "kind": "PolicyException",
        "metadata": {"name": f"{space}-e", "namespace": "kubectl-serve"},
        "spec": {
            "policy": f"{space}-{policy}",
            "rules": [rule],
            "match": {"namespace": space, "name": name},
            "expires": expires,
            "reason": "a test",
            "ticket": "T-1",
        },
    }


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.usefixtures("reporting", "kserve")
async def test_what_was_made_by_hand_before_a_policy_is_found_by_the_audit_and_at_the_desk(
    api: Cluster, space: str
) -> None:
    loading = {"name": "model-loader", "image": "example.com/ml/loader:1", "args": ["--", "s3://elsewhere/a.joblib"]}
    spec = {"initContainers": [loading], "containers": [{"name": "server", "image": "example.com/ml/a:1"}]}
    by_hand: dict[Resource, JsonObject] = {
        KNATIVE_SERVICES: {"template": {"spec": spec}},
        CONFIGURATIONS: {"template": {"spec": spec}},
        REVISIONS: spec,
        PODS: spec | {"nodeSelector": {"kubernetes.io/os": "none"}},
        INFERENCE_SERVICES: {"predictor": {"model": {"storageUri": "s3://elsewhere/a.joblib"}}},
    }
    leading = ((ROUTES, route), (DOMAIN_MAPPINGS, domain_mapping))
    ways_in = []
    for resource, make in leading:
        way_in = make(random.Random(1), space, f"a-{resource.kind.lower()}")
        way_in["metadata"]["labels"] = {}
        ways_in.append(await api.create(resource, way_in))
    owners: list[JsonObject] = []
    for resource, made in by_hand.items():
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        # All but the first, the Service, claim to be that one's: users can write that.
        metadata = {"name": f"a-{resource.kind.lower()}", "namespace": space, "ownerReferences": owners}
        stored = await api.create(resource, head | {"metadata": metadata, "spec": made})
        owners = owners or [head | {"name": "a-service", "uid": stored["metadata"]["uid"], "controller": True}]
    stores = policy(space, "stores", [{"name": "places", "sources": {"allow": ["s3://models"]}}])
    private = policy(space, "private", [{"name": "private", "visibility": {"allow": ["cluster-local"]}}])
    private["spec"]["match"]["kinds"] = [resource.kind for resource, _ in leading]
    for each in (stores, private):
        await api.create(POLICIES, each)

    async def reported(result: str) -> set[str]:
        found = [each for report in await _existing(api, POLICY_REPORTS, space) for each in report["results"]]
        assert {each["policy"] for each in found} <= {stores["metadata"]["name"], private["metadata"]["name"]}
        named = {each["result"]: set[str]() for each in found} | {result: set()}
        for each in found:
            (subject,) = each["resources"]
            named[each["result"]].add(f"{subject['kind'].lower()}/{subject['name']}")
        return named[result]

    async def are(result: str, *wanted: str) -> bool:
        return await reported(result) == set(wanted)

    everything = [f"{resource.kind.lower()}/a-{resource.kind.lower()}" for resource in by_hand]
    everything += [f"{each['kind'].lower()}/{each['metadata']['name']}" for each in ways_in]
    await until_audited(api, stores, lambda: are("fail", *everything))
    assert at_the_desk_of(space) == dict.fromkeys(everything, "Deny")
    await api.create(POLICY_EXCEPTIONS, exception(space, "stores", "places", "a-revision", in_an_hour()))
    await until_audited(api, stores, lambda: are("skip", "revision/a-revision"))
    assert await reported("fail") == set(everything) - {"revision/a-revision"}
    await api.delete(POLICY_EXCEPTIONS, "kubectl-serve", f"{space}-e")
    await until_audited(api, stores, lambda: are("fail", *everything))
    await api.delete(KNATIVE_SERVICES, space, "a-service")
    for (resource, _), each in zip(leading, ways_in, strict=True):
        await api.delete(resource, space, each["metadata"]["name"])

    async def nothing_is_reported() -> bool:
        return not await _existing(api, POLICY_REPORTS, space)

    await until_audited(api, stores, nothing_is_reported)
    assert at_the_desk_of(space) == {}


def at_the_desk_of(space: str) -> dict[str, str]:
    """Every object in the output of ``kubectl serve policy audit``, with the verdict."""
    found = json.loads(Namespace(space).run("kubectl", "serve", "policy", "audit", "-o", "json", check=False).stdout)
    return {each["object"]: each["verdict"] for each in found["items"] if each["verdict"] != "Pass"}


async def _existing(api: Cluster, resource: Resource, space: str) -> list[JsonObject]:
    return (await api.list(resource, space))[0]


@pytest.mark.attack(1, 2, 3, 4, 5, 6, 19)
@pytest.mark.usefixtures("reporting")
async def test_whatever_is_done_nothing_exists_that_a_policy_denies(
    api: Cluster, space: str, context: ClusterContext
) -> None:
    """Random operations; after each that was let through, what exists is held against what the policies allow.

    In the end the audit says of all of it what the policies say: what an exception had let through, too."""
    rng = random.Random(SEED)
    # Loaders that are written by hand are bound to no store.
    anywhere = [{"place": "s3://models", "endpoint": "*"}]
    policies = [
        policy(space, "stores", [
            {"name": "places", "sources": {"allow": ["s3://models", "https://*.example.com"], "stores": anywhere}},
            {"name": "images", "images": {"allow": ["dev.local/kubectl-serve", "example.com/ml"]}},
            {"name": "memory", "resources": {"perReplica": {"memory": "2Gi"}}},
        ]),
        policy(space, "size", [{"name": "most", "scale": {"most": 10}}]),
        policy(space, "private", [{"name": "private", "visibility": {"allow": ["cluster-local"]}}]),
        policy(space, "tier", [{"name": "most", "scale": {"most": 3}}]),
    ]  # fmt: skip
    # Few annotated Deployments say where they can be reached: they would all be refused for that.
    policies[2]["spec"]["match"]["kinds"] = [kind for kind in SUBJECT_KINDS if kind != "Deployment"]
    policies[-1]["spec"]["match"]["namespaceSelector"] = {"matchLabels": {"tier": "production"}}
    for each in policies:
        await api.create(POLICIES, each)
    await known(api, space, "b")
    world = _World(api, space, context, rng, policies)
    for _ in range(OPERATIONS):
        await world.step()
    left = await the_audit_says_what_the_desk_says(api, space, context, policies[0])
    print(f"\n{OPERATIONS} operations, {world.accepted} let through, {world.refused} refused, no way round found;"
          f" {left} entries of the audit's report say what is left of exceptions")  # fmt: skip
    assert world.accepted > OPERATIONS // 10
    assert world.refused > OPERATIONS // 10


async def failure_policies(api: Cluster) -> set[str]:
    """Those of the webhooks that only policies need."""
    found = await api.get(VALIDATING_WEBHOOKS, None, "kubectl-serve")
    return {webhook["failurePolicy"] for webhook in found["webhooks"] if webhook["name"] in GUARDED}


@contextlib.asynccontextmanager
async def nobody_answers(api: Cluster) -> AsyncIterator[None]:
    """No replica of the server runs for the time of a block."""

    async def running(number: int) -> bool:
        pods, _ = await api.list(PODS, "kubectl-serve")
        ready = [pod for pod in pods if any(
            each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions") or []
        )]  # fmt: skip
        return len(ready) == len(pods) == number

    replicas = (await api.get(DEPLOYMENTS, "kubectl-serve", "kubectl-serve"))["spec"]["replicas"]
    try:
        await api.merge(DEPLOYMENTS, "kubectl-serve", "kubectl-serve", {"spec": {"replicas": 0}})
        await until(lambda: running(0))
        yield
    finally:
        await api.merge(DEPLOYMENTS, "kubectl-serve", "kubectl-serve", {"spec": {"replicas": replicas}})
        await until(lambda: running(replicas))


@pytest.mark.attack(20)
async def test_while_no_replica_answers_only_what_a_policy_could_deny_is_refused(api: Cluster, space: str) -> None:
    rng = random.Random(1)

    async def are(wanted: str) -> bool:
        return await failure_policies(api) == {wanted}

    await until(lambda: are("Ignore"), times=1)
    name = (await api.create(POLICIES, policy(space, "images", [{"name": "r", "images": {"digest": True}}])))[
        "metadata"
    ]["name"]
    await until(lambda: are("Fail"), times=1)
    async with nobody_answers(api):
        for resource, make in MAKERS:
            with pytest.raises(errors.ApiError, match="failed calling webhook"):
                await api.create(resource, make(rng, space, "refused"), dry_run=True)
        other = pod(rng, space, "other")
        other["spec"].pop("initContainers")
        await api.create(PODS, other, dry_run=True)
        plain = deployment(rng, space, "plain") | {"spec": PLAIN}
        plain["metadata"]["annotations"].clear()
        await api.create(DEPLOYMENTS, plain, dry_run=True)
        # The way out is never closed.
        await api.delete(POLICIES, None, name)
    await until(lambda: are("Ignore"), times=1)
    assert (await api.create(PODS, pod(rng, space, "open"), dry_run=True))["metadata"]["name"] == "open"


async def test_a_label_is_as_good_as_the_annotation_where_a_policy_adopts(api: Cluster, space: str) -> None:
    labelled = deployment(random.Random(1), space, "iris") | {"spec": PLAIN | {"replicas": 1}}
    labelled["metadata"] |= {"annotations": {}, "labels": {f"{PREFIX}adopt": "iris"}}
    adopting = policy(space, "adopts", [])
    adopting["spec"] |= {"adopt": {"model": "s3://models/{namespace}/{label}/model.joblib"}}

    def model(found: JsonObject | None) -> str | None:
        return ((found or {})["metadata"].get("annotations") or {}).get(f"{PREFIX}model")

    async def adopted() -> bool:
        made, _ = await answer(api.create(DEPLOYMENTS, labelled, dry_run=True))
        return model(made) == f"s3://models/{space}/iris/model.joblib"

    assert not await adopted()
    await api.create(POLICIES, adopting)
    await until(adopted)
    made = await api.create(DEPLOYMENTS, labelled)
    assert made["spec"]["replicas"] == 0, "it is parked, as any served one"
    off = {"metadata": {"labels": {f"{PREFIX}adopt": None}}}
    given_back = await api.merge(DEPLOYMENTS, space, "iris", off)
    assert model(given_back) is None
    assert given_back["spec"]["replicas"] == 1
    assert [each["name"] for each in given_back["spec"]["template"]["spec"]["containers"]] == ["plain"]
    assert not given_back["spec"]["template"]["spec"].get("initContainers")


@pytest.mark.attack(19)
async def test_when_an_exception_expires_the_audit_reports_it_without_a_write(api: Cluster, space: str) -> None:
    made = deployment(random.Random(1), space, "iris") | {"spec": PLAIN}
    made["metadata"]["annotations"] = {f"{PREFIX}model": "s3://elsewhere/a.joblib"}
    stores = policy(space, "stores", [{"name": "places", "sources": {"allow": ["s3://models"]}}])
    ends = (datetime.now(UTC) + timedelta(seconds=20)).replace(microsecond=0)
    expires = ends.strftime("%Y-%m-%dT%H:%M:%SZ")
    await api.create(POLICY_EXCEPTIONS, exception(space, "stores", "places", "iris", expires))
    await api.create(POLICIES, stores)
    await api.create(DEPLOYMENTS, made)

    async def reported() -> JsonObject:
        live = await api.get(DEPLOYMENTS, space, "iris")
        found = [each for each in live["status"].get("conditions") or [] if each["type"] == CONDITION_COMPLIANT]
        return found[0] if found else {}

    async def is_told(status: str) -> bool:
        return (await reported()).get("status") == status

    await until(lambda: is_told("False"), times=1)
    condition = await reported()
    assert condition["reason"] == "PolicyViolated"
    assert f"{space}-stores/places does not allow models from s3://elsewhere/a.joblib" in condition["message"]
    assert datetime.fromisoformat(condition["lastTransitionTime"]) >= ends

    async def has_an_event() -> bool:
        events = [each for each in await _existing(api, EVENTS, space) if each["reason"] == "PolicyViolated"]
        return [(each["type"], each["regarding"]["name"]) for each in events] == [("Warning", "iris")]

    await until(has_an_event, times=1)
    broken = {"policy": f"{space}-stores", "rule": "places", "verdict": "Deny"}
    violations = measured("kubectl_serve_policy_violations", **broken)
    assert (violations[0], sum(violations)) == (1, 1), "only the leader reports what its audit found"

    async def the_leader_alone_has_audited() -> bool:
        audited, *others = measured("kubectl_serve_audit_timestamp_seconds")
        return audited >= ends.timestamp() and sum(others) == 0

    await until(the_leader_alone_has_audited, times=1)
    refused = sum(measured("kubectl_serve_admission_reviews_total", review="policies", decision="refused"))
    _, lines = await answer(api.merge(DEPLOYMENTS, space, "iris", {"metadata": {"annotations": {"touched": "x"}}}))
    assert [line.split(":")[0] for line in lines] == ["SourceNotAllowed"]
    now = sum(measured("kubectl_serve_admission_reviews_total", review="policies", decision="refused"))
    assert now == refused + 1


@pytest.mark.usefixtures("kserve")
async def test_kserves_objects_are_judged_where_their_kind_exists(
    api: Cluster, space: str, context: ClusterContext
) -> None:
    # KServe's own loader goes where its user's Secrets say.
    anywhere = [{"place": "s3://models", "endpoint": "*"}]
    places = {"name": "places", "sources": {"allow": ["s3://models"], "stores": anywhere}}
    await api.create(POLICIES, policy(space, "stores", [places]))
    await known(api, space, "b")

    def inference_service(uri: str) -> JsonObject:
        model = {"modelFormat": {"name": "sklearn"}, "storageUri": uri}
        return {
            "apiVersion": INFERENCE_SERVICES.api_version,
            "kind": INFERENCE_SERVICES.kind,
            "metadata": {"name": "iris", "namespace": space, "labels": {"batch": "b"}},
            "spec": {"predictor": {"model": model}},
        }

    bad = inference_service("s3://elsewhere/a.joblib")
    _, lines = await answer(api.create(INFERENCE_SERVICES, bad))
    gate = policy(space, "z-gate", [{"name": "gate", "label": {"key": "batch", "values": ["b"]}}])
    stores = policy(space, "stores", [places])
    assert lines == at_the_desk([stores, gate, bad], context) != []
    good = await api.create(INFERENCE_SERVICES, inference_service("s3://models/a.joblib"))
    changed = good | {"spec": bad["spec"]}
    _, lines = await answer(api.apply(INFERENCE_SERVICES, {**changed, "metadata": bad["metadata"]}, manager="test"))
    assert lines == at_the_desk([stores, gate, bad], context)


def _said(manifest: JsonObject) -> list[Any]:
    """What policies can be about."""
    metadata = manifest["metadata"]
    notes = metadata.get("annotations") or {}
    said = {key: value for key, value in notes.items() if key not in _STATE}
    return [manifest["spec"], metadata.get("labels"), said]


def _is_no_more(after: list[Any], before: list[Any] | None) -> bool:
    """Whether nothing that a policy can be about has changed, but perhaps for fewer replicas."""
    if before is None or after[1:] != before[1:]:
        return False
    fewer = after[0].get("replicas", 1) <= before[0].get("replicas", 1)
    return bool(fewer and {**after[0], "replicas": 0} == {**before[0], "replicas": 0})


class _World:
    def __init__(
        self, api: Cluster, space: str, context: ClusterContext, rng: random.Random, policies: list[JsonObject]
    ) -> None:
        self.api, self.space, self.context, self.rng, self.policies = api, space, context, rng, policies
        self.accepted = self.refused = 0
        self.exception: JsonObject | None = None
        self.tier: str | None = None

    async def step(self) -> None:
        often = [self.make, self.make, self.server_side_apply, self.change]
        # On a cluster with Knative, pods come and go by themselves: one may be gone before it is looked at.
        with contextlib.suppress(errors.NotFoundError):
            await self.rng.choice([*often, self.scale, self.add_container, self.except_, self.relabel_namespace])()

    def _manifest(self) -> tuple[Resource, JsonObject]:
        resource, make = self.rng.choice(MAKERS)
        manifest = make(self.rng, self.space, f"{resource.kind.lower()[:4]}-{self.rng.randrange(20)}")
        manifest["metadata"]["labels"]["batch"] = "b"
        if self.rng.random() < 0.3:
            # Claims that users can write.
            manifest["metadata"]["labels"]["kubectl-serve.dev/deployment"] = "depl-1"
            manifest["metadata"]["ownerReferences"] = [
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "depl-1", "uid": "0", "controller": True}
            ]
        return resource, manifest

    async def make(self) -> None:
        resource, manifest = self._manifest()
        if self.rng.random() < 0.1:
            manifest["metadata"]["generateName"] = manifest["metadata"].pop("name") + "-"
        await self._write(resource, self.api.create(resource, manifest))

    async def server_side_apply(self) -> None:
        resource, manifest = self._manifest()
        await self._write(resource, self.api.apply(resource, manifest, manager="test"))

    async def change(self) -> None:
        """A merge patch of an object that exists: another source, image or scale, and labels taken off."""
        resource, name = await self._existing()
        if name is None:
            return
        patch: JsonObject = self.rng.choice([
            {"metadata": {"annotations": {f"{PREFIX}model": self.rng.choice(URIS)}}},
            {"metadata": {"annotations": {f"{PREFIX}model": None}}},
            {"metadata": {"annotations": {f"{PREFIX}scale": self.rng.choice(["0..3", "0..50", None])}}},
            {"metadata": {"labels": {"batch": None}}},
            {"metadata": {"labels": {VISIBILITY_LABEL: None}}},
            {"metadata": {"labels": {"batch": "b", "kubectl-serve.dev/served": None}}},
            {"metadata": {"finalizers": [FINALIZER]}},
            {"spec": {"template": {"metadata": {"annotations": {"autoscaling.knative.dev/max-scale": "50"}}}}},
            {"spec": {"template": {"spec": loading(self.rng)}}},
            {"spec": {"replicas": 20}},
        ])  # fmt: skip
        await self._write(resource, self.api.merge(resource, self.space, name, patch))

    async def scale(self) -> None:
        _, name = await self._existing(DEPLOYMENTS)
        if name is not None:
            patch = {"spec": {"replicas": self.rng.choice([1, 5, 20])}}
            await self._write(DEPLOYMENTS, self.api.merge(DEPLOYMENTS, self.space, f"{name}/scale", patch), name)

    async def add_container(self) -> None:
        """An ephemeral container, or more memory, for a pod that exists."""
        _, name = await self._existing(PODS)
        if name is None:
            return
        if self.rng.random() < 0.5:
            debug = {"name": f"d{self.rng.randrange(10**6)}", "image": self.rng.choice(IMAGES)}
            live = await self.api.get(PODS, self.space, name)
            added = [*(live["spec"].get("ephemeralContainers") or []), debug]
            path, patch = "ephemeralcontainers", {"spec": {"ephemeralContainers": added}}
        else:
            live = await self.api.get(PODS, self.space, name)
            larger = {"limits": {"memory": "3Gi", "cpu": "1"}}
            resized = [{**each, "resources": larger} for each in live["spec"]["containers"]]
            path, patch = "resize", {"spec": {"containers": resized}}
        await self._write(PODS, self.api.merge(PODS, self.space, f"{name}/{path}", patch), name)

    async def relabel_namespace(self) -> None:
        """Take the namespace into a policy that selects it by label, or out; no label leads out of the others."""
        self.tier = None if self.tier else "production"
        ways_out = {"control-plane": "true", "kubernetes.io/metadata.name": "kube-system"}
        labels = {"tier": self.tier, self.rng.choice(sorted(ways_out)): self.rng.choice([*ways_out.values(), None])}
        try:
            await self.api.merge(NAMESPACES, None, self.space, {"metadata": {"labels": labels}})
        except errors.InvalidError:
            await self.api.merge(NAMESPACES, None, self.space, {"metadata": {"labels": {"tier": self.tier}}})
        probe = knative(random.Random(1), self.space, "probe")
        probe["metadata"]["labels"]["batch"] = "b"
        probe["spec"]["template"] = {
            "metadata": {"annotations": {"autoscaling.knative.dev/max-scale": "5"}},
            "spec": {"containers": [{"image": "example.com/ml/a:1"}]},
        }
        wanted = self.tier is not None

        async def reported() -> bool:
            _, lines = await answer(self.api.create(KNATIVE_SERVICES, probe, dry_run=True))
            return any(f"{self.space}-tier/most" in line for line in lines) is wanted

        await until(reported)

    async def except_(self) -> None:
        """Make an exception, or take it back; the audit reports the remaining objects that it allowed."""
        name = f"{self.space}-e"
        probe = {"image": "example.com/ml/a:1", "env": [{"name": "STORAGE_URI", "value": "s3://elsewhere/a"}]}
        manifest = knative(random.Random(1), self.space, "probe")
        manifest["metadata"]["labels"]["batch"] = "b"
        manifest["spec"]["template"] = {"spec": {"containers": [probe]}}
        wanted = self.exception is None

        async def reported() -> bool:
            _, lines = await answer(self.api.create(KNATIVE_SERVICES, manifest, dry_run=True))
            return any("SourceNotAllowed" in line for line in lines) is not wanted

        if self.exception is not None:
            await self.api.delete(POLICY_EXCEPTIONS, "kubectl-serve", name)
            self.exception = None
        else:
            made = exception(self.space, "stores", "places", "*", in_an_hour())
            self.exception = await self.api.create(POLICY_EXCEPTIONS, made)
        await until(reported)

    async def _existing(self, resource: Resource | None = None) -> tuple[Resource, str | None]:
        chosen = resource or self.rng.choice(MAKERS)[0]
        names = [each["metadata"]["name"] for each in (await self.api.list(chosen, self.space))[0]]
        return chosen, self.rng.choice(sorted(names)) if names else None

    async def _write(self, resource: Resource, work: Awaitable[JsonObject], name: str = "") -> None:
        before = {each["metadata"]["name"]: _said(each) for each in (await self.api.list(resource, self.space))[0]}
        try:
            written = await work
        except errors.DeniedError:
            self.refused += 1
            return
        except (errors.InvalidError, errors.AlreadyExistsError, errors.ConflictError, errors.NotFoundError):
            return
        self.accepted += 1
        try:
            stored = await self.api.get(resource, self.space, name or written["metadata"]["name"])
        except errors.NotFoundError:
            return
        if _is_no_more(_said(stored), before.get(stored["metadata"]["name"])):
            # What an exception let through may lose finalizers and replicas when that has ended.
            return
        exceptions = [self.exception] if self.exception else []
        labels = {"tier": self.tier} if self.tier else {}
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.space, "labels": labels}}
        left = at_the_desk([*self.policies, *exceptions, space, stored], self.context, stored=True)
        assert left == [], (before.get(stored["metadata"]["name"]), _said(stored))
