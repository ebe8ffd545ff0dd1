"""The server's writes to Deployments, as the API server counts them."""

from collections import Counter
from datetime import datetime

from prometheus_client.parser import text_string_to_metric_families

from cluster.support import READY, SERVER, Namespace, condition, deployment
from serve_webhook.reconcile.plan import MESSAGE_SECONDS

MODELS = 5
WRITES = ("APPLY", "PATCH")
"""The Deployment controller updates, and the models of this test are created."""


def writes() -> Counter[str]:
    """The writes to Deployments since the API server's start, by subresource."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(SERVER.kubectl("get", "--raw", "/metrics")):
        for sample in family.samples if family.name == "apiserver_request" else ():
            labels = sample.labels
            if labels["resource"] == "deployments" and labels["verb"] in WRITES and labels["code"] == "200":
                found[labels["subresource"]] += int(sample.value)
    return found


def at(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def test_a_model_is_ready_after_few_writes(namespace: Namespace) -> None:
    names = [f"iris-{number}" for number in range(MODELS)]
    before = writes()
    for name in names:
        namespace.apply(deployment(name, "s3://models/iris/model.joblib", credentials="store"))
    slow = 0
    for name in names:
        served = namespace.wait_ready(name)
        seconds = at(condition(served, READY)["lastTransitionTime"]) - at(served["metadata"]["creationTimestamp"])
        slow += int(seconds // MESSAGE_SECONDS)
    made = writes() - before
    print(f"{MODELS} models: {made['']} writes of Deployments, {made['status']} of their status; {slow} are messages")
    assert made["status"] <= 3 * MODELS + slow, "a slow start is reported in between"
    assert made[""] <= 2 * MODELS
