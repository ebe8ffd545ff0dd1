"""Language models, by the servers that people run them with: they answer as transformers does, token by token.

The images are large and take minutes to build, so these tests run where they are asked for: see CONTRIBUTING. The
servers come from PyPI in place of the catalogue's images, which are not at hand here; all else is the catalogue's.
"""

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import yaml

from cluster.conftest import LanguageModel
from cluster.support import Ingress, Json, Namespace, annotation, deployment, large_images_are_built, pod_template
from serve_core.api import state
from support.paths import ROOT

RUNTIMES = ROOT / "manifests/runtimes"
IMAGES = {
    "vllm": "dev.local/kubectl-serve/vllm-tests:0.30.0",
    "llama-cpp": "dev.local/kubectl-serve/llama-cpp-tests:b10773",
}
MODELS = {"vllm": "s3://models/rhyme", "llama-cpp": "s3://models/rhyme-gguf/model.gguf"}
SMALL = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "6Gi"}}
"""Both ask for more than the tests' node has: they are made for larger models."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not large_images_are_built(), reason="KUBECTL_SERVE_LANGUAGE_MODELS is not set"),
]


@pytest.fixture(params=sorted(IMAGES))
def runtime(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[str]:
    """The name of a runtime of the catalogue, which has an image that is at hand."""
    document = yaml.safe_load((RUNTIMES / f"{request.param}.yaml").read_text())
    document["spec"]["container"]["image"] = IMAGES[request.param]
    namespace.apply(document)
    yield request.param
    namespace.kubectl("delete", "modelruntime", request.param)


def streamed(ingress: Ingress, url: str, request: Json) -> list[str]:
    """The pieces of a chat's answer, each as it comes through the ingress."""
    host = urlsplit(url).netloc
    connection = http.client.HTTPConnection(ingress.address, 80, timeout=120)
    body = json.dumps(request | {"stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"Host": host, "Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    assert (response.getheader("Content-Type") or "").startswith("text/event-stream")
    events = [line.removeprefix(b"data:").strip() for line in response if line.startswith(b"data:")]
    connection.close()
    assert events.pop() == b"[DONE]"
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return [delta["content"] for delta in deltas if delta.get("content")]


def test_a_language_model_answers_as_in_transformers(
    runtime: str, namespace: Namespace, rhyme: LanguageModel, ingress: Ingress
) -> None:
    wanted = {"protocol": "openai", "scale": "0..1", "window": "6s", "timeout": "600s"}
    formats = {} if runtime == "llama-cpp" else {"format": "huggingface"}
    container = {"name": "model-server", "resources": SMALL, "env": [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "1"}]}
    spec = pod_template(container, {"app": "llm"})
    namespace.apply(deployment("llm", MODELS[runtime], spec, credentials="store", **wanted, **formats))
    served = namespace.wait_ready("llm", 600)
    assert json.loads(annotation(served, "completed-with") or "")["runtime"]["name"] == runtime
    url = state.read(served).url

    for prompt, answer in rhyme.answers.items():
        greedy = {"model": "llm", "temperature": 0, "max_tokens": 60}
        completed = ingress.request(url, "/v1/completions", json.dumps(greedy | {"prompt": prompt}), 120)
        assert completed.status == 200, completed.body
        assert json.loads(completed.body)["choices"][0]["text"] == answer
        pieces = streamed(ingress, url, greedy | {"messages": [{"role": "user", "content": prompt}]})
        assert "".join(pieces) == answer
        assert len(pieces) > 10

    namespace.wait_scaled_to_zero("llm")
    prompt, answer = next(iter(rhyme.answers.items()))
    said = namespace.run("kubectl", "serve", "predict", "llm", prompt, "--timeout", "10m")
    assert said.stdout == answer + "\n"
