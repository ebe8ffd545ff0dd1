"""Requests while no replica answers: webhooks fail closed where a policy can deny, and open elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import pytest
import yaml
from pydantic.alias_generators import to_camel

from kubectl_serve.install.manifests import default_context
from serve_core.base.json import JsonObject
from serve_core.policy.evaluate import judge_policies
from serve_core.policy.parse import read_policy, stored_policy
from serve_core.policy.rules import CHECKS
from serve_core.policy.subject import SUBJECT_KINDS
from serve_core.policy.v1alpha1 import ServingPolicy
from serve_core.subjects.build import subject_of
from serve_kube.errors import ForbiddenError, UnavailableError
from serve_kube.resources import POLICIES, VALIDATING_WEBHOOKS
from serve_webhook.cache.informers import Informer
from serve_webhook.cache.policies import PolicyCache
from serve_webhook.certs.rotation import WEBHOOKS
from serve_webhook.failure_policy import GUARDED, FailurePolicies, wanted
from support.fake_api import MemoryApi
from support.waiting import until

PODS, KNATIVE = GUARDED


def document(spec: str, name: str = "p") -> JsonObject:
    return POLICIES.identity(name=name) | {"spec": yaml.safe_load(spec)}


def closed(*specs: str) -> set[str]:
    found = wanted([read_policy(document(spec)) for spec in specs])
    return {name for name, policy in found.items() if policy == "Fail"}


IMAGES = "rules: [{name: r, images: {allow: [example.com]}}]"
PRIVATE = "rules: [{name: r, visibility: {allow: [cluster-local]}}]"
LABEL = "rules: [{name: r, label: {key: owner}}]"


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        pytest.param(IMAGES, {PODS, KNATIVE}, id="about everything"),
        pytest.param("action: Warn\n" + IMAGES, set(), id="a policy that only warns"),
        pytest.param("action: Audit\n" + IMAGES, set(), id="a policy that only reports"),
        pytest.param("{action: Audit, rules: [{name: r, action: Deny, pinned: {}}]}", {PODS, KNATIVE}, id="one rule"),
        pytest.param("match: {kinds: [Deployment]}\n" + IMAGES, set(), id="about Deployments, which are always closed"),
        pytest.param("match: {kinds: [Pod]}\n" + IMAGES, {PODS}, id="about pods"),
        pytest.param("match: {kinds: [InferenceService]}\n" + IMAGES, {KNATIVE}, id="about KServe's"),
        pytest.param(PRIVATE, {KNATIVE}, id="about what no pod says"),
        pytest.param("match: {kinds: [DomainMapping]}\n" + PRIVATE, {KNATIVE}, id="about what leads to models"),
        pytest.param("match: {kinds: [Route, DomainMapping]}\n" + IMAGES, set(), id="about what these have not"),
        pytest.param(LABEL, {KNATIVE}, id="about labels, which pods do not have"),
        pytest.param("match: {kinds: [Pod]}\n" + LABEL, {PODS}, id="about labels of pods"),
        pytest.param("failurePolicy: Ignore\n" + IMAGES, set(), id="a policy that gives up enforcement for a while"),
        pytest.param("defaults: {scale: 0..2}", set(), id="a policy without rules"),
    ],
)
@pytest.mark.attack(20)
def test_what_a_policy_closes(policy: str, names: set[str]) -> None:
    assert closed(policy) == names


@pytest.mark.attack(20)
@pytest.mark.parametrize("kind", [kind for kind in SUBJECT_KINDS if kind != "Deployment"])
def test_a_policy_about_one_kind_closes_the_webhook_of_that_kind(kind: str) -> None:
    rule = PRIVATE if kind in ("Route", "DomainMapping") else IMAGES
    assert closed(f"match: {{kinds: [{kind}]}}\n{rule}") == ({PODS} if kind == "Pod" else {KNATIVE})


NOT_ON_PODS = sorted(to_camel(name) for name, check in CHECKS.items() if not check.applies_to_pods)


@pytest.mark.parametrize("about", NOT_ON_PODS)
def test_what_is_left_open_for_pods_could_refuse_none(about: str) -> None:
    rule: JsonObject = {"most": 1} if about == "scale" else {"deny": ["*"]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ml"},
        "spec": {"containers": [{"name": "model-loader", "image": "example.com/l:1", "args": ["s3://models/a.onnx"]}]},
    }
    subject = subject_of(pod, default_context())
    assert subject is not None
    denying = read_policy(document(json.dumps({"rules": [{"name": "r", about: rule}]})))
    assert not judge_policies(subject, [denying], (), datetime(2026, 1, 1, tzinfo=UTC)).denied


def test_one_policy_that_denies_is_enough() -> None:
    assert closed("action: Warn\n" + IMAGES, "failurePolicy: Ignore\n" + IMAGES, PRIVATE) == {KNATIVE}


def test_without_a_policy_no_request_depends_on_the_server() -> None:
    assert closed() == set()


@pytest.mark.attack(20)
def test_a_policy_that_cannot_be_read_closes_everything() -> None:
    broken: ServingPolicy = stored_policy(document("rules: [{name: r}]"))
    assert set(wanted([broken]).values()) == {"Fail"}


def install(api: MemoryApi) -> None:
    configuration = VALIDATING_WEBHOOKS.identity(name=WEBHOOKS)
    others = {"scale.kubectl-serve.dev": "Ignore", "policies.kubectl-serve.dev": "Fail"}
    # What the API server makes of a webhook that does not say.
    configuration["webhooks"] = [
        {"name": name, "clientConfig": {}, "failurePolicy": policy}
        for name, policy in {**others, PODS: "Fail", KNATIVE: "Fail"}.items()
    ]
    api.put(VALIDATING_WEBHOOKS, configuration)


def live(api: MemoryApi) -> dict[str, str]:
    webhooks = api.objects[VALIDATING_WEBHOOKS.plural, "", WEBHOOKS]["webhooks"]
    return {webhook["name"].split(".")[0]: webhook["failurePolicy"] for webhook in webhooks}


@asynccontextmanager
async def leading(api: MemoryApi) -> AsyncIterator[None]:
    webhooks = Informer(api, VALIDATING_WEBHOOKS)
    policies = PolicyCache(partial(Informer, api), lambda: kept.refresh())  # noqa: PLW0108 - it is made below
    kept = FailurePolicies(api, webhooks, lambda: policies.policies)
    tasks = [asyncio.create_task(part) for part in (*policies.parts(), webhooks.run())]
    await policies.wait()
    tasks.append(asyncio.create_task(kept.run()))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


OPEN = {"scale": "Ignore", "policies": "Fail", "policies-pods": "Ignore", "policies-knative": "Ignore"}
CLOSED = OPEN | {"policies-pods": "Fail", "policies-knative": "Fail"}


async def test_the_leader_opens_and_closes_as_policies_come_and_go_and_touches_nothing_else(api: MemoryApi) -> None:
    install(api)
    async with leading(api):
        await until(lambda: live(api) == OPEN)
        api.put(POLICIES, document(IMAGES))
        await until(lambda: live(api) == CLOSED)
        api.remove(POLICIES, "", "p")
        await until(lambda: live(api) == OPEN)


@pytest.mark.attack(20)
async def test_a_manual_change_to_ignore_is_reverted(api: MemoryApi) -> None:
    install(api)
    api.put(POLICIES, document(IMAGES))
    async with leading(api):
        configuration = await api.get(VALIDATING_WEBHOOKS, "", WEBHOOKS)
        configuration["webhooks"][2]["failurePolicy"] = "Ignore"
        api.put(VALIDATING_WEBHOOKS, configuration)
        assert live(api) != CLOSED
        await until(lambda: live(api) == CLOSED)


async def test_the_next_leader_writes_nothing_where_all_is_right(api: MemoryApi) -> None:
    install(api)
    api.put(POLICIES, document(IMAGES))
    async with leading(api):
        for _ in range(50):
            await asyncio.sleep(0)
    assert api.writes == []


@pytest.mark.parametrize("failure", [UnavailableError("later"), ForbiddenError("no")])
async def test_an_api_server_that_refuses_is_asked_again(
    api: MemoryApi, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_webhook.work_queue.backoff", lambda _: 0)
    install(api)
    api.failures["apply " + VALIDATING_WEBHOOKS.plural] = failure
    async with leading(api):
        for _ in range(20):
            await asyncio.sleep(0)
        assert live(api) == CLOSED
        api.failures.clear()
        await until(lambda: live(api) == OPEN)


async def test_an_installation_without_webhooks_is_left_without(api: MemoryApi) -> None:
    async with leading(api):
        for _ in range(20):
            await asyncio.sleep(0)
    assert api.writes == []
