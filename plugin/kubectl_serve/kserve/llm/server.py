"""The container ``main`` of an LLMInferenceService: vLLM with the user's arguments, or the user's own server. Pure.

Source: KServe 0.20, ``config/llmisvcconfig/config-llm-template.yaml``: a shell starts vLLM, and splits the variable
``VLLM_ADDITIONAL_ARGS`` and the arguments of the container into words.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.services import container as containers
from serve_core.api.annotations import CUSTOM, RUNTIME
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import SERVER_CONTAINER
from serve_core.base.json import objects_in, value_at
from serve_core.workload import arguments, command_line
from serve_core.workload.model_server import PROBES, extended_resources

PORT = 8000
"""The port of KServe's vLLM."""
_HEALTH = "/health"
_MORE_ARGUMENTS = "VLLM_ADDITIONAL_ARGS"
_FOR_TEMPLATE = ("KSERVE_INFER_ROCE", "KSERVE_INFER_IB_GID_INDEX_GREP")
"""Variables that only the script of KServe's template reads."""
_MOUNTS = {"home": "/home", "dshm": "/dev/shm", "model-cache": "/models", "tmp-dir": "/tmp"}  # noqa: S108
"""Volumes of KServe's template, and where it mounts them."""
_CERTIFICATES = "/var/run/kserve/tls"
_SCHEDULERS = ("--kv-events-config", "--kv_events_config")
_TLS = ("--enable-ssl-refresh", "--ssl-certfile", "--ssl-keyfile")
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}|\$([A-Za-z_]\w*)", re.ASCII)
_SHELL = re.compile(r"`|\$(?!\([A-Za-z_]\w*\))", re.ASCII)
"""What only a shell evaluates, once variables are written as the kubelet reads them."""


@dataclass
class ModelArguments:
    """What the service's other fields say to vLLM, as arguments."""

    served_name: str = ""
    """Empty if it is the Deployment's."""
    tensor: int | None = None
    words: list[str] = field(default_factory=list)
    mounts: list[Any] = field(default_factory=list)
    """Mounts of adapters."""


def read(
    main: Field, own_volumes: Sequence[str], said: ModelArguments, runtime: Runtime | None, draft: Draft
) -> dict[str, Any]:
    """The model server's container. ``own_volumes``: the names of the volumes that the user lists."""
    left_out = ["name", "env", "args", "ports", "volumeMounts", *PROBES]
    if _only_waits(main.at("lifecycle").value):
        main.at("lifecycle").note("is not necessary: Knative drains the container before it stops.")
        left_out.append("lifecycle")
    made: dict[str, Any] = {"name": SERVER_CONTAINER, **containers.read(main, *left_out)}
    main.at("name").use()
    is_custom = bool(main.at("command").value) or runtime is None
    if is_custom:
        _custom(main, made, draft)
    elif runtime is not None:
        draft.asked[RUNTIME] = runtime.name
        if args := _arguments(main, said, runtime):
            made["args"] = args
        _drop_ports(main, runtime)
    port = _port(main) if is_custom or runtime is None else runtime.container["ports"][0]["containerPort"]
    if env := _env(main, is_custom=is_custom):
        made["env"] = env
    for key in PROBES:
        if probe := main.at(key):
            made[key] = _probe(probe, port)
    if is_custom:
        made.setdefault("readinessProbe", {"httpGet": {"path": _HEALTH, "port": port}})
    if "livenessProbe" in made and "startupProbe" not in made:
        # KServe's template has it: without one, the liveness probe would end a server that loads a large model.
        made["startupProbe"] = {"httpGet": {"path": _HEALTH, "port": port}, "periodSeconds": 10, "failureThreshold": 60}
    if mounts := [*_mounts(main, own_volumes), *said.mounts]:
        made["volumeMounts"] = mounts
    return made


def _custom(main: Field, made: dict[str, Any], draft: Draft) -> None:
    """A command of the user's own gets nothing from KServe's other fields but their values in expressions."""
    draft.asked[RUNTIME] = CUSTOM
    if main.at("args"):
        made["args"] = main.at("args")
    made["ports"] = main.at("ports") if main.at("ports").value else [{"containerPort": PORT}]


def _only_waits(lifecycle: Any) -> bool:
    """Whether the hooks of a container only sleep before it stops."""
    hook = value_at(lifecycle, "preStop")
    command = value_at(hook, "exec", "command")
    words = [word.rpartition("/")[2] for word in command_line.read({"command": command}).words]
    if words[:2] in (["sh", "-c"], ["bash", "-c"]):
        words = words[2:]
    is_alone = isinstance(lifecycle, dict) and lifecycle.keys() == {"preStop"}
    return is_alone and (value_at(hook, "sleep") is not None or (words[:1] == ["sleep"] and len(words) == 2))


def _port(main: Field) -> int:
    return containers.port_of(main) if main.at("ports").value else PORT


def _drop_ports(main: Field, runtime: Runtime) -> None:
    number = runtime.container["ports"][0]["containerPort"]
    for each in main.at("ports").objects():
        if each.at("containerPort").value == PORT:
            each.use()
        else:
            each.note(f"has no equivalent: runtime {runtime.name} has the port {number}.")


def _arguments(main: Field, said: ModelArguments, runtime: Runtime) -> list[Any]:
    """The arguments that follow the runtime's, as the shell of KServe's template would split them."""
    words: list[Any] = []
    if said.served_name:
        words.append(f"--served-model-name={said.served_name}")
    if said.tensor is not None and (said.tensor > 1 or devices(main, runtime) > 1):
        # With 1, the runtime would use all devices.
        words.append(f"--tensor-parallel-size={said.tensor}")
    words += said.words
    for each in main.at("env").objects():
        if each.at("name").value != _MORE_ARGUMENTS:
            continue
        if each.at("valueFrom"):
            each.refuse("has no equivalent: write its arguments into args.")
        elif (text := each.at("value").text()) is not None:
            each.use()
            words += _split(each, text)
    args = main.at("args")
    words += _split(args, " ".join(each.text() or "" for each in args.elements())) if args else []
    return _without_kserves(main, words)


def _split(field: Field, text: str) -> list[str]:
    try:
        words = [_VARIABLE.sub(lambda match: f"$({match[1] or match[2]})", word) for word in shlex.split(text)]
    except ValueError:
        words = ["`"]
    if any(_SHELL.search(word) for word in words):
        field.refuse("has no equivalent: only a shell evaluates it.")
        return []
    return words


def _without_kserves(main: Field, words: list[str]) -> list[str]:
    """The words without the options for KServe's scheduler and certificates."""
    kept: list[str] = []
    index = 0
    while index < len(words):
        name, equals, _ = words[index].partition("=")
        size = 1 if equals or name == _TLS[0] else 2
        if name in _SCHEDULERS:
            main.at("args" if main.at("args") else "env").remark(f"{name} is left out: no scheduler reads the events.")
        elif name not in _TLS:
            kept.append(words[index])
            size = 1
        index += size
    return kept


def _env(main: Field, *, is_custom: bool) -> list[Any]:
    made: list[Any] = []
    for each in main.at("env").objects():
        name = each.at("name").value
        if name == _MORE_ARGUMENTS and not is_custom:
            continue
        if name in _FOR_TEMPLATE and not is_custom:
            each.note("has no equivalent: only the script of KServe's template reads it.")
            continue
        made.append(each)
    return made


def _probe(probe: Field, port: int) -> dict[str, Any]:
    """A probe: over plain HTTP, on the port of the server here, and with KServe's handler if the user wrote none."""
    made = {key: each for key, each in probe.entries().items() if key != "httpGet"}
    if made.keys() & {"exec", "grpc", "tcpSocket"}:
        return made
    asked = dict(probe.at("httpGet").entries())
    if "scheme" in asked:
        scheme = asked.pop("scheme")
        if scheme.use() == "HTTPS":
            scheme.remark("is HTTP here: KServe's certificate for the model server has no equivalent.")
    written = asked.get("port")
    if written is None or written.value == PORT:
        if written is not None:
            written.use()
        asked["port"] = port  # type: ignore[assignment]
    asked.setdefault("path", _HEALTH)  # type: ignore[arg-type]
    return {"httpGet": asked, **made}


def _mounts(main: Field, own_volumes: Sequence[str]) -> list[Any]:
    """The user's mounts, and those of KServe's template for volumes that the user sizes."""
    made: list[Any] = []
    for each in main.at("volumeMounts").objects():
        name = each.at("name").value
        if (name in _MOUNTS or each.at("mountPath").value == _CERTIFICATES) and name not in own_volumes:
            each.note("has no equivalent: it is a volume of KServe's template.")
        else:
            made.append(each)
    mounted = {each.get("name") for each in objects_in(main.at("volumeMounts").value)}
    return made + [
        {"name": name, "mountPath": path}
        for name, path in _MOUNTS.items()
        if name in own_volumes and name not in mounted
    ]


def devices(main: Field, runtime: Runtime | None) -> int:
    """How many whole accelerators the container requests."""
    written = main.value if isinstance(main.value, dict) else {}
    known = runtime.parallelism.resources if runtime is not None and runtime.parallelism is not None else ()
    return arguments.devices(written, known) or len(extended_resources(written))
