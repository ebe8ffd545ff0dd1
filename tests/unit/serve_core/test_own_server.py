"""What a container of the user's own is given and warned of: its port, and a model that it does not serve."""

from typing import Any

import pytest
import yaml

from serve_core.admission.completion import own_server
from serve_core.admission.completion.own_server import OwnServer
from serve_core.api import servers
from serve_core.api.models import parse_all
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import MODEL_MOUNT
from support.paths import ROOT

KNOWN = tuple(
    servers.parse(yaml.safe_load(file.read_text())) for file in sorted((ROOT / "manifests/servers").glob("*.yaml"))
)
AT = "spec.template.spec.containers[0]"


def read(port: int | None = None, uri: str = "hf://acme/tiny", mount: str = MODEL_MOUNT, **container: Any) -> OwnServer:
    models, problems = parse_all(uri, "metadata.annotations")
    assert not problems
    written = {"name": "srv", "image": "registry.example/srv:1", **container}
    return own_server.read(written, AT, ServingSpec(models, port=port, mount=mount), KNOWN)


def test_a_port_that_is_not_declared_is_filled_in() -> None:
    found = read(args=["--model=/mnt/models", "--port=9500"])
    assert found.ports == ({"containerPort": 9500, "protocol": "TCP"},)
    assert [each.message for each in found.explanations] == ["port 9500, from the command line."]
    assert found.warnings == ()


def test_a_declared_port_stays() -> None:
    found = read(args=["/mnt/models"], ports=[{"containerPort": 9500}])
    assert found == OwnServer()


@pytest.mark.parametrize(
    ("image", "written"),
    [
        ("vllm/vllm-openai:v1", "--model=/mnt/models"),
        ("lmsysorg/sglang:v1", "--model-path=/mnt/models"),
        ("ghcr.io/huggingface/text-generation-inference:3", "--model-id=/mnt/models"),
        ("nvcr.io/nvidia/tritonserver:25.01-py3", "--model-repository=/mnt/models"),
        ("nvcr.io/nim/meta/llama:1", "NIM_MODEL_NAME=/mnt/models"),
    ],
)
def test_a_known_server_gets_the_line_to_write(image: str, written: str) -> None:
    (warning,) = read(image=image).warnings
    assert (warning.code, warning.path) == ("ModelUnseen", AT)
    assert written in warning.hint


@pytest.mark.parametrize(
    ("image", "container", "written"),
    [
        ("vllm/vllm-openai:v1", {"args": ["--model", "acme/other"]}, "--model /mnt/models"),
        ("vllm/vllm-openai:v1", {"args": ["--model=acme/other"]}, "--model=/mnt/models"),
        ("vllm/vllm-openai:v1", {"command": ["vllm", "serve", "acme/other"]}, "`vllm serve /mnt/models`"),
        ("vllm/vllm-openai:v1", {"command": ["sh", "-c", "vllm serve acme/other"]}, "`vllm serve /mnt/models`"),
        ("vllm/vllm-openai:v1", {"command": ["vllm", "serve", "--port=1"]}, "--model=/mnt/models"),
        ("lmsysorg/sglang:v1", {"args": ["--model", "acme/other"]}, "--model /mnt/models"),
        ("openmmlab/lmdeploy:v1", {"args": ["lmdeploy serve api_server acme/other"]}, "api_server /mnt/models`"),
        (
            "ghcr.io/huggingface/text-generation-inference:3",
            {"env": [{"name": "MODEL_ID", "value": "acme/other"}]},
            "the variable MODEL_ID=/mnt/models",
        ),
        (
            "ghcr.io/huggingface/text-generation-inference:3",
            {"env": [{"name": "MODEL_ID", "valueFrom": {"configMapKeyRef": {"name": "tgi", "key": "model"}}}]},
            "the variable MODEL_ID=/mnt/models",
        ),
        (
            "ghcr.io/huggingface/text-embeddings-inference:1",
            {"args": ["--model-id", "acme/other"], "env": [{"name": "MODEL_ID", "value": "acme/more"}]},
            "--model-id /mnt/models",
        ),
        ("ghcr.io/ggml-org/llama.cpp:server", {"args": ["-m", "/models/a.gguf"]}, "-m /mnt/models/FILE"),
        ("ghcr.io/ggml-org/llama.cpp:server", {}, "--model /mnt/models/FILE (two arguments)"),
        ("ollama/ollama:1", {"env": [{"name": "OLLAMA_MODELS", "value": "/data"}]}, "OLLAMA_MODELS=/mnt/models"),
    ],
)
def test_the_line_to_write_has_the_form_that_the_container_uses(
    image: str, container: dict[str, Any], written: str
) -> None:
    (warning,) = read(image=image, **container).warnings
    assert f"{written}" in warning.hint


def test_a_variable_says_what_it_serves_instead() -> None:
    env = [{"name": "MODEL_ID", "value": "acme/other"}]
    (warning,) = read(image="ghcr.io/huggingface/text-generation-inference:3", env=env).warnings
    assert "(it refers to acme/other)" in warning.message


def test_what_it_serves_instead_is_said_unless_it_could_be_a_secret() -> None:
    (plain,) = read(image="vllm/vllm-openai:v1", args=["--model", "other/model"]).warnings
    assert "other/model" in plain.message


@pytest.mark.attack(15)
@pytest.mark.parametrize(
    "args",
    [
        ["--model", "https://me:hf_s3cret@example.com/model"],
        ["--model", "hf_s3cret"],
        ["--model=$(TOKEN)"],
        ["--model=${TOKEN}"],
        ["--model", "--api-key=hf_s3cret"],
        ["--model", "--api-key", "hf_s3cret"],
        ["exec vllm serve --model $TOKEN"],
    ],
)
def test_no_word_that_could_be_a_secret_is_shown(args: list[str]) -> None:
    found = read(image="vllm/vllm-openai:v1", args=args, env=[{"name": "TOKEN", "value": "hf_s3cret"}])
    assert [each.code for each in found.warnings] == ["ModelUnseen"]
    assert "s3cret" not in str(found)


@pytest.mark.parametrize(
    "container",
    [
        {"args": ["--model", "/mnt/models"]},
        {"command": ["sh", "-c", "exec serve /mnt/models/x.bin"]},
        {"env": [{"name": "MODEL", "value": "/mnt/models"}]},
        {"workingDir": "/mnt/models"},
    ],
)
def test_a_container_that_names_the_path_is_not_warned_of(container: dict[str, Any]) -> None:
    assert not read(ports=[{"containerPort": 1}], **container).warnings


def test_a_single_file_is_named_in_the_line_to_write() -> None:
    image = "ghcr.io/ggml-org/llama.cpp:server"
    (warning,) = read(image=image, uri="s3://models/tiny/model.gguf").warnings
    assert "--model /mnt/models/model.gguf" in warning.hint
    (warning,) = read(image=image, uri="s3://models/tiny").warnings
    assert "--model /mnt/models/FILE" in warning.hint


VLLM_IMAGE, LLAMA_CPP_IMAGE = "vllm/vllm-openai:v1", "ghcr.io/ggml-org/llama.cpp:server"
ELSEWHERE: list[tuple[str, dict[str, Any], str]] = [
    ("hf://acme/tiny", {"image": VLLM_IMAGE, "args": ["--model=/models/tiny"]}, "/models/tiny"),
    ("hf://acme/tiny", {"image": VLLM_IMAGE, "args": ["--model", "/models/tiny/"]}, "/models/tiny"),
    ("hf://acme/tiny", {"image": VLLM_IMAGE, "args": ["vllm serve /data/qwen-2.5"]}, "/data/qwen-2.5"),
    ("hf://acme/tiny", {"image": VLLM_IMAGE, "command": ["vllm", "serve", "/root/.cache/huggingface/tiny"]},
     "/root/.cache/huggingface/tiny"),
    ("hf://acme/tiny-gguf", {"image": LLAMA_CPP_IMAGE, "args": ["-m", "/models/tiny.gguf"]}, "/models"),
    ("s3://models/tiny.gguf", {"image": LLAMA_CPP_IMAGE, "args": ["-m", "/models/tiny.gguf"]}, "/models"),
    ("hf://acme/tiny", {"image": "nvcr.io/nim/meta/tiny:1", "env": [{"name": "NIM_MODEL_NAME", "value": "/opt/tiny"}]},
     "/opt/tiny"),
    ("s3://models/tiny-q4.gguf", {"image": LLAMA_CPP_IMAGE, "args": ["-m", "/models/model.gguf"]},
     "/models/model.gguf"),
    ("s3://models/tiny.gguf", {"image": LLAMA_CPP_IMAGE, "args": ["-m", "/models/tiny.gguf"],
     "volumeMounts": [{"name": "mine", "mountPath": "/models"}]}, "/models/tiny.gguf"),
    ("s3://models/tiny.joblib", {"env": [{"name": "MODEL_FILE", "value": "/app/models/tiny.joblib"}]}, "/app/models"),
    ("hf://acme/tiny", {"command": ["python", "app.py", "--model-dir=/srv/tiny"]}, "/srv/tiny"),
]  # fmt: skip


@pytest.mark.parametrize(("uri", "container", "mount"), ELSEWHERE)
def test_the_path_where_a_server_looks_is_proposed_and_helps(uri: str, container: dict[str, Any], mount: str) -> None:
    (warning,) = read(uri=uri, **container).warnings
    assert f"Or set kubectl-serve.dev/mount to {mount}, where the server looks for its model." in warning.hint
    assert read(uri=uri, mount=mount, **container).warnings == ()


@pytest.mark.parametrize(
    ("uri", "container"),
    [
        # The file has another name.
        ("s3://models/tiny-q4.gguf", {"image": LLAMA_CPP_IMAGE, "args": ["-m", "/models/model.bin"]}),
        # A volume of the user is below it.
        (
            "hf://acme/tiny",
            {
                "image": VLLM_IMAGE,
                "args": ["--model=/models"],
                "volumeMounts": [{"name": "weights", "mountPath": "/models/weights"}],
            },
        ),
        ("hf://acme/tiny", {"image": VLLM_IMAGE, "args": ["--model=/usr/share/tiny"]}),
        ("hf://acme/tiny", {"image": VLLM_IMAGE, "args": ["--model=acme/other"]}),
        ("hf://acme/tiny", {"image": VLLM_IMAGE, "args": ["--model=/models/../etc"]}),
    ],
)
def test_no_path_is_proposed_that_does_not_help(uri: str, container: dict[str, Any]) -> None:
    (warning,) = read(uri=uri, **container).warnings
    assert "kubectl-serve.dev/mount" not in warning.hint


def test_where_a_volume_of_the_user_is_the_model_can_take_its_place() -> None:
    container: dict[str, Any] = {"image": VLLM_IMAGE, "args": ["--model=/models"]}
    mounts = [{"name": "weights", "mountPath": "/models"}]
    (warning,) = read(**container, volumeMounts=mounts).warnings
    assert "Or remove the mount of the volume at /models, and set kubectl-serve.dev/mount to /models." in warning.hint
    assert read(**container, mount="/models").warnings == ()


def test_of_an_unknown_server_the_annotation_is_named() -> None:
    (warning,) = read().warnings
    assert "Or set kubectl-serve.dev/mount to the path where the server looks for its model." in warning.hint


@pytest.mark.parametrize(
    ("args", "is_named"),
    [
        (["/models/tiny.gguf"], True), (["/models"], True), (["/models/"], True), (["--model=/models/tiny.gguf"], True),
        (["file:///models/tiny.gguf"], True), (["/models/other.gguf"], False), (["/models/tiny.gguf.bak"], False),
        (["/mnt/models/tiny.gguf"], False), (["/old/models/tiny.gguf"], False),
    ],
)  # fmt: skip
def test_a_single_file_must_be_named_as_it_is_called(args: list[str], is_named: bool) -> None:
    found = read(uri="s3://models/tiny.gguf", mount="/models", args=args)
    assert warned(found) == ([] if is_named else ["ModelUnseen"])


def test_many_flags_of_an_unknown_server_take_linear_time() -> None:
    read(args=[f"--model-{number}" for number in range(4000)])


def warned(found: OwnServer) -> list[str]:
    return [each.code for each in found.warnings]


def explained(found: OwnServer) -> list[str]:
    return [each.code for each in found.explanations]


@pytest.mark.parametrize(
    "container",
    [
        {"args": ["--model", "acme/tiny"]},
        {"args": ["serve acme/tiny"], "image": "vllm/vllm-openai:v1"},
        {"args": ["--model=acme/tiny:main"]},
        {"env": [{"name": "MODEL_ID", "value": "acme/tiny"}]},
        {"args": ["--model=$(ID)"], "env": [{"name": "ID", "value": "acme/tiny"}]},
        {"args": ["acme/tiny"], "env": [{"name": "HF_HOME", "value": "/data"}]},
        {"args": ["acme/tiny"], "env": [{"name": "HF_HUB_OFFLINE", "value": "0"}]},
        {"args": ["acme/tiny"], "env": [{"name": "HF_HUB_CACHE", "value": "/mnt/hub-cache"}]},
        {"args": ["acme/tiny"], "volumeMounts": [{"name": "v", "mountPath": "/mnt/hub-cache-old"}]},
    ],
)
def test_a_repository_of_the_models_is_found_in_the_cache(container: dict[str, Any]) -> None:
    found = read(uri="hf://acme/tiny@v2", **container)
    assert (found.reads_hub_cache, warned(found)) == (True, [])
    assert "HubLayout" in explained(found)


def test_a_repository_of_one_of_several_models_is_found() -> None:
    found = read(uri="s3://models/base hf://acme/tiny=adapters/tiny", args=["--lora-modules=tiny=acme/tiny"])
    assert found.reads_hub_cache


@pytest.mark.parametrize(
    "container",
    [
        {"args": ["--model", "acme/other"]},
        {"args": ["--model", "Acme/Tiny"]},  # the cache's folders have the case of the URI
        {"args": ["--model", "acme/tiny"], "image": "ghcr.io/ggml-org/llama.cpp:server"},
        {"args": ["ollama serve", "acme/tiny"], "image": "ollama/ollama:1"},
    ],
)
def test_without_the_models_repository_or_a_cache_there_is_a_warning(container: dict[str, Any]) -> None:
    found = read(**container)
    assert (found.reads_hub_cache, warned(found)) == (False, ["ModelUnseen"])
    assert "Or remove" not in found.warnings[0].hint


def test_a_container_that_names_the_path_needs_no_cache() -> None:
    found = read(args=["--model=/mnt/models", "--served-model-name=acme/tiny"])
    assert (found.reads_hub_cache, warned(found)) == (False, [])


@pytest.mark.parametrize(
    ("container", "kept"),
    [
        ({"env": [{"name": "HF_HUB_CACHE", "value": "/data"}]}, "HF_HUB_CACHE"),
        ({"env": [{"name": "VLLM_USE_MODELSCOPE", "value": "True"}]}, "VLLM_USE_MODELSCOPE"),
        ({"args": ["acme/tiny", "--tokenizer", "acme/other"]}, "--tokenizer"),
        ({"args": ["acme/tiny", "--lora-modules", "a=/adapters/a", "b=acme/b"]}, "--lora-modules"),
        ({"args": ["acme/tiny", "--speculative-config", '{"model": "acme/draft"}']}, "--speculative-config"),
        ({"args": ["acme/tiny"], "env": [{"name": "LORA_ADAPTERS", "value": "acme/a,acme/b"}]}, "LORA_ADAPTERS"),
        ({"env": [{"name": "HUGGINGFACE_HUB_CACHE", "value": "/data"}]}, "HUGGINGFACE_HUB_CACHE"),
        ({"env": [{"name": "TRANSFORMERS_CACHE", "valueFrom": {}}]}, "TRANSFORMERS_CACHE"),
        ({"args": ["acme/tiny", "--download-dir=/data"]}, "--download-dir"),
        ({"volumeMounts": [{"name": "v", "mountPath": "/mnt//hub-cache/"}]}, "the volume at /mnt/hub-cache"),
        ({"volumeMounts": [{"name": "v", "mountPath": "/mnt/hub-cache/x"}]}, "the volume at /mnt/hub-cache/x"),
    ],
)
def test_a_cache_of_the_users_own_is_named_in_the_warning(container: dict[str, Any], kept: str) -> None:
    found = read(**{"args": ["acme/tiny"], **container})
    assert (found.reads_hub_cache, warned(found)) == (False, ["ModelUnseen"])
    assert f"Or remove {kept}: " in found.warnings[0].hint


@pytest.mark.parametrize(
    ("uri", "container", "instead"),
    [
        ("hf://acme/tiny", {"args": ["acme/tiny", "--revision=main"]}, None),
        ("hf://acme/tiny@v2", {"args": ["acme/tiny", "--revision", "v2"]}, None),
        ("hf://acme/tiny", {"args": ["acme/tiny", "--revision", "v2"]}, "--revision"),
        ("hf://acme/tiny@v2", {"args": ["acme/tiny", "--revision", "main"]}, "--revision"),
        ("hf://acme/tiny", {"args": ["acme/tiny"], "env": [{"name": "REVISION", "value": "v2"}]}, "REVISION"),
        ("hf://acme/tiny@v2", {"args": ["acme/tiny"], "env": [{"name": "REVISION", "value": "v2"}]}, None),
        ("hf://acme/tiny hf://acme/b@v2=b", {"args": ["acme/tiny", "--revision", "v2"]}, "--revision"),
    ],
)
def test_another_revision_than_the_uris_is_not_in_the_cache(
    uri: str, container: dict[str, Any], instead: str | None
) -> None:
    found = read(uri=uri, **container)
    assert (found.reads_hub_cache, warned(found)) == (instead is None, [] if instead is None else ["ModelUnseen"])
    assert instead is None or f"Or remove {instead}: " in found.warnings[0].hint


# Readiness


VLLM: dict[str, Any] = {"image": "vllm/vllm-openai:v1", "args": ["--model=/mnt/models"]}


def probed(found: OwnServer) -> tuple[str, int] | None:
    """The path and the port of the probe that is filled in."""
    if found.readiness is None:
        return None
    get = found.readiness["httpGet"]
    return get["path"], get["port"]


@pytest.mark.parametrize(
    ("container", "probe"),
    [
        (VLLM, ("/health", 8000)),
        (VLLM | {"ports": [{"containerPort": 8000}]}, ("/health", 8000)),
        (VLLM | {"args": ["--model=/mnt/models", "--port", "9500"]}, ("/health", 9500)),
        ({"command": ["vllm", "serve", "/mnt/models"]}, ("/health", 8000)),
        ({"image": "nvcr.io/nvidia/tritonserver:1", "command": ["tritonserver"]}, ("/v2/health/ready", 8000)),
        (
            {
                "image": "ghcr.io/huggingface/text-embeddings-inference:1",
                "env": [{"name": "MODEL_ID", "value": "acme/tiny"}, {"name": "PORT", "value": "8080"}],
            },
            ("/health", 8080),
        ),
    ],
)
def test_a_known_server_without_a_readiness_probe_gets_its_health_check(
    container: dict[str, Any], probe: tuple[str, int]
) -> None:
    found = read(**container)
    assert probed(found) == probe
    assert "ReadinessProbed" in explained(found)


def test_the_filled_probe_is_what_the_api_server_stores() -> None:
    assert read(**VLLM).readiness == {
        "httpGet": {"path": "/health", "port": 8000, "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


@pytest.mark.parametrize(
    ("container", "port"),
    [
        (VLLM | {"readinessProbe": {"tcpSocket": {"port": 8000}}}, None),
        # Requests go to a proxy in the same pod.
        (VLLM, 80),
        # Nothing but the image says that it is this server: it can be another program that has "vllm" in its name.
        ({"image": "acme/vllm-proxy:1", "ports": [{"containerPort": 8000}]}, None),
        ({"image": "acme/vllm-proxy:1", "command": ["python", "proxy.py"]}, None),
        # The server listens elsewhere than where the requests go, so its port is not what is known of it.
        (VLLM | {"ports": [{"containerPort": 9500}]}, None),
        ({"image": "registry.example/a:1", "args": ["--port", "9500"]}, None),
        # It has no health check that needs no key.
        ({"image": "ghcr.io/abetlen/llama-cpp-python:1", "args": ["--model", "/mnt/models/a.gguf"]}, None),
    ],
)
def test_a_probe_that_could_be_wrong_is_not_filled_in(container: dict[str, Any], port: int | None) -> None:
    assert probed(read(port=port, **container)) is None


@pytest.mark.parametrize(("image", "seconds"), [("vllm/vllm-openai:v1", 1800), ("michaelf34/infinity:1", None)])
def test_a_known_server_has_the_time_to_load_a_large_model(image: str, seconds: int | None) -> None:
    assert read(image=image).deadline == seconds
