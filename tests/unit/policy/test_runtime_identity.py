"""A container is the catalogue's runtime only if it is unchanged. With a change it is a custom server."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge
from serve_core.api import runtimes
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.parse import read_policy
from serve_core.policy.subject import Subject
from serve_core.subjects.build import subject_of
from support.paths import ROOT
from support.policy_objects import DIGEST
from support.reviews import document
from unit.policy.test_loader_identity import NOT_THE_LOADER, WRITERS, both, broken, volume

BASE = default_context()
FACTS = replace(BASE, features={**BASE.features, "kubernetes.podspec-persistent-volume-claim": "enabled"})
RULES = {
    "denied": "runtimes: {deny: [custom]}",
    "allowed": "runtimes: {allow: [mlserver-sklearn, vllm, llama-cpp]}",
    "formats": "formats: {deny: [pytorch]}",
    "images": "images: {allow: [dev.local/kubectl-serve, docker.io/vllm, ghcr.io/ggml-org]}",
}
POLICY = read_policy(
    document("ServingPolicy", "rules:\n" + "".join(f"  - {{name: {n}, {r}}}\n" for n, r in RULES.items()))
)
JUDGED = replace(FACTS, policies=(POLICY,))

KINDS = ["Deployment", "Deployment without Knative", "Service", "Configuration", "Revision"]
Change = Callable[[JsonObject], None]
"""Changes the spec of a pod in place."""


def deployment(model: str = "s3://models/iris/model.joblib", **notes: str) -> JsonObject:
    annotations = {f"kubectl-serve.dev/{key}": value for key, value in ({"model": model} | notes).items()}
    metadata = {"name": "iris", "namespace": "ml", "annotations": annotations}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}


def made(
    kind: str, manifest: JsonObject | None = None, context: ClusterContext = FACTS
) -> tuple[JsonObject, JsonObject]:
    """An honest object of a kind, and its pod's spec to be changed."""
    written = copy.deepcopy(manifest or deployment())
    if kind == "Deployment without Knative":
        written["metadata"]["annotations"]["kubectl-serve.dev/mode"] = "deployment"
    verdict = judge(written, context)
    assert verdict.deployment is not None
    if kind.startswith("Deployment"):
        found = copy.deepcopy(verdict.deployment)
        return found, found["spec"]["template"]["spec"]
    assert verdict.service is not None
    service = copy.deepcopy(verdict.service)
    spec = service["spec"]["template"]["spec"]
    if kind in ("Service", "Configuration"):
        return service | {"kind": kind}, spec
    head = {"apiVersion": "serving.knative.dev/v1", "kind": kind, "metadata": {"name": "iris-00001", "namespace": "ml"}}
    return head | {"spec": spec}, spec


def subject(manifest: JsonObject, context: ClusterContext = JUDGED) -> Subject:
    found = subject_of(manifest, context)
    assert found is not None
    return found


def server(**fields: Any) -> Change:
    return lambda pod: pod["containers"][0].update(fields)


def env(*variables: JsonObject) -> Change:
    """Adds variables, or replaces those of their names where they stand."""

    def change(pod: JsonObject) -> None:
        named = {variable["name"]: variable for variable in variables}
        kept = [named.pop(each["name"], each) for each in pod["containers"][0]["env"]]
        pod["containers"][0]["env"] = [*kept, *named.values()]

    return change


def said(name: str, value: str) -> Change:
    return env({"name": name, "value": value})


def twice(name: str, value: str) -> Change:
    return lambda pod: pod["containers"][0]["env"].append({"name": name, "value": value})


def without(name: str) -> Change:
    def change(pod: JsonObject) -> None:
        pod["containers"][0]["env"] = [each for each in pod["containers"][0]["env"] if each["name"] != name]

    return change


def mount(**fields: Any) -> Change:
    return lambda pod: pod["containers"][0]["volumeMounts"].append(fields)


def models(**fields: Any) -> Change:
    """Changes the mount of the model."""

    def change(pod: JsonObject) -> None:
        mounts = pod["containers"][0]["volumeMounts"]
        pod["containers"][0]["volumeMounts"] = [
            each | fields if each["mountPath"] == "/mnt/models" else each for each in mounts
        ]

    return change


def more(key: str, **fields: Any) -> Change:
    def change(pod: JsonObject) -> None:
        container = {"name": "beside", "image": "dev.local/kubectl-serve/x:1", **fields}
        pod[key] = [*pod.get(key, []), container]

    return change


def pod_wide(**fields: Any) -> Change:
    return lambda pod: pod.update(fields)


MINE = volume("mine", configMap={"name": "my-pickle"})
OWN: dict[str, Change] = {
    "the model's place": said("MLSERVER_MODEL_URI", "/mine/model.joblib"),
    "the model's place and a mount": both(
        said("MLSERVER_MODEL_URI", "/mine/model.joblib"), mount(name="mine", mountPath="/mine"), MINE
    ),
    "the path that is expanded": said("MODEL_PATH", "/mine/model.joblib"),
    "a path that leads out of the model": said("MODEL_PATH", "/mnt/models/../../mine"),
    "a model by another name": said("MODEL_NAME", "../x"),
    "another code": said("MLSERVER_MODEL_IMPLEMENTATION", "evil.Model"),
    "no code": without("MLSERVER_MODEL_IMPLEMENTATION"),
    "a variable that comes twice": twice("MLSERVER_MODEL_URI", "/mine/model.joblib"),
    "a setting that comes twice": both(twice("OMP_NUM_THREADS", "1"), twice("OMP_NUM_THREADS", "2")),
    "a variable of the server's": said("MLSERVER_MODELS_DIR", "/mine"),
    "a variable that only begins as a setting does": said("MLSERVER_CACHE_SIZE_X", "1"),
    "Python's path": said("PYTHONPATH", "/mine"),
    "what Python starts with": said("PYTHONSTARTUP", "/mine/x.py"),
    "a library": said("LD_PRELOAD", "/mine/x.so"),
    "a search path": said("PATH", "/mine"),
    "a variable from a ConfigMap": env(
        {"name": "MLSERVER_MODEL_URI", "valueFrom": {"configMapKeyRef": {"name": "mine", "key": "a"}}}
    ),
    "envFrom": server(envFrom=[{"configMapRef": {"name": "mine"}}]),
    "envFrom with a prefix": server(envFrom=[{"configMapRef": {"name": "mine"}, "prefix": "MLSERVER_"}]),
    "another order of what is expanded": lambda pod: pod["containers"][0]["env"].reverse(),
    "a command": server(command=["python", "-c", "..."]),
    "arguments": server(args=["mlserver", "start", "/mine"]),
    "an argument that is expanded": server(args=["$(WHERE)"]),
    "a working directory": server(workingDir="/mine"),
    "another image": server(image="dev.local/kubectl-serve/other:1"),
    "another version of the image": server(image="dev.local/kubectl-serve/mlserver-sklearn:0.0.1"),
    "a hook": server(lifecycle={"postStart": {"exec": {"command": ["sh", "-c", "..."]}}}),
    "a probe that runs a program": server(livenessProbe={"exec": {"command": ["sh", "-c", "..."]}}),
    "readiness that is a program": server(readinessProbe={"exec": {"command": ["true"]}}),
    "devices": server(volumeDevices=[{"name": "d", "devicePath": "/dev/x"}]),
    "a terminal": server(stdin=True),
    "a restart policy": server(restartPolicy="Always"),
    "another port": server(ports=[{"containerPort": 8081}]),
    "no port": server(ports=[]),
    "a port of the node": server(ports=[{"containerPort": 8080, "hostPort": 80}]),
    "a mount": both(mount(name="mine", mountPath="/mine", readOnly=True), MINE),
    "a mount over the server": both(mount(name="mine", mountPath="/opt/mlserver"), MINE),
    "a mount over its packages": both(mount(name="mine", mountPath="/usr/lib/python3.12/site-packages/x"), MINE),
    "a mount over what the linker reads": both(
        mount(name="mine", mountPath="/etc/ld.so.preload", subPath="a", readOnly=True), MINE
    ),
    "a mount in the model": both(mount(name="mine", mountPath="/mnt/models/model.joblib", subPath="a"), MINE),
    "a mount over the model": both(models(name="mine"), MINE),
    "another part of the volume": models(subPath="state"),
    "the whole volume": models(subPath=""),
    "a part that a variable names": models(subPathExpr="$(WHERE)"),
    "a model to write to": models(readOnly=False),
    "no model at all": lambda pod: pod["containers"][0]["volumeMounts"].pop(0),
    "another volume under the model's name": volume("model", configMap={"name": "my-pickle"}),
    "its folder for temporary files from elsewhere": volume("tmp", configMap={"name": "mine"}),
    "its folder for temporary files of a claim": volume("tmp", persistentVolumeClaim={"claimName": "mine"}),
    "its folder for temporary files for others": more(
        "initContainers", volumeMounts=[{"name": "tmp", "mountPath": "/x"}]
    ),
    "a container beside, which may listen": more("containers"),
    "a container beside, with the port": both(
        server(ports=[]), more("containers", ports=[{"containerPort": 8080}]), server(name="model-server")
    ),
    "a container with the server's name": both(server(name="decoy"), more("containers", name="model-server")),
    "a sidecar": more("initContainers", restartPolicy="Always"),
    "an ephemeral container": more("ephemeralContainers"),
    "the node's network": pod_wide(hostNetwork=True),
    "the node's processes": pod_wide(hostPID=True),
    "the node's memory": pod_wide(hostIPC=True),
    "shared processes": pod_wide(shareProcessNamespace=True),
    "other names of hosts": pod_wide(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["huggingface.co"]}]),
    "a name of another host for itself": pod_wide(hostnameOverride="huggingface.co"),
    "another server of names": pod_wide(dnsConfig={"nameservers": ["10.0.0.1"]}),
}


@pytest.mark.attack(28)
@pytest.mark.parametrize("change", OWN.values(), ids=OWN.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_runtime_container_is_a_custom_server(kind: str, change: Change) -> None:
    manifest, pod = made(kind)
    assert broken(manifest, JUDGED) == {}
    change(pod)
    found = broken(manifest, JUDGED)
    assert found["denied"] == found["allowed"] == {"RuntimeNotAllowed"}


@pytest.mark.attack(28)
@pytest.mark.parametrize("change", [said("MODEL_NAME", "other"), said("MODEL_PATH", "/mnt/models/other.joblib")])
@pytest.mark.parametrize("kind", ["Deployment", "Deployment without Knative"])
def test_of_a_deployment_it_is_known_which_model_is_served(kind: str, change: Change) -> None:
    manifest, pod = made(kind)
    change(pod)
    assert {"denied", "allowed"} <= broken(manifest, JUDGED).keys()


@pytest.mark.attack(28)
@pytest.mark.parametrize("kind", KINDS)
def test_the_finding_names_the_changed_field(kind: str) -> None:
    manifest, pod = made(kind)
    said("MLSERVER_MODEL_URI", "/mine")(pod)
    use = subject(manifest).runtime
    assert use is not None
    assert (use.name, use.based_on) == ("custom", ("mlserver-sklearn",))
    assert use.path.endswith("spec.containers[0].env[MLSERVER_MODEL_URI]")
    assert broken(manifest, JUDGED)["formats"] == {"FormatUnsure"}, "nor is its format known"


@pytest.mark.attack(28)
@pytest.mark.parametrize("mode", ["knative", "deployment"])
def test_a_transformer_in_front_answers_in_the_runtimes_place(mode: str) -> None:
    written = deployment(mode=mode)
    front = {"name": "transformer", "image": "docker.io/vllm/transformer:1", "ports": [{"containerPort": 8090}]}
    written["spec"] = {"template": {"spec": {"containers": [{"name": "model-server"}, front]}}}
    flags = {**FACTS.features, "multi-container-probing": "enabled"}
    completed = judge(written, replace(FACTS, features=flags)).deployment
    assert completed is not None
    use = subject(completed).runtime
    assert use is not None
    assert (use.name, use.based_on) == ("custom", ("mlserver-sklearn",))
    assert use.path.endswith("spec.containers[1]"), "the model server itself is the runtime's, without its port"
    assert broken(completed, JUDGED) == {
        "denied": {"RuntimeNotAllowed"},
        "allowed": {"RuntimeNotAllowed"},
        "formats": {"FormatUnsure"},
    }


@pytest.mark.attack(28)
@pytest.mark.parametrize(
    "container",
    [
        {"env": [{"name": "MLSERVER_MODEL_URI", "value": "/mine/model.joblib"}]},
        {"volumeMounts": [{"name": "mine", "mountPath": "/mine"}]},
        {"command": ["sh", "-c", "..."]},
        {"image": "dev.local/kubectl-serve/other:1", "ports": [{"containerPort": 8080}]},
    ],
    ids=lambda container: next(iter(container)),
)
@pytest.mark.parametrize("runtime", [{}, {"runtime": "mlserver-sklearn"}], ids=["chosen", "named"])
def test_what_is_written_before_completion_is_found_as_well(container: JsonObject, runtime: dict[str, str]) -> None:
    written = deployment(**runtime)
    spec: JsonObject = {"containers": [{"name": "model-server"} | container]}
    if "volumeMounts" in container:
        spec["volumes"] = [{"name": "mine", "configMap": {"name": "my-pickle"}}]
    written["spec"] = {"template": {"spec": spec}}
    completed = judge(written, FACTS).deployment
    assert completed is not None
    assert {"denied", "allowed"} <= broken(completed, JUDGED).keys()


@pytest.mark.attack(28)
def test_an_annotation_makes_no_other_runtime_of_a_container() -> None:
    manifest, _ = made("Deployment")
    for name in ("vllm", "llama-cpp", "custom", "no-such"):
        manifest["metadata"]["annotations"]["kubectl-serve.dev/runtime"] = name
        use = subject(manifest).runtime
        assert use is not None
        assert use.name == ("custom" if name == "custom" else "mlserver-sklearn")


@pytest.mark.attack(28)
@pytest.mark.parametrize("kind", KINDS)
def test_denying_a_runtime_denies_what_is_based_on_it(kind: str) -> None:
    policy = read_policy(document("ServingPolicy", "rules: [{name: r, runtimes: {deny: [mlserver-*]}}]"))
    context = replace(FACTS, policies=(policy,))
    manifest, pod = made(kind)
    said("MLSERVER_MODEL_URI", "/mine")(pod)
    assert broken(manifest, context) == {"r": {"RuntimeNotAllowed"}}
    if kind.startswith("Deployment"):
        manifest["metadata"]["annotations"]["kubectl-serve.dev/runtime"] = "custom"
        assert broken(manifest, context) == {"r": {"RuntimeNotAllowed"}}


@pytest.mark.attack(28)
@pytest.mark.parametrize(
    "image",
    [
        "docker.io/vllm/vllm-openai-cpu:v0.30.0",
        "vllm/vllm-openai-cpu:v0.30.0",
        "index.docker.io/vllm/vllm-openai-cpu",
        "registry-1.docker.io/vllm/vllm-openai:latest",
        "docker.io/vllm/vllm-openai@sha256:" + "0" * 64,
    ],
)
def test_denying_a_runtime_denies_its_image_under_every_name(image: str) -> None:
    policy = read_policy(document("ServingPolicy", "rules: [{name: r, runtimes: {deny: [vllm]}}]"))
    spec = {"containers": [{"name": "a", "image": image, "args": ["serve", "org/model"]}]}
    head = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "a", "namespace": "ml"}}
    context = replace(FACTS, policies=(policy,))
    assert broken(head | {"spec": {"template": {"spec": spec}}}, context) == {"r": {"RuntimeNotAllowed"}}


def denied(manifest: JsonObject, context: ClusterContext) -> set[tuple[str, str]]:
    return {(rule, code) for rule, codes in broken(manifest, context).items() for code in codes}


STARTERS = ROOT / "manifests/policies"


@pytest.mark.attack(27, 28)
@pytest.mark.parametrize("starter", ["signed-models", "pinned-models", "restricted-sources"])
def test_the_starter_policies_deny_every_loader_and_server_that_was_changed(starter: str) -> None:
    policy = read_policy(yaml.safe_load((STARTERS / f"{starter}.yaml").read_text()))
    context = replace(FACTS, policies=(policy,))
    honest = deployment(digest=DIGEST, credentials="reader", **{"signature-key": "ml-team"})
    quiet = denied(made("Deployment", honest, context)[0], context)
    passed = []
    for name, change in (*OWN.items(), *NOT_THE_LOADER.items(), *WRITERS.items()):
        manifest, pod = made("Deployment", honest, context)
        change(pod)
        if denied(manifest, context) == quiet:
            passed.append(name)
    assert passed == []


@pytest.mark.attack(28)
def test_a_server_by_hand_of_a_runtimes_image_is_judged_without_a_model_as_well() -> None:
    image = next(runtime for runtime in FACTS.runtimes if runtime.name == "mlserver-sklearn").container["image"]
    spec = {"containers": [{"name": "a", "image": image, "env": [{"name": "MLSERVER_MODEL_URI", "value": "/mine"}]}]}
    head = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "a", "namespace": "ml"}}
    assert {"denied", "allowed"} <= broken(head | {"spec": {"template": {"spec": spec}}}, JUDGED).keys()


def argument(*words: str) -> Change:
    return lambda pod: pod["containers"][0]["args"].extend(words)


VLLM, LLAMA = {"runtime": "vllm"}, {"runtime": "llama-cpp"}
FREE: dict[str, tuple[dict[str, str], Change]] = {
    "resources": ({}, server(resources={"limits": {"cpu": "2", "memory": "3Gi"}})),
    "a device by a claim": ({}, server(resources={"claims": [{"name": "gpu"}]})),
    "a pull at every start": ({}, server(imagePullPolicy="Always")),
    "a user": ({}, server(securityContext={"runAsUser": 4711, "runAsNonRoot": True})),
    "probes": ({}, server(livenessProbe={"tcpSocket": {"port": 8080}}, readinessProbe={"httpGet": {"port": 8080}})),
    "a port's name": ({}, server(ports=[{"containerPort": 8080, "name": "h2c"}])),
    "variables that the runtime names": (
        {}, both(said("MLSERVER_PARALLEL_WORKERS", "4"), said("OMP_NUM_THREADS", "2"))),
    "a workload identity": ({}, said("AWS_REGION", "eu-central-1")),
    "room for temporary files": ({}, volume("tmp", emptyDir={"medium": "Memory", "sizeLimit": "1Gi"})),
    "an init container": ({}, more("initContainers")),
    "an option with its value": (VLLM, argument("--max-model-len=4096")),
    "an option and its value": (VLLM, argument("--max-model-len", "4096", "--enforce-eager")),
    "options of llama.cpp": (LLAMA, argument("--ctx-size", "4096", "--parallel", "2", "--mlock")),
    "a key from a Secret": (
        VLLM, env({"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}})),
}  # fmt: skip


def language_model(notes: dict[str, str]) -> JsonObject:
    models = {"vllm": "hf://org/model", "llama-cpp": "s3://models/a.gguf"}
    return deployment(models.get(notes.get("runtime", ""), "s3://models/iris/model.joblib"), **notes)


@pytest.mark.parametrize(("notes", "change"), FREE.values(), ids=FREE.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_users_can_set_how_a_runtime_runs(kind: str, notes: dict[str, str], change: Change) -> None:
    manifest, pod = made(kind, language_model(notes))
    change(pod)
    assert not {"denied", "allowed"} & broken(manifest, JUDGED).keys()


OWN_ARGUMENTS: dict[str, tuple[dict[str, str], Change]] = {
    "code that comes with the model": (VLLM, argument("--trust-remote-code")),
    "an option in another spelling": (VLLM, argument("--max_model_len=4096")),
    "an option that is cut short": (VLLM, argument("--max-model=4096")),
    "a model": (VLLM, argument("--model=/mine")),
    "a model by itself": (VLLM, argument("/mine")),
    "a model behind an option without a value": (VLLM, argument("--enforce-eager", "/mine")),
    "a model behind a value": (VLLM, argument("--max-model-len", "4096", "/mine")),
    "a value for none": (VLLM, argument("--enforce-eager=/mine")),
    "an option for a value": (VLLM, argument("--max-model-len", "--model=/mine")),
    "what is expanded": (VLLM, argument("--max-model-len", "$(WHERE)")),
    "an adapter": (VLLM, argument("--enable-lora", "--lora-modules=a=/mine")),
    "a file of options": (VLLM, argument("--config=/mine/x.yaml")),
    "plugins": (VLLM, said("VLLM_PLUGINS", "evil")),
    "another hub": (VLLM, said("HF_ENDPOINT", "https://evil.example")),
    "the hub again": (VLLM, said("HF_HUB_OFFLINE", "0")),
    "the runtime's own after others": (VLLM, lambda pod: pod["containers"][0]["args"].insert(0, "--enforce-eager")),
    "less than the runtime's own": (VLLM, lambda pod: pod["containers"][0]["args"].pop()),
    "llama.cpp's other model": (LLAMA, argument("--model", "/mine/a.gguf")),
    "llama.cpp's adapter": (LLAMA, argument("--lora", "/mine/a.gguf")),
    "llama.cpp's model by a variable": (LLAMA, said("LLAMA_ARG_HF_REPO", "evil/model")),
    "a file for llama.cpp to serve": (LLAMA, argument("--path", "/mine")),
}  # fmt: skip


@pytest.mark.attack(28)
@pytest.mark.parametrize(("notes", "change"), OWN_ARGUMENTS.values(), ids=OWN_ARGUMENTS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_users_cannot_set_what_a_runtime_serves(kind: str, notes: dict[str, str], change: Change) -> None:
    manifest, pod = made(kind, language_model(notes))
    change(pod)
    assert broken(manifest, JUDGED)["denied"] == {"RuntimeNotAllowed"}


def written(args: list[str], notes: dict[str, str] = VLLM, **fields: Any) -> JsonObject:
    """A Deployment whose user wrote arguments, and more, before it was completed."""
    manifest = language_model(notes)
    pod = {"containers": [{"name": "model-server", "args": args} | fields]}
    manifest["spec"] = {"template": {"spec": pod}}
    return manifest


GPUS: dict[str, Any] = {"resources": {"limits": {"nvidia.com/gpu": 2}}}
APPENDED: dict[str, JsonObject] = {
    "a setting": written(["--max-model-len=4096"]),
    "settings with values": written(["--max-model-len", "4096", "--enforce-eager"]),
    "several GPUs": written(["--max-model-len=4096"], **GPUS),
    "several GPUs as the user says": written(["--tensor-parallel-size=1"], **GPUS),
    "several GPUs and no arguments": written([], **GPUS),
    "a setting of llama.cpp": written(["--ctx-size", "4096"], LLAMA),
    "a setting that the runtime has as well": written(["--n-gpu-layers", "10"], LLAMA, **GPUS),
    "all arguments": written(["serve", "/mnt/models", "--served-model-name=$(MODEL_NAME)", "--port=8080"]),
}


@pytest.mark.parametrize("manifest", APPENDED.values(), ids=APPENDED.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_are_appended_leave_the_runtime(kind: str, manifest: JsonObject) -> None:
    completed, _ = made(kind, manifest)
    assert not {"denied", "allowed"} & broken(completed, JUDGED).keys()


REPLACING: dict[str, JsonObject] = {
    "another model": written(["--model=/mine"]),
    "another model in two words": written(["--model", "/mine"]),
    "another model twice": written(["--model=/mnt/models", "--model=/mine"]),
    "a model by itself": written(["/mine"]),
    "a model before a setting": written(["/mine", "--max-model-len=4096"]),
    "a model after a setting": written(["--max-model-len", "4096", "/mine"]),
    "a model as a value": written(["--max-model-len", "--model=/mine"]),
    "the same model in other words": written(["--model=/mnt/models"]),
    "another port": written(["--port=1"]),
    "another port in two words": written(["--port", "1"]),
    "another name": written(["--served-model-name=other"]),
    "another name in another spelling": written(["--served_model_name", "other"]),
    "code that comes with the model": written(["--trust-remote-code"]),
    "what is expanded": written(["--max-model-len", "$(WHERE)"]),
    "a program": written(["serve", "/mine"]),
    "a command": written(["--max-model-len=1"], command=["vllm", "serve", "/mine"]),
    "the runtime's command with more": written([], command=["vllm", "serve", "/mnt/models", "--model=/mine"]),
    "llama.cpp's other model": written(["--model", "/mine"], LLAMA),
    "llama.cpp's other model by its short flag": written(["-m", "/mine"], LLAMA),
}


@pytest.mark.attack(28)
@pytest.mark.parametrize("manifest", REPLACING.values(), ids=REPLACING.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_other_arguments_make_a_custom_server(kind: str, manifest: JsonObject) -> None:
    completed, _ = made(kind, manifest)
    assert {"denied", "allowed"} <= broken(completed, JUDGED).keys()


RESTRICTED = replace(
    next(runtime for runtime in FACTS.runtimes if runtime.name == "vllm"), settings=runtimes.RuntimeSettings()
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_devices_is_the_runtimes_and_no_setting(kind: str) -> None:
    others = tuple(runtime for runtime in FACTS.runtimes if runtime.name != "vllm")
    context = replace(FACTS, runtimes=(*others, RESTRICTED))
    completed, pod = made(kind, written([], **GPUS), context)
    judged = replace(context, policies=(POLICY,))
    assert pod["containers"][0]["args"][-1] == "--tensor-parallel-size=2"
    assert not {"denied", "allowed"} & broken(completed, judged).keys()
    pod["containers"][0]["args"].append("--tensor-parallel-size=1")
    assert {"denied", "allowed"} <= broken(completed, judged).keys()


@pytest.mark.attack(28)
@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_in_another_spelling_leaves_out_none_of_the_runtimes_arguments(kind: str) -> None:
    """Some servers know both spellings as different flags."""
    settings = runtimes.RuntimeSettings(args=("--served_model_name=",))
    others = tuple(runtime for runtime in FACTS.runtimes if runtime.name != "vllm")
    context = replace(FACTS, runtimes=(*others, replace(RESTRICTED, settings=settings)))
    completed, _ = made(kind, written(["--served_model_name=other"]), context)
    assert {"denied", "allowed"} <= broken(completed, replace(context, policies=(POLICY,))).keys()


def commanded(change: Callable[[list[str]], list[str]]) -> Change:
    def apply(pod: JsonObject) -> None:
        pod["containers"][0]["command"] = change(pod["containers"][0]["command"])

    return apply


CHANGED_COMMANDS: dict[str, Change] = {
    "a model more": commanded(lambda words: [*words, "--model=/mine"]),
    "a setting more": commanded(lambda words: [*words, "--enforce-eager"]),
    "another model": commanded(lambda words: ["/mine" if word == "/mnt/models" else word for word in words]),
    "no model": commanded(lambda words: [word for word in words if word != "/mnt/models"]),
    "another program": commanded(lambda words: ["/mine", *words[1:]]),
    "no port": commanded(lambda words: [word for word in words if not word.startswith("--port")]),
    "another order": commanded(lambda words: [words[0], *reversed(words[1:])]),
    "devices that are no number": commanded(lambda words: [*words[:-1], "--tensor-parallel-size=/mine"]),
    "devices twice": commanded(lambda words: [*words, words[-1]]),
    "only the program": commanded(lambda words: words[:1]),
    "arguments that are none": server(args="--max-model-len=1"),
    "a command that is none": server(command="vllm"),
    "another model that follows": argument("--model=/mine"),
}


@pytest.mark.attack(28)
@pytest.mark.parametrize("change", CHANGED_COMMANDS.values(), ids=CHANGED_COMMANDS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_command_makes_a_custom_server(kind: str, change: Change) -> None:
    completed, pod = made(kind, written(["--max-model-len=4096"], **GPUS))
    assert not {"denied", "allowed"} & broken(completed, JUDGED).keys()
    change(pod)
    assert {"denied", "allowed"} <= broken(completed, JUDGED).keys()


def with_volume(source: JsonObject, **fields: Any) -> JsonObject:
    manifest = written([], volumeMounts=[{"name": "own", "mountPath": "/dev/shm"} | fields])
    manifest["spec"]["template"]["spec"]["volumes"] = [{"name": "own"} | source]
    return manifest


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_of_the_user_in_place_of_the_runtimes_leaves_the_runtime(kind: str) -> None:
    completed, _ = made(kind, with_volume({"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}))
    assert not {"denied", "allowed"} & broken(completed, JUDGED).keys()


SHARED_FOLDERS: dict[str, Change] = {
    "a claim": volume("own", persistentVolumeClaim={"claimName": "mine"}),
    "a ConfigMap": volume("own", configMap={"name": "mine"}),
    "a part of it": lambda pod: pod["containers"][0]["volumeMounts"][0].update(subPath="a"),
    "a folder that others write": more("initContainers", volumeMounts=[{"name": "own", "mountPath": "/x"}]),
    "the folder of the model": lambda pod: pod["containers"][0]["volumeMounts"][0].update(name="model"),
    "a folder that is mounted twice": mount(name="own", mountPath="/opt"),
}


@pytest.mark.attack(28)
@pytest.mark.parametrize("change", SHARED_FOLDERS.values(), ids=SHARED_FOLDERS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_the_user_that_is_not_its_own_makes_a_custom_server(kind: str, change: Change) -> None:
    completed, pod = made(kind, with_volume({"emptyDir": {}}))
    change(pod)
    assert {"denied", "allowed"} <= broken(completed, JUDGED).keys()


SIMPLE: JsonObject = {"modelFormat": {"name": "sklearn"}, "runtime": "mlserver-sklearn", "storageUri": "s3://models/a"}
KSERVE: dict[str, JsonObject] = {
    "an image": {"predictor": {"model": SIMPLE | {"image": "dev.local/kubectl-serve/x:1"}}},
    "a variable": {"predictor": {"model": SIMPLE | {"env": [{"name": "MLSERVER_MODEL_URI", "value": "/mine"}]}}},
    "envFrom": {"predictor": {"model": SIMPLE | {"envFrom": [{"configMapRef": {"name": "mine"}}]}}},
    "arguments": {"predictor": {"model": SIMPLE | {"args": ["--model_dir=/mine"]}}},
    "a command": {"predictor": {"model": SIMPLE | {"command": ["sh"]}}},
    "a mount": {"predictor": {"model": SIMPLE | {"volumeMounts": [{"name": "mine", "mountPath": "/mine"}]}}},
    "a hook": {"predictor": {"model": SIMPLE | {"lifecycle": {"postStart": {"exec": {"command": ["sh"]}}}}}},
    "a probe that runs a program": {"predictor": {"model": SIMPLE | {"livenessProbe": {"exec": {"command": ["sh"]}}}}},
    "a port": {"predictor": {"model": SIMPLE | {"ports": [{"containerPort": 8081}]}}},
    "a container beside": {"predictor": {"model": SIMPLE, "containers": [{"name": "kserve-container"}]}},
    "an init container": {"predictor": {"model": SIMPLE, "initContainers": [{"name": "a"}]}},
    "the node's network": {"predictor": {"model": SIMPLE, "hostNetwork": True}},
    "a framework by its old name": {"predictor": {"sklearn": {"runtime": "mlserver-sklearn", "image": "a"}}},
    "a transformer": {"predictor": {"model": SIMPLE}, "transformer": {"containers": [{"name": "a", "image": "b"}]}},
    "an explainer": {"predictor": {"model": SIMPLE}, "explainer": {"art": {"type": "a"}}},
}


@pytest.mark.attack(28)
@pytest.mark.parametrize("spec", KSERVE.values(), ids=KSERVE.keys())
def test_what_is_laid_over_a_runtime_of_kserves_makes_it_custom_as_well(spec: JsonObject) -> None:
    metadata = {"name": "a", "namespace": "ml"}
    manifest = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": metadata}
    simple = {"predictor": {"minReplicas": 1, "model": SIMPLE | {"resources": {"limits": {"cpu": "1"}}}}}
    assert not {"denied", "allowed"} & broken(manifest | {"spec": simple}, JUDGED).keys()
    assert {"denied", "allowed"} <= broken(manifest | {"spec": spec}, JUDGED).keys()


VARIANTS = [
    (each.name, protocol, device)
    for each in FACTS.runtimes
    for protocol in each.protocols
    for device in ("", *(v.resource.replace("*", "gpu") for v in each.variants if v.resource))
]


@pytest.mark.parametrize(("runtime", "protocol", "device"), VARIANTS)
def test_every_runtime_is_recognised_in_every_variant(runtime: str, protocol: str, device: str) -> None:
    reads_file = any(each.single_file for each in FACTS.runtimes if each.name == runtime)
    written = deployment("s3://models/a.gguf" if reads_file else "s3://models/a", runtime=runtime, protocol=protocol)
    if device:
        container = {"name": "model-server", "resources": {"limits": {device: "2"}}}
        written["spec"] = {"template": {"spec": {"containers": [container]}}}
    for kind in KINDS:
        use = subject(made(kind, written)[0]).runtime
        assert use is not None
        assert (use.name, use.why) == (runtime, "")


def test_a_claim_is_served_by_the_runtime_as_well() -> None:
    for model in ("pvc://models/iris", "pvc://models/iris/model.joblib"):
        for kind in KINDS:
            manifest, _ = made(kind, deployment(model, format="sklearn"))
            use = subject(manifest).runtime
            assert use is not None
            assert use.name == "mlserver-sklearn"


@pytest.mark.attack(28)
@pytest.mark.parametrize("runtime", FACTS.runtimes, ids=lambda runtime: runtime.name)
def test_no_setting_of_the_catalogue_decides_what_is_served(runtime: runtimes.Runtime) -> None:
    settings = runtime.settings
    words = ("uri", "_dir", "-dir", "path", "code", "plugin", "preload", "config", "lora", "file", "model=", "repo")
    for name in (*settings.env, *settings.args):
        assert not any(word in name.lower() for word in words), name
        assert not name.endswith("*")


NO_PICKLE = read_policy(yaml.safe_load((STARTERS / "no-pickle.yaml").read_text()))


@pytest.mark.attack(28)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runtime", ["mlserver-sklearn", "kserve-sklearnserver", "torchserve"])
@pytest.mark.parametrize("said_format", ["xgboost", "lightgbm", "onnx", "huggingface", "mine"])
def test_no_name_of_a_format_or_file_makes_another_of_what_a_runtime_reads(
    kind: str, runtime: str, said_format: str
) -> None:
    """The container is written out: the annotations need no longer fit it."""
    manifest, pod = made(kind, deployment("s3://models/iris/model", runtime=runtime))
    context = replace(FACTS, policies=(NO_PICKLE,))
    if kind.startswith("Deployment"):
        notes = manifest["metadata"]["annotations"]
        manifest["metadata"]["annotations"] = {
            "kubectl-serve.dev/model": notes["kubectl-serve.dev/model"],
            "kubectl-serve.dev/format": said_format,
        }
    else:
        renamed = {"xgboost": "model.ubj", "onnx": "model.onnx"}.get(said_format, "model.gguf")
        pod["initContainers"][0]["args"][-1] += f"/{renamed}"
        said("MODEL_PATH", f"/mnt/models/{renamed}")(pod)
    assert broken(manifest, context) == {"formats": {"FormatNotServed"}}


def test_one_name_that_fits_is_enough() -> None:
    """LightGBM's files may end as XGBoost's do."""
    honest = deployment("s3://models/a/model.ubj", format="lightgbm", runtime="mlserver-lightgbm")
    assert broken(made("Deployment", honest)[0], replace(FACTS, policies=(NO_PICKLE,))) == {}


@pytest.mark.attack(27)
@pytest.mark.parametrize("name", [name for name in WRITERS if "server itself" not in name])
@pytest.mark.parametrize("kind", ["Deployment", "Service", "Revision"])
def test_the_format_of_what_others_can_write_is_not_known(kind: str, name: str) -> None:
    manifest, pod = made(kind, deployment("s3://models/boosted/model.ubj"))
    context = replace(FACTS, policies=(NO_PICKLE,))
    assert broken(manifest, context) == {}
    WRITERS[name](pod)
    assert broken(manifest, context)


@pytest.mark.attack(27)
@pytest.mark.parametrize("kind", ["Deployment", "Service", "Revision"])
def test_a_container_before_the_server_that_writes_the_model_breaks_rules_on_formats(kind: str) -> None:
    manifest, pod = made(kind, deployment("s3://models/boosted/model.ubj"))
    more("initContainers", volumeMounts=[{"name": "model", "mountPath": "/x"}])(pod)
    assert broken(manifest, replace(FACTS, policies=(NO_PICKLE,))) == {"formats": {"FormatUnsure"}}


@pytest.mark.attack(28)
@pytest.mark.parametrize("model_format", ["onnx", "tensorflow", "tensorrt", "triton"])
def test_pickles_and_code_are_kept_from_a_server_that_runs_what_the_folder_says(model_format: str) -> None:
    honest = deployment("s3://models/repository", format=model_format, runtime="triton")
    found = broken(made("Deployment", honest)[0], replace(FACTS, policies=(NO_PICKLE,)))
    assert found == {"servers": {"RuntimeNotAllowed"}}


@pytest.mark.attack(28)
@pytest.mark.parametrize("runtime", [each for each in FACTS.runtimes if "/mlserver:" in each.container["image"]])
def test_mlserver_looks_for_settings_and_packages_outside_of_the_model(runtime: runtimes.Runtime) -> None:
    """In Seldon's image: settings beside a model name the code to load, and a tarball its packages."""
    values = {each["name"]: each["value"] for each in runtime.container["env"]}
    for name in ("MLSERVER_MODELS_DIR", "MLSERVER_ENV_TARBALL"):
        assert values[name].startswith("/nonexistent")
        assert not runtime.settings.has_variable(name)
