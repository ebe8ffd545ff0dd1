"""Fixtures of the cluster tests: the store with trained models, and a separate namespace for every test.

They use the cluster of KUBECONFIG, with kubectl-serve installed (``scripts/test cluster`` does it).
"""

import base64
import itertools
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
import pytest
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

from cluster.support import (
    Ingress,
    Json,
    Namespace,
    Store,
    Trained,
    config_map,
    created,
    eventually,
    example_store,
    file_server,
    kubeconfig_is_set,
    printed,
)

_FOLDER = Path(__file__).parent
INGRESSES = {"traefik": ("traefik", "traefik"), "kourier": ("kourier-system", "kourier")}
"""Knative's ingresses that the tests can reach: namespace and Service."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_FOLDER / "mesh"):
            item.add_marker(pytest.mark.mesh)
        elif item.path.is_relative_to(_FOLDER):
            item.add_marker(pytest.mark.cluster)


def _train(estimator: Any) -> Trained:
    data = load_iris()
    fitted = estimator.fit(data.data, data.target)
    file = BytesIO()
    joblib.dump(fitted, file)
    return Trained(data.data.tolist(), fitted.predict(data.data).tolist(), file.getvalue())


@pytest.fixture(scope="session")
def ingress() -> Ingress:
    if not kubeconfig_is_set() or shutil.which("kubectl") is None:
        pytest.fail("no cluster: run scripts/test cluster, or eval the output of scripts/cluster env", pytrace=False)
    settings = Namespace("knative-serving").get("configmap", "config-network")["data"]
    namespace, name = INGRESSES[settings["ingress-class"].partition(".")[0]]
    service = Namespace(namespace).get("service", name)
    given = service["status"]["loadBalancer"].get("ingress") or [{"ip": service["spec"]["clusterIP"]}]
    return Ingress(given[0]["ip"])


@pytest.fixture(scope="session")
def iris() -> Trained:
    """A trained model."""
    return _train(LogisticRegression(max_iter=1000))


@pytest.fixture(scope="session")
def always_two() -> Trained:
    """A model that always answers 2, to distinguish it from the other."""
    return _train(DummyClassifier(strategy="constant", constant=2))


@pytest.fixture(scope="session")
def store(ingress: Ingress, iris: Trained, always_two: Trained) -> Iterator[Store]:
    """The example store, with ``s3://models/iris`` and ``s3://models/always-two`` in it."""
    namespace = Namespace("kubectl-serve-tests")
    with created(namespace):
        found = example_store(namespace)
        found.bucket.put("iris/model.joblib", iris.content)
        found.bucket.put("always-two/model.joblib", always_two.content)
        yield found


_numbers = itertools.count(1)


@pytest.fixture
def empty(ingress: Ingress) -> Iterator[Namespace]:
    """A namespace with nothing in it."""
    with created(Namespace(f"test-{next(_numbers)}")) as namespace:
        yield namespace


@pytest.fixture
def namespace(empty: Namespace, store: Store) -> Namespace:
    """A namespace with the store's credentials in the Secret ``store``."""
    empty.apply(store.secret())
    return empty


@pytest.fixture
def open_namespace(store: Store) -> Iterator[Namespace]:
    """A namespace in which containers can be root, as many images are, with the store's credentials."""
    with created(Namespace(f"test-{next(_numbers)}"), "privileged") as namespace:
        namespace.apply(store.secret())
        yield namespace


@dataclass(frozen=True)
class LanguageModel:
    """A tiny language model, which is in the store as ``s3://models/rhyme`` and ``s3://models/rhyme-gguf``."""

    files: dict[str, bytes]
    """Of its directory, by name."""
    answers: dict[str, str]
    """What transformers answers, by prompt."""


@pytest.fixture(scope="session")
def rhyme(store: Store) -> LanguageModel:
    """A language model that a pod with vLLM's image trains."""
    learnt = printed(
        Namespace("kubectl-serve-tests"),
        "dev.local/kubectl-serve/vllm-tests:0.30.0",
        ["/opt/vllm/bin/python", "-c", (_FOLDER / "vllm/train.py").read_text()],
        280,
    )
    files = {name: base64.b64decode(content) for name, content in learnt["files"].items()}
    for name, content in files.items():
        folder = "rhyme-gguf" if name.endswith(".gguf") else "rhyme"
        store.bucket.put(f"{folder}/{name}", content)
    kept = {name: content for name, content in files.items() if not name.endswith(".gguf")}
    return LanguageModel(kept, learnt["answers"])


@pytest.fixture
def web(empty: Namespace, iris: Trained) -> Iterator[str]:
    """A web server with ``/model.joblib``; its address."""
    server = file_server("web", "/models") | {"volumeMounts": [{"name": "models", "mountPath": "/models"}]}
    pod: Json = {"containers": [server], "volumes": [{"name": "models", "configMap": {"name": "models"}}]}
    labels = {"app": "web"}
    empty.apply(
        config_map("models", {"model.joblib": iris.content}),
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": labels}, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 8080}]},
        },
    )
    empty.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=2m")
    address = empty.get("service", "web")["spec"]["clusterIP"]
    # A ready pod is reached through its Service only once kube-proxy has written its rules, which no object shows.
    eventually(lambda: _is_open(address, 8080), 30, "the web server is reached through its Service")
    yield f"http://web.{empty.name}.svc:8080"
    empty.kubectl("delete", "pod", "web", "--now", "--wait=false")


def _is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True
