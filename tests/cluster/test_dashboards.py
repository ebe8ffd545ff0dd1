"""The dashboards' Knative metrics exist after a request to a model."""

from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from cluster.support import Ingress, Namespace, Trained, deployment, eventually
from support.dashboards import KNATIVE

SYSTEM = Namespace("knative-serving")


def reported() -> dict[str, set[str]]:
    """The metrics of Knative's autoscaler and activator, with their labels."""
    found: dict[str, set[str]] = {}
    pods = SYSTEM.list("pods", "app in (autoscaler, activator)")
    for pod in (pod for pod in pods if "deletionTimestamp" not in pod["metadata"]):
        with urlopen(f"http://{pod['status']['podIP']}:9090/metrics", timeout=10) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_knative_has_the_metrics_of_the_dashboards(namespace: Namespace, ingress: Ingress, iris: Trained) -> None:
    namespace.apply(deployment("iris", "s3://models/iris/model.joblib", credentials="store"))
    assert ingress.predict(namespace.wait_ready("iris"), iris.rows).predicted == iris.answers
    eventually(lambda: KNATIVE.keys() <= reported().keys(), 30, "Knative has metrics of the model")
    metrics = reported()
    assert {name: labels - metrics[name] for name, labels in KNATIVE.items() if labels - metrics[name]} == {}
