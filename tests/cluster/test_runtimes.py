"""Runtimes beside scikit-learn's: a model that their own library has trained answers as it does there.

Seldon's image is not at hand here: the cluster's own runtime of the same name takes MLServer from PyPI in its place.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.support import RESTRICTED, Ingress, Json, Namespace, Store, annotation, deployment

RUNTIMES = Path(__file__).resolve().parents[2] / "manifests/runtimes"
IMAGE = "dev.local/kubectl-serve/mlserver-tests:1.7.1"

TRAINING = """
import base64, json, numpy, {library}
generator = numpy.random.default_rng(7)
rows = generator.normal(size=(200, 4))
labels = rows[:, 0] + rows[:, 1] > 0
{fit}
fitted.save_model("/tmp/{file}")
content = base64.b64encode(open("/tmp/{file}", "rb").read()).decode()
print(json.dumps({{"rows": rows[:20].tolist(), "answers": {predict}.tolist(), "content": content}}))
"""
MODELS = {
    "mlserver-lightgbm": {
        "library": "lightgbm",
        "file": "model.bst",
        "fit": 'fitted = lightgbm.train({"objective": "binary", "verbosity": -1}, lightgbm.Dataset(rows, labels), 5)',
        "predict": "fitted.predict(rows[:20])",
    },
    "mlserver-xgboost": {
        "library": "xgboost",
        "file": "model.json",
        "fit": "fitted = xgboost.train({'max_depth': 2}, xgboost.DMatrix(rows, labels), 5)",
        "predict": "fitted.predict(xgboost.DMatrix(rows[:20]))",
    },
}


@pytest.fixture(params=sorted(MODELS))
def runtime(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[str]:
    """The name of a runtime of the catalogue, which has an image that is at hand."""
    document = yaml.safe_load((RUNTIMES / f"{request.param}.yaml").read_text())
    document["spec"]["container"]["image"] = IMAGE
    namespace.apply(document)
    yield request.param
    namespace.kubectl("delete", "modelruntime", request.param)


def trained(namespace: Namespace, model: Json) -> Json:
    """What a pod with the library has learnt: the model's file, rows, and what it answers for them."""
    container = {
        "name": "trainer",
        "image": IMAGE,
        "command": ["/opt/mlserver/bin/python", "-c", TRAINING.format(**model)],
        "securityContext": RESTRICTED,
    }
    spec: Json = {"restartPolicy": "Never", "containers": [container]}
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "trainer"}, "spec": spec})
    namespace.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/trainer", "--timeout=2m")
    found: Json = json.loads(namespace.kubectl("logs", "trainer").splitlines()[-1])
    return found


def test_a_model_answers_as_in_its_library(runtime: str, namespace: Namespace, store: Store, ingress: Ingress) -> None:
    model = MODELS[runtime]
    learnt = trained(namespace, model)
    store.bucket.put(f"{model['library']}/{model['file']}", base64.b64decode(learnt["content"]))

    uri = f"s3://models/{model['library']}/{model['file']}"
    namespace.apply(deployment("model", uri, credentials="store", format=model["library"]))
    served = namespace.wait_ready("model")

    assert json.loads(annotation(served, "completed-with") or "")["runtime"]["name"] == runtime
    assert ingress.predict(served, learnt["rows"]).predicted == pytest.approx(learnt["answers"], rel=1e-6)
