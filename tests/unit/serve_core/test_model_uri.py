"""The one reading of a model's URI: what it is, what it is not, and by which other names the same thing goes."""

import contextlib
import ipaddress
import socket
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import model_uri
from model_loader import sources
from model_loader.outcomes import LoadError
from model_uri import ModelURI, URIError, hosts, naming, parse_place
from serve_core.api import models
from serve_core.base.reasons import Diagnostic
from support import cpu_time

DIGEST = "sha256:" + "9f" * 32


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("https://Models.Example.com.:443/a/%62%20c", "https://models.example.com/a/b%20c"),
        ("https://example.com:08443/a", "https://example.com:8443/a"),
        ("https://example.com:/a", "https://example.com/a"),
        ("http://127.1/a", "http://127.0.0.1/a"),
        ("http://2130706433/a", "http://127.0.0.1/a"),
        ("http://0x7f.0.0.1/a", "http://127.0.0.1/a"),
        ("http://0X7F000001/a", "http://127.0.0.1/a"),
        ("http://0177.0.0.01/a", "http://127.0.0.1/a"),
        ("http://[::ffff:169.254.169.254]/a", "http://169.254.169.254/a"),
        ("http://[::FFFF:A9FE:A9FE]/a", "http://169.254.169.254/a"),
        ("https://[2001:DB8:0:0::1]/a", "https://[2001:db8::1]/a"),
        ("https://XN--BCHER-KVA.example/a", "https://xn--bcher-kva.example/a"),
        ("s3://models/a%2Bb/%C3%A9", "s3://models/a+b/%C3%A9"),
        ("oci://index.docker.io/iris", "oci://docker.io/library/iris"),
        ("oci://REGISTRY-1.docker.io:443/team/iris:v1", "oci://docker.io/team/iris:v1"),
        ("oci://acme/iris:1.0", "oci://docker.io/acme/iris:1.0"),
        ("oci://acme/models/iris:1.0", "oci://docker.io/acme/models/iris:1.0"),
        ("oci://iris", "oci://docker.io/library/iris"),
        ("oci://iris:1.0", "oci://docker.io/library/iris:1.0"),
        (f"oci://iris@{DIGEST}", f"oci://docker.io/library/iris@{DIGEST}"),
        (f"oci://iris:1.0@{DIGEST}", f"oci://docker.io/library/iris:1.0@{DIGEST}"),
        ("oci://2130706433/iris", "oci://docker.io/2130706433/iris"),
        ("oci://localhost/iris", "oci://localhost/iris"),
        ("oci://LOCALHOST:443/iris", "oci://localhost/iris"),
        ("oci://localhost-1/iris", "oci://docker.io/localhost-1/iris"),
        ("oci://registry:5000/iris", "oci://registry:5000/iris"),
        ("oci://registry:443/iris", "oci://registry:443/iris"),
        ("oci://registry.models.svc/iris", "oci://registry.models.svc/iris"),
        ("oci://127.1/iris", "oci://127.0.0.1/iris"),
        ("oci://[::1]/iris", "oci://[::1]/iris"),
        ("hf://Qwen/Qwen3@refs/pr/1", "hf://Qwen/Qwen3@refs/pr/1"),
        ("file://localhost/srv/a", "file:///srv/a"),
        ("mlflow://MLflow.example.com:443/iris/3", "mlflow://mlflow.example.com/iris/3"),
        ("mlflow://127.1:5000/iris@champion/a%2Bb", "mlflow://127.0.0.1:5000/iris@champion/a+b"),
        ("mlflow://example.com/iris/%40champion", "mlflow://example.com/iris@champion"),
        ("mlflow://example.com/a%40b@c", "mlflow://example.com/a%40b@c"),
    ],
)
@pytest.mark.attack(12, 34)
def test_a_place_has_one_spelling(text: str, spelling: str) -> None:
    assert str(model_uri.parse(text)) == spelling


@pytest.mark.parametrize(
    "text",
    [
        "http://256.1.1.1/a", "http://1.2.3.4.5/a", "http://1.2.3.256/a", "http://08.1.1.1/a", "http://1..2/a",
        "http://a..b/c", "http://[fe80::1%25eth0]/a", "http://[::1]a/b", "http://[1.2.3.4]/a", "https://a:0/b", "https://a:+1/b",
        "https://a:65536/b", "s3://b/a%", "s3://b/a%2", "s3://b/a%zz", "s3://b/a%5cb", "s3://b/a%2Fb", "s3://b/%2e%2E/c",
        "s3://b/%252e", "s3://b/a%00", "s3://b/a%0a", "s3://b/%ff", "s3://b/%c0%af", "s3://b/a//b", "s3://b//", "s3://b/%24(X)",
        "oci://r/a//b", "oci://r/a/../b", "oci://r/A", "oci://r/a%20b", f"oci://r/a@{DIGEST}x", "hf://o/m@../../x", "hf://o/m@a@b",
        "oci://Acme/iris", "oci://acme./iris", "oci://acme:/iris", "oci://_acme/iris", "oci://acme_/iris", "oci://iris/",
        "oci://ghcr.io", "oci://ghcr.io:1", "oci://iris.v1:1", "oci://localhost", "oci://localhost:1", "oci://iris@main",
        "oci://a@b/iris", "oci:///iris",
        "hf://o/m@a/../b", "hf://o/m@", "file://other/a", "https://evil\\@host/a", "https://host/a?x", "https://a@b/c",
    ],
)  # fmt: skip
@pytest.mark.attack(12)
def test_what_could_be_read_in_two_ways_is_not_read(text: str) -> None:
    with pytest.raises(URIError):
        model_uri.parse(text)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from((int.__str__, hex, lambda n: f"0{n:o}")))
@pytest.mark.attack(34)
def test_an_address_is_read_as_the_system_reads_it(number: int, parts: int, spelt: object) -> None:
    octets = number.to_bytes(4, "big")
    numbers = [*octets[: parts - 1], int.from_bytes(octets[parts - 1 :], "big")]
    text = ".".join(spelt(each) for each in numbers)  # type: ignore[operator]
    assert hosts.canonical(text) == str(ipaddress.IPv4Address(number)) == socket.inet_ntoa(socket.inet_aton(text))


SAME = [
    ("hf://bad-org/model", (
        "hf://bad-org/model@main", "hf://bad-org/model:tag", "hf://Bad-Org/Model", "hf://bad-org/model@" + "0a" * 20,
        "hf://bad-org/model.git@main", "hf://bad-org/model:tag/file.bin", "hf://bad-org/%6dodel",
        "https://huggingface.co/bad-org/model/resolve/main/x", "https://hf.co/bad-org/model/raw/v1/x",
        "https://WWW.HuggingFace.co:443/Bad-Org/Model/resolve/main/x", "http://huggingface.co/bad-org/model/blob/main/x",
        "https://huggingface.co/api/models/bad-org/model/revision/main", "https://huggingface.co./bad-org/model",
        "https://huggingface.co/api/resolve-cache/models/bad-org/model/0a/x", "oci://hf.co/bad-org/model:q4",
        "https://hf.co/v2/bad-org/model/manifests/latest", "https://huggingface.co/buckets/bad-org/model/resolve/x",
        "https://huggingface.co/api/buckets/bad-org/model/x",
    )),
    ("https://huggingface.co/bad-org", ("hf://bad-org/model", "https://hf.co/bad-org/model/resolve/main/x", "oci://hf.co/bad-org/m")),
    ("https://huggingface.co", ("hf://any/model", "https://www.hf.co/any/model", "http://huggingface.co/a")),
    ("oci://ghcr.io/bad", (
        "oci://ghcr.io/bad/m", "oci://ghcr.io/bad/m:v1", f"oci://ghcr.io/bad/m@{DIGEST}", f"oci://GHCR.io:443/bad/m:v1@{DIGEST}",
        "https://ghcr.io/v2/bad/m/manifests/v1", "https://ghcr.io/v2/bad/m/blobs/sha256:0", "oci://ghcr.io./bad/m",
    )),
    ("oci://ghcr.io/bad/m:v1", ("oci://ghcr.io/bad/m:v1", f"oci://ghcr.io/bad/m:v1@{DIGEST}", "https://ghcr.io/v2/bad/m/manifests/v1")),
    ("oci://ghcr.io/bad/m:latest", ("oci://ghcr.io/bad/m",)),
    ("oci://docker.io/bad", ("oci://index.docker.io/bad/m", "oci://registry-1.docker.io/bad/m", "https://registry-1.docker.io/v2/bad/m/x")),
    ("oci://docker.io/nginx", (
        "oci://docker.io/nginx", "oci://index.docker.io/library/nginx:1", "oci://docker.io/library/nginx", "oci://nginx:1",
        "oci://library/nginx", f"oci://nginx@{DIGEST}", "oci://nginx/any",
    )),
    ("oci://docker.io/acme", ("oci://acme/iris", "oci://acme/iris:1", "https://index.docker.io/v2/acme/iris/manifests/1")),
    ("oci://acme", ("oci://acme/iris", "oci://docker.io/acme/iris:1", "oci://registry-1.docker.io/acme/iris")),
    ("oci://acme/iris", ("oci://docker.io/acme/iris:1", f"oci://acme/iris@{DIGEST}")),
    ("oci://acme/iris:1", ("oci://docker.io/acme/iris:1", f"oci://acme/iris:1@{DIGEST}")),
    ("oci://nginx", ("oci://nginx", "oci://docker.io/library/nginx:1")),
    ("oci://docker.io", ("oci://acme/iris", "oci://iris")),
    ("oci://registry:443", ("oci://registry:443/iris", "https://registry/v2/iris/manifests/1", "https://registry:443/v2/iris/blobs/x")),
    ("https://registry", ("oci://registry:443/iris",)),
    ("s3://bad/secret", (
        "s3://bad/secret/x", "s3://bad/secret", "s3://bad", "s3://bad/%73ecret/x", "https://bad.s3.amazonaws.com/secret/x",
        "https://bad.s3.eu-west-1.amazonaws.com/secret/x", "https://s3.eu-west-1.amazonaws.com/bad/secret/x",
        "https://s3-eu-west-1.amazonaws.com/bad/secret/x", "https://bad.s3-eu-west-1.amazonaws.com/secret/x",
        "https://bad.s3.dualstack.eu-west-1.amazonaws.com/secret/x", "https://bad.s3-accelerate.amazonaws.com/secret/x",
        "https://bad.s3-accelerate.dualstack.amazonaws.com/secret/x", "https://bad.s3-fips.us-east-1.amazonaws.com/secret/x",
        "http://bad.s3-website-eu-west-1.amazonaws.com/secret/x", "http://bad.s3-website.eu-central-1.amazonaws.com/secret/x",
        "https://bad.s3.cn-north-1.amazonaws.com.cn/secret/x", "https://S3.amazonaws.com/bad/secret/x",
        "https://anything-1234.s3-accesspoint.eu-west-1.amazonaws.com/x", "https://x.mrap.accesspoint.s3-global.amazonaws.com/x",
        "https://bucket.vpce-1-2.s3.us-east-1.vpce.amazonaws.com/bad/secret/x", "s3://my-point-abc123-s3alias/x",
        "https://my-point-abc123-s3alias.s3.eu-west-1.amazonaws.com/x", "s3://mfzwi23gnjvgw.mrap/x", "s3://point-1--op-s3/x",
        "s3://point-1--ol-s3/x", "s3://point--usw2-az1--xa-s3/x", "https://s3.eu-west-1.amazonaws.com/My-Point-s3alias/x",
        "https://bad.s3.eusc-de-east-1.amazonaws.eu/secret/x", "https://bad.s3.us-east-1.api.aws/secret/x",
    )),
    ("https://bad.s3.amazonaws.com", ("s3://bad/x", "https://s3.eu-west-1.amazonaws.com/bad/x")),
    ("https://*.amazonaws.com", ("s3://any/x", "https://any.s3.eu-west-1.amazonaws.com/x")),
    ("gs://bad", (
        "gs://bad/x", "https://storage.googleapis.com/bad/x", "https://bad.storage.googleapis.com/x",
        "https://storage.cloud.google.com/bad/x", "https://storage.googleapis.com/storage/v1/b/bad/o/x",
        "https://storage.googleapis.com/download/storage/v1/b/bad/o/x", "https://www.googleapis.com/storage/v1/b/bad/o/x",
        "https://commondatastorage.googleapis.com/bad/x", "https://bad.commondatastorage.googleapis.com/x",
        "https://storage.us-east1.rep.googleapis.com/bad/x", "https://firebasestorage.googleapis.com/v0/b/bad/o/x",
        "https://content-storage.googleapis.com/storage/v1/b/bad/o/x", "https://bad.storage.me-central2.rep.googleapis.com/x",
        "https://storage.mtls.googleapis.com/bad/x", "https://apidata.googleusercontent.com/download/storage/v1/b/bad/o/x",
    )),
    ("az://bad", (
        "az://bad/x", "https://any.blob.core.windows.net/bad/x", "https://any-secondary.blob.core.windows.net/bad/x",
        "https://any.dfs.core.windows.net/bad/x", "https://any.z1.blob.storage.azure.net/bad/x",
        "https://any.blob.core.chinacloudapi.cn/bad/x",
    )),
    ("az://$root", ("https://any.blob.core.windows.net/x",)),
    ("https://evil.example.com", ("http://evil.example.com/x", "https://EVIL.example.com.:443/x", "http://evil.example.com:80/x")),
    ("http://10.1.2.3", ("http://10.66051/x", "https://0xa010203/x", "http://[::ffff:10.1.2.3]/x", "http://167838211/x")),
    ("pvc://claim/secret", ("pvc://claim/secret/x", "pvc://claim", "pvc://claim/")),
]  # fmt: skip


@pytest.mark.parametrize(("place", "text"), [(place, text) for place, texts in SAME for text in texts])
@pytest.mark.attack(34)
def test_a_denial_holds_for_every_name_of_the_thing(place: str, text: str) -> None:
    assert parse_place(place).names(model_uri.parse(text))


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("hf://bad-org/model", "hf://bad-org/model2"),
        ("hf://bad-org/model", "https://huggingface.co/good/bad-org/model"),
        ("hf://org/model@v1", "hf://org/model@v2"),
        ("hf://org/model@main", "hf://org/model@v2"),
        ("oci://ghcr.io/bad/m:v1", "oci://ghcr.io/bad/m:v2"),
        ("oci://ghcr.io/bad", "oci://ghcr.io/badder/m"),
        ("oci://acme", "oci://acme:5000/iris"),
        ("oci://acme", "oci://acmecorp/iris"),
        ("oci://acme:5000", "oci://acme/iris"),
        ("oci://acme:443", "oci://acme/iris"),
        ("oci://acme/iris:1", "oci://docker.io/acme/iris:2"),
        ("oci://localhost", "oci://localhost-1/iris"),
        ("s3://bad/secret", "s3://bad/public"),
        ("s3://bad/secret", "https://good.s3.amazonaws.com/bad/secret"),
        ("s3://bad", "https://s3.example.com/bad/x"),
        ("s3://my-point-s3alias", "s3://models/x"),
        ("gs://bad", "https://good.storage.googleapis.com/bad/x"),
        ("gs://bad", "https://maps.googleapis.com/bad/x"),
        ("az://bad", "https://any.blob.core.windows.net/good/bad/x"),
        ("https://evil.example.com", "https://evil.example.com:8443/x"),
        ("https://evil.example.com/a/b", "https://evil.example.com/a"),
        ("https://*.example.com", "https://example.com/x"),
    ],
)
def test_a_denial_holds_for_nothing_else(place: str, text: str) -> None:
    assert not parse_place(place).names(model_uri.parse(text))


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("hf://our-org", "https://huggingface.co/our-org/model/resolve/main/x"),
        ("s3://models", "https://models.s3.amazonaws.com/x"),
        ("s3://models/a", "s3://models"),
        ("https://models.example.com", "http://models.example.com/x"),
        ("hf://our-org/model@v1", "hf://our-org/model"),
        ("oci://ghcr.io/our/m:v1", "oci://ghcr.io/our/m"),
        ("oci://ghcr.io", "oci://our/m"),
        ("oci://our.example", "oci://our/m"),
        ("oci://our", "oci://our.example/m"),
        ("oci://our", "oci://our:5000/m"),
        ("oci://localhost:5000", "oci://localhost/m"),
    ],
)
@pytest.mark.attack(34)
def test_what_is_allowed_is_what_the_loader_reads_and_not_another_name_of_it(place: str, text: str) -> None:
    assert not parse_place(place).holds(model_uri.parse(text))


@pytest.mark.parametrize("revision", ["refs/pr/1", "pr/1", "refs/pr/12/head"])
@pytest.mark.parametrize("place", ["hf://our-org", "hf://our-org/model", "hf://our-org/model@main", "hf://*"])
@pytest.mark.attack(33)
def test_what_anybody_proposes_to_a_model_is_not_its_owners(place: str, revision: str) -> None:
    assert not parse_place(place).allows(model_uri.parse(f"hf://our-org/model@{revision}"))


def test_a_proposal_that_the_place_names_is_allowed() -> None:
    for revision, allowed in (("refs/pr/1", True), ("refs/pr/2", False), ("main", False)):
        uri = model_uri.parse(f"hf://our-org/model@{revision}")
        assert parse_place("hf://our-org/model@refs/pr/1").allows(uri) is allowed
    for revision in ("main", "v1/pr/1", "prod", "0a" * 20):
        assert parse_place("hf://our-org").allows(model_uri.parse(f"hf://our-org/model@{revision}"))


PARTS = (
    "s3://", "https://", "http://", "hf://", "oci://", "gs://", "az://", "pvc://", "file://", "models", "org",
    "127.1", "[::1]", "/", "//", ".", "..", "a", "b%20c", "%2e", "%2F", "%25", "%00", "@", "main", ":", "443", "?",
    "\\", "$(", "é", "docker.io", "#", "%40", "%3A", "+", "%2b", "*", ";", "=", "%3b", "%", "e%CC%81",
    "Acme", "localhost", "iris:1", f"@{DIGEST}",
)  # fmt: skip
TEXTS = st.text(max_size=40) | st.lists(st.sampled_from(PARTS), max_size=9).map("".join)


@given(TEXTS)
@pytest.mark.attack(12)
def test_policy_admission_and_loader_agree_on_what_is_read(text: str) -> None:
    """What admission takes and the loader reads is, part for part, what a policy compares."""
    judged: ModelURI | None = None
    with contextlib.suppress(URIError):
        judged = model_uri.parse(text)
    admitted = models.parse(text, "x")
    if isinstance(admitted, ModelURI):
        assert admitted == judged
        if admitted.scheme != "pvc":
            assert sources.parse(text) == admitted
    try:
        loaded = sources.parse(text)
    except LoadError:
        return
    if not loaded.query:
        assert loaded == judged
        assert loaded.scheme == "file" or admitted == loaded


@given(TEXTS)
def test_the_one_spelling_is_read_as_itself(text: str) -> None:
    try:
        uri = model_uri.parse(text)
    except URIError:
        return
    assert model_uri.parse(str(uri)) == uri
    assert str(model_uri.parse(str(uri))) == str(uri)
    assert parse_place(str(uri)).names(uri)
    assert all(isinstance(other, ModelURI) for other in naming.aliases(uri))


@given(st.text(min_size=1, max_size=20))
@pytest.mark.attack(12)
def test_a_segment_is_decoded_once(segment: str) -> None:
    try:
        uri = model_uri.parse(f"s3://models/{quote(segment, safe='')}")
    except (URIError, UnicodeEncodeError):
        return
    assert uri.segments == (segment,)


@pytest.mark.parametrize("piece", ["a", "/", "a/", "%41", "%", ".", "-", "a-", "@", ":", "0.", "[", "a@", "*."])
@pytest.mark.parametrize("begin", ["", "s3://", "az://", "oci://r/", "hf://o/", "https://", "https://h/", "hf://o/m@"])
def test_reading_takes_time_in_proportion_to_the_text(begin: str, piece: str) -> None:
    for size in (model_uri.MAX_LENGTH - len(begin), 1_000_000):
        text = (begin + piece * size)[: size + len(begin)]
        with cpu_time.at_most(0.05):
            for read in (model_uri.parse, parse_place.__wrapped__):
                with contextlib.suppress(URIError):
                    read(text)


@pytest.mark.parametrize(
    ("place", "inside", "outside"),
    [
        ("mlflow://example.com", ["iris/3", "iris@champion", "m-" + "0" * 32], []),
        ("mlflow://example.com/iris", ["iris/3", "iris@champion", "iris/3/a"], ["Iris/3", "iris-2/3", "m-" + "0" * 32]),
        ("mlflow://example.com/iris/3", ["iris/3/a"], ["iris/30", "iris@3", "iris@champion/3"]),
        ("mlflow://example.com/iris@champion", ["iris@champion/a"], ["iris/3", "iris@other", "iris@champion-2"]),
    ],
)
@pytest.mark.attack(34)
def test_a_place_of_registered_models(place: str, inside: list[str], outside: list[str]) -> None:
    for path in inside:
        assert parse_place(place).allows(model_uri.parse(f"mlflow://example.com/{path}"))
        assert not parse_place(place).allows(model_uri.parse(f"mlflow://example.com:5000/{path}"))
    for path in outside:
        assert not parse_place(place).allows(model_uri.parse(f"mlflow://example.com/{path}"))


@pytest.mark.parametrize(
    ("denied", "uri"),
    [
        ("mlflow://example.com", "https://example.com/prefix/api/2.0/mlflow-artifacts/artifacts/1/model.pkl"),
        ("mlflow://example.com/iris", "https://example.com/get-artifact"),
        ("https://example.com", "mlflow://example.com/iris/3"),
    ],
)
@pytest.mark.attack(34)
def test_a_tracking_server_has_web_addresses(denied: str, uri: str) -> None:
    assert parse_place(denied).names(model_uri.parse(uri))


@pytest.mark.parametrize(
    ("place", "inside", "outside"),
    [
        ("git+https://example.com/team", ["team/a", "Team/a.git@v1#subdirectory=b"], ["team-2/a"]),
        ("git+https://example.com/team/a", ["team/a.git", "team/a@main#subdirectory=b"], ["team/ab"]),
        ("git+https://example.com/team/a@v1", ["team/a@v1#subdirectory=b"], ["team/a", "team/a@main", "team/a@v2"]),
    ],
)
@pytest.mark.attack(34)
def test_a_place_of_git_repositories(place: str, inside: list[str], outside: list[str]) -> None:
    for path in inside:
        assert parse_place(place).allows(model_uri.parse(f"git+https://example.com/{path}"))
        assert not parse_place(place).allows(model_uri.parse(f"git+https://example.com:8443/{path}"))
    for path in outside:
        assert not parse_place(place).allows(model_uri.parse(f"git+https://example.com/{path}"))


@pytest.mark.parametrize(
    ("denied", "uri"),
    [
        ("git+https://github.com/Evil", "https://github.com/evil/model/raw/main/model.gguf"),
        ("git+https://github.com/evil", "https://raw.githubusercontent.com/evil/model/main/model.gguf"),
        ("https://github.com/evil", "git+https://github.com/evil/model.git@v1"),
        ("hf://evil", "git+https://huggingface.co/evil/model"),
        ("git+https://huggingface.co/evil", "hf://evil/model"),
        ("git+https://github.com/evil/model", "git+https://github.com/EVIL/Model.git"),
    ],
)
@pytest.mark.attack(34)
def test_a_git_repository_has_other_names(denied: str, uri: str) -> None:
    assert parse_place(denied).names(model_uri.parse(uri))


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("git+https://GitHub.com:443/a/b@v1", "git+https://github.com/a/b@v1"),
        (
            "git+https://github.com/a/b@feature/x#subdirectory=c/d%20e/",
            "git+https://github.com/a/b@feature%2Fx#subdirectory=c/d%20e",
        ),
    ],
)
def test_a_git_repository_has_one_spelling(text: str, spelling: str) -> None:
    uri = model_uri.parse_model(text)
    assert str(uri) == spelling
    assert model_uri.parse_model(spelling) == uri


@pytest.mark.parametrize(
    "text",
    [
        "git+https://token@github.com/a/b",
        "git+https://github.com/a/b//c",
        "git+https://github.com/a/b#c",
        "git+https://github.com/a/b#subdirectory=",
        "git+https://github.com/a/b#subdirectory=../c",
        "git+https://github.com/a/b#subdirectory=c#d",
        "git+https://github.com/a/b@",
        "git+https://github.com/a/b@../c",
        "git+https://github.com/a/b@v1?ref=c",
        "git+https://github.com/a/b/tree/main",
        "git+https://github.com/a/b@$(NAME)",
        "git+https://github.com",
    ],
)
def test_texts_that_name_no_git_repository(text: str) -> None:
    with pytest.raises(URIError):
        model_uri.parse_model(text)


PASSWORDS = ("hush", "hush/hush", "hush?hush", "hush@hush", "hush#/hush", "hush /@/hush", "hush://hush", "a/hush")


@pytest.mark.parametrize("scheme", ["", "S3://", "ftp://", *(f"{name}://" for name in models.SCHEMES)])
@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("name", ["user:", ":"])
def test_no_message_repeats_a_password(scheme: str, password: str, name: str) -> None:
    found = models.parse(f"{scheme}{name}{password}@host.example.com/x", "")
    assert isinstance(found, Diagnostic)
    assert "hush" not in f"{found.message}{found.hint}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hf://team/model@v1 x", "hf://team/…@v1 x"),
        ("mlflow://iris@champion", "mlflow://…@champion"),
        ("git+https://host/team/model.git@v1", "git+https://host/team/…@v1"),
        ("s3://models/a b", "s3://models/a b"),
        ("https://host/x?sig=hush", "https://host/x"),
        ("https://host/x?sig=hush@y", "https://…"),
        ("team/model@v1", "team/…@v1"),
    ],
)
def test_messages_repeat_the_rest_of_a_uri(text: str, shown: str) -> None:
    assert model_uri.without_secrets(text) == shown
