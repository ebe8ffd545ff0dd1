"""The catalogue of model servers: what is chosen for whom, and that every pod it makes is a safe one."""

import re
from collections.abc import Iterator

import pytest
import yaml

from kubectl_serve.install import manifests
from serve_core.admission.decide import Verdict, judge
from serve_core.api import annotations, runtimes, serving_spec
from serve_core.api.annotation_values import Format
from serve_core.api.models import SUFFIX_FORMATS
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext, LoaderConfig
from support.paths import ROOT

FOLDER = ROOT / "manifests/runtimes"
CATALOGUE = tuple(runtimes.parse(yaml.safe_load(path.read_text())) for path in sorted(FOLDER.glob("*.yaml")))
FACTS = ClusterContext(LoaderConfig("example.com/loader:1"), CATALOGUE)
GPU = "nvidia.com/gpu"


def served(*, gpu: bool = False, model: str = "s3://models/iris", **asked: str) -> Verdict:
    """What becomes of a Deployment with these annotations, and a container that asks for a GPU or none at all."""
    notes = {annotations.MODEL: model} | {PREFIX + key: value for key, value in asked.items()}
    container = {"name": "model-server", "resources": {"limits": {GPU: "1"}}}
    spec = {"template": {"spec": {"containers": [container]}}} if gpu else {}
    metadata = {"name": "iris", "annotations": notes}
    return judge({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}, FACTS)


def pod_of(verdict: Verdict) -> JsonObject:
    assert verdict.problems == ()
    assert verdict.deployment is not None
    pod: JsonObject = verdict.deployment["spec"]["template"]["spec"]
    return pod


def image_of(verdict: Verdict) -> str:
    return str(pod_of(verdict)["containers"][0]["image"])


def every_pod() -> Iterator[tuple[str, JsonObject]]:
    for runtime in CATALOGUE:
        for protocol in runtime.protocols:
            for gpu in (False, True):
                name = f"{runtime.name}-{protocol}" + ("-gpu" if gpu else "")
                file = "/model.gguf" if runtime.name == "llama-cpp" else ""
                model = f"s3://models/iris{file}"
                yield name, pod_of(served(runtime=runtime.name, protocol=protocol, gpu=gpu, model=model))


PODS = dict(every_pod())


@pytest.mark.parametrize(
    ("asked", "gpu", "image"),
    [
        ({"format": "sklearn"}, False, "kubectl-serve/mlserver-sklearn:"),
        ({"format": "sklearn", "protocol": "v1"}, False, "kserve/sklearnserver:"),
        ({"format": "xgboost:2"}, False, "seldonio/mlserver:"),
        ({"format": "lightgbm:4", "protocol": "v1"}, False, "kserve/lgbserver:"),
        ({"format": "tensorflow"}, False, "tensorflow/serving:2.19.1"),
        ({"format": "tensorflow"}, True, "tensorflow/serving:2.19.1-gpu"),
        ({"format": "tensorflow", "protocol": "v2"}, False, "openvino/model_server:"),
        ({"format": "tensorflow", "protocol": "v2"}, True, "nvidia/tritonserver:"),
        ({"format": "onnx"}, False, "openvino/model_server:"),
        ({"format": "onnx"}, True, "nvidia/tritonserver:"),
        ({"format": "pytorch"}, False, "pytorch/torchserve-kfs:"),
        ({"format": "pytorch:2"}, False, "nvidia/tritonserver:"),
        ({"format": "huggingface"}, False, "kserve/huggingfaceserver:v0.20.0"),
        ({"format": "huggingface", "protocol": "openai"}, False, "vllm/vllm-openai-cpu:"),
        ({"format": "huggingface", "protocol": "openai"}, True, "vllm/vllm-openai:"),
        ({"model": "s3://models/qwen.gguf"}, True, "llama.cpp:server-cuda12-"),
    ],
)
def test_the_server_is_chosen_by_format_version_protocol_and_gpu(asked: dict[str, str], gpu: bool, image: str) -> None:
    verdict = served(gpu=gpu, **asked)
    assert image in image_of(verdict)
    assert any(choice.code == "RuntimeByFormat" for choice in verdict.explanations)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://models/iris.joblib", "sklearn"), ("s3://models/iris.pkl", "sklearn"),
        ("s3://models/iris.pickle", "sklearn"), ("s3://models/a.ubj", "xgboost"), ("s3://models/a.bst", "xgboost"),
        ("s3://models/iris.onnx", "onnx"), ("s3://models/qwen.gguf", "gguf"),
        ("s3://models/qwen.safetensors", "huggingface"), ("hf://qwen/qwen3.gguf", "huggingface"),
        ("s3://models/iris", None), ("s3://models/.onnx", None), ("s3://models/iris.onnx/", None),
        ("oci://registry/iris.onnx:1", None),
    ],
)  # fmt: skip
def test_the_format_is_told_by_the_file_or_the_hub(uri: str, name: str | None) -> None:
    spec, _ = serving_spec.read({annotations.MODEL: uri})
    assert spec is not None
    told, _ = runtimes.format_of(spec)
    assert (None if told is None else told.name) == name


def test_a_runtime_that_is_named_has_to_serve_what_is_asked_for() -> None:
    assert served(runtime="triton", format="onnx", protocol="v2").problems == ()
    for refused, place in (
        (served(runtime="triton", format="sklearn"), "format"),
        (served(runtime="triton", format="onnx", protocol="v1"), "protocol"),
    ):
        (problem,) = refused.problems
        assert (problem.code, problem.path) == ("NoRuntime", f"metadata.annotations[kubectl-serve.dev/{place}]")


def test_a_gpu_that_no_runtime_uses_is_said() -> None:
    verdict = served(gpu=True, format="sklearn")
    assert "RuntimeWithoutVariant" in {warning.code for warning in verdict.warnings}


def test_an_image_of_the_users_own_answers_for_a_gpu() -> None:
    server = {"name": "model-server", "image": "example.com/for-gpus:1", "resources": {"limits": {GPU: "1"}}}
    notes = {annotations.MODEL: "s3://models/iris", annotations.RUNTIME: "mlserver-sklearn"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris", "annotations": notes},
        "spec": {"template": {"spec": {"containers": [server]}}},
    }
    first = judge(deployment, FACTS)
    assert first.deployment is not None
    for verdict in (first, judge(first.deployment, FACTS, first.deployment)):
        assert "RuntimeWithoutVariant" not in {warning.code for warning in verdict.warnings}


def test_grpc_gets_the_one_port_that_knative_has() -> None:
    for runtime in CATALOGUE:
        if "grpc-v2" in runtime.protocols:
            container = PODS[f"{runtime.name}-grpc-v2"]["containers"][0]
            assert [port["name"] for port in container["ports"]] == ["h2c"]


@pytest.mark.parametrize("runtime", CATALOGUE, ids=lambda runtime: runtime.name)
def test_a_runtime_has_one_named_port_a_probe_and_limits(runtime: Runtime) -> None:
    assert [port["name"] for port in runtime.container["ports"]] == ["http1"]
    assert runtime.container["readinessProbe"]
    assert runtime.container["resources"]["limits"]["memory"]
    assert "cpu" not in runtime.container["resources"]["limits"], "a CPU limit only slows a server down"


@pytest.mark.parametrize("runtime", CATALOGUE, ids=lambda runtime: runtime.name)
def test_images_carry_an_exact_version(runtime: Runtime) -> None:
    for container in (runtime.container, *(variant.container for variant in runtime.variants)):
        if "image" in container:
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert re.search(r"[0-9]", tag), container["image"]
            assert "latest" not in tag


@pytest.mark.parametrize("runtime", CATALOGUE, ids=lambda runtime: runtime.name)
def test_a_runtime_survives_being_written_and_read(runtime: Runtime) -> None:
    assert runtimes.parse_spec(runtime.name, runtimes.spec_document(runtime)) == runtime


def test_every_suffix_tells_a_format_that_is_served() -> None:
    for suffix, name in SUFFIX_FORMATS.items():
        assert any(runtime.serves(Format(name), None) for runtime in CATALOGUE), suffix


def test_kustomize_installs_the_whole_catalogue() -> None:
    (generator,) = yaml.safe_load((FOLDER / "kustomization.yml").read_text())["configMapGenerator"]
    assert generator["files"] == sorted(path.name for path in FOLDER.glob("*.yaml"))


def faults_by_the_restricted_standard(pod: JsonObject) -> list[str]:
    """What the Pod Security Standard ``restricted`` (v1.35) finds in a pod, baseline included."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    own = pod.get("securityContext") or {}
    allowed = {
        "name",
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found += [f"volume {key}" for volume in pod.get("volumes", []) for key in volume if key not in allowed]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        security, name = container.get("securityContext") or {}, container["name"]

        def effective(key: str, security: JsonObject = security) -> object:
            return security.get(key, own.get(key))

        capabilities = security.get("capabilities") or {}
        checks = {
            "privileged": not security.get("privileged"),
            "allowPrivilegeEscalation": security.get("allowPrivilegeEscalation") is False,
            "capabilities.drop": "ALL" in (capabilities.get("drop") or []),
            "capabilities.add": set(capabilities.get("add") or []) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot": effective("runAsNonRoot") is True,
            "runAsUser": effective("runAsUser") != 0,
            "seccompProfile": (effective("seccompProfile") or {}).get("type") in ("RuntimeDefault", "Localhost"),  # type: ignore[attr-defined]
            "seLinuxOptions": not effective("seLinuxOptions"),
            "procMount": security.get("procMount", "Default") == "Default",
            "appArmorProfile": not effective("appArmorProfile"),
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
            "probe host": not any(
                (container.get(probe) or {}).get(handler, {}).get("host")
                for probe in ("readinessProbe", "livenessProbe", "startupProbe")
                for handler in ("httpGet", "tcpSocket")
            ),
        }
        found += [f"{name}: {check}" for check, passed in checks.items() if not passed]
    return found


@pytest.mark.parametrize("name", PODS)
def test_every_pod_passes_the_restricted_standard(name: str) -> None:
    assert faults_by_the_restricted_standard(PODS[name]) == []


def test_the_standard_is_not_passed_by_anything() -> None:
    pod = {"containers": [{"name": "a", "ports": [{"hostPort": 1}]}], "volumes": [{"name": "v", "hostPath": {}}]}
    assert len(faults_by_the_restricted_standard(pod)) == 6


def runtime_document(**spec: object) -> JsonObject:
    plain = {"formats": [{"name": "sklearn"}], "protocols": ["v2"], "container": {"image": "example.com/server:1"}}
    return {
        "apiVersion": runtimes.API_VERSION,
        "kind": runtimes.KIND,
        "metadata": {"name": "mine"},
        "spec": plain | spec,
    }


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"protocols": ["v3"]}, "spec.protocols must be some of"),
        ({"protocols": []}, "not empty"),
        ({"formats": [{}]}, "name is missing"),
        ({"container": {}}, "image is missing"),
        ({"priority": "high"}, "spec.priority must be a whole number"),
        ({"container": {"image": "a" * runtimes.LARGEST}}, "spec is larger than 64 KiB"),
        ({"progressDeadlineSeconds": 0}, "at least 1"),
        ({"variant": []}, "spec has no field"),
        ({"variants": [{"when": {}, "container": {}}]}, "must name a resource or a protocol"),
        ({"variants": [{"when": {"protocol": "v1"}, "container": {}}]}, "one of spec.protocols"),
        ({"variants": [{"when": {"node": "a"}, "container": {}}]}, "has no field"),
        ({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}, 'spec.volumes[0] has no field "hostPath"'),
        ({"volumes": [{"name": "host"}]}, "spec.volumes[0].emptyDir is missing"),
        ({"formats": []}, "spec.formats must not be empty"),
        ({"settings": {"env": ["A B"]}}, "spec.settings.env[0] must match ^[A-Za-z_]"),
        (
            {"priority": True, "progressDeadlineSeconds": "1"},
            "number; spec.progressDeadlineSeconds must be a whole number",
        ),
        ({"container": {"image": "a", "env": [{"value": "b"}]}}, "must have a name"),
    ],
)
def test_a_malformed_runtime_is_refused_with_a_sentence(spec: JsonObject, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        runtimes.parse(runtime_document(**spec))


def test_what_comes_with_kubectl_serve_needs_no_check() -> None:
    assert set(map(repr, manifests.known_runtimes())) == set(map(repr, CATALOGUE))


def test_a_version_that_yaml_reads_as_a_number_is_a_version() -> None:
    assert runtimes.parse(runtime_document(formats=[{"name": "sklearn", "version": 2}])).formats == (
        Format("sklearn", "2"),
    )


def test_a_variant_adds_environment_and_replaces_the_rest() -> None:
    runtime = runtimes.parse(
        runtime_document(
            container={
                "image": "cpu",
                "args": ["a"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
            },
            variants=[
                {"when": {"resource": GPU}, "container": {"image": "gpu", "env": [{"name": "B", "value": "2"}]}},
            ],
        )
    )
    assert runtime.container_of(runtime.applying(None, ())) == runtime.container
    assert runtime.container_of(runtime.applying(None, (GPU,))) == {
        "image": "gpu",
        "args": ["a"],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    }


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (GPU, {GPU}),
        ("nvidia.com/*", {GPU, "nvidia.com/mig-1g.5gb", "nvidia.com/gpu.shared"}),
        ("nvidia.com/mig-*", {"nvidia.com/mig-1g.5gb"}),
    ],
)
def test_the_resource_of_a_variant_can_be_a_pattern(pattern: str, matches: set[str]) -> None:
    variants = [{"when": {"resource": pattern}, "container": {"image": "gpu"}}]
    runtime = runtimes.parse(runtime_document(variants=variants))
    for name in (GPU, "nvidia.com/mig-1g.5gb", "nvidia.com/gpu.shared", "amd.com/gpu"):
        assert runtime.has_variant_for({name}) is bool(runtime.applying(None, {name})) is (name in matches)


def test_the_time_a_runtime_may_take_gives_way_to_the_users() -> None:
    key = "serving.knative.dev/progress-deadline"

    def deadline(**spec: object) -> object:
        notes = {annotations.MODEL: "s3://models/qwen", annotations.RUNTIME: "vllm"}
        document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "annotations": notes}}
        service = judge(document | {"spec": spec}, FACTS).service
        assert service is not None
        return service["spec"]["template"]["metadata"]["annotations"][key]

    assert deadline() == deadline(progressDeadlineSeconds=600) == "1800s"
    assert deadline(progressDeadlineSeconds=60) == "60s"


def test_the_clusters_own_runtimes_replace_and_extend_the_catalogue() -> None:
    ours = runtimes.parse(runtime_document())
    triton = runtimes.parse(runtime_document() | {"metadata": {"name": "triton"}})
    extended = {runtime.name: runtime for runtime in runtimes.extended(CATALOGUE, (ours, triton))}
    assert extended["triton"] == triton
    assert extended.keys() == {runtime.name for runtime in CATALOGUE} | {"mine"}


def test_the_crd_has_the_fields_that_are_read() -> None:
    (crd,) = yaml.safe_load_all((FOLDER.parent / "base/06-runtimes.yaml").read_text())
    assert crd["spec"]["group"] == runtimes.API_VERSION.partition("/")[0]
    assert crd["spec"]["names"]["kind"] == runtimes.KIND
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    read = {key for runtime in CATALOGUE for key in runtimes.spec_document(runtime)}
    assert schema.keys() == read
    for field in ("protocols", "formats"):
        assert schema[field]["minItems"] == 1
    assert tuple(schema["protocols"]["items"]["enum"]) == annotations.PROTOCOLS


@pytest.mark.parametrize(
    ("notes", "files"),
    [
        ({"model": "hf://org/model"}, None),
        ({"model": "hf://org/model", "format": "huggingface"}, None),
        ({"model": "hf://org/model", "format": "onnx"}, "*"),
        ({"model": "hf://org/model/onnx", "format": "onnx:1"}, "*"),
        ({"model": "hf://org/model", "format": "gguf"}, None),
        ({"model": "hf://org/model/x.onnx", "format": "onnx"}, None),
        ({"model": "s3://models/a", "format": "onnx"}, None),
        ({"model": "s3://models/a hf://org/model=b", "format": "onnx"}, "*"),
        ({"model": "hf://org/model", "format": "onnx", "files": "*.onnx"}, "*.onnx"),
    ],
)
def test_a_server_of_another_format_gets_all_files_of_a_hubs_repository(
    notes: dict[str, str], files: str | None
) -> None:
    spec, problems = serving_spec.read({PREFIX + key: value for key, value in notes.items()})
    assert problems == ()
    assert spec is not None
    found = runtimes.files_of(spec)
    assert (None if found is None else str(found)) == files
