"""Under load: replicas start and stop and certificates are renewed, and no review is lost or skipped.

Every request is a dry run through the real API server: some Deployments must be completed, some refused for an
annotation, some by a policy. The answer would show an object that was stored without review.
"""

import base64
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.api_server import ApiServer
from cluster.support import SERVER, Json, Namespace, deployment, eventually, measured
from serve_core.base.constants import FIELD_MANAGER, SERVED_LABEL
from serve_webhook.certs import authority as certificates
from serve_webhook.certs.authority import Material, Signer
from serve_webhook.certs.rotation import SECRET, WEBHOOKS

CLIENTS = 4
PAUSE = 0.02
OVERLAP = timedelta(seconds=5)
"""What is left of the hour in which both authorities' keys are trusted."""

COMPLETED = deployment("iris", "s3://models/iris.joblib")
KINDS: dict[str, Json] = {
    "completed": COMPLETED,
    "refused by an annotation": deployment("iris", "s3://models/iris.joblib", scale="5..1"),
    "completed too": COMPLETED,
    "refused by a policy": deployment("iris", "s3://forbidden/iris.joblib"),
}


@dataclass
class Reviews:
    """What became of the requests."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    def count(self, kind: str, status: int, body: Json) -> None:
        self.answered[kind] += 1
        if status == 201 and (kind.startswith("refused") or not _is_completed(body)):
            self.unjudged.append(kind)
        elif status != {"refused by an annotation": 422, "refused by a policy": 403}.get(kind, 201):
            self.failed.append(f"{time.strftime('%X')} {kind}: HTTP {status} {body.get('message')}")

    def are_all_answered(self) -> None:
        assert not self.unjudged
        assert not self.failed, f"{len(self.failed)} of {self.answered.total()}:\n" + "\n".join(self.failed[:5])
        assert min(self.answered[kind] for kind in KINDS) > 20, self.answered


def _is_completed(found: Json) -> bool:
    return SERVED_LABEL in found["metadata"].get("labels", {}) and found["spec"]["replicas"] == 0


@contextmanager
def load(namespace: Namespace) -> Iterator[Reviews]:
    """Ask for reviews all the while."""
    reviews, stop = Reviews(), threading.Event()
    path = f"/apis/apps/v1/namespaces/{namespace.name}/deployments"

    def client() -> None:
        with ApiServer() as api:
            while not stop.is_set():
                for kind, document in KINDS.items():
                    reviews.count(kind, *api.dry_run(path, document))
                    stop.wait(PAUSE)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield reviews
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def judged(empty: Namespace) -> Iterator[Namespace]:
    """A namespace with a policy that the server has seen, and two replicas that are ready."""
    name = f"{empty.name}-under-load"
    rules = [{"name": "places", "sources": {"deny": ["s3://forbidden"]}}]
    policy = {"apiVersion": "kubectl-serve.dev/v1alpha1", "kind": "ServingPolicy", "metadata": {"name": name}}
    empty.apply(policy | {"spec": {"match": {"namespaces": [empty.name]}, "rules": rules}})
    SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")
    path = f"/apis/apps/v1/namespaces/{empty.name}/deployments"

    def every_replica_has_seen_it() -> bool:
        # New connections each time, so that both replicas are asked.
        with ApiServer() as api:
            return all(api.dry_run(path, KINDS["refused by a policy"])[0] == 403 for _ in range(10))

    eventually(every_replica_has_seen_it, 30, "the policy is enforced")
    yield empty
    empty.kubectl("delete", "servingpolicy", name)


def test_a_rollout_loses_no_review(judged: Namespace) -> None:
    before = _replicas()
    with load(judged) as reviews:
        SERVER.kubectl("rollout", "restart", "deployment/kubectl-serve")
        SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")
        # The old ones have drained, too.
        SERVER.kubectl("wait", "--for=delete", *(f"pod/{name}" for name in before), "--timeout=1m")
    assert not set(before) & set(_replicas())
    reviews.are_all_answered()


def test_a_new_replica_takes_its_share_of_connections_that_last(judged: Namespace) -> None:
    SERVER.kubectl("scale", "deployment/kubectl-serve", "--replicas=1")
    eventually(lambda: len(_replicas()) == 1, 60, "one replica is left")
    with load(judged) as reviews:
        eventually(lambda: reviews.answered.total() > 200, 30, "there is load")
        SERVER.kubectl("scale", "deployment/kubectl-serve", "--replicas=2")
        SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")
        eventually(lambda: measured("kubectl_serve_admission_reviews_total")[1] > 100, 60, "both replicas answer")
    reviews.are_all_answered()


# --- Certificates: their dates are the only clock of their life, so what is dated back is due


def test_renewing_every_certificate_loses_no_review(judged: Namespace) -> None:
    with load(judged) as reviews:
        _renew_the_leaf()
        _renew_the_authority()
        _replace_the_key()
    reviews.are_all_answered()


def _renew_the_leaf() -> None:
    kept = _material()
    old = _leaf(certificates.LEAF_LIFETIME * 0.7, kept.authority)
    _write(replace(kept, leaf=old))
    _until(lambda now: now.leaf.certificate not in (kept.leaf.certificate, old.certificate))


def _renew_the_authority() -> None:
    """With the same key: the leaf stays."""
    kept = _material()
    age, subject = certificates.AUTHORITY_LIFETIME * 0.7, kept.authority.certificate.subject
    old = certificates._certify(kept.authority.key, subject, datetime.now(UTC) - age)
    _write(replace(kept, authority=old))
    renewed = _until(lambda now: now.authority.certificate not in (kept.authority.certificate, old.certificate))
    assert renewed.leaf.certificate == kept.leaf.certificate
    _until_published()


def _replace_the_key() -> None:
    kept = _material()
    made = datetime.now(UTC) - certificates.OVERLAP + OVERLAP
    both = certificates.replace_key(kept, made)
    assert both.previous == kept.authority.certificate
    _write(both)
    _until_published()
    assert _material().leaf.certificate == kept.leaf.certificate, "the new authority is trusted before it signs"
    signed = _until(lambda now: now.leaf_is_current)
    _write(replace(signed, leaf=_leaf(certificates.OVERLAP - OVERLAP, signed.authority)))
    _until(lambda now: now.previous is None)
    _until_published()


def _leaf(age: timedelta, authority: Signer) -> Signer:
    return certificates._new_leaf(datetime.now(UTC) - age, authority)


def _material() -> Material:
    data = SERVER.get("secret", SECRET)["data"]
    return Material.from_files({name: base64.b64decode(value) for name, value in data.items()})


def _write(material: Material) -> None:
    """In the server's own name, so that the fields stay its own."""
    data = {name: base64.b64encode(value).decode() for name, value in material.to_files().items()}
    metadata = {"name": SECRET, "namespace": SERVER.name}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
    apply = ("apply", "--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}", "-f", "-")
    SERVER.kubectl(*apply, stdin=json.dumps(secret))


def _until(there: Callable[[Material], bool]) -> Material:
    """Wait for the leader. It checks again after a change, and every ten minutes."""

    def look() -> Material | None:
        found = _material()
        if there(found):
            return found
        SERVER.kubectl("annotate", "--overwrite", "secret", SECRET, f"kubectl-serve-tests/look={time.monotonic()}")
        return None

    found = eventually(look, 45, "the leader takes the next step")
    assert found
    return found


def _until_published() -> None:
    """Wait until the API server trusts what the Secret says."""

    def is_published() -> bool:
        bundle = base64.b64encode(_material().bundle).decode()
        kinds = ("mutatingwebhookconfiguration", "validatingwebhookconfiguration")
        webhooks = [webhook for kind in kinds for webhook in SERVER.get(kind, WEBHOOKS)["webhooks"]]
        return all(webhook["clientConfig"].get("caBundle") == bundle for webhook in webhooks)

    eventually(is_published, 30, "every webhook has the bundle")


# --- A replica that is killed


def test_a_killed_replica_loses_only_what_it_was_at(judged: Namespace) -> None:
    """The API server calls a webhook once: what the replica was answering fails, and so may a new connection until the
    Service leads elsewhere. Nothing is stored unjudged, and once the replica is ready again nothing fails."""
    victim = _replicas()[0]
    with load(judged) as reviews:
        eventually(lambda: reviews.answered.total() > 100, 30, "there is load")
        _kill(victim)
        SERVER.watch("pod", victim, _is_ready_again, 60)
        lost, seen = len(reviews.failed), reviews.answered.total()
        eventually(lambda: reviews.answered.total() > seen + 200, 60, "there is load")
    print(f"{lost} of {reviews.answered.total()} failed:", *reviews.failed, sep="\n")
    assert not reviews.unjudged
    assert all("failed calling webhook" in why for why in reviews.failed)
    assert len(reviews.failed) == lost < reviews.answered.total() / 10


def _kill(pod: str) -> None:
    """SIGKILL for the process in the container, from outside: inside, process 1 cannot be killed."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"POD_NAME={pod}".encode() in file.read_bytes().split(b"\0"):
                os.kill(int(file.parent.name), signal.SIGKILL)
                return
        except OSError:
            continue  # it has ended meanwhile, or is not ours to see
    pytest.skip("the replicas run on another machine")


def _is_ready_again(pod: Json) -> bool:
    (status,) = pod["status"]["containerStatuses"]
    return bool(status["ready"]) and status["restartCount"] > 0


def _replicas() -> list[str]:
    return [pod["metadata"]["name"] for pod in SERVER.list("pods") if "deletionTimestamp" not in pod["metadata"]]
