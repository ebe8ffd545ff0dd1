"""``kubectl-serve.dev/mount``: the path of the model in its container."""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import Verdict, judge, render_stored
from serve_core.api.annotations import MODEL, MOUNT
from serve_core.api.runtimes import Runtime
from serve_core.api.serving_spec import read
from serve_core.base.constants import HUB_MOUNT, MODEL_VOLUME_MOUNT, PREFIX
from serve_core.base.json import JsonObject
from serve_core.syntax import mount_path

BASE = default_context()
CONTEXT = replace(BASE, features={**BASE.features, "kubernetes.podspec-persistent-volume-claim": "enabled"})
IRIS = "s3://models/iris/model.joblib"


def deployment(pod: JsonObject | None = None, model: str = IRIS, **notes: str) -> JsonObject:
    annotations = {PREFIX + key: value for key, value in ({"model": model} | notes).items()}
    metadata = {"name": "iris", "namespace": "ml", "annotations": annotations}
    spec = {"spec": {"template": {"spec": pod}}} if pod is not None else {}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, **spec}


def own(**container: Any) -> JsonObject:
    return {
        "containers": [{"name": "server", "image": "example.com/server:1", "ports": [{"containerPort": 9}]} | container]
    }


def served(verdict: Verdict) -> JsonObject:
    """The model server's container, which must be the same in the Knative Service, if there is one."""
    assert not verdict.refused, verdict.problems
    assert verdict.deployment is not None
    pod: JsonObject = verdict.deployment["spec"]["template"]["spec"]
    found: JsonObject = next(each for each in pod["containers"] if _model_mounts(each))
    if verdict.service is not None:
        containers = verdict.service["spec"]["template"]["spec"]["containers"]
        assert [each for each in map(_model_mounts, containers) if each] == [_model_mounts(found)]
    return found


def _model_mounts(container: JsonObject) -> list[JsonObject]:
    return [mount for mount in container.get("volumeMounts", []) if mount["name"] == "model"]


def problem(path: str) -> str:
    """The refusal of a value, without what is allowed; empty if it is none."""
    _, problems = read({MODEL: IRIS, MOUNT: path})
    assert all(each.code == "InvalidAnnotation" for each in problems)
    return "".join(each.hint.partition(" Allowed: ")[0] for each in problems)


@pytest.mark.parametrize(
    "path",
    [
        "/models", "/data", "/srv/a", "/opt/ml/model", "/app/models", "/root/.cache/huggingface", "/usr/src/app/models",
        "/home/user/models", "/var/lib/models", "/tmp/models", "/mnt/models", "/mnt/models/a", "/library", "/etcetera",
        "/binaries", "/workspace/a_b-c.d", "/...", "/" + "a" * 254,
    ],
)  # fmt: skip
def test_a_path_is_taken(path: str) -> None:
    assert problem(path) == ""


REFUSED = {
    "It must be absolute.": ["", "models", "mnt/models", "./models", "../models", "~/models", "\u2215models"],
    "It must be absolute. Did you mean /Models?": [" /Models"],
    "Its normalized form is /models.": [
        "/models/", "//models", "/./models", "/a/../models", "/models/.", "///models//", "/models/a/..",
    ],
    "Its normalized form is /etc.": ["/models/../etc", "/etc/", "//etc"],
    "The model would hide files that the container needs to start.": [
        "/etc", "/etc/ssl", "/proc", "/proc/self/root/models", "/sys/fs", "/dev", "/dev/shm", "/dev/shm/models", "/usr",
        "/usr/src", "/usr/local/bin", "/usr/lib/python3/dist-packages", "/bin", "/sbin", "/lib", "/lib64",
        "/lib/x86_64-linux-gnu", "/run", "/run/secrets", "/var/run", "/var/run/secrets/kubernetes.io/serviceaccount",
        "/var/run/secrets/kubectl-serve.dev/credentials", "/etc/kubectl-serve.dev/signature-key", "/boot",
    ],
    "The model would hide everything else there. Use a folder in it, such as /models.": ["/"],
    "The model would hide everything else there. Use a folder in it, such as /mnt/models.": ["/mnt"],
    "The model would hide everything else there. Use a folder in it, such as /tmp/models.": ["/tmp"],
    f"kubectl-serve mounts another volume at {HUB_MOUNT}.": [HUB_MOUNT, f"{HUB_MOUNT}/a"],
    f"kubectl-serve mounts another volume at {MODEL_VOLUME_MOUNT}.": [MODEL_VOLUME_MOUNT],
    "Only letters, digits, dots, underscores and hyphens can stand between its slashes.": [
        "/models:ro", "/models:/etc", "/a b", "/models\x00", "/models\\..\\etc", "/%2e%2e/etc", "/models%2f",
        "/m\u00f6dels", "/\uff0e\uff0e/etc", "/models\u202e", "/\u0435tc", "/models\u200b", "/$(HOME)", "/${HOME}",
        "/models,/etc", "/models=a", "/*", "/models;a", "/models|a", "/models?a", "/models#a", "/@models",
    ],
    "It is longer than 255 characters.": ["/" + "a" * 255, "/a" * 5000],
}  # fmt: skip


@pytest.mark.attack(12, 16, 28)
@pytest.mark.parametrize(("why", "paths"), REFUSED.items())
def test_a_path_is_refused_with_its_reason(why: str, paths: list[str]) -> None:
    assert {path: problem(path) for path in paths} == dict.fromkeys(paths, why)


SEGMENTS = st.sampled_from(["", ".", "..", "mnt", "models", "etc", "usr", "src", "a", "%2e", "var", "run", "tmp"])


@pytest.mark.attack(28)
@given(st.lists(SEGMENTS, min_size=1, max_size=6))
def test_what_is_taken_is_what_the_kubelet_reads(segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    if mount_path.fault(path) is None:
        assert mount_path.normalized(path) == path
        assert mount_path.fault(mount_path.normalized(path + "/")) is None
        assert not any(mount_path.is_within(path, folder) for folder in ("/etc", "/proc", "/var/run", "/usr/lib"))
    if mount_path.is_for_data(path):
        assert any(mount_path.is_within(path, folder) for folder in mount_path.FOR_DATA)


@pytest.mark.parametrize(
    ("model", "mount"),
    [
        (IRIS, {"subPath": "model"}),
        ("hf://acme/tiny", {"subPath": "model"}),
        ("oci://registry.example/acme/tiny:1", {"subPath": "model"}),
        ("pvc://claim/iris", {"subPath": "iris"}),
        ("pvc://claim/iris/model.joblib", {"subPath": "iris"}),
        ("pvc://claim/", {}),
        ("s3://models/b s3://models/d=adapters/d", {"subPath": "model"}),
    ],
)
@pytest.mark.parametrize("mode", ["knative", "deployment"])
@pytest.mark.parametrize("container", [{"args": ["--dir=/models"]}, {"env": [{"name": "DIR", "value": "/models/a"}]}])
def test_an_own_server_finds_the_model_there(
    model: str, mount: dict[str, str], mode: str, container: dict[str, Any]
) -> None:
    if model == IRIS:
        container = {"args": ["/models/model.joblib"]}
    verdict = judge(deployment(own(**container), model, mount="/models", mode=mode), CONTEXT)
    assert served(verdict)["volumeMounts"] == [{"name": "model", "mountPath": "/models", "readOnly": True, **mount}]
    if not model.endswith(".joblib"):
        assert [warning.code for warning in verdict.warnings] == []


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("s3://models/chat-q4.gguf", "model/chat-q4.gguf"),
        ("https://models.example.com/a%20b.onnx", "model/a b.onnx"),
        ("pvc://claim/chat/chat-q4.gguf", "chat/chat-q4.gguf"),
    ],
)
def test_a_model_file_can_have_another_name_in_a_volume_of_the_user(model: str, part: str) -> None:
    pod = own(args=["/models/model.gguf"], volumeMounts=[{"name": "mine", "mountPath": "/models"}])
    pod["volumes"] = [{"name": "mine", "emptyDir": {}}]
    verdict = judge(deployment(pod, model, mount="/models/model.gguf"), CONTEXT)
    expected = {"name": "model", "mountPath": "/models/model.gguf", "readOnly": True, "subPath": part}
    assert served(verdict)["volumeMounts"] == [{"name": "mine", "mountPath": "/models"}, expected]
    assert [warning.code for warning in verdict.warnings] == []
    other = judge(deployment(own(args=["/models/other.gguf"]), model, mount="/models/model.gguf"), CONTEXT)
    assert [warning.code for warning in other.warnings] == ["ModelUnseen"]
    assert "/models/model.gguf" in other.warnings[0].message


@pytest.mark.parametrize(
    "model", ["hf://acme/tiny", "s3://models/tiny", "pvc://claim/tiny", "s3://ml-models/a s3://ml-models/b.onnx=b"]
)
def test_a_folder_has_no_place_at_a_files_path(model: str) -> None:
    verdict = judge(deployment(own(args=["/models/model.gguf"]), model, mount="/models/model.gguf"), CONTEXT)
    assert [(each.code, each.hint.rpartition(" ")[2]) for each in verdict.problems] == [("MountOfFile", "/models.")]


def test_a_runtime_reads_the_folder_of_a_file() -> None:
    verdict = judge(deployment(mount="/models/model.joblib"), CONTEXT)
    assert [each.code for each in verdict.problems] == ["MountNotForRuntime"]


def test_an_own_server_that_names_the_default_path_is_warned() -> None:
    verdict = judge(deployment(own(args=["/mnt/models"]), mount="/models"), CONTEXT)
    assert [warning.code for warning in verdict.warnings] == ["ModelUnseen"]


@pytest.mark.parametrize("runtime", CONTEXT.runtimes, ids=lambda runtime: runtime.name)
def test_a_runtime_follows_the_path_with_everything_that_names_it(runtime: Runtime) -> None:
    model = "s3://models/a.gguf" if runtime.single_file else "s3://models/a"
    for protocol in runtime.protocols:
        notes: dict[str, Any] = {"runtime": runtime.name, "protocol": protocol, "format": runtime.formats[0].name}
        before = served(judge(deployment(model=model, **notes), CONTEXT))
        after = served(judge(deployment(model=model, mount="/srv/m", **notes), CONTEXT))
        assert after == json.loads(json.dumps(before).replace("/mnt/models", "/srv/m"))
        assert "/srv/m" in json.dumps(after)


def test_every_text_of_a_runtime_that_names_the_path_follows_and_no_other() -> None:
    names = {
        "/mnt/models": "/data", "--a=/mnt/models/b": "--a=/data/b", "file:///mnt/models": "file:///data",
        "a:/mnt/models,/mnt/models/c": "a:/data,/data/c", "/mnt/models-old": "/mnt/models-old",
        "/old/mnt/models": "/old/mnt/models", "/mnt/models.bak": "/mnt/models.bak",
    }  # fmt: skip
    container = {
        "image": "example.com/mnt/models:1",
        "command": ["/bin/server"],
        "args": list(names),
        "env": [{"name": "DIR", "value": "/mnt/models"}],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ready?dir=/mnt/models", "port": 8080}},
        "livenessProbe": {"exec": {"command": ["test", "-e", "/mnt/models/a"]}},
    }
    runtime = replace(CONTEXT.runtimes[0], name="mine", container=container, variants=())
    context = replace(CONTEXT, runtimes=(runtime,))
    server = served(judge(deployment(model="s3://models/a", runtime="mine", mount="/data"), context))
    assert server["args"] == list(names.values())
    assert server["image"] == "example.com/mnt/models:1"
    assert {"name": "DIR", "value": "/data"} in server["env"]
    assert {"name": "MODEL_PATH", "value": "/data"} in server["env"]
    assert server["readinessProbe"]["httpGet"]["path"] == "/ready?dir=/data"
    assert server["livenessProbe"]["exec"]["command"] == ["test", "-e", "/data/a"]


def test_users_arguments_are_added_to_those_that_follow_the_path() -> None:
    pod = {"containers": [{"name": "model-server", "args": ["--max-model-len=512"]}]}
    verdict = judge(deployment(pod, "hf://acme/tiny", runtime="vllm", mount="/models"), CONTEXT)
    assert served(verdict)["command"][:3] == ["vllm", "serve", "/models"]
    pod = {"containers": [{"name": "model-server", "args": ["--model=/models"]}]}
    verdict = judge(deployment(pod, "hf://acme/tiny", runtime="vllm", mount="/models"), CONTEXT)
    assert "/models" not in served(verdict)["command"]
    assert [warning.code for warning in verdict.warnings] == []
    pod = {"containers": [{"name": "model-server", "args": ["--model=/mnt/models"]}]}
    verdict = judge(deployment(pod, "hf://acme/tiny", runtime="vllm", mount="/models"), CONTEXT)
    assert [warning.code for warning in verdict.warnings] == ["ModelUnseen"]


@pytest.mark.attack(28)
@pytest.mark.parametrize(
    "path", ["/ovms/bin", "/opt/mlserver", "/app", "/opt/venv", "/home/user/models", "/tmp/models"]
)
def test_no_model_takes_the_place_of_a_runtimes_programs(path: str) -> None:
    for container in ({}, {"image": "docker.io/openvino/model_server:2026.4.1"}):
        pod = {"containers": [{"name": "model-server", **container}]}
        verdict = judge(deployment(pod, "s3://models/a", format="onnx", runtime="openvino", mount=path), CONTEXT)
        assert [each.code for each in verdict.problems] == ["MountNotForRuntime"]
        assert verdict.problems[0].path == f"metadata.annotations[{MOUNT}]"
    assert not judge(deployment(own(args=[path]), "s3://models/a", mount=path), CONTEXT).refused


def test_a_model_does_not_hide_what_the_runtime_mounts() -> None:
    runtime = next(each for each in CONTEXT.runtimes if each.name == "mlserver-sklearn")
    mounts = [*runtime.container["volumeMounts"], {"name": "cache", "mountPath": "/data/cache"}]
    mine = replace(runtime, container={**runtime.container, "volumeMounts": mounts})
    context = replace(CONTEXT, runtimes=(mine,))
    for path, codes in (("/data", ["MountNotForRuntime"]), ("/data/cache", ["MountNotForRuntime"]), ("/data/m", [])):
        verdict = judge(deployment(mount=path), context)
        assert [each.code for each in verdict.problems] == codes, path


@pytest.mark.attack(27)
@pytest.mark.parametrize(
    ("mounted", "is_taken"),
    [
        ("/models", True), ("/models/", True), ("//models", True), ("models", True), ("/models/a", True),
        ("/x/../models", True), ("/", False), ("/models-old", False), ("/mnt/models", False),
    ],
)  # fmt: skip
def test_a_volume_of_the_user_over_the_model_is_refused(mounted: str, is_taken: bool) -> None:
    pod = own(args=["/models"], volumeMounts=[{"name": "mine", "mountPath": mounted}])
    pod["volumes"] = [{"name": "mine", "emptyDir": {}}]
    found = [each.code for each in judge(deployment(pod, mount="/models", mode="deployment"), CONTEXT).problems]
    assert found == (["ModelPathTaken"] if is_taken else [])


def test_the_hub_layout_is_the_same_beside_another_path() -> None:
    pod = own(args=["--model=acme/tiny"])
    mounts = served(judge(deployment(pod, "hf://acme/tiny", mount="/models"), CONTEXT))["volumeMounts"]
    assert [(mount["mountPath"], mount["subPath"]) for mount in mounts] == [("/models", "model"), (HUB_MOUNT, "hub")]


def test_behind_a_transformer_the_model_server_has_the_mount() -> None:
    front = {"name": "front", "image": "example.com/front:1", "ports": [{"containerPort": 8090}]}
    written = deployment({"containers": [front, {"name": "model-server"}]}, mount="/models")
    verdict = judge(written, replace(CONTEXT, features={**CONTEXT.features, "multi-container-probing": "enabled"}))
    assert served(verdict)["name"] == "model-server"
    assert "/models/model.joblib" in json.dumps(served(verdict)["env"])


@pytest.mark.parametrize("pod", [None, own(args=["/models"]), {"containers": [{"name": "a", "args": ["--debug"]}]}])
def test_a_changed_path_replaces_the_earlier_and_without_it_all_is_as_before(pod: JsonObject | None) -> None:
    plain = judge(deployment(deepcopy(pod)), CONTEXT)
    assert plain.deployment is not None
    stored = plain.deployment
    for path in ("/models", "/data/a"):
        stored["metadata"]["annotations"][MOUNT] = path
        changed = judge(stored, CONTEXT, stored)
        assert served(changed) == served(judge(deployment(deepcopy(pod), mount=path), CONTEXT))
        assert changed.service != plain.service, "a new revision"
        assert changed.deployment is not None
        assert render_stored(changed.deployment, CONTEXT).service == changed.service
        stored = changed.deployment
    del stored["metadata"]["annotations"][MOUNT]
    restored = judge(stored, CONTEXT, stored)
    assert restored.service == plain.service
    assert served(restored) == served(plain)
