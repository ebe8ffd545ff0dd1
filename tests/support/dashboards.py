"""The metrics in the dashboards' queries, and those of other projects."""

import json
import re

from support.paths import ROOT

FOLDER = ROOT / "manifests/dashboards"
DASHBOARDS = sorted(FOLDER.glob("*.json"))

_ISTIO_LABELS = {
    "reporter", "response_code", "destination_workload", "destination_workload_namespace",
    "destination_canonical_service", "source_workload",
}  # fmt: skip
_KNATIVE_LABELS = {"k8s_namespace_name", "kn_service_name", "kn_configuration_name", "kn_revision_name"}
_HTTP_LABELS = _KNATIVE_LABELS | {"http_response_status_code", "http_request_method"}

# https://istio.io/latest/docs/reference/config/metrics/
ISTIO = {
    "istio_requests_total": _ISTIO_LABELS,
    "istio_request_duration_milliseconds_bucket": _ISTIO_LABELS,
}
# Of the autoscaler and the activator, with `metrics-protocol: prometheus` in ConfigMap config-observability. A cluster
# test asks them.
KNATIVE = {
    "kn_revision_pods_count": _KNATIVE_LABELS,
    "kn_revision_pods_desired": _KNATIVE_LABELS,
    "kn_revision_pods_pending_count": _KNATIVE_LABELS,
    "kn_revision_concurrency_stable": _KNATIVE_LABELS,
    "kn_revision_concurrency_target": _KNATIVE_LABELS,
    "kn_revision_request_queued": {"k8s_namespace_name", "kn_revision_name"},
    "http_server_request_duration_seconds_bucket": _HTTP_LABELS,
    "http_server_request_duration_seconds_count": _HTTP_LABELS,
}

_SELECTION = re.compile(r"([a-z_]+)(?:\{([^}]*)\})?\[|([a-z_]+)\{([^}]*)\}")


def queries() -> list[tuple[str, str]]:
    """Every query with its panel's name."""
    return [
        (f"{file.stem}: {panel['title']}", target["expr"])
        for file in DASHBOARDS
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
    ]


def asked(query: str) -> list[tuple[str, set[str]]]:
    """The metrics of a query, each with the labels that it uses."""
    grouped = {name for group in re.findall(r"\bby \(([^)]*)\)", query) for name in re.split(r",\s*", group)} - {"le"}
    return [
        (first or second, grouped | set(re.findall(r'([a-z0-9_]+)\s*[=!]~?"', one or other or "")))
        for first, one, second, other in _SELECTION.findall(query)
    ]
