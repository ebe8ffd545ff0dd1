"""Runtimes other than scikit-learn's: a model answers as in the library that trained it.

Seldon's image is not available here: a ModelRuntime of the same name has MLServer from PyPI instead.
"""

import base64
import json
from collections.abc import Iterator

import pytest
import yaml

from cluster.support import RESTRICTED, Ingress, Json, Namespace, Store, annotation, deployment
from support.paths import ROOT

RUNTIMES = ROOT / "manifests/runtimes"
IMAGE = "dev.local/kubectl-serve/mlserver-tests:1.7.1"

TRAINING = """
import base64, json, numpy, pathlib
generator = numpy.random.default_rng(7)
rows = generator.normal(size=(200, 4))
labels = rows[:, 0] + rows[:, 1] > 0
folder = pathlib.Path("/tmp/trained/model")
folder.parent.mkdir()
{fit}
files = {{str(path.relative_to(folder)): base64.b64encode(path.read_bytes()).decode()
         for path in folder.rglob("*") if path.is_file()}}
print(json.dumps({{"rows": rows[:20].tolist(), "answers": {predict}.tolist(), "files": files}}))
"""
MODELS = {
    "mlserver-lightgbm": {
        "format": "lightgbm",
        "path": "model.bst",
        "fit": """
import lightgbm
fitted = lightgbm.train({"objective": "binary", "verbosity": -1}, lightgbm.Dataset(rows, labels), 5)
folder.mkdir()
fitted.save_model(folder / "model.bst")
""",
        "predict": "fitted.predict(rows[:20])",
    },
    "mlserver-mlflow": {
        "format": "mlflow",
        "path": "",
        # A signature, for else the server does not know what the model wants.
        "fit": """
import mlflow.sklearn, sklearn.linear_model
fitted = sklearn.linear_model.LinearRegression().fit(rows, labels)
signature = mlflow.models.infer_signature(rows, fitted.predict(rows))
mlflow.sklearn.save_model(fitted, folder, signature=signature, pip_requirements=["scikit-learn"])
""",
        "predict": "fitted.predict(rows[:20])",
    },
    "mlserver-xgboost": {
        "format": "xgboost",
        "path": "model.json",
        "fit": """
import xgboost
fitted = xgboost.train({"max_depth": 2}, xgboost.DMatrix(rows, labels), 5)
folder.mkdir()
fitted.save_model(folder / "model.json")
""",
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
    """What a pod with the library has learnt: the model's files, rows, and what it answers for them."""
    container = {
        "name": "trainer",
        "image": IMAGE,
        "command": ["/opt/mlserver/bin/python", "-c", TRAINING.format(fit=model["fit"], predict=model["predict"])],
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
    for name, content in learnt["files"].items():
        store.bucket.put(f"{model['format']}/{name}", base64.b64decode(content))

    uri = f"s3://models/{model['format']}/{model['path']}"
    namespace.apply(deployment("model", uri.rstrip("/"), credentials="store", format=model["format"]))
    served = namespace.wait_ready("model")

    assert json.loads(annotation(served, "completed-with") or "")["runtime"]["name"] == runtime
    assert ingress.predict(served, learnt["rows"]).predicted == pytest.approx(learnt["answers"], rel=1e-6)
