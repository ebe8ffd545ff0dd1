"""Popular servers, each started by a Deployment as its documentation writes it, with the model as an annotation.

They serve the copy that the loader loaded: the models are made here, and are nowhere else. Images are built from
packages, and have the public image's name in the cluster. Those that take minutes to build are tested where they are
asked for: see CONTRIBUTING.
"""

import base64
import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster import hub
from cluster.conftest import LanguageModel
from cluster.support import PREFIX, Ingress, Json, Namespace, Store, large_images_are_built, printed
from cluster.test_runtimes import MODELS, ROWS, trained

HERE = Path(__file__).parent
RESOLVING = "registries-skipping-tag-resolving"
INFINITY = "dev.local/kubectl-serve/infinity-tests:0.0.78"

on_request = pytest.mark.skipif(not large_images_are_built(), reason="KUBECTL_SERVE_LANGUAGE_MODELS is not set")


@pytest.fixture(scope="module", autouse=True)
def _tags_are_not_resolved(ingress: Ingress) -> Iterator[None]:
    """Knative asks no registry for the digests of images: these are only in the cluster."""
    knative = Namespace("knative-serving")
    before = knative.get("configmap", "config-deployment")["data"].get(RESOLVING)

    def skip(registries: str | None) -> None:
        patch = json.dumps({"data": {RESOLVING: registries}})
        knative.kubectl("patch", "configmap", "config-deployment", "--type=merge", "-p", patch)

    skip("dev.local,docker.io,index.docker.io,ghcr.io,nvcr.io")
    yield
    skip(before)


def served(namespace: Namespace, server: str, model: str, credentials: str = "store") -> Json:
    """The Deployment of a server, once it is ready. ``credentials``: a Secret with the place of the test's model."""
    document: Json = yaml.safe_load((HERE / f"known-servers/{server}.yaml").read_text())
    document["metadata"]["annotations"] = {f"{PREFIX}model": model, f"{PREFIX}credentials": credentials}
    applied = namespace.run("kubectl", "apply", "-f", "-", stdin=json.dumps(document))
    assert "ModelUnseen" not in applied.stderr
    return namespace.wait_ready(document["metadata"]["name"], 900)


def predict(namespace: Namespace, found: Json, data: Json | list[list[float]], *flags: str) -> Json:
    """What ``kubectl serve predict`` prints, over the protocol of the server."""
    command = ("kubectl", "serve", "predict", found["metadata"]["name"], json.dumps(data), *flags)
    answer: Json = json.loads(namespace.run(*command).stdout)
    return answer


def probe(found: Json) -> str:
    """The path of the readiness probe."""
    container: Json = found["spec"]["template"]["spec"]["containers"][0]
    return str(container["readinessProbe"]["httpGet"]["path"])


def completions(namespace: Namespace, found: Json, model: LanguageModel) -> dict[str, str]:
    """What a language model answers to the prompts."""
    greedy = {"temperature": 0, "max_tokens": 60}
    return {
        prompt: predict(namespace, found, {"prompt": prompt, **greedy})["choices"][0]["text"]
        for prompt in model.answers
    }


def test_mlserver(open_namespace: Namespace, store: Store) -> None:
    learnt = trained(open_namespace, MODELS["mlserver-xgboost"])
    settings = {
        "name": "above",
        "implementation": "mlserver_xgboost.XGBoostModel",
        "parameters": {"uri": "./model.json"},
    }
    store.bucket.put("above/model-settings.json", json.dumps(settings).encode())
    store.bucket.put("above/model.json", base64.b64decode(learnt["files"]["model.json"]))

    found = served(open_namespace, "mlserver", "s3://models/above")

    assert probe(found) == "/v2/health/ready"
    answer = predict(open_namespace, found, learnt["rows"])
    assert answer["model_name"] == "above"
    assert answer["outputs"][0]["data"] == pytest.approx(learnt["answers"], rel=1e-6)


def test_triton(open_namespace: Namespace, store: Store) -> None:
    store.bucket.put("sums/sums/config.pbtxt", (HERE / "triton/config.pbtxt").read_bytes())
    store.bucket.put("sums/sums/1/model.py", (HERE / "triton/model.py").read_bytes())

    found = served(open_namespace, "triton", "s3://models/sums")

    assert probe(found) == "/v2/health/ready"
    answer = predict(open_namespace, found, ROWS, "--model-name", "sums")
    assert answer["outputs"][0]["data"] == [10.0, 0.75]


@on_request
def test_torchserve(open_namespace: Namespace, store: Store) -> None:
    archive = io.BytesIO()
    manifest = {"modelName": "linear", "modelVersion": "1.0", "handler": "handler.py", "serializedFile": "weights.json"}
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": manifest}))
        files.writestr("handler.py", (HERE / "torchserve/handler.py").read_text())
        files.writestr("weights.json", "[2, 3]")
    store.bucket.put("mar/linear.mar", archive.getvalue())

    found = served(open_namespace, "torchserve", "s3://models/mar")

    assert probe(found) == "/ping"
    answer = predict(open_namespace, found, [[1, 1], [0, 5]], "--model-name", "linear")
    assert answer == {"predictions": [5, 15]}


@on_request
@pytest.mark.parametrize("server", ["llama-cpp", "llama-cpp-python"])
def test_a_gguf_file(server: str, open_namespace: Namespace, rhyme: LanguageModel) -> None:
    found = served(open_namespace, server, "s3://models/rhyme-gguf/model.gguf")

    assert completions(open_namespace, found, rhyme) == rhyme.answers


@on_request
def test_vllm(open_namespace: Namespace, rhyme: LanguageModel) -> None:
    with hub.served(open_namespace, "team/rhyme", rhyme.files) as address:
        open_namespace.apply(hub.secret("hub", HF_ENDPOINT=address))
        found = served(open_namespace, "vllm", "hf://team/rhyme", credentials="hub")

    assert probe(found) == "/health"
    assert completions(open_namespace, found, rhyme) == rhyme.answers


@on_request
def test_infinity(open_namespace: Namespace) -> None:
    program = (HERE / "infinity/train.py").read_text()
    learnt = printed(open_namespace, INFINITY, ["/opt/infinity/bin/python", "-c", program], 280)
    files = {name: base64.b64decode(content) for name, content in learnt["files"].items()}
    with hub.served(open_namespace, "team/words", files) as address:
        open_namespace.apply(hub.secret("hub", HF_ENDPOINT=address, HF_TOKEN=hub.TOKEN))
        found = served(open_namespace, "infinity", "hf://team/words", credentials="hub")

    assert probe(found) == "/health"
    for text, wanted in learnt["answers"].items():
        (entry,) = predict(open_namespace, found, {"input": [text]})["data"]
        length = math.hypot(*wanted)
        assert entry["embedding"] == pytest.approx([each / length for each in wanted], abs=1e-4)
