"""One reading of a URI: the key that a policy compares is the key in the loader's requests, at every store."""

import contextlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, cast
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

import model_uri
from model_loader import sources
from model_loader.http.transport import Transport
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, Secret
from model_loader.sources import local
from model_uri import URIError, encode_path, parse_place
from support.loader_harness import Loader, Store, WebServer

HOSTILE = (
    " ", "#", "?", "=", "+", "%", "%25", "%2e", "%76", "&", ";", ":", "@", "*", "~", "'", '"', "<", "[", "\\", "$", "(",
    "é", "e\u0301", "模型", ".", "..", "\0", "\u202e", "date=2026-01-01", "a",
)  # fmt: skip
SEGMENTS = st.lists(
    st.sampled_from(HOSTILE) | st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=6
)
KEYS = st.lists(SEGMENTS.map("".join), min_size=1, max_size=4).map("/".join).filter(lambda key: len(key) < 60)
RAW = frozenset("abcdefghijklmnopqrstuvwxyz0123456789!&'()+,;=:@-._~")
"""Characters that mean the same with and without an encoding."""


def cannot_be_named(key: str) -> bool:
    """Whether the documentation excludes a key without a %."""
    segments = key.split("/")
    return (
        any(segment.partition(";")[0] in (".", "..") or not segment for segment in segments)
        or not key.isprintable()
        or "\\" in key
        or "$(" in key
    )


class Requests:
    """Records the targets of requests, in place of a transport. Every store is empty."""

    def __init__(self, empty: bytes = b"") -> None:
        self.targets: list[str] = []
        self._empty = empty

    def read(self, url: str, headers: object = None, authorizer: object = None) -> bytes:
        self._record(url)
        if self._empty and urlsplit(url).query:
            return self._empty
        raise LoadError(Code.NOT_FOUND, "absent")

    def get(self, url: str, headers: object = None, authorizer: object = None) -> NoReturn:
        self._record(url)
        raise LoadError(Code.NOT_FOUND, "absent")

    def send(self, method: str, url: str, headers: object, *, authorizer: object) -> NoReturn:
        self.get(url)

    def _record(self, url: str) -> None:
        parts = urlsplit(url)
        assert not parts.fragment
        self.targets.append(f"{parts.path}?{parts.query}")


ENDPOINTS = {
    "AWS_ENDPOINT_URL": "http://store.test",
    "AZURE_STORAGE_ACCOUNT": "account",
    "AZURE_STORAGE_ENDPOINT": "http://store.test",
}
LISTS = {
    "s3": b"<ListBucketResult/>",
    "gs": b"{}",
    "az": b"<EnumerationResults><Blobs/></EnumerationResults>",
}


def requested(text: str, environment: Mapping[str, str] = ENDPOINTS) -> set[str]:
    """Return the keys that the loader requests, decoded from its requests as a store decodes them."""
    uri = sources.parse(text)
    requests = Requests(LISTS.get(uri.scheme, b""))
    secret = Secret(None, {**environment, "GS_ENDPOINT_URL": "http://store.test"})
    with pytest.raises(LoadError):
        sources.list_files(uri, Context(cast(Transport, requests), secret))
    found = set()
    for target in requests.targets:
        path, _, query = target.partition("?")
        prefix = parse_qs(query, strict_parsing=True)["prefix"][0] if query else ""
        begin = {"s3": "/models/", "gs": "/storage/v1/b/models/o/", "az": "/models/"}.get(uri.scheme, "/")
        found.add(prefix.removesuffix("/") if query else unquote(path.removeprefix(begin), errors="strict"))
    return found


@pytest.mark.parametrize("store", ["s3://models", "gs://models", "az://models", "https://host.test"])
@pytest.mark.attack(12)
def test_the_loader_requests_the_key_that_a_policy_compares(store: str) -> None:
    @given(KEYS)
    def agree(key: str) -> None:
        text = f"{store}/{quote(key)}"
        try:
            judged = model_uri.parse(text)
        except URIError:
            assert "%" in key or cannot_be_named(key)
            return
        assert not cannot_be_named(key)
        assert "/".join(judged.segments) == key
        assert requested(text) == {key}
        assert parse_place(text).allows(judged)
        assert model_uri.parse(str(judged)) == judged

    agree()


@given(KEYS, st.integers())
@pytest.mark.attack(12)
def test_every_spelling_of_a_key_is_one_uri(key: str, seed: int) -> None:
    choice = random.Random(seed)

    def spelt(character: str) -> str:
        if character == "/" or (character in RAW and choice.random() < 0.5):
            return character
        return "".join(f"%{byte:02{choice.choice('xX')}}" for byte in character.encode())

    texts = [f"s3://models/{''.join(map(spelt, key))}" for _ in range(3)]
    uris = []
    for text in texts:
        with contextlib.suppress(URIError):
            uris.append(model_uri.parse(text))
    assert len(uris) in (0, len(texts))
    for uri in uris:
        assert (uri, str(uri)) == (uris[0], str(uris[0]))
        assert parse_place(texts[0]).holds(uri)
        assert requested(uri.text) == {key}


@given(KEYS, st.sampled_from(("", "@v1", "@feature%2Fone")))
@pytest.mark.attack(12)
def test_a_file_of_a_hubs_repository_has_any_name(key: str, revision: str) -> None:
    try:
        uri = model_uri.parse(f"hf://org/model/{quote(key)}{revision}")
    except URIError:
        assert "%" in key or cannot_be_named(key)
        return
    assert ("/".join(uri.inside), uri.revision) == (key, unquote(revision.removeprefix("@")))
    assert model_uri.parse(str(uri)) == uri
    assert parse_place(str(uri)).allows(uri)


@given(KEYS)
def test_a_path_of_a_file_is_the_decoded_path(key: str) -> None:
    with contextlib.suppress(URIError, LoadError):
        assert local.path_of(sources.parse(f"file:///{quote(key)}")) == Path("/", key)


@given(KEYS)
@pytest.mark.attack(12)
def test_a_literal_path_is_encoded_to_the_uri_of_the_same_path(key: str) -> None:
    """KServe decodes no path. ? and # have two readings, so these stay, and admission and policies refuse them."""
    text = encode_path(f"s3://models/{key}")
    try:
        assert "/".join(model_uri.parse(text).segments) == key
    except URIError:
        assert "%" in key or cannot_be_named(key) or {"?", "#"} & set(key)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        (
            "https://account.blob.core.windows.net/models/a%20b c",
            "https://account.blob.core.windows.net/models/a%2520b%20c",
        ),
        ("https://host/a%20b", "https://host/a%20b"),
        ("pvc://claim/a b", "pvc://claim/a%20b"),
        ("hf://org/model:v1", "hf://org/model:v1"),
        ("no uri", "no uri"),
    ],
)
def test_what_kserve_does_not_decode_is_encoded(text: str, encoded: str) -> None:
    assert encode_path(text) == encoded


@pytest.mark.parametrize(
    ("place", "text", "holds"),
    [
        ("s3://models/approved", "s3://models/appro%76ed/x", True),
        ("s3://models/appro%76ed", "s3://models/approved/x", True),
        ("s3://models/approved", "s3://models/appro%2576ed/x", False),
        ("s3://models/caf%C3%A9", "s3://models/caf%c3%a9/x", True),
        ("s3://models/caf%C3%A9", "s3://models/cafe%CC%81/x", False),
        ("s3://models/a+b", "s3://models/a%2Bb/x", True),
        ("https://host/approved", "https://host/appro%76ed/x", True),
        ("https://host/a+b", "https://host/a%2Bb/x", False),
        ("https://host/a%2bb", "https://host/a%2Bb/x", True),
        ("https://host/a%2Ab", "https://host/a*b/x", True),
    ],
)
@pytest.mark.attack(12)
def test_an_allowed_place_holds_what_every_server_reads_as_that_place(place: str, text: str, holds: bool) -> None:
    assert parse_place(place).holds(model_uri.parse(text)) is holds


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("s3://models/caf%C3%A9", "s3://models/cafe%CC%81/x"),
        ("https://host/a+b", "https://host/a%2Bb/x"),
        ("https://host/our%20secret", "http://host/our+secret/x"),
        ("s3://models/our%20secret", "https://models.s3.amazonaws.com/our+secret/x"),
        ("https://models.s3.amazonaws.com/our%20secret", "https://s3.eu-west-1.amazonaws.com/models/our+secret/x"),
    ],
)
@pytest.mark.attack(12)
def test_a_denied_place_is_denied_in_every_spelling(place: str, text: str) -> None:
    assert parse_place(place).names(model_uri.parse(text))


@pytest.mark.attack(12)
def test_an_address_of_your_own_store_is_denied_in_every_reading_of_a_plus_sign() -> None:
    store = model_uri.Store("s3://models", "https://minio.example.com")
    names = store.names_of(model_uri.parse("https://minio.example.com/models/our+secret/x"))
    assert {name.path for name in names} >= {"our+secret/x", "our secret/x"}


def test_a_place_with_a_star_in_its_path_is_refused() -> None:
    with pytest.raises(URIError, match="write %2A"):
        parse_place("s3://models/secret/*")
    assert parse_place("s3://models/%2A").holds(model_uri.parse("s3://models/*/x"))


KEYS_OF_A_STORE = (
    "credit risk/model v2.joblib", "a#b/c?d=e&f+g.joblib", "100%/50%25 off/model.joblib", "appro%76ed/evil.joblib",
    "modèle/模型 1.joblib", "modèle/e\u0301 2.joblib", "date=2026-01-01/model.joblib", "a:b@c;d,e!(f)'*~.joblib",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS_OF_A_STORE)
def test_a_store_has_the_key_that_the_uri_names(load: Loader, s3: Store, key: str) -> None:
    s3.put("models", {f"keys/{key}": key.encode(), f"folders/{key}/model.bin": key.encode()})

    run = load(f"s3://models/keys/{quote(key)}=one", f"s3://models/folders/{quote(key)}=two")

    assert run.files() == {f"one/{key.rpartition('/')[2]}": key.encode(), "two/model.bin": key.encode()}


@pytest.mark.attack(12)
def test_an_encoded_name_is_not_an_object_with_that_text_as_its_key(load: Loader, s3: Store) -> None:
    s3.put("models", {"approved/one.joblib": b"approved", "appro%76ed/one.joblib": b"evil"})

    assert load("s3://models/appro%76ed/one.joblib").files() == {"one.joblib": b"approved"}
    assert load("s3://models/appro%2576ed/one.joblib").files() == {"one.joblib": b"evil"}


@pytest.mark.parametrize("path", ["/a%2Bb+c%7Ed%2a*.joblib", "/%E6%A8%A1/x%3By;z=%3d.joblib"])
def test_a_web_address_is_requested_as_written(load: Loader, web: WebServer, path: str) -> None:
    web.files[unquote(path)] = b"weights"

    run = load(web.url + path)

    assert run.files() == {unquote(path).rpartition("/")[2]: b"weights"}
    assert {request.path for request in web.requests} == {path}


@pytest.mark.attack(12)
def test_a_file_beside_a_web_address_keeps_the_spelling_of_its_folder() -> None:
    uri = model_uri.parse("https://host/a%2Bb+c/model.bin?signature=1", signed=True)
    assert uri.beside("model.sig").url == "https://host/a%2Bb+c/model.sig"
    assert model_uri.parse("s3://models/a%2Bb/c").beside("model.sig") == model_uri.parse("s3://models/a+b/model.sig")


def test_a_file_of_this_machine_has_any_name(load: Loader, tmp_path: Path) -> None:
    for key in KEYS_OF_A_STORE:
        path = tmp_path / "models" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
        assert load(f"file://{quote(str(path))}").files() == {path.name: key.encode()}


def test_a_missing_model_with_a_folder_shows_how_its_equals_sign_was_read(load: Loader, s3: Store) -> None:
    s3.put("models", {"hive/team=blue/base/m.bin": b"base", "hive/lora/n.bin": b"lora"})
    run = load("s3://models/hive/lora=.", "s3://models/hive/team=blue/base")
    assert run.code == "NotFound"
    assert "blue/base was read as the model's folder; if it is a part of the path, write %3D" in str(
        run.message["hint"]
    )


def test_several_uris_have_explicit_folders(load: Loader, s3: Store) -> None:
    s3.put("models", {"lake/date=2026-01-01/base/m.bin": b"base", "lake/lora/n.bin": b"lora"})

    run = load("s3://models/lake/date=2026-01-01/base=.", "s3://models/lake/lora=./adapters/1")

    assert run.files() == {"m.bin": b"base", "adapters/1/n.bin": b"lora"}
