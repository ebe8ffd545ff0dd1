"""The caches need little memory for objects of users, whatever these create."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge, render_stored
from serve_core.api.annotations import DEPLOYMENT, HANDOVER, MODE, MODEL, SERVICE
from serve_core.base.constants import CONDITION_READY, SERVED_LABEL
from serve_core.context.services import read
from serve_kube.resources import DEPLOYMENTS, SERVICES
from serve_webhook.cache import index, informers, trimming
from serve_webhook.cache import unread as unread_objects
from serve_webhook.cache.index import DeploymentIndex
from serve_webhook.cache.informers import Informer
from serve_webhook.cache.store import NamespaceBudget
from serve_webhook.reconcile import conditions
from support.fake_api import MemoryApi
from support.paths import ROOT
from support.stored import stored

pytestmark = pytest.mark.attack(25)


def deployment(**notes: str) -> Any:
    written = DEPLOYMENTS.identity("default", "iris")
    written["metadata"] |= {"annotations": {MODEL: "s3://models/a.joblib", **notes}, "resourceVersion": "5", "uid": "d"}
    made = judge(written, default_context()).deployment
    assert made is not None
    return made | {"status": {"observedGeneration": 1, "conditions": [{"type": CONDITION_READY, "status": "True"}]}}


def test_of_a_served_deployment_all_is_kept_that_makes_the_model() -> None:
    whole = deployment(**{"kubectl.kubernetes.io/last-applied-configuration": "x" * 10_000, "theirs": "y"})
    found = trimming.deployment(whole | {"metadata": whole["metadata"] | {"managedFields": [{}]}})
    assert render_stored(found, default_context()) == render_stored(whole, default_context())
    assert found["metadata"]["annotations"]["theirs"] == "y"
    assert conditions.stored(found, CONDITION_READY) == conditions.stored(whole, CONDITION_READY)
    assert len(json.dumps(found)) < len(json.dumps(whole)) - 10_000


@pytest.mark.parametrize(("notes", "kept"), [({}, False), ({MODE: DEPLOYMENT}, True), ({HANDOVER: "to-knative"}, True)])
def test_of_a_parked_deployment_the_status_of_its_controller_is_not_kept(notes: dict[str, str], kept: bool) -> None:
    whole = deployment(**notes)
    whole["metadata"]["annotations"] |= notes
    whole["status"] |= {"replicas": 1, "updatedReplicas": 1}
    whole["status"]["conditions"].append({"type": "Progressing", "status": "True"})
    found = trimming.deployment(whole)["status"]
    if kept:
        assert found == whole["status"]
    else:
        assert found == {"conditions": [{"type": CONDITION_READY, "status": "True"}]}


def test_of_one_that_has_our_label_alone_its_end_is_kept() -> None:
    padding = {f"a{number}": "x" * 200 for number in range(1000)}
    whole = stored(spec={"replicas": 3, "template": {"spec": {"containers": [{"env": [padding] * 100}]}}})
    whole["metadata"] |= {"labels": {SERVED_LABEL: "true"}, "annotations": padding | {SERVICE: "a"}, "generation": 4}
    whole["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["theirs/for-ever"]}
    found = trimming.deployment({"apiVersion": "apps/v1", "kind": "Deployment"} | whole)
    assert found["spec"] == {"replicas": 3}
    assert found["metadata"]["annotations"] == {SERVICE: "a"}
    assert found["metadata"]["deletionTimestamp"]
    assert len(json.dumps(found)) < 600


@pytest.mark.parametrize(
    "spec",
    [
        {"selector": {"app": "iris"}, "ports": [{"port": n, "targetPort": f"p{n}"} for n in range(15_000)]},
        {"selector": {"app": "iris"}, "ports": [{"port": n, "targetPort": n} for n in range(15_000)]},
        {"selector": {f"l{n}": "x" * 63 for n in range(10_000)}, "ports": [{"targetPort": "http"}]},
        {"selector": {"app": ["iris"]}, "ports": {"a": 1}},
        None,
    ],
    ids=["named ports", "ports", "labels", "other types", "nothing"],
)
def test_of_a_service_its_name_and_where_it_leads_is_kept(spec: Any) -> None:
    whole = stored(spec=spec, status={"loadBalancer": {"ingress": [{"hostname": "x" * 200}] * 1000}})
    whole["metadata"]["labels"] |= {f"l{number}": "x" * 63 for number in range(90)}
    whole["metadata"]["annotations"] = {"a": "x" * 200_000}
    found = trimming.service(whole)
    assert len(json.dumps(found)) < 3000
    assert read(found) == read(whole)
    assert read(found).owner == "iris"


async def test_who_fills_a_namespace_takes_nothing_from_the_others(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informers, "WATCH_SECONDS", (0, 0))
    skipped: list[str] = []
    for number in range(30):
        api.put(SERVICES, stored(f"evil-{number}", "theirs", spec={"a": str(hash(str(number)))}))
    api.put(SERVICES, stored("fine", "ours"))
    informer = Informer(api, SERVICES, skipped=skipped.append, budget=NamespaceBudget(14_000))
    task = asyncio.create_task(informer.run())
    async with asyncio.timeout(5):
        await informer.synced.wait()
        left_out = [f"evil-{n}" for n in range(30) if informer.get("theirs", f"evil-{n}") is None]
        assert informer.get("ours", "fine")
        assert 0 < len(left_out) < 30
        assert len(skipped) == len(left_out)
        unread = informer.unread("theirs", left_out[0])
        assert unread
        assert unread.why == "its namespace has too much"
        for number in range(20):
            api.remove(SERVICES, "theirs", f"evil-{number}")
        while len(informer) < 11:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
    task.cancel()
    assert len(skipped) == len(left_out), "each is said once"


async def test_objects_with_a_models_label_are_decompressed_up_to_a_limit(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write in the namespace can write the label; what repeats itself is packed to a hundredth."""
    for number in range(60):
        api.put(SERVICES, stored(f"large-{number}", spec={"a": "x" * 200_000}))
        api.put(SERVICES, stored(f"small-{number}", "theirs", spec={"a": "x"}))
    informer = Informer(api, SERVICES)
    task = asyncio.create_task(informer.run())
    await informer.synced.wait()
    made = DeploymentIndex(informer, lambda _: None)
    large = made.of(("default", "iris"))
    assert 10 < len(large) < 60
    assert sum(len(json.dumps(each)) for each in large) <= index.MAX_BYTES
    assert len(made.of(("theirs", "iris"))) == 60
    monkeypatch.setattr(index, "MAX_OBJECTS", 7)
    assert len(made.of(("theirs", "iris"))) == 7
    task.cancel()


async def test_what_packs_well_is_counted_by_what_it_unpacks_to(api: MemoryApi) -> None:
    for number in range(60):
        api.put(SERVICES, stored(f"evil-{number}", "theirs", spec={"a": "x" * 200_000}))
    informer = Informer(api, SERVICES, budget=NamespaceBudget(10 * 50_000 + 20_000))
    task = asyncio.create_task(informer.run())
    await informer.synced.wait()
    assert len(informer) == 10
    task.cancel()


async def test_of_what_is_skipped_a_bounded_number_is_remembered_and_said(
    api: MemoryApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unread_objects, "MAX_OBJECTS", 50)
    labels = {f"l{n}": "x" * 60 for n in range(90)}
    for number in range(200):
        one = stored(f"evil-{number}", "theirs", spec={"a": "b"})
        one["metadata"]["labels"] = labels
        api.put(SERVICES, one)
    api.put(SERVICES, stored("fine", "ours"))
    informer = Informer(api, SERVICES, budget=NamespaceBudget(2000), stubs=True)
    task = asyncio.create_task(informer.run())
    await informer.synced.wait()
    unread = [found for n in range(200) if (found := informer.unread("theirs", f"evil-{n}"))]
    assert len(unread) == 50
    assert not any("labels" in each.metadata for each in unread)
    assert len(informer) < 5, "what finds no room leaves no stub either"
    assert informer.get("ours", "fine")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == unread_objects.MAX_LOG_LINES + 1
    assert lines[-1] == "More services of namespace theirs are skipped."
    for number in range(200):
        api.remove(SERVICES, "theirs", f"evil-{number}")
    while informer._unread._count or len(informer) > 1:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.001)
    assert informer._budget._used.keys() == {"ours"}, "what is gone gives its room back, and no more"
    task.cancel()


LIMIT = 256


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["services", "deployments", "pods", "knative", "fields", "copies", "labels"])
def test_a_replica_that_starts_among_them_stays_far_below_its_limit(kind: str, tmp_path: Path) -> None:
    """A process of its own: its real memory."""
    ran = subprocess.run(
        [sys.executable, "-m", "support.hostile_cluster", kind],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    reported = json.loads(ran.stdout.splitlines()[-1])
    assert reported["peak MiB"] - reported["idle MiB"] < 60, reported
    assert reported["peak MiB"] < LIMIT - 60, reported
    assert reported["served"]
