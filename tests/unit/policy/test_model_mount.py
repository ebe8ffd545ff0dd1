"""A model at another path (``kubectl-serve.dev/mount``): policies judge the same model and the same runtime."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from serve_core.api.runtimes import Runtime
from serve_core.base.json import JsonObject
from serve_core.policy.parse import read_policy
from support.reviews import document
from unit.policy.test_loader_identity import both, broken, server_mounts, volume
from unit.policy.test_runtime_identity import FACTS, JUDGED, KINDS, deployment, made, more, mount, said, subject

SOURCES = replace(
    FACTS,
    policies=(
        read_policy(document("ServingPolicy", "rules:\n  - {name: sources, sources: {allow: ['s3://models']}}\n")),
    ),
)
Change = Callable[[JsonObject], None]
MINE = volume("mine", configMap={"name": "my-pickle"})
KEPT = {"name": "model", "mountPath": "/models", "subPath": "model", "readOnly": True}


def moved(**notes: str) -> JsonObject:
    return deployment(mount="/models", **notes)


def place(path: str) -> Change:
    """Has the model elsewhere, and everything in the server that names its path follows."""

    def change(pod: JsonObject) -> None:
        pod["containers"][0] = json.loads(json.dumps(pod["containers"][0]).replace('"/models', f'"{path}'))

    return change


@pytest.mark.parametrize("runtime", FACTS.runtimes, ids=lambda runtime: runtime.name)
def test_every_runtime_is_recognised_at_its_path(runtime: Runtime) -> None:
    model = "s3://models/a.gguf" if runtime.single_file else "s3://models/a"
    for path in ("/models", "/mnt/models/a", "/opt/ml/model"):
        written = deployment(model, runtime=runtime.name, format=runtime.formats[0].name, mount=path)
        for kind in KINDS:
            use = subject(made(kind, written)[0]).runtime
            assert use is not None
            assert (use.name, use.why) == (runtime.name, "")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "model", ["pvc://models/iris", "pvc://models/iris/model.joblib", "s3://models/iris/model.joblib"]
)
def test_what_serves_at_another_path_breaks_no_more_rules(kind: str, model: str) -> None:
    manifest, _ = made(kind, deployment(model, format="sklearn", mount="/models"))
    assert broken(manifest, JUDGED) == broken(made(kind, deployment(model, format="sklearn"))[0], JUDGED)
    assert not {"denied", "allowed"} & broken(manifest, JUDGED).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_source_is_judged(kind: str) -> None:
    assert broken(made(kind, moved(), SOURCES)[0], SOURCES) == {}
    for other in ("s3://elsewhere/model.joblib", "pvc://claim/iris"):
        manifest, _ = made(kind, deployment(other, format="sklearn", mount="/models"), SOURCES)
        assert "SourceNotAllowed" in broken(manifest, SOURCES)["sources"]


PLACES = [
    "/models/", "//models", "/models/.", "/models/../models", "models", "/opt/mlserver", "/usr/lib/python3.12",
    "/app", "/", "/etc", "/mnt", "/mnt/hub-cache", "/m%6fdels", "/m\u043edels", "/models\u200b", "/models:a",
    "/srv/../opt/mlserver", "/data/$(MODEL_NAME)",
]  # fmt: skip


@pytest.mark.attack(28)
@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_path_that_no_annotation_can_have_makes_a_custom_server(kind: str, path: str) -> None:
    manifest, pod = made(kind, moved())
    place(path)(pod)
    found = broken(manifest, JUDGED)
    assert found["denied"] == found["allowed"] == {"RuntimeNotAllowed"}


CUSTOM: dict[str, Change] = {
    "the default path": said("MODEL_PATH", "/mnt/models/model.joblib"),
    "a path that leads out of the model": said("MODEL_PATH", "/models/../mine/model.joblib"),
    "a folder in the model": said("MODEL_PATH", "/models/a/model.joblib"),
    "a second mount of the model": mount(**KEPT | {"mountPath": "/mnt/models"}),
    "a mount of the model that comes first": server_mounts(KEPT | {"mountPath": "/data"}, KEPT),
    "a mount in the model": both(mount(name="mine", mountPath="/models/model.joblib", subPath="a"), MINE),
    "a mount over the model": both(mount(name="mine", mountPath="/models"), MINE),
    "a mount over the model in another spelling": both(mount(name="mine", mountPath="//models/."), MINE),
    "a mount around the model": both(mount(name="mine", mountPath="/"), MINE),
    "a mount at the default path": both(mount(name="mine", mountPath="/mnt/models"), MINE),
}


@pytest.mark.attack(28)
@pytest.mark.parametrize("change", CUSTOM.values(), ids=CUSTOM.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_container_at_another_path_is_a_custom_server(kind: str, change: Change) -> None:
    manifest, pod = made(kind, moved())
    change(pod)
    found = broken(manifest, JUDGED)
    assert found["denied"] == found["allowed"] == {"RuntimeNotAllowed"}


def own(path: str = "/models") -> JsonObject:
    written = deployment(mount=path)
    container = {"name": "server", "image": "example.com/server:1", "args": [path], "ports": [{"containerPort": 9}]}
    written["spec"] = {"template": {"spec": {"containers": [container]}}}
    return written


def laid_over(path: str) -> dict[str, tuple[Change, str]]:
    """What can be served in place of the model at ``path``, each with the code of the finding."""
    inside = {"name": "mine", "mountPath": f"{path}/a", "readOnly": True}
    writes = more("initContainers", volumeMounts=[{"name": "mine", "mountPath": "/x"}])
    return {
        "a ConfigMap in the model": (both(mount(**inside), MINE), "SourceUnreadable"),
        "in another spelling": (both(mount(**inside | {"mountPath": f"/{path}//a/."}), MINE), "SourceUnreadable"),
        "a ConfigMap at the default path": (
            both(mount(**inside | {"mountPath": "/mnt/models/b"}), MINE),
            "SourceUnreadable",
        ),
        "a folder that others write": (both(mount(**inside), volume("mine", emptyDir={}), writes), "SourceUnknown"),
        "a writer": (more("containers", volumeMounts=[{"name": "model", "mountPath": "/x"}]), "SourceUnknown"),
        "a writer there": (more("containers", volumeMounts=[{"name": "model", "mountPath": path}]), "SourceUnknown"),
    }


@pytest.mark.attack(27)
@pytest.mark.parametrize("what", laid_over("").keys())
@pytest.mark.parametrize("path", ["/models", "/app/models", "/mnt/models"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_over_a_model_at_another_path_is_judged(kind: str, path: str, what: str) -> None:
    manifest, pod = made(kind, own(path), SOURCES)
    assert broken(manifest, SOURCES) == {}
    change, code = laid_over(path)[what]
    change(pod)
    assert code in broken(manifest, SOURCES)["sources"]


@pytest.mark.attack(27)
@pytest.mark.parametrize("kind", ["Service", "Configuration", "Revision"])
def test_a_claim_at_another_path_is_judged_without_the_annotation(kind: str) -> None:
    manifest, pod = made(kind, moved())
    pod["volumes"] = [
        {"name": "model", "persistentVolumeClaim": {"claimName": "mine", "readOnly": True}}
        if each["name"] == "model"
        else each
        for each in pod["volumes"]
    ]
    del pod["initContainers"]
    assert broken(manifest, JUDGED).get("allowed") is None, "the runtime is the catalogue's"
    assert broken(manifest, SOURCES) == {"sources": {"SourceNotAllowed"}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_at_its_path_is_judged_as_its_source(kind: str) -> None:
    for model, codes in (("s3://models/a.onnx", set()), ("pvc://claim/a/b.onnx", {"SourceNotAllowed"})):
        written = own("/models/model.onnx")
        written["metadata"]["annotations"]["kubectl-serve.dev/model"] = model
        assert broken(made(kind, written, SOURCES)[0], SOURCES).get("sources", set()) == codes
