"""Models on claims: caches of the Hugging Face Hub, whose files are links, and claims that the server writes to."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_uri import parse
from serve_core.admission.decide import judge
from serve_core.api import hub_on_claim
from serve_core.base.json import JsonObject
from serve_core.policy.parse import read_policy
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
