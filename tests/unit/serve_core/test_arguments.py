"""The arguments of a runtime and those of its users, as one command line."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge
from serve_core.api.runtimes import Parallelism, Runtime, RuntimeSettings
from serve_core.base.json import JsonObject
from serve_core.workload import arguments
from support.paths import ROOT

FACTS = default_context()
OWN = ["run", "/mnt/models", "--name", "a", "--port=8080", "--quiet", "--depth", "-1"]
RUNTIME = Runtime(
    "a",
    (),
    ("v2",),
    {"image": "a", "command": ["server"], "args": OWN},
    settings=RuntimeSettings(args=("--quiet",)),
    parallelism=Parallelism("--devices", ("example.com/gpu",), ("--spread",)),
)


def merged(*args: str, command: list[str] | None = None, gpus: object = None, runtime: Runtime = RUNTIME) -> JsonObject:
    container: JsonObject = {"args": list(args), "command": command or []}
    if gpus is not None:
        container["resources"] = {"limits": {"example.com/gpu": gpus}}
    return arguments.merge(runtime, runtime.container, container).fields


def test_without_arguments_the_runtimes_are_all() -> None:
    assert merged() == {"command": ["server"], "args": OWN}


@pytest.mark.parametrize(
    ("args", "left"),
    [
        (["--more"], ["run", "/mnt/models", "--name", "a", "--port=8080", "--quiet", "--depth", "-1"]),
        (["--port=1"], ["run", "/mnt/models", "--name", "a", "--quiet", "--depth", "-1"]),
        (["--port", "1"], ["run", "/mnt/models", "--name", "a", "--quiet", "--depth", "-1"]),
        (["--name=b"], ["run", "/mnt/models", "--port=8080", "--quiet", "--depth", "-1"]),
        (["--name", "b"], ["run", "/mnt/models", "--port=8080", "--quiet", "--depth", "-1"]),
        (["--quiet"], ["run", "/mnt/models", "--name", "a", "--port=8080", "--depth", "-1"]),
        (["--depth=2"], ["run", "/mnt/models", "--name", "a", "--port=8080", "--quiet"]),
        (["--value", "-1", "--port=1"], ["run", "/mnt/models", "--name", "a", "--quiet", "--depth", "-1"]),
        (["--model=/mine"], ["run", "--name", "a", "--port=8080", "--quiet", "--depth", "-1"]),
        (["/mine"], ["run", "--name", "a", "--port=8080", "--quiet", "--depth", "-1"]),
    ],
)
def test_a_users_argument_wins_over_the_runtimes(args: list[str], left: list[str]) -> None:
    assert merged(*args) == {"command": ["server", *left]}


def test_a_switch_that_is_no_setting_is_taken_with_what_follows() -> None:
    runtime = replace(RUNTIME, container={"image": "a", "command": ["server"], "args": ["--fast", "x", "--port=1"]})
    assert merged("--fast", runtime=runtime) == {"command": ["server", "--port=1"]}


@pytest.mark.parametrize("args", [OWN, [*OWN, "--more"]])
def test_arguments_that_begin_as_the_runtimes_are_all(args: list[str]) -> None:
    assert merged(*args) == {"command": ["server"]}


def test_arguments_that_begin_with_the_runtimes_subcommand_replace_it() -> None:
    found = arguments.merge(RUNTIME, RUNTIME.container, {"args": ["run", "/mnt/models"]})
    assert (found.fields, found.replaces) == ({"command": ["server"]}, True)


@pytest.mark.parametrize(
    ("command", "args", "replaces"),
    [(["sh"], [], True), (["server"], OWN, False), (["server", *OWN], ["--more"], False), (["server"], [], True)],
)
def test_a_command_replaces_the_runtimes_line(command: list[str], args: list[str], replaces: bool) -> None:
    found = arguments.merge(RUNTIME, RUNTIME.container, {"command": command, "args": args})
    assert (found.fields, found.replaces) == ({}, replaces)


def test_the_entrypoint_stands_for_a_command() -> None:
    runtime = replace(RUNTIME, container={"image": "a", "args": ["--port=1"]}, entrypoint=("/server",))
    assert merged("--more", runtime=runtime) == {"command": ["/server", "--port=1"]}
    assert merged(runtime=runtime) == {"args": ["--port=1"]}
    unknown = replace(runtime, entrypoint=())
    found = arguments.merge(unknown, unknown.container, {"args": ["--more"]})
    assert (found.fields, found.replaces) == ({}, True)


@pytest.mark.parametrize(
    ("gpus", "args", "expected"),
    [
        (2, ["--more"], ["--devices=2"]),
        ("4", ["--more"], ["--devices=4"]),
        (1, ["--more"], []),
        (2, ["--devices=1"], []),
        (2, ["--devices", "1"], []),
        (2, ["--spread=2"], []),
        ("2500m", ["--more"], []),
        (-2, ["--more"], []),
        (10**9, ["--more"], []),
        ("many", ["--more"], []),
        ({}, ["--more"], []),
    ],
)
def test_the_model_is_spread_over_the_devices(gpus: object, args: list[str], expected: list[str]) -> None:
    assert merged(*args, gpus=gpus)["command"] == ["server", *OWN, *expected]


def test_the_devices_follow_the_runtimes_arguments_where_the_user_has_none() -> None:
    assert merged(gpus=2) == {"command": ["server"], "args": [*OWN, "--devices=2"]}


def deployment(**container: Any) -> JsonObject:
    notes = {"kubectl-serve.dev/model": "hf://org/model", "kubectl-serve.dev/protocol": "openai"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a", "namespace": "ml", "annotations": notes},
        "spec": {"template": {"spec": {"containers": [{"name": "model-server"} | container]}}},
    }


def gpus(number: int) -> JsonObject:
    return {"limits": {"nvidia.com/gpu": number}}


def completed(written: JsonObject, previous: JsonObject | None = None) -> JsonObject:
    verdict = judge(written, FACTS, previous)
    assert verdict.deployment is not None, verdict.problems
    return verdict.deployment


def server(manifest: JsonObject) -> JsonObject:
    found: JsonObject = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


LINE = ["vllm", "serve", "/mnt/models", "--served-model-name=$(MODEL_NAME)", "--port=8080"]


def test_the_line_follows_what_the_user_changes() -> None:
    stored = completed(deployment(resources=gpus(2)))
    assert server(stored)["args"][-1] == "--tensor-parallel-size=2"

    changed = copy.deepcopy(stored)
    server(changed)["resources"] = gpus(4)
    stored = completed(changed, stored)
    assert server(stored)["args"][-1] == "--tensor-parallel-size=4"

    changed = copy.deepcopy(stored)
    server(changed)["args"] = ["--max-model-len=4096"]
    stored = completed(changed, stored)
    assert server(stored)["args"] == ["--max-model-len=4096"]
    assert server(stored)["command"] == [*LINE, "--tensor-parallel-size=4"]

    changed = copy.deepcopy(stored)
    del server(changed)["args"]
    server(changed)["resources"] = gpus(1)
    stored = completed(changed, stored)
    assert (server(stored)["command"], server(stored)["args"]) == (LINE[:1], LINE[1:])


@pytest.mark.parametrize(
    "container",
    [
        {"args": ["--max-model-len=4096"], "resources": gpus(2), "image": "docker.io/acme/server:1"},
        {"command": ["sh"], "image": "docker.io/acme/server:1"},
        {"args": LINE[1:], "image": "docker.io/acme/server:1"},
    ],
)
def test_without_the_annotation_the_container_is_as_its_user_wrote_it(container: JsonObject) -> None:
    written = deployment(**container)
    written["metadata"]["annotations"]["kubectl-serve.dev/runtime"] = "vllm"
    stored = completed(copy.deepcopy(written))
    plain = copy.deepcopy(stored)
    for key in ("model", "protocol", "runtime"):
        del plain["metadata"]["annotations"][f"kubectl-serve.dev/{key}"]
    assert server(completed(plain, stored)) == {"name": "model-server"} | container


@pytest.mark.parametrize("args", ["--port=1", [1, None, {"a": "b"}], {"a": "b"}])
def test_arguments_of_a_wrong_shape_do_not_raise(args: object) -> None:
    judge(deployment(args=args), FACTS)
    judge(deployment(command=args), FACTS)


def test_every_runtime_with_arguments_has_its_program() -> None:
    """Otherwise a user's arguments would replace the runtime's."""
    for runtime in FACTS.runtimes:
        if runtime.container.get("args"):
            assert arguments.program(runtime, runtime.container), runtime.name


@pytest.mark.parametrize(
    ("device", "image"),
    [
        ("nvidia.com/gpu", "docker.io/vllm/vllm-openai:"),
        ("nvidia.com/gpu.shared", "docker.io/vllm/vllm-openai:"),
        ("nvidia.com/mig-3g.40gb", "docker.io/vllm/vllm-openai:"),
        ("amd.com/gpu", "docker.io/vllm/vllm-openai-rocm:"),
        ("gpu.intel.com/i915", "docker.io/vllm/vllm-openai-xpu:"),
        ("google.com/tpu", "docker.io/vllm/vllm-tpu:"),
        ("habana.ai/gaudi", "docker.io/opea/vllm-gaudi:"),
        ("aws.amazon.com/neuroncore", "public.ecr.aws/neuron/"),
    ],
)
def test_each_accelerator_gets_the_image_that_is_published_for_it(device: str, image: str) -> None:
    verdict = judge(deployment(resources={"limits": {device: 1}}), FACTS)
    assert verdict.deployment is not None
    assert server(verdict.deployment)["image"].startswith(image)
    assert not [each for each in verdict.warnings if each.code == "RuntimeWithoutVariant"]


@pytest.mark.parametrize("device", ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared"])
def test_parts_of_a_gpu_are_no_gpus(device: str) -> None:
    written = deployment(resources={"limits": {device: 2}})
    assert server(completed(written))["args"] == LINE[1:]


@pytest.mark.parametrize("path", ["/dev/shm", "/dev/shm/", "/tmp"])
def test_a_mount_of_the_user_leaves_out_the_runtimes_volume(path: str) -> None:
    written = deployment(volumeMounts=[{"name": "own", "mountPath": path}])
    written["spec"]["template"]["spec"]["volumes"] = [{"name": "own", "emptyDir": {}}]
    verdict = judge(written, FACTS)
    assert verdict.deployment is not None
    names = {volume["name"] for volume in verdict.deployment["spec"]["template"]["spec"]["volumes"]}
    assert names == {"model", "own", "tmp" if path.startswith("/dev") else "shm"}


def test_the_documentation_names_every_device() -> None:
    page = (ROOT / "docs/runtimes.md").read_text()
    for runtime in FACTS.runtimes:
        for variant in runtime.variants:
            assert variant.resource is None or variant.resource in page
