"""Format, runtime and protocol of a predictor. Pure.

Source: KServe 0.20, ``config/runtimes`` and ``pkg/apis/serving/v1beta1/inference_service_defaults.go``.
"""

import re

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.runtimes import given_runtime, model_formats
from kubectl_serve.kserve.services import container as containers
from serve_core.api import runtimes, serving_spec
from serve_core.api.annotations import FORMAT, MODEL, PROTOCOL, PROTOCOLS, RUNTIME
from serve_core.api.runtimes import Runtime
from serve_core.base.json import JsonObject, canonical
from serve_core.workload.model_server import extended_resources

_GRPC = "grpc-v2"
_GRPC_PORT = 8081
"""The gRPC port of KServe's Python servers."""
_SPEAKS_V2 = frozenset({"triton", "huggingface", "mlflow", "onnx", "openvino", "tensorrt"})
"""Formats whose servers use protocol v2 by default; all others use v1."""
_VLLM = "kserve-vllmserver"
_RUNTIMES = {
    "kserve-sklearnserver": "kserve-sklearnserver",
    "kserve-xgbserver": "kserve-xgbserver",
    "kserve-lgbserver": "kserve-lgbserver",
    "kserve-pmmlserver": "kserve-pmmlserver",
    "kserve-paddleserver": "kserve-paddleserver",
    "kserve-autogluonserver": "kserve-autogluonserver",
    "kserve-tensorflow-serving": "tensorflow-serving",
    "kserve-tritonserver": "triton",
    "kserve-torchserve": "torchserve",
    "kserve-openvino": "openvino",
    "kserve-huggingfaceserver": "huggingfaceserver",
    _VLLM: "vllm",
}
"""KServe's runtimes to those of this project, for the same server."""
_PREDICTIVE = "kserve-predictiveserver"
_BY_FORMAT = {
    _PREDICTIVE: {"sklearn": "kserve-sklearnserver", "xgboost": "kserve-xgbserver", "lightgbm": "kserve-lgbserver"},
    "kserve-mlserver": {name: f"mlserver-{name}" for name in ("sklearn", "xgboost", "lightgbm", "mlflow")},
}
"""KServe's servers for several formats: here, each format has its own runtime."""


def read(server: Field, framework: str, draft: Draft) -> Runtime | None:
    """The runtime that the webhook will choose; ``None`` if there is none. ``framework``: the field of the old form."""
    named, protocol = server.at("runtime"), server.at("protocolVersion")
    kind = framework or server.at("modelFormat", "name").text() or ""
    server.at("modelFormat").entries()
    version = server.at("modelFormat", "version")
    name, is_vllm = named.text(), kind.lower() == "vllm"
    if is_vllm:
        kind, name = "huggingface", name or _VLLM
        if version.value == "1":
            version.use()
    elif version and version.is_text():
        version.use()
    if kind:
        converted, its_version = model_formats.converted(kind, str(version.value) if version and not is_vllm else None)
        draft.asked[FORMAT] = converted if its_version is None else f"{converted}:{its_version}"
    given = given_runtime.of(server, framework, draft)
    if given is not None and given.runtime is not None:
        named.use()
        name = given.runtime.name
    _name(named, name, kind.lower(), draft)
    _protocol(protocol, name, kind.lower(), draft, is_vllm=is_vllm)
    runtime = chosen(server, draft)
    number = _port_of_grpc(server)
    if number is None or runtime is None or (_GRPC not in runtime.protocols and _listens(runtime, number)):
        return runtime
    draft.asked[PROTOCOL] = _GRPC  # a port named h2c is KServe's way to choose it
    return chosen(server, draft)


def chosen(server: Field, draft: Draft) -> Runtime | None:
    """The runtime that the webhook would choose. It does not depend on the model's URI."""
    asked = {key: draft.asked[key] for key in (RUNTIME, FORMAT, PROTOCOL) if key in draft.asked}
    spec, _ = serving_spec.read({**asked, MODEL: "s3://bucket/model"})
    resources = extended_resources(server.value if isinstance(server.value, dict) else {})
    return None if spec is None else runtimes.choose(spec, draft.context.runtimes, resources)


def container_of(runtime: Runtime, server: Field, draft: Draft) -> JsonObject:
    """A runtime's container for this model."""
    resources = extended_resources(server.value if isinstance(server.value, dict) else {})
    return runtime.container_of(runtime.applying(draft.asked.get(PROTOCOL), resources))


def port(runtime: Runtime, server: Field, draft: Draft) -> int | None:
    """The port on which a runtime serves, unless its users change that."""
    container = container_of(runtime, server, draft)
    return next((int(each["containerPort"]) for each in container.get("ports") or []), None)


def _name(named: Field, name: str | None, kind: str, draft: Draft) -> None:
    """The annotation for the runtime with that name in KServe."""
    if name is None:
        return
    known = {each.name for each in draft.context.runtimes}
    names = [name] + [
        found
        for each in (name, f"kserve-{name}")  # earlier versions of KServe had no prefix
        for found in (_RUNTIMES.get(each), _BY_FORMAT.get(each, {}).get(kind))
    ]
    same = next((each for each in names if each in known), None)
    if same is not None:
        draft.asked[RUNTIME] = same
    else:
        draft.asked[RUNTIME] = name
        named.remark(
            f"convert KServe's ServingRuntime {name} together with this object, or create a ModelRuntime {name}."
        )


def _protocol(protocol: Field, name: str | None, kind: str, draft: Draft, *, is_vllm: bool) -> None:
    text = protocol.text()
    if is_vllm and text is not None and text != "openai":
        protocol.remark("has no effect: vLLM speaks OpenAI's protocol.")
    elif text in PROTOCOLS:
        draft.asked[PROTOCOL] = text
        if text == _GRPC and kind == "pytorch" and name is None:
            # KServe serves PyTorch's archives with TorchServe. Triton speaks the protocol too, but does not read them.
            draft.asked[RUNTIME] = "torchserve"
            protocol.remark("KServe serves this format with TorchServe.")
    elif text is not None:
        protocol.remark(f"{text} has no equivalent.")
    elif name == _PREDICTIVE or (name is None and kind and kind not in _SPEAKS_V2):
        draft.asked[PROTOCOL] = "v1"  # KServe's default


def _port_of_grpc(server: Field) -> int | None:
    """The port that gets the requests, which is the first, if its name says that it is for gRPC."""
    for each in server.at("ports").objects()[:1]:
        number = each.at("containerPort").value
        if containers.is_for_grpc(each) and isinstance(number, int):
            return number
    return None


def _listens(runtime: Runtime, number: int) -> bool:
    """Whether a runtime's server listens on a port besides that of its default protocol."""
    words = canonical([runtime.container.get("args"), runtime.container.get("env")])
    is_python_server = "--http_port" in words
    return (is_python_server and number == _GRPC_PORT) or re.search(rf"\b{number}\b", words) is not None
