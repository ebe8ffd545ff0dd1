"""The dashboards ask for metrics that exist, by labels that they have."""

import json
import re
from pathlib import Path

import pytest

from serve_webhook.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "manifests/dashboards"
DASHBOARDS = sorted(FOLDER.glob("*.json"))

ISTIO_LABELS = {
    "reporter", "response_code", "destination_workload", "destination_workload_namespace",
    "destination_canonical_service", "source_workload",
}  # fmt: skip
KNATIVE_LABELS = {"k8s_namespace_name", "kn_service_name", "kn_configuration_name", "kn_revision_name"}
HTTP_LABELS = KNATIVE_LABELS | {"http_response_status_code", "http_request_method"}

# Istio: https://istio.io/latest/docs/reference/config/metrics/. Knative: what the autoscaler and the activator of 1.23
# answered on port 9090 with `metrics-protocol: prometheus` in ConfigMap knative-serving/config-observability.
THEIRS = {
    "istio_requests_total": ISTIO_LABELS,
    "istio_request_duration_milliseconds_bucket": ISTIO_LABELS,
    "kn_revision_pods_count": KNATIVE_LABELS,
    "kn_revision_pods_desired": KNATIVE_LABELS,
    "kn_revision_pods_pending_count": KNATIVE_LABELS,
    "kn_revision_concurrency_stable": KNATIVE_LABELS,
    "kn_revision_concurrency_target": KNATIVE_LABELS,
    "kn_revision_request_queued": {"k8s_namespace_name", "kn_revision_name"},
    "http_server_request_duration_seconds_bucket": HTTP_LABELS,
    "http_server_request_duration_seconds_count": HTTP_LABELS,
}

_SELECTION = re.compile(r"([a-z_]+)(?:\{([^}]*)\})?\[|([a-z_]+)\{([^}]*)\}")


def ours() -> dict[str, set[str]]:
    """Our own metrics with their labels, as they are exposed."""
    metrics = Metrics()
    found: dict[str, set[str]] = {}
    for family in metrics._registry.collect():
        labels = set(getattr(metrics._registry._names_to_collectors.get(family.name), "_labelnames", ()))
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        found |= {family.name + suffix: labels | ({"le"} if suffix == "_bucket" else set()) for suffix in suffixes}
    return found


def queries() -> list[tuple[str, str]]:
    return [
        (f"{file.stem}: {panel['title']}", target["expr"])
        for file in DASHBOARDS
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.parametrize(("panel", "query"), queries())
def test_a_query_asks_for_metrics_that_exist(panel: str, query: str) -> None:
    known = THEIRS | ours()
    asked = [(first or second, one or other or "") for first, one, second, other in _SELECTION.findall(query)]
    assert asked, f"{panel} asks for nothing"
    for metric, selection in asked:
        assert metric in known, f"{panel}: there is no {metric}"
        labels = set(re.findall(r'([a-z0-9_]+)\s*[=!]~?"', selection))
        labels |= {name for group in re.findall(r"\bby \(([^)]*)\)", query) for name in re.split(r",\s*", group)} - {
            "le"
        }
        assert labels <= known[metric], f"{panel}: {metric} has no {labels - known[metric]}"


def test_istios_metrics_count_each_request_once() -> None:
    for panel, query in queries():
        for selection in re.findall(r"istio_[a-z_]+\{([^}]*)\}", query):
            assert 'reporter="destination"' in selection, panel
            assert 'destination_workload!="activator"' in selection, panel


def test_every_panel_says_what_it_shows() -> None:
    for file in DASHBOARDS:
        document = json.loads(file.read_text())
        assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in document["panels"])
        assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
