"""Runtimes other than scikit-learn's: a model answers as in the library that trained it, and over gRPC.

The public images are not available here: a ModelRuntime of the same name has the server from PyPI instead.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from cluster.support import (
    READY,
    RESTRICTED,
    Ingress,
    Json,
    Namespace,
    Store,
    Trained,
    annotation,
    condition,
    deployment,
    pod_template,
    printed,
)
from serve_core.api import state
from support.paths import ROOT

RUNTIMES = ROOT / "manifests/runtimes"
TRITON = Path(__file__).parent / "triton"
IMAGE = "dev.local/kubectl-serve/mlserver-tests:1.7.1"
TRITON_IMAGE = "dev.local/kubectl-serve/triton-tests:2.51.0"
SMALL = {"requests": {"cpu": "100m", "memory": "256Mi"}}
"""Triton's requests are for larger models."""
ROWS = [[1.0, 2.0, 3.0, 4.0], [0.5, 0.0, 0.0, 0.25]]

ASK_OVER_GRPC = """
import json, sys
import grpc, numpy
from mlserver.grpc.dataplane_pb2 import ModelInferRequest
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

address, host, model, rows = json.loads(sys.argv[1])
tensor = ModelInferRequest.InferInputTensor(name="rows", datatype="FP64", shape=[len(rows), len(rows[0])])
tensor.contents.fp64_contents.extend(value for row in rows for value in row)
with grpc.insecure_channel(f"{address}:80", [("grpc.default_authority", host)]) as channel:
    request = ModelInferRequest(model_name=model, inputs=[tensor])
    answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
(output,) = answer.outputs
contents = output.contents
if answer.raw_output_contents:
    kinds = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8"}
    values = numpy.frombuffer(answer.raw_output_contents[0], kinds[output.datatype]).tolist()
else:
    values = [*contents.fp64_contents, *contents.fp32_contents, *contents.int64_contents]
print(json.dumps({"values": values}))
"""

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


@contextmanager
def with_image(namespace: Namespace, name: str, image: str) -> Iterator[None]:
    """A runtime of the catalogue has an image that is at hand, while the block runs."""
    document = yaml.safe_load((RUNTIMES / f"{name}.yaml").read_text())
    document["spec"]["container"]["image"] = image
    namespace.apply(document)
    yield
    namespace.kubectl("delete", "modelruntime", name)


@pytest.fixture(params=sorted(MODELS))
def runtime(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[str]:
    """The name of a runtime of MLServer, of which the tests have the image."""
    with with_image(namespace, request.param, IMAGE):
        yield request.param


@pytest.fixture
def triton(namespace: Namespace, store: Store) -> Iterator[str]:
    """The URI of a model repository for Triton. Its model ``sums`` adds up each row."""
    store.bucket.put("repository/sums/config.pbtxt", (TRITON / "config.pbtxt").read_bytes())
    store.bucket.put("repository/sums/1/model.py", (TRITON / "model.py").read_bytes())
    with with_image(namespace, "triton", TRITON_IMAGE):
        yield "s3://models/repository"


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

    assert name_of_runtime(served) == runtime
    assert ingress.predict(served, learnt["rows"]).predicted == pytest.approx(learnt["answers"], rel=1e-6)


def name_of_runtime(found: Json) -> str:
    """The runtime that admission chose."""
    return str(json.loads(annotation(found, "completed-with") or "")["runtime"]["name"])


def predicted_over_grpc(
    namespace: Namespace, ingress: Ingress, found: Json, rows: list[list[float]], model: str
) -> list[float]:
    """What a served Deployment answers over gRPC to a pod that asks through the ingress."""
    host = urlsplit(state.read(found).url).netloc
    question = json.dumps([ingress.address, host, model, rows])
    answer = printed(namespace, IMAGE, ["/opt/mlserver/bin/python", "-c", ASK_OVER_GRPC, question])
    values: list[float] = answer["values"]
    return values


def test_scikit_learn_over_grpc(namespace: Namespace, iris: Trained, ingress: Ingress) -> None:
    annotations = {"format": "sklearn", "protocol": "grpc-v2", "credentials": "store"}
    namespace.apply(deployment("iris", "s3://models/iris/model.joblib", **annotations))
    served = namespace.wait_ready("iris")

    assert name_of_runtime(served) == "mlserver-sklearn"
    assert predicted_over_grpc(namespace, ingress, served, iris.rows[::30], "iris") == iris.answers[::30]


def test_a_broken_model_is_not_ready_over_grpc(namespace: Namespace, store: Store) -> None:
    store.bucket.put("broken/model.joblib", b"not a model")
    annotations = {"format": "sklearn", "protocol": "grpc-v2", "credentials": "store"}
    namespace.apply(deployment("broken", "s3://models/broken/model.joblib", **annotations))

    def is_decided(found: Json) -> bool:
        return condition(found, READY).get("status") in ("True", "False")

    decided = namespace.watch("deployment", "broken", is_decided, 180)
    assert condition(decided, READY)["status"] == "False"


def triton_deployment(uri: str, protocol: str) -> Json:
    container = {"name": "model-server", "resources": SMALL}
    spec = pod_template(container, {"app": "repository"})
    return deployment("repository", uri, spec, format="triton", protocol=protocol, credentials="store")


def test_triton(triton: str, namespace: Namespace, ingress: Ingress) -> None:
    namespace.apply(triton_deployment(triton, "v2"))
    served = namespace.wait_ready("repository")

    assert name_of_runtime(served) == "triton"
    tensor = {"name": "rows", "datatype": "FP64", "shape": [2, 4], "data": ROWS}
    url = state.read(served).url
    answer = ingress.request(url, "/v2/models/sums/infer", json.dumps({"inputs": [tensor]}))
    assert answer.predicted == [10.0, 0.75]


def test_triton_over_grpc(triton: str, namespace: Namespace, ingress: Ingress) -> None:
    namespace.apply(triton_deployment(triton, "grpc-v2"))
    served = namespace.wait_ready("repository")

    assert predicted_over_grpc(namespace, ingress, served, ROWS, "sums") == [10.0, 0.75]
