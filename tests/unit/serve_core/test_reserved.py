"""Names and paths that a pod template leaves to kubectl-serve, and what a user may say under them."""

from typing import Any

import pytest

from serve_core.admission.completion import reserved
from serve_core.api.models import parse_all
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import MODEL_MOUNT


def spec(uri: str = "hf://acme/tiny", mount: str = MODEL_MOUNT) -> ServingSpec:
    models, problems = parse_all(uri, "metadata.annotations")
    assert not problems
    return ServingSpec(models, mount=mount)


def found(pod: dict[str, Any], uri: str = "hf://acme/tiny", mount: str = MODEL_MOUNT) -> list[tuple[str, str]]:
    return [(each.code, each.path) for each in reserved.check(pod, spec(uri, mount))]


SERVER = {"name": "srv", "image": "registry.example/srv:1"}
CLAIM = {"persistentVolumeClaim": {"claimName": "team-weights"}}
VOLUME = [("NameReserved", "spec.template.spec.volumes[0].name")]
LOADER = [("NameReserved", "spec.template.spec.initContainers[0].name")]


@pytest.mark.parametrize(
    ("volume", "refused"),
    [
        ({"name": "model", **CLAIM}, True),
        ({"name": "model", "hostPath": {"path": "/data"}}, True),
        ({"name": "model", "nfs": {"server": "a", "path": "/"}}, True),
        ({"name": "model", "csi": {"driver": "a"}}, True),
        ({"name": "model", "secret": {"secretName": "a"}}, True),
        ({"name": "model"}, True),
        ({"name": "model", "emptyDir": {}, **CLAIM}, True),
        ({"name": "model-credentials", "emptyDir": {}}, True),
        ({"name": "model-credentials", "secret": {"secretName": "a"}}, True),
        ({"name": "model-signature-key", "configMap": {"name": "a"}}, True),
        ({"name": "model", "emptyDir": {"sizeLimit": "10Gi"}}, False),
        ({"name": "model", "ephemeral": {"volumeClaimTemplate": {}}}, False),
        ({"name": "models", **CLAIM}, False),
    ],
)
def test_only_a_volume_of_the_pods_own_may_be_the_models(volume: dict[str, Any], refused: bool) -> None:
    assert found({"containers": [SERVER], "volumes": [volume]}) == (VOLUME if refused else [])


def test_with_a_claim_as_the_model_the_volume_is_not_the_users() -> None:
    pod = {"containers": [SERVER], "volumes": [{"name": "model", "emptyDir": {}}]}
    assert found(pod, "pvc://team/weights") == VOLUME


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({"image": "registry.example/copy:1"}, True),
        ({"command": ["sh", "-c", "cp -r /weights/. /w/"]}, True),
        ({"args": ["s3://other/model"]}, True),
        ({"volumeMounts": [{"name": "w", "mountPath": "/w"}]}, True),
        ({"securityContext": {"runAsUser": 0}}, True),
        ({"env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}]}, False),
        ({"resources": {"limits": {"memory": "2Gi"}}}, False),
        ({"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}, False),
        ({"terminationMessagePath": "/mnt/models/end"}, True),
        ({}, False),
    ],
)
def test_the_loader_takes_environment_and_resources_alone(more: dict[str, Any], refused: bool) -> None:
    pod = {"containers": [SERVER], "initContainers": [{"name": "model-loader", **more}]}
    assert found(pod) == (LOADER if refused else [])


def test_no_container_is_called_the_loader() -> None:
    assert found({"containers": [SERVER, {"name": "model-loader", "image": "a"}]}) == [
        ("NameReserved", "spec.template.spec.containers[1].name")
    ]


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("/mnt/models", True), ("/mnt/models/", True), ("//mnt//models", True), ("mnt/models", True),
        ("/mnt/x/../models", True), ("/mnt/models/cache", True), ("/mnt", False),
        ("/mnt/models-old", False), (3, False),
    ],
)  # fmt: skip
def test_nothing_is_mounted_over_the_model(path: Any, taken: bool) -> None:
    container = SERVER | {"volumeMounts": [{"name": "weights", "mountPath": path}]}
    at = ("ModelPathTaken", "spec.template.spec.containers[0].volumeMounts[0].mountPath")
    assert found({"containers": [container]}) == ([at] if taken else [])


def test_the_path_is_that_of_the_annotation() -> None:
    container = SERVER | {"volumeMounts": [{"name": "weights", "mountPath": "/mnt/models"}]}
    assert found({"containers": [container]}, mount="/models") == []
    assert found({"containers": [container]}, mount="/mnt/models/a") == []
    assert found({"containers": [container]}, mount="/mnt/models") != []


def test_what_is_no_list_is_passed_over() -> None:
    assert found({"containers": [SERVER], "volumes": 3, "initContainers": "x"}) == []


def test_all_faults_are_said_at_once() -> None:
    pod = {
        "volumes": [{"name": "model", **CLAIM}],
        "initContainers": [{"name": "model-loader", "image": "a"}],
        "containers": [SERVER | {"volumeMounts": [{"name": "model-data", "mountPath": "/mnt/models"}]}],
    }
    assert [code for code, _ in found(pod)] == ["NameReserved", "NameReserved", "ModelPathTaken"]


@pytest.mark.parametrize(
    ("path", "readonly", "volume", "warned"),
    [
        ("/models", False, {"emptyDir": {}}, False),
        ("/models", False, {"image": {"reference": "a"}}, True),
        ("/models", True, CLAIM, True),
        ("/models", True, {"emptyDir": {}}, True),
        ("/models/", False, {"configMap": {"name": "a"}}, False),
        ("/models", True, {"secret": {"secretName": "a"}}, False),
        ("/models", False, {"persistentVolumeClaim": {"claimName": "a", "readOnly": True}}, True),
        ("/models", False, CLAIM, False),
        ("/mod", True, {"emptyDir": {}}, False),
        ("/models/chat/a", True, {"emptyDir": {}}, False),
    ],
)
def test_a_read_only_volume_around_the_model_is_warned_of(
    path: str, readonly: bool, volume: dict[str, Any], warned: bool
) -> None:
    container = SERVER | {"volumeMounts": [{"name": "weights", "mountPath": path, "readOnly": readonly}]}
    pod = {"containers": [container], "volumes": [{"name": "weights", **volume}]}
    found = [each.code for each in reserved.warnings(pod, spec(mount="/models/chat"))]
    assert found == (["ModelInReadOnly"] if warned else [])


def test_the_kubelet_makes_no_file_in_a_configmap() -> None:
    container = SERVER | {"volumeMounts": [{"name": "settings", "mountPath": "/models"}]}
    pod = {"containers": [container], "volumes": [{"name": "settings", "configMap": {"name": "a"}}]}
    model = spec("s3://models/a.gguf", "/models/a.gguf")
    assert [each.code for each in reserved.warnings(pod, model)] == ["ModelInReadOnly"]
