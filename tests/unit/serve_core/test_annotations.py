"""Values of annotations: which are valid, which are refused, and with which message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_uri import ModelURI
from serve_core.api import annotations, models
from serve_core.api.annotation_values import Format, Scale
from serve_core.api.models import file_name, parse, parse_all
from serve_core.api.serving_spec import read

MODEL = {annotations.MODEL: "s3://models/iris/model.joblib"}


def value(key: str, text: str) -> object:
    spec, problems = read({**MODEL, key: text})
    return problems[0].code if spec is None else getattr(spec, key.removeprefix("kubectl-serve.dev/"))


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        (annotations.SCALE, "0..5", Scale(0, 5)),
        (annotations.SCALE, "1..", Scale(1, None)),
        (annotations.SCALE, "3", Scale(3, 3)),
        (annotations.SCALE, "0", "InvalidAnnotation"),
        (annotations.SCALE, "0..0", "InvalidAnnotation"),
        (annotations.SCALE, "..5", "InvalidAnnotation"),
        (annotations.SCALE, "-1..5", "InvalidAnnotation"),
        (annotations.SCALE, "٣", "InvalidAnnotation"),
        (annotations.FORMAT, "sklearn", Format("sklearn")),
        (annotations.FORMAT, "tensorflow:2.1", Format("tensorflow", "2.1")),
        (annotations.FORMAT, "sklearn:", "InvalidAnnotation"),
        (annotations.WINDOW, "1m30s", 90),
        (annotations.WINDOW, "1h", 3600),
        (annotations.WINDOW, "5s", "InvalidAnnotation"),
        (annotations.WINDOW, "1h1s", "InvalidAnnotation"),
        (annotations.WINDOW, "", "InvalidAnnotation"),
        (annotations.WINDOW, "90", "InvalidAnnotation"),
        (annotations.TIMEOUT, "600s", 600),
        (annotations.TIMEOUT, "2h", 7200),
        (annotations.TIMEOUT, "0s", "InvalidAnnotation"),
        (annotations.TARGET, "0.01", "0.01"),
        (annotations.TARGET, "0.001", "InvalidAnnotation"),
        (annotations.TARGET, "NaN", "InvalidAnnotation"),
        (annotations.METRIC, "rps", "rps"),
        (annotations.METRIC, "cpu", "InvalidAnnotation"),
        (annotations.CONCURRENCY, "1000", 1000),
        (annotations.CONCURRENCY, "1001", "InvalidAnnotation"),
        (annotations.DIGEST, "sha256:" + "0a" * 32, "sha256:" + "0a" * 32),
        (annotations.DIGEST, "sha256:" + "0A" * 32, "InvalidAnnotation"),
        (annotations.CREDENTIALS, "my.store", "my.store"),
        (annotations.CREDENTIALS, "my_store", "InvalidAnnotation"),
        (annotations.VISIBILITY, "public", "public"),
        (annotations.VISIBILITY, "private", "InvalidAnnotation"),
        (annotations.PROTOCOL, "v2", "v2"),
        (annotations.PROTOCOL, "v3", "InvalidAnnotation"),
        (annotations.RUNTIME, "custom", "custom"),
        (annotations.RUNTIME, "--flag", "InvalidAnnotation"),
    ],
)
def test_a_value_is_read_or_refused(key: str, text: str, expected: object) -> None:
    assert value(key, text) == expected


def test_nothing_of_ours_means_nothing_to_serve() -> None:
    assert read({"app": "iris", "kubectl-serve.dev.example.com/model": "x"}) == (None, ())


def test_what_we_wrote_ourselves_is_no_fault() -> None:
    spec, problems = read({**MODEL, **dict.fromkeys(annotations.EARLIER_STATE, "1"), annotations.FILLED: "{}"})
    assert spec is not None
    assert problems == ()


def test_the_nearest_key_is_named() -> None:
    _, problems = read({"kubectl-serve.dev/modle": "s3://models/iris"})
    assert problems[0].hint == "Did you mean kubectl-serve.dev/mode or kubectl-serve.dev/model?"


def test_a_claim_needs_neither_digest_nor_credentials() -> None:
    _, problems = read(
        {annotations.MODEL: "pvc://c/m.joblib", annotations.DIGEST: "sha256:" + "0" * 64, annotations.CREDENTIALS: "s"}
    )
    assert [problem.code for problem in problems] == ["ConflictingAnnotations"] * 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("s3://models/iris/model.joblib", ("s3", "models", None, "iris/model.joblib", "model.joblib")),
        ("s3://models", ("s3", "models", None, "", None)),
        ("https://Example.com:8443/a/b%20c.pkl", ("https", "example.com", 8443, "a/b c.pkl", "b c.pkl")),
        ("http://[::1]:80/m.onnx", ("http", "::1", None, "m.onnx", "m.onnx")),
        ("gs://models/iris", ("gs", "models", None, "iris", None)),
        ("az://models/iris/m.onnx", ("az", "models", None, "iris/m.onnx", "m.onnx")),
        ("hf://Qwen/Qwen3-0.6B@main", ("hf", "Qwen", None, "Qwen3-0.6B", None)),
        ("hf://org/model.gguf@refs/pr/1", ("hf", "org", None, "model.gguf", None)),
        ("oci://registry.local:5000/team/iris:1", ("oci", "registry.local", 5000, "team/iris", None)),
        ("pvc://claim/models/iris", ("pvc", "claim", None, "models/iris", None)),
    ],
)
def test_a_model_uri_is_taken_apart(text: str, parts: tuple[object, ...]) -> None:
    uri = parse(text, "x")
    assert isinstance(uri, ModelURI)
    assert (uri.scheme, uri.host, uri.port, uri.path, file_name(uri)) == parts


BAD_URIS = {
    "it has no scheme (http://, https://, s3://, ": ["", "iris", "s3:/a/iris"],
    '"S3://" is not a supported scheme': ["S3://models/iris"],
    '"javascript://" is not a supported scheme': ["javascript://x/y"],
    "a user name or password": ["https://user:pass@example.com/m", "oci://user@registry/iris"],
    "a query, as signed URLs have": ["https://example.com/m?X-Amz-Signature=1"],
    "its host or port is malformed.": ["https://example.com:99999/m", "https://[::1/m"],
    "it is longer than 2048 characters.": ["s3://models/" + "a" * (2049 - len("s3://models/"))],
    "it has a space or letters outside ASCII; write s3://models/a%20b%23.": ["s3://models/a b#"],
    "it has a space or letters outside ASCII; write s3://models/%C3%AFris%25/a%20b.": ["s3://models/ïris%/a%20b"],
    "it has a space or letters outside ASCII; percent-encode the characters of its path.": ["s3://models/a b@c"],
    "it has a control character, or white space that is not a space.": [
        "s3://models/a\nb", "s3://models/a\x00b", "s3://models/a\u3000b", "s3://models/\u202eb",
    ],
    "its host has a space or letters outside ASCII": ["https://bücher.example/m", "s3://mo dels/m"],
    "it has a % that begins no percent-encoding; write s3://models/100%25/a%20b.": ["s3://models/100%/a%20b"],
    "a query, as signed URLs have; write %3F for a ? in a name": ["s3://models/what?"],
    "it contains $(.": ["s3://models/$(HOME)"],
    "it has a #, which begins a fragment; write s3://models/iris%231.": ["s3://models/iris#1"],
    "its path has an encoded slash, backslash or control character.": [
        "s3://models/a%2Fb", "s3://models/a%2fb", "s3://models/a%5cb", "s3://models/a%252fb", "s3://models/a%2500",
    ],
    "its path encodes an unprintable character.": ["s3://models/a%00", "s3://models/%E2%80%AEb"],
    "its path has an empty segment.": ["s3://models//a", "s3://models/a//b", "s3://models/a//"],
    "it has a backslash.": ["s3://models\\iris"],
    "it names no host.": ["https:///m"],
    "it names no bucket.": ["s3://", "gs:///m"],
    "it names no container.": ["az:///m"],
    "it names no organisation.": ["hf:///m"],
    "it names no registry.": ["oci:///m:1"],
    "it names no claim.": ["pvc:///m"],
    "its path has . or .. segments.": [
        "s3://models/../other", "s3://models/%2e%2E/other", "s3://models/./iris", "s3://models/%252e%252e/other",
        "https://example.com/a/..;/other", "https://example.com/a/.%2e%3Bx/other",
    ],
    "it names no file.": ["https://example.com", "https://example.com/"],
    "for a folder, write az://models/churn/7, with AZURE_STORAGE_ACCOUNT: acme in the Secret.": [
        "https://acme.blob.core.windows.net/models/churn/7/",
    ],
    "for a folder, write s3://models/churn.": [
        "https://models.s3.eu-west-3.amazonaws.com/churn/", "https://s3.amazonaws.com/models/churn/",
    ],
    "for a folder, write gs://models/churn.": ["https://storage.googleapis.com/models/churn/"],
    "is not a host name or an address.": ["https://exa_mple.com/m", "https://-o/m"],
    "it has a port.": ["s3://models:80/iris", "s3://models:/iris", "hf://org:80/model"],
    "is not a bucket's name.": ["s3://Models/iris", "s3://ab/iris", "gs://b/m"],
    "is not a container's name.": ["az://Models/m", "az://a--b/m"],
    "is not an organisation's name.": ["hf://-org/model"],
    "is not a claim's name.": ["pvc://Claim/m"],
    "it names no model of the organisation.": ["hf://org/", "hf://org/a%20b"],
    "it names no revision behind the @.": ["hf://org/model@"],
    "is not a registry's host name.": ["oci://reg_istry.io/iris:1"],
    "it does not name an artifact as repository:tag or repository@sha256:….": [
        "oci://registry.io", "oci://registry/Iris:1", "oci://registry/iris@sha256:123",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("why", "texts"), BAD_URIS.items())
@pytest.mark.attack(12, 16)
def test_a_bad_model_uri_is_refused_with_its_reason(why: str, texts: list[str]) -> None:
    for text in texts:
        problem = parse(text, "x")
        assert not isinstance(problem, ModelURI)
        assert why in problem.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3a://models/iris", "Did you mean s3://bucket/path? "),
        ("minio://models/iris", "Did you mean s3://bucket/path, with AWS_ENDPOINT_URL in the Secret? "),
        ("gcs://models/iris", "Did you mean gs://bucket/path? "),
        (
            "abfss://models@acme.dfs.core.windows.net/iris",
            "Did you mean az://container/path, with AZURE_STORAGE_ACCOUNT in the Secret? ",
        ),
        ("docker://acme/iris:v1", "Did you mean oci://registry/repository:tag? "),
        ("HuggingFace://acme/tiny", "Did you mean hf://organisation/model@revision? "),
        ("file:///srv/iris", "Did you mean pvc://claim/path? "),
        ("HF://acme/tiny", "Did you mean hf? "),
        ("/srv/iris", "Use the form pvc://claim/path."),
        ("models:/iris/1", "Use the form mlflow://server/model/1."),
        ("hf.co/acme/tiny-GGUF:Q4_K_M", "Use the form hf://organisation/model@revision."),
        ("acme/tiny", "Use the form hf://acme/tiny."),
    ],
)
def test_the_names_that_other_tools_give_a_store_are_answered_with_what_to_write(text: str, said: str) -> None:
    problem = parse(text, "x")

    assert not isinstance(problem, ModelURI)
    assert said in problem.hint


@pytest.mark.parametrize(
    ("address", "instead"),
    [
        (
            "https://acme.blob.core.windows.net/models/iris?sv=1&sig=hunter2",
            "; write az://models/iris, with AZURE_STORAGE_ACCOUNT: acme in the Secret)",
        ),
        ("https://models.s3.eu-west-3.amazonaws.com/iris?X-Amz-Signature=hunter2", "; write s3://models/iris)"),
        ("https://storage.googleapis.com/models/iris?X-Goog-Signature=hunter2", "; write gs://models/iris)"),
        ("https://models.example.com/iris?token=hunter2", "(a query, as signed URLs have)"),
        ("https://acme:hunter2@acme.blob.core.windows.net/models/iris?sig=x", "(a user name or password)"),
    ],
)
def test_a_signed_address_of_a_store_is_refused_with_the_stores_own_uri(address: str, instead: str) -> None:
    problem = parse(address, "x")

    assert not isinstance(problem, ModelURI)
    assert instead in problem.message
    assert "hunter2" not in f"{problem.message} {problem.hint}"


def test_a_uri_of_the_greatest_length_is_taken() -> None:
    assert isinstance(parse("s3://models/" + "a" * (2048 - len("s3://models/")), "x"), ModelURI)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("s3://models/epoch=3", [("s3://models/epoch=3", "")]),
        (" s3://models/iris\n", [("s3://models/iris", "")]),
        ("s3://models/a nfs://b=c", ["UnknownScheme"]),
        ("s3://models/epoch=3=.\ns3://models/b=a.b/c-d", [("s3://models/epoch=3", ""), ("s3://models/b", "a.b/c-d")]),
        ("s3://models/a s3://models/b", [("s3://models/a", ""), ("s3://models/b", "")]),
        *[(f"s3://models/a s3://models/b={folder}", ["InvalidModelURI"]) for folder in ("..", "a/../b", "/a", "a//b")],
        ("s3://models/a s3://models/b=", [("s3://models/a", ""), ("s3://models/b", "")]),
        ("s3://models/a pvc://claim", ["InvalidModelURI"]),
        (" ".join(f"s3://models/a={number}" for number in range(17)), ["InvalidModelURI"]),
        *[
            (f"s3://lake/{path} s3://lake/lora=lora", ["InvalidModelURI"])
            for path in (
                "date=2026-01-01/base",
                "date=2026-01-01",
                "year=2026/team=blue/base",
                "region=eu/base",
                "Version=prod",
            )
        ],
        (
            "s3://lake/date=2026-01-01/base=. s3://lake/date%3D2026-01-02/base s3://lake/version=./2/x",
            [
                ("s3://lake/date=2026-01-01/base", ""),
                ("s3://lake/date%3D2026-01-02/base", ""),
                ("s3://lake/version", "2/x"),
            ],
        ),
        (
            "s3://lake/date=2026-01-01/lora=adapters/lora s3://lake/a=x/y",
            [
                ("s3://lake/date=2026-01-01/lora", "adapters/lora"),
                ("s3://lake/a", "x/y"),
            ],
        ),
        *[
            (f"{uri}=1 s3://models/a", [(uri, "1"), ("s3://models/a", "")])
            for uri in ("hf://org/model", "hf://org/date@v1", "oci://registry.example.com/team/date:v1")
        ],
        ("s3://models/credit risk/model.joblib", ["InvalidModelURI"]),
    ],
)
@pytest.mark.attack(16)
def test_several_models_each_have_a_folder(text: str, parts: list[object]) -> None:
    found, problems = parse_all(text, "x")
    told = [(place.uri.text, place.folder) for place in found]
    assert ([problem.code for problem in problems] or told) == parts


def test_a_refusal_of_several_shows_what_to_write() -> None:
    for text, written in (
        (
            "s3://lake/date=2026-01-01/base s3://lake/x",
            "write s3://lake/date%3D2026-01-01/base or s3://lake/date=./2026",
        ),
        ("s3://models/credit risk/m ü.joblib", "write s3://models/credit%20risk/m%20%C3%BC.joblib."),
        ("s3://models/a b s3://models/c=c", "write s3://models/a%20b s3://models/c=c."),
    ):
        (problem,) = parse_all(text, "x")[1]
        assert written in problem.message


_URIS = st.text("ab=-/1", min_size=1, max_size=9).map(lambda key: f"s3://lake/{key}")
_FOLDERS = st.sampled_from(("", "1", "a", "a/b", "2026-01-01/base"))


def test_status_shows_one_spelling_of_each_uri() -> None:
    for text, shown in (
        ("s3://models/appro%76ed/a%20b/", "s3://models/approved/a%20b"),
        ("oci://index.docker.io/iris", "oci://docker.io/library/iris"),
        (" s3://models/%61\n s3://models/date%3D1=./2 ", "s3://models/a s3://models/date=1=2"),
        ("iris  and more", "iris and more"),
        ("", ""),
    ):
        assert models.canonical(text) == shown
        assert models.canonical(shown) == shown


@given(st.lists(st.tuples(_URIS, _FOLDERS), min_size=2, max_size=4))
def test_several_models_are_read_as_they_were_joined(given_parts: list[tuple[str, str]]) -> None:
    text = models.join(given_parts)
    assert list(models.split(text)) == given_parts
    assert not models.unclear(text)


@pytest.mark.attack(15)
def test_a_refusal_never_repeats_a_secret() -> None:
    for text in (
        "https://user:hunter2@host/m",
        "s3://user:hunter2@bucket/m",
        "https://host/m?key=hunter2",
        "user:hunter2@host/m?key=hunter2",
        "user:hunter2@host/m://x",
        "https://host/m?key=hunter2://x",
    ):
        assert "hunter2" not in str(parse(text, "x"))
        assert "hunter2" not in str(parse_all(f"s3://models/a {text}=b s3://models/c={text}", "x"))


@given(text=st.text(max_size=80))
def test_any_text_is_a_model_uri_or_a_sentence(text: str) -> None:
    parsed = parse(text, "x")
    if not isinstance(parsed, ModelURI):
        assert parsed.message.isprintable()
        assert parsed.message


@given(notes=st.dictionaries(st.sampled_from([a.key for a in annotations.USER]), st.text(max_size=12)))
def test_any_annotations_are_read_or_refused(notes: dict[str, str]) -> None:
    spec, problems = read(notes)
    assert (spec is None) == bool(problems) or not notes
