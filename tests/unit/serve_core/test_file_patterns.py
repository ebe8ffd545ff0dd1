"""Patterns of files: those of huggingface_hub, in one line of text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_uri.file_patterns import parse_patterns

REPOSITORY = (
    "README.md", "config.json", "model.safetensors", "original/consolidated.00.pth", "original/params.json",
    "onnx/model.onnx", "pytorch_model.bin", "tokenizer/vocab.json",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("*.safetensors *.json", ["config.json", "model.safetensors", "original/params.json", "tokenizer/vocab.json"]),
        ("*.safetensors *.json !original/*", ["config.json", "model.safetensors", "tokenizer/vocab.json"]),
        ("!original/* *.safetensors *.json", ["config.json", "model.safetensors", "tokenizer/vocab.json"]),
        (
            "!*.bin !*.pth !onnx/ !*.md",
            ["config.json", "model.safetensors", "original/params.json", "tokenizer/vocab.json"],
        ),
        ("original/ tokenizer/", ["original/consolidated.00.pth", "original/params.json", "tokenizer/vocab.json"]),
        ("config.json", ["config.json"]),
        ("Config.json", []),
        ("[mp]*.bin model?safetensors", ["model.safetensors", "pytorch_model.bin"]),
        ("*", list(REPOSITORY)),
        ("* !*", []),
    ],
)
def test_a_file_is_selected_by_an_included_pattern_and_by_no_excluded_one(text: str, selected: list[str]) -> None:
    patterns = parse_patterns(text)

    assert [path for path in REPOSITORY if patterns.select(path)] == selected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no pattern"),
        (" \n", "it has no pattern"),
        ("*.bin !", "a pattern is empty"),
        ("*.json,*.bin", "separated by spaces, not commas"),
        ("/etc/passwd", "/etc/passwd is not relative to the model's folder"),
        ("./a", "not relative"),
        ("a/../b", "not relative"),
        ("!../b", "not relative"),
        ("--store", "--store begins with -"),
        ("a !-b", "-b begins with -"),
        ("$(HF_TOKEN)", "$(HF_TOKEN) has a $"),
        ("a$$", "has a $"),
        ("a\\b", "has a \\"),
        ("a\x00", "a pattern has an unprintable character"),
        ("a" * 513, "a pattern is longer than 512 characters"),
        (" ".join(f"a{number}" for number in range(65)), "it has more than 64 patterns"),
    ],
)
def test_a_text_that_cannot_be_an_argument_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_patterns(text)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=6).map(" ".join), st.text(max_size=12))
def test_the_canonical_text_means_the_same_and_is_safe_as_an_argument(text: str, path: str) -> None:
    try:
        patterns = parse_patterns(text)
    except ValueError:
        return
    written = str(patterns)

    assert parse_patterns(written) == patterns
    assert str(parse_patterns(written)) == written
    assert parse_patterns(written).select(path) is patterns.select(path)
    assert not written.startswith("-")
    assert "$" not in written
