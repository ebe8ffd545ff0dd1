"""The dashboards query existing metrics and labels."""

import json
import re
from pathlib import Path

import pytest

from model_cache import metrics
from model_cache.models import Models
from model_cache.process import Settings
from model_cache.store import Store
from serve_webhook.metrics import Metrics
from support.dashboards import DASHBOARDS, ISTIO, KNATIVE, asked, queries


def ours() -> dict[str, set[str]]:
    """Our own metrics with their labels, as they are exposed."""
    metrics = Metrics()
    found: dict[str, set[str]] = {}
    for family in metrics._registry.collect():
        labels = set(getattr(metrics._registry._names_to_collectors.get(family.name), "_labelnames", ()))
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        found |= {family.name + suffix: labels | ({"le"} if suffix == "_bucket" else set()) for suffix in suffixes}
    return found


def of_the_node_cache(folder: Path) -> dict[str, set[str]]:
    """The metrics of the node cache's driver, which have no labels."""
    store = Store(folder, 1 << 20)
    models = Models(store, Settings((), None, 1, folder, {}))
    names = {line.split()[0] for line in metrics.text(models).splitlines() if not line.startswith("#")}
    store.close()
    return {name: set() for name in names}


@pytest.mark.parametrize(("panel", "query"), queries())
def test_a_query_asks_for_metrics_that_exist(panel: str, query: str, tmp_path: Path) -> None:
    known = ISTIO | KNATIVE | ours() | of_the_node_cache(tmp_path)
    assert asked(query), f"{panel} asks for nothing"
    for metric, labels in asked(query):
        assert metric in known, f"{panel}: there is no {metric}"
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
