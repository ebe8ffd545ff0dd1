"""`kubectl-serve.dev/files` only selects: every rule finds the same with it as without it."""

from dataclasses import replace

import pytest

from serve_core.policy.parse import read_policy
from support.policy_objects import DIGEST
from support.reviews import document
from unit.policy.test_loader_identity import broken
from unit.policy.test_runtime_identity import FACTS, KINDS, deployment, made, subject

RULES = {
    "formats": "formats: {deny: [huggingface]}",
    "other-formats": "formats: {allow: [huggingface]}",
    "denied-folder": "sources: {deny: ['hf://org/model/original']}",
    "denied-file": "sources: {deny: ['https://huggingface.co/org/model/resolve/main/pytorch_model.bin']}",
    "allowed": "sources: {allow: ['hf://org']}",
    "pinned": "pinned: {by: [digest]}",
    "signed": "signed: {keys: [team]}",
}
POLICY = read_policy(
    document("ServingPolicy", "rules:\n" + "".join(f"  - {{name: {n}, {r}}}\n" for n, r in RULES.items()))
)
JUDGED = replace(FACTS, policies=(POLICY,))
FILES = ["*", "*.safetensors *.json", "!original/*", "!pytorch_model.bin", "*.bin", "model.sig"]


@pytest.mark.attack(34)
@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_selection_changes_no_finding(kind: str, files: str) -> None:
    for notes in ({}, {"digest": DIGEST}, {"signature-key": "team"}, {"digest": DIGEST, "signature-key": "other"}):
        whole, _ = made(kind, deployment("hf://org/model", **notes), JUDGED)
        selected, _ = made(kind, deployment("hf://org/model", files=files, **notes), JUDGED)

        assert broken(selected, JUDGED) == broken(whole, JUDGED)
        assert {"formats", "denied-folder", "denied-file"} <= broken(selected, JUDGED).keys()
        assert "allowed" not in broken(selected, JUDGED)


@pytest.mark.attack(34)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_by_its_uri_is_judged_by_its_place_and_its_format(kind: str) -> None:
    for model, denied in (
        ("hf://org/model/original/x.safetensors", {"formats", "denied-folder"}),
        ("hf://org/model:main/original/x.safetensors", {"formats", "denied-folder"}),
        ("hf://org/model/x.safetensors", {"formats"}),
        ("hf://org/model/x.gguf", {"other-formats"}),
        ("hf://other/x.gguf/x.gguf", {"other-formats", "allowed"}),
        ("hf://gpt2", {"formats", "other-formats", "allowed"}),  # its format is unknown
    ):
        found = broken(made(kind, deployment(model), JUDGED)[0], JUDGED).keys()
        assert found - {"pinned", "signed"} == denied, model


@pytest.mark.attack(28)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["x.pkl", "x.pkl@main", "x.PKL@a%2Fb", "sub/x.joblib@refs%2Fpr%2F1"])
def test_a_revision_does_not_hide_the_format_of_a_file(kind: str, model: str) -> None:
    manifest, _ = made(kind, deployment(f"hf://org/model/{model}", format="huggingface"), JUDGED)

    assert "FormatNotAllowed" in broken(manifest, JUDGED)["other-formats"]


@pytest.mark.attack(27)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [["--files", "a,b"], ["--files", "-x"], ["--files", "* *"], ["--files", ""]])
def test_patterns_in_another_spelling_are_not_the_loaders(kind: str, words: list[str]) -> None:
    manifest, pod = made(kind, deployment("hf://org/model", digest=DIGEST, files="*"), JUDGED)
    loader = pod["initContainers"][0]
    at = loader["args"].index("--files")
    loader["args"][at : at + 2] = words

    assert any(origin.unknown for origin in subject(manifest, JUDGED).origins)
