"""Models on claims: caches of the Hugging Face Hub, whose files are links, and claims that the server writes to."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_uri import parse
from serve_core.admission.decide import judge
from serve_core.api import hub_on_claim
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.parse import read_policy
from support.policy_objects import DIGEST
from support.reviews import document
from unit.policy.test_loader_identity import broken
from unit.policy.test_runtime_identity import FACTS, KINDS, deployment, made, subject

COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
SNAPSHOT = f"hub/models--acme--tiny/snapshots/{COMMIT}"
CONTEXT = replace(
    FACTS,
    features={**FACTS.features, "kubernetes.podspec-persistent-volume-write": "enabled"},
)
WRITABLE = {"model": "pvc://models/iris/model.joblib", "writable": "true"}
VERIFIED = "rules:\n  - {name: pinned, pinned: {}}\n  - {name: signed, signed: {}}\n"

folders = st.lists(st.sampled_from(["a", "b", "model"]), max_size=3)


@given(st.lists(st.sampled_from(["mnt", "models", "opt", "a"]), min_size=1, max_size=4), folders, folders)
def test_links_of_a_snapshot_lead_to_the_mounted_blobs(path: list[str], inside: list[str], below: list[str]) -> None:
    folder = "/".join([SNAPSHOT, *inside])
    model, blobs = hub_on_claim.mounts({"name": "model", "mountPath": "/" + "/".join(path), "subPath": folder})
    # As huggingface_hub writes it: relative to the file's folder on the claim.
    link = os.path.relpath("hub/models--acme--tiny/blobs/1234", "/".join([folder, *below]))
    there = os.path.normpath("/".join([model["mountPath"], *below, link]))
    assert (there, blobs["subPath"]) == (f"{blobs['mountPath']}/1234", "hub/models--acme--tiny/blobs")
    assert blobs["readOnly"] is True


@pytest.mark.parametrize("folder", ["", "iris", "models--acme--tiny", "hub/models--acme--tiny/refs", "snapshots/1"])
def test_another_folder_is_mounted_alone(folder: str) -> None:
    mount = {"name": "model", "mountPath": "/mnt/models", "subPath": folder}
    assert hub_on_claim.mounts(mount) == [mount]


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("pvc://cache/models--acme--tiny", "acme/tiny"),
        ("pvc://cache/hub/models--gpt2", "gpt2"),
        (f"pvc://cache/{SNAPSHOT}", None),
        ("s3://cache/models--acme--tiny", None),
        ("pvc://cache", None),
    ],
)
def test_the_repository_of_a_folder_in_a_cache(uri: str, name: str | None) -> None:
    assert hub_on_claim.repository(parse(uri)) == name


def test_files_of_a_mounted_snapshot_can_be_read(tmp_path: Path) -> None:
    claim = tmp_path / "claim"
    (claim / SNAPSHOT).mkdir(parents=True)
    (claim / "hub/models--acme--tiny/blobs").mkdir()
    (claim / "hub/models--acme--tiny/blobs/1234").write_text("{}")
    (claim / SNAPSHOT / "config.json").symlink_to("../../blobs/1234")
    verdict = judge(deployment(f"pvc://cache/{SNAPSHOT}"), CONTEXT)
    assert verdict.deployment is not None
    root = tmp_path / "root"
    for mount in _server(verdict.deployment)["volumeMounts"]:
        if mount["name"] == "model":
            place = root / mount["mountPath"].strip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            # A mount is the folder itself: a copy with its links behaves so, a link to it does not.
            _copy(claim / mount["subPath"], place)
    assert (root / "mnt/models/config.json").read_text() == "{}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_of_a_snapshot_is_recognised(kind: str) -> None:
    manifest, pod = made(kind, deployment(f"pvc://cache/{SNAPSHOT}"), CONTEXT)
    use = subject(manifest).runtime
    assert use is not None
    assert (use.name, use.why) == ("huggingfaceserver", "")
    mount = next(each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == "/blobs")
    mount["subPath"] = "hub/models--evil--tiny/blobs"
    use = subject(manifest).runtime
    assert use is not None
    assert use.name == "custom"


@pytest.mark.parametrize("kind", KINDS)
def test_a_writable_model_is_neither_pinned_nor_signed(kind: str) -> None:
    manifest, pod = made(kind, deployment(**WRITABLE), CONTEXT)
    (volume,) = [each for each in pod["volumes"] if each["name"] == "model"]
    assert volume["persistentVolumeClaim"] == {"claimName": "models"}
    judged = replace(CONTEXT, policies=(read_policy(document("ServingPolicy", VERIFIED)),))
    assert broken(manifest, judged).keys() == {"pinned", "signed"}
    use = subject(manifest).runtime
    assert use is not None
    assert (use.name, use.why) == ("mlserver-sklearn", "")


def test_knatives_flag_for_writing_is_named() -> None:
    features = {"kubernetes.podspec-persistent-volume-write": "disabled"}
    problems = judge(deployment(**WRITABLE), replace(CONTEXT, features={**CONTEXT.features, **features})).problems
    assert any("kubernetes.podspec-persistent-volume-write" in str(each) for each in problems)


def _server(found: JsonObject) -> JsonObject:
    server: JsonObject = found["spec"]["template"]["spec"]["containers"][0]
    return server


def _copy(folder: Path, place: Path) -> None:
    place.mkdir()
    for entry in folder.iterdir():
        if entry.is_symlink():
            (place / entry.name).symlink_to(entry.readlink())
        else:
            (place / entry.name).write_bytes(entry.read_bytes())


CACHED = {"cache": "pvc://models-cache/llm"}


@pytest.mark.parametrize("kind", KINDS)
def test_loader_and_runtime_are_recognised_with_a_shared_claim(kind: str) -> None:
    manifest, _ = made(kind, deployment(**CACHED), CONTEXT)
    found = subject(manifest)
    assert found.runtime is not None
    assert (found.runtime.name, found.runtime.why) == ("mlserver-sklearn", "")
    assert not [origin for origin in found.origins if origin.unknown]
    # Every pod can write to the claim, so it is one more source.
    sources = {origin.text for origin in found.origins}
    assert "s3://models/iris/model.joblib" in sources
    assert any(source.startswith("pvc://models-cache/llm/") for source in sources)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("allow", "rules"), [("[s3://models]", {"sources"}), ("[s3://models, 'pvc://models-cache/llm']", set())]
)
def test_policies_judge_the_claim_of_a_cache_as_a_source(kind: str, allow: str, rules: set[str]) -> None:
    text = f"rules:\n  - {{name: sources, sources: {{allow: {allow}}}}}\n"
    judged = replace(CONTEXT, policies=(read_policy(document("ServingPolicy", text)),))
    manifest, _ = made(kind, deployment(**CACHED), judged)
    assert broken(manifest, judged).keys() == rules


@pytest.mark.parametrize("kind", KINDS)
def test_a_pinned_model_on_a_shared_claim_can_be_changed_by_other_pods(kind: str) -> None:
    manifest, _ = made(kind, deployment(digest=DIGEST, **{"signature-key": "ml-team"}, **CACHED), CONTEXT)
    judged = replace(CONTEXT, policies=(read_policy(document("ServingPolicy", VERIFIED)),))
    assert broken(manifest, judged).keys() == {"pinned", "signed"}


def _other_claim(pod: JsonObject) -> None:
    volume = next(each for each in pod["volumes"] if each["name"] == "model")
    volume["persistentVolumeClaim"] = {"claimName": "another"}


def _other_folder(pod: JsonObject) -> None:
    words = pod["initContainers"][0]["args"]
    words[words.index("--shared") + 1] = f"llm/{'0' * 32}"


def _another_writer(pod: JsonObject) -> None:
    mount = {"name": "model", "mountPath": "/claim"}
    pod["containers"].append({"name": "other", "image": "example.com/other", "volumeMounts": [mount]})


def _other_subpath(pod: JsonObject) -> None:
    pod["containers"][0]["volumeMounts"][0]["subPath"] = "evil"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [_other_claim, _other_folder, _another_writer, _other_subpath])
def test_a_changed_pod_is_not_what_was_allowed(kind: str, change: Callable[[JsonObject], None]) -> None:
    text = "rules:\n  - {name: sources, sources: {allow: [s3://models, 'pvc://models-cache/llm']}}\n"
    judged = replace(CONTEXT, policies=(read_policy(document("ServingPolicy", text)),))
    manifest, pod = made(kind, deployment(**CACHED), judged)
    change(pod)
    assert broken(manifest, judged).keys() == {"sources"}


def _folder(context: ClusterContext = CONTEXT, **notes: str) -> str:
    _, pod = made(
        "Deployment",
        deployment(**{**CACHED, **{key.replace("_", "-"): value for key, value in notes.items()}}),
        context,
    )
    words: list[str] = pod["initContainers"][0]["args"]
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "model"]
    folder = words[words.index("--shared") + 1]
    assert mount["subPath"] == f"{folder}/model"
    return folder


def test_only_what_changes_the_model_changes_its_folder() -> None:
    folder = _folder()
    assert folder == _folder(credentials="other", size="3Gi", scale="2..3")
    assert folder == _folder(loader_moved())
    others = [
        _folder(digest=DIGEST),
        _folder(model="s3://models/iris/other.joblib"),
        _folder(files="*.joblib"),
        _folder(signature_key="ml-team"),
    ]
    assert len({folder, *others}) == 5


def loader_moved() -> ClusterContext:
    loader = replace(CONTEXT.loader, image="example.com/model-loader:2")
    return replace(CONTEXT, loader=loader)


def test_a_user_cannot_mount_an_own_volume_in_place_of_the_claim() -> None:
    manifest = deployment(**CACHED)
    manifest["spec"] = {"template": {"spec": {"volumes": [{"name": "model", "emptyDir": {}}]}}}
    assert "NameReserved" in {each.code for each in judge(manifest, CONTEXT).problems}


def test_an_own_container_that_keeps_its_token_shares_a_model_too() -> None:
    manifest = deployment(**CACHED, runtime="custom")
    container = {"name": "own", "image": "example.com/own", "args": ["/mnt/models"], "ports": [{"containerPort": 80}]}
    manifest["spec"] = {"template": {"spec": {"containers": [container]}}}
    found, pod = made("Deployment", manifest, CONTEXT)
    assert {"name": "model-no-token", "emptyDir": {}} in pod["volumes"]
    assert not [origin for origin in subject(found).origins if origin.unknown]
