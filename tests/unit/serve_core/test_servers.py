"""Known servers: each file is read, each is recognized by its images and by its command line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_core.api import servers
from serve_core.api.servers import KnownServer
from serve_core.workload import command_line
from support.paths import ROOT

FILES = sorted((ROOT / "manifests/servers").glob("*.yaml"))
KNOWN = tuple(servers.parse(yaml.safe_load(file.read_text())) for file in FILES)


def recognized(image: str, **container: Any) -> str | None:
    found = servers.recognize(image, command_line.read(container).words, KNOWN)
    return found.name if found else None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_named_as_its_server(file: Path) -> None:
    assert servers.parse(yaml.safe_load(file.read_text())).name == file.stem


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("vllm/vllm-openai:v0.9.1", "vllm"),
        ("docker.io/vllm/vllm-openai-cpu@sha256:" + "0" * 64, "vllm"),
        ("registry.example:5000/mirror/vllm-openai:1", "vllm"),
        ("rocm/vllm:rocm6", "vllm"),
        ("lmsysorg/sglang:latest", "sglang"),
        ("ghcr.io/huggingface/text-generation-inference:3.3", "text-generation-inference"),
        ("ghcr.io/huggingface/text-embeddings-inference:cpu-1.7", "text-embeddings-inference"),
        ("ollama/ollama", "ollama"),
        ("ghcr.io/ggml-org/llama.cpp:server", "llama-cpp"),
        ("ghcr.io/abetlen/llama-cpp-python:v0.3.2", "llama-cpp-python"),
        ("nvcr.io/nvidia/tritonserver:25.01-py3", "triton"),
        ("tensorflow/serving:2.19.0", "tensorflow-serving"),
        ("pytorch/torchserve:0.12.0-cpu", "torchserve"),
        ("openvino/model_server:2025.1", "openvino"),
        ("seldonio/mlserver:1.7.1-sklearn", "mlserver"),
        ("michaelf34/infinity:0.0.76", "infinity"),
        ("localai/localai:latest-cpu", "localai"),
        ("nvcr.io/nim/meta/llama-3.1-8b-instruct:1.8", "nim"),
        ("openmmlab/lmdeploy:latest", "lmdeploy"),
        ("fedirz/faster-whisper-server:latest-cpu", "faster-whisper-server"),
        ("registry.example/scorer:3", None),
        ("python:3.11", None),
    ],
)
def test_an_image_is_recognized(image: str, name: str | None) -> None:
    assert recognized(image) == name


@pytest.mark.parametrize(
    ("container", "name"),
    [
        ({"command": ["vllm"], "args": ["serve", "acme/tiny"]}, "vllm"),
        ({"command": ["python3", "-m", "vllm.entrypoints.openai.api_server"]}, "vllm"),
        ({"command": ["/bin/sh", "-c", "pip install x && exec /usr/bin/vllm serve acme/tiny --port 9000"]}, "vllm"),
        ({"command": ["bash", "-lc"], "args": ["python -m sglang.launch_server --model-path acme/tiny"]}, "sglang"),
        ({"command": ["/opt/tritonserver/bin/tritonserver"]}, "triton"),
        ({"args": ["tritonserver", "--model-repository=/models"]}, "triton"),
        ({"command": ["llama-server", "-m", "/x.gguf"]}, "llama-cpp"),
        ({"command": ["python", "serve.py"]}, None),
        ({"command": ["vllm", "bench"]}, None),
    ],
)
def test_a_command_line_is_recognized_whatever_the_image(container: dict[str, Any], name: str | None) -> None:
    assert recognized("registry.example/a:1", **container) == name


GOOD: dict[str, Any] = yaml.safe_load("""
apiVersion: kubectl-serve.dev/v1alpha1
kind: KnownServer
metadata: {name: own}
spec:
  title: Own
  images: ["*/own"]
  port: {default: 8000}
  model: {write: "--model={path}"}
""")


def changed(**spec: Any) -> dict[str, Any]:
    return GOOD | {"spec": GOOD["spec"] | spec}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (GOOD | {"kind": "ModelRuntime"}, "not a KnownServer"),
        (GOOD | {"metadata": {}}, "metadata.name is missing"),
        (changed(title=1), "spec.title"),
        (changed(images="*/own"), "spec.images must be a list"),
        (changed(images=[1]), "spec.images must be a list"),
        (changed(commands=[" "]), "spec.commands must not be empty"),
        (changed(port={"default": 0}), "from 1 to 65535"),
        (changed(port={"default": True}), "spec.port.default"),
        (changed(protocol="v3"), "spec.protocol must be one of"),
        (changed(health="health"), "spec.health must begin with /"),
        (changed(basePath={}), "spec.basePath.default is missing"),
        (changed(progressDeadlineSeconds=0), "spec.progressDeadlineSeconds must be at least 1"),
        (changed(progressDeadlineSeconds="1h"), "spec.progressDeadlineSeconds"),
        (changed(model={"write": "", "words": [" "]}), "spec.model.words must not be empty"),
        (changed(more=1), "spec has no field more"),
        (changed(model={"write": "", "flag": []}), "spec.model has no field flag"),
    ],
)
def test_a_wrong_document_is_refused_with_the_place(document: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        servers.parse(document)


def test_a_right_document_is_read() -> None:
    assert servers.parse(GOOD) == KnownServer("own", "Own", ("*/own",), (), 8000, write="--model={path}")


def test_every_field_is_read() -> None:
    document = changed(
        commands=["own serve"],
        port={"default": 8000, "flags": ["--port"], "variables": ["PORT"]},
        health="/health",
        protocol="openai",
        basePath={"default": "", "flags": ["--prefix"], "variables": ["PREFIX"]},
        progressDeadlineSeconds=1800,
        model={"flags": ["-m"], "variables": ["MODEL"], "words": ["own serve"], "write": "-m {file}", "hubCache": True},
    )
    assert servers.parse(document) == KnownServer(
        name="own",
        title="Own",
        images=("*/own",),
        commands=(("own", "serve"),),
        port=8000,
        port_flags=("--port",),
        port_variables=("PORT",),
        health="/health",
        protocol="openai",
        base_path="",
        base_path_flags=("--prefix",),
        base_path_variables=("PREFIX",),
        deadline=1800,
        model_flags=("-m",),
        model_variables=("MODEL",),
        model_words=(("own", "serve"),),
        write="-m {file}",
        hub_cache=True,
    )
