"""The node cache on two nodes: a model is on both before pods need it."""

import json

import pytest

from cluster.support import Json, Namespace, Store, condition, eventually
from cluster.test_node_cache import DRIVER, PREFETCHED, in_advance, installed, model  # noqa: F401 - a fixture
from cluster.test_nodes import Nodes, nodes, steady_store  # noqa: F401 - fixtures

pytestmark = pytest.mark.nodes


def nodes_with(source: str) -> list[str]:
    """The nodes that have a model, as an operator sees them."""
    shown = json.loads(DRIVER.run("kubectl", "serve", "cache", "list", "-A", "-o", "json").stdout)
    models: list[Json] = [each for node in shown["nodes"] for each in node["models"]]
    return sorted({each["node"] for each in models if each["sources"] == [source]})


@pytest.mark.parametrize(("value", "source"), [("all", "s3://models/iris"), ("2", "s3://models/iris/model.joblib")])
def test_a_model_is_on_both_nodes_before_pods_need_it(
    nodes: Nodes,  # noqa: F811
    steady_store: Store,  # noqa: F811
    namespace: Namespace,
    value: str,
    source: str,
) -> None:
    asked = model("iris", prefetch=value)
    asked["metadata"]["annotations"]["kubectl-serve.dev/model"] = source
    namespace.apply(asked)
    found = namespace.watch(
        "deployment", "iris", lambda each: condition(each, PREFETCHED).get("reason") == "Prefetched", 120
    )
    assert condition(found, PREFETCHED)["message"] == "2 of 2 nodes have the model."
    assert nodes_with(source) == sorted([nodes.first, nodes.second])
    eventually(lambda: not in_advance(namespace), 30, "what loads the model is left")
