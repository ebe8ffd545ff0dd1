"""URIs of a Hugging Face hub, in the forms in which people write them. Admission, policies and the loader read one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import model_uri
from model_uri import URIError, naming, parse_model, parse_place
from serve_core.api import models
from serve_core.base.reasons import Diagnostic

COMMIT = "0a" * 20


@pytest.mark.parametrize(
    ("text", "repository", "path", "revision", "spelling"),
    [
        ("hf://org/name", "org/name", "", "", "hf://org/name"),
        ("hf://org/name/", "org/name", "", "", "hf://org/name"),
        ("hf://org/name@main", "org/name", "", "main", "hf://org/name@main"),
        ("hf://org/name:v1.2", "org/name", "", "v1.2", "hf://org/name@v1.2"),
        (f"hf://org/name:{COMMIT}", "org/name", "", COMMIT, f"hf://org/name@{COMMIT}"),
        ("hf://org/name@refs/pr/1", "org/name", "", "refs/pr/1", "hf://org/name@refs/pr/1"),
        ("hf://org/name@refs%2Fpr%2F1", "org/name", "", "refs/pr/1", "hf://org/name@refs/pr/1"),
        ("hf://org/name@feature%2Fone", "org/name", "", "feature/one", "hf://org/name@feature%2Fone"),
        ("hf://org/name:feature%2fone", "org/name", "", "feature/one", "hf://org/name@feature%2Fone"),
        ("hf://org/name/x.gguf", "org/name", "x.gguf", "", "hf://org/name/x.gguf"),
        ("hf://org/name/a/x.gguf@main", "org/name", "a/x.gguf", "main", "hf://org/name/a/x.gguf@main"),
        ("hf://org/name@main/a/x.gguf", "org/name", "a/x.gguf", "main", "hf://org/name/a/x.gguf@main"),
        ("hf://org/name:main/a/x.gguf", "org/name", "a/x.gguf", "main", "hf://org/name/a/x.gguf@main"),
        ("hf://org/name@refs/pr/1/x.gguf", "org/name", "x.gguf", "refs/pr/1", "hf://org/name/x.gguf@refs/pr/1"),
        ("hf://org/name/x.gguf@a%2Fb", "org/name", "x.gguf", "a/b", "hf://org/name/x.gguf@a%2Fb"),
        ("hf://org/name/sub/", "org/name", "sub", "", "hf://org/name/sub"),
        ("hf://org/name/a%20b/x.gguf", "org/name", "a b/x.gguf", "", "hf://org/name/a%20b/x.gguf"),
        ("hf://org/name/tree/oak", "org/name", "tree/oak", "", "hf://org/name/tree/oak"),
        ("hf://gpt2", "gpt2", "", "", "hf://gpt2"),
        ("hf://gpt2@main", "gpt2", "", "main", "hf://gpt2@main"),
        ("hf://gpt2:main", "gpt2", "", "main", "hf://gpt2@main"),
        (f"hf://gpt2@{COMMIT}", "gpt2", "", COMMIT, f"hf://gpt2@{COMMIT}"),
        ("hf://gpt2@a%2Fb", "gpt2", "", "a/b", "hf://gpt2@a%2Fb"),
    ],
)
def test_every_form_has_one_reading_and_one_spelling(
    text: str, repository: str, path: str, revision: str, spelling: str
) -> None:
    uri = parse_model(text)

    assert (uri.repository, "/".join(uri.inside), uri.revision) == (repository, path, revision)
    assert str(uri) == spelling
    assert parse_model(spelling) == uri


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hf://", "it names no organisation"),
        ("hf://org/", "it names no model of the organisation"),
        ("hf://org/name@", "it names no revision behind the @"),
        ("hf://org/name:", "it names no revision behind the :"),
        ("hf://org/name@/x", "its revision is malformed"),
        ("hf://org/name@a@b", "its revision is malformed"),
        ("hf://org/name:a@b", "its revision is malformed"),
        ("hf://org/name@%2E%2E", "its revision is malformed"),
        ("hf://org/name@a%2F%2Fb", "its revision is malformed"),
        ("hf://org/name@a%20b", "its revision is malformed"),
        ("hf://org/name@a%252Fb", "its revision is malformed"),
        ("hf://org/name/x.gguf@feature/one", "a slash in its revision is not encoded; write %2F"),
        ("hf://org/name/x.gguf:main", "a colon is in its path; write @ before a revision"),
        ("hf://org:80/name", "it has a port"),
        ("hf://datasets/org/name", "it names a dataset, not a model"),
        ("hf://datasets/name", "it names a dataset, not a model"),
        ("hf://spaces/org/name@main", "it names a Space, not a model"),
        ("hf://models/org/name@main", "models/ is not a part of the repository's name; write hf://org/name@main"),
        (
            "hf://org/name:Q4_K_M",
            "Q4_K_M is a quantization and not a revision; name its file, as in hf://org/name/FILE",
        ),
        ("hf://https://huggingface.co/org/name", "write hf://org/name"),
        ("hf://https://huggingface.co/org/name/resolve/main/a/x.gguf", "write hf://org/name/a/x.gguf@main"),
        ("hf://huggingface.co/org/name", "write hf://org/name"),
        ("hf://hf.co/gpt2", "write hf://gpt2"),
        ("hf://org/name/resolve/main/a/x.gguf", "write hf://org/name/a/x.gguf@main"),
        ("hf://org/name/tree/main", "write hf://org/name@main"),
        (f"hf://org/name/blob/{COMMIT}/x.gguf", f"write hf://org/name/x.gguf@{COMMIT}"),
        ("hf://gpt2/resolve/main/x.bin", "write hf://gpt2@main"),
        ("https://huggingface.co/org/name", "it is the address of a web page; write hf://org/name"),
        ("https://huggingface.co/gpt2", "write hf://gpt2"),
        ("https://huggingface.co/gpt2/tree/main", "write hf://gpt2@main"),
        ("https://huggingface.co/org/name/tree/main", "write hf://org/name@main"),
        ("https://huggingface.co/org/name/tree/v1/sub", "write hf://org/name/sub@v1"),
        ("https://huggingface.co/org/name/tree/refs/pr/1", "write hf://org/name@refs/pr/1"),
        ("https://www.hf.co/org/name/blob/main/a/x.gguf", "write hf://org/name/a/x.gguf@main"),
        ("https://huggingface.co/org/name/raw/main/x.gguf", "write hf://org/name/x.gguf@main"),
        ("https://huggingface.co/org/name/resolve/main", "write hf://org/name@main"),
        ("https://huggingface.co/org/name/resolve/main/x.gguf?download=true", "write hf://org/name/x.gguf@main"),
        ("https://huggingface.co/datasets/org/name", "it names a dataset, not a model"),
    ],
)
def test_what_is_no_model_is_refused_with_the_form_to_write(text: str, why: str) -> None:
    with pytest.raises(URIError) as refused:
        parse_model(text)

    assert why in str(refused.value)
    problem = models.parse(text, "metadata.annotations[kubectl-serve.dev/model]")
    assert isinstance(problem, Diagnostic)
    assert why in str(problem)
    if "write hf://" in why:
        parse_model(why.rpartition("write ")[2])


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/org/name/resolve/main/a/x.gguf", "https://hf.co/gpt2/resolve/main/model.safetensors",
        "https://huggingface.co/datasets/org/name/resolve/main/model.joblib", "https://example.com/org/name/tree/main",
    ],
)  # fmt: skip
def test_the_address_of_a_file_is_a_model(text: str) -> None:
    assert parse_model(text).url == text


def test_a_quantization_can_be_the_name_of_a_branch() -> None:
    assert parse_model("hf://org/name@Q4_K_M").revision == "Q4_K_M"


@pytest.mark.attack(35)
@pytest.mark.parametrize(
    "text",
    [
        "hf://user:secret@host", "hf://secret@org/name", "hf://hf_abcdefghijklmnopqrstuvwx@gpt2",
        "hf://user:secret@host/name", "hf://a@b@c", "hf://secret@gpt2/name@main",
    ],
)  # fmt: skip
def test_what_can_be_a_password_is_refused_and_not_shown(text: str) -> None:
    problem = models.parse(text, "x")

    assert isinstance(problem, Diagnostic)
    assert problem.code == "SecretInURI"
    assert "secret@" not in str(problem)
    assert "hf_abc" not in str(problem)


@pytest.mark.attack(34)
@pytest.mark.parametrize(
    ("denied", "text"),
    [
        ("hf://bad-org/name", "hf://bad-org/name/x.gguf"),
        ("hf://bad-org/name", "hf://Bad-Org/NAME@main/x.gguf"),
        ("hf://bad-org/name/x.gguf", "hf://bad-org/name"),
        ("hf://bad-org/name/x.gguf", "hf://bad-org/name:main"),
        ("hf://bad-org/name/x.gguf", "https://huggingface.co/bad-org/name/resolve/main/x.gguf"),
        ("hf://bad-org/name@v1", "https://huggingface.co/bad-org/name/resolve/v1/x.gguf"),
        ("hf://bad-org/name@refs/pr/1", "https://huggingface.co/bad-org/name/resolve/refs/pr/1/x.gguf"),
        (
            f"hf://bad-org/name@{COMMIT}",
            f"https://huggingface.co/api/resolve-cache/models/bad-org/name/{COMMIT}/x.gguf",
        ),
        ("https://huggingface.co/bad-org/name/resolve/main/x.gguf", "hf://bad-org/name"),
        ("https://huggingface.co/bad-org/name/resolve/main/x.gguf", "hf://bad-org/name/x.gguf"),
        ("https://huggingface.co/bad-org/name", "hf://bad-org/name/x.gguf@v1"),
        ("hf://gpt2", "https://huggingface.co/gpt2/resolve/main/x.bin"),
        ("hf://gpt2@v1", "https://huggingface.co/gpt2/resolve/v1/x.bin"),
        ("hf://gpt2", "hf://GPT2@main"),
        ("https://huggingface.co/gpt2", "hf://gpt2"),
    ],
)
def test_a_denied_repository_or_file_is_denied_in_every_form(denied: str, text: str) -> None:
    assert parse_place(denied).names_any(naming.names(model_uri.parse(text)))


@pytest.mark.parametrize(
    ("place", "text", "allowed"),
    [
        ("hf://org/name", "hf://org/name/a/x.gguf@main", True),
        ("hf://org/name/a", "hf://org/name/a/x.gguf", True),
        ("hf://org/name/a", "hf://org/name", False),
        ("hf://org/name/a", "hf://org/name/ab", False),
        ("hf://org/name/x.gguf", "hf://org/name/X.gguf", False),
        ("hf://org/name@v1", "hf://org/name@v1/x.gguf", True),
        ("hf://org/name@v1", "hf://org/name/x.gguf", False),
        ("hf://org/name", "hf://org/name@refs/pr/1/x.gguf", False),
        ("hf://org/name", "hf://org/name/x.gguf@refs%2Fpr%2F1", False),
        ("hf://org/name", "hf://org/name@pr/1", False),
        ("hf://gpt2", "hf://gpt2@main", True),
        ("hf://org", "hf://other", False),
    ],
)
@pytest.mark.attack(33, 34)
def test_a_place_can_be_a_part_of_a_repository(place: str, text: str, allowed: bool) -> None:
    assert parse_place(place).allows(model_uri.parse(text)) is allowed


def test_a_file_of_a_pinned_commit_is_immutable() -> None:
    assert parse_model(f"hf://org/name@{COMMIT}/x.gguf").is_immutable
    assert parse_model(f"hf://org/name/x.gguf@{COMMIT}").is_immutable
    assert not parse_model("hf://org/name/x.gguf@main").is_immutable


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://org/name/a/x.gguf@main", "x.gguf"),
        ("hf://org/name@main/x.onnx", "x.onnx"),
        ("hf://org/name/a/model", None),
        ("hf://org/name/x.gguf/", None),
        ("hf://org/x.gguf", None),
        ("hf://x.gguf", None),
    ],
)
def test_a_file_has_the_format_of_its_suffix(text: str, name: str | None) -> None:
    assert models.file_name(parse_model(text)) == name


PARTS = st.sampled_from(
    ("org", "name", "x.gguf", "main", "@", ":", "/", "%2F", "refs", "pr", "1", ".", "hf_", "Q4_K_M", "%40", "?")
)


@given(st.lists(PARTS, max_size=9).map(lambda parts: "hf://" + "".join(parts)))
@pytest.mark.attack(12)
def test_no_text_has_two_readings(text: str) -> None:
    try:
        uri = parse_model(text)
    except URIError:
        return
    again = parse_model(str(uri))

    assert again == uri
    assert str(again) == str(uri)
    assert uri.repository in text.replace("%2F", "/")
