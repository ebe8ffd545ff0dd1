"""Models in Azure Blob Storage: the loader's signature compared with obstore's, and the rules of lists."""

import base64
import contextlib
import hashlib
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import AzureStore

from model_loader.sources import azure
from support.loader_harness import Loader, Reply, Request, WebServer

KEY = base64.b64encode(b"a key of the account").decode()


class Account:
    """A storage account with one container, `models`. It verifies every request's signature."""

    def __init__(self, web: WebServer, blobs: dict[str, bytes]) -> None:
        self.web = web
        self.blobs = blobs
        self.page = 2
        web.fault = self._answer

    def _answer(self, request: Request, number: int) -> Reply | None:
        if not request.headers.get("Authorization", "").startswith("SharedKey account:"):
            return Reply(403)
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if query.get("comp") != "list":
            self.web.files = {f"/models/{name}": body for name, body in self.blobs.items()}
            return None
        names = sorted(name for name in self.blobs if name.startswith(query.get("prefix", "")))
        start = int(query.get("marker", "0"))
        following = str(start + self.page) if start + self.page < len(names) else ""
        entries = "".join(self._entry(name) for name in names[start : start + self.page])
        text = f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
        return Reply(body=text.encode())

    def _entry(self, name: str) -> str:
        body = self.blobs[name]
        etag = self.web.etag(body).strip('"')
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        return (
            f"<Blob><Name>{escape(name)}</Name><Properties><Content-Length>{len(body)}</Content-Length>"
            f"<Etag>{etag}</Etag><Content-MD5>{md5}</Content-MD5></Properties></Blob>"
        )


@pytest.fixture
def account(web: WebServer, load: Loader) -> Account:
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_KEY=KEY, AZURE_STORAGE_ENDPOINT=web.url)
    blobs = {
        "iris/model.bin": b"weights",
        "iris/a b/c": b"",
        "iris/d": b"1",
        "iris2/model.bin": b"a sibling",
        "one": b"1",
    }
    return Account(web, blobs)


def test_a_prefix_gives_its_blobs_and_a_name_one_blob(load: Loader, account: Account) -> None:
    assert load("az://models/iris").files() == {"model.bin": b"weights", "a b/c": b"", "d": b"1"}


def test_an_exact_name_gives_one_blob(load: Loader, account: Account) -> None:
    assert load("az://models/one").files() == {"one": b"1"}
    assert load("az://models/absent").code == "NotFound"


def test_every_character_of_a_name_can_be_encoded(load: Loader, account: Account) -> None:
    key = "a#b c?d=e+f%67&g/100%25/模 é.bin"
    account.blobs = {key: b"1"}
    folder, _, name = key.rpartition("/")
    run = load(f"az://models/{quote(folder)}=one", f"az://models/{quote(key)}=two")
    assert run.files() == {f"one/{name}": b"1", f"two/{name}": b"1"}


def test_a_name_that_xml_cannot_contain_is_encoded_in_the_list(load: Loader, account: Account) -> None:
    account.blobs = {"iris/a%20b": b"1"}
    size = "<Properties><Content-Length>1</Content-Length></Properties>"
    entry = f'<Blob><Name Encoded="true">iris/a%2520b</Name>{size}</Blob>'
    account._entry = lambda name: entry  # type: ignore[method-assign]
    assert load("az://models/iris").files() == {"a%20b": b"1"}


def test_a_blob_with_another_md5_is_corrupted(load: Loader, account: Account) -> None:
    account.blobs = {"iris/model.bin": b"weights"}
    account.web.etag = lambda body: '"same"'  # type: ignore[method-assign]
    entry = account._entry("iris/model.bin")
    account._entry = lambda name: entry  # type: ignore[method-assign]
    account.blobs["iris/model.bin"] = b"WEIGHTS"

    assert load("az://models/iris").code == "Corrupted"


def test_the_account_is_required(load: Loader) -> None:
    run = load("az://models/iris")

    assert (run.code, "AZURE_STORAGE_ACCOUNT" in str(run.message["hint"])) == ("InvalidSource", True)


@pytest.mark.parametrize("ranged", [False, True])
def test_the_signature_equals_obstores(web: WebServer, monkeypatch: pytest.MonkeyPatch, ranged: bool) -> None:
    """The same request, with obstore's date and version, gets the same Authorization header."""
    web.files["/models/a b/model.bin"] = b"weights"
    store = AzureStore(
        "models",
        account_name="account",
        account_key=KEY,
        endpoint=web.url,
        client_options={"allow_http": True},
    )
    with contextlib.suppress(GenericError):  # obstore requires further response headers; only its request matters
        if ranged:
            obstore.get_range(store, "a b/model.bin", start=1, end=3)
        else:
            obstore.get(store, "a b/model.bin")
    theirs = web.requests[0]
    given = {name.lower(): value for name, value in theirs.headers.items()}
    monkeypatch.setattr(azure, "_VERSION", given["x-ms-version"])
    monkeypatch.setattr(azure, "formatdate", lambda usegmt: given["date"])
    ours = {"Range": given["range"]} if ranged else {}

    azure.SharedKey("account", KEY).sign(theirs.method, urlsplit(f"{web.url}{theirs.path}"), ours)

    assert ours["Authorization"] == given["authorization"]
