"""Models in Azurite, with the account's key, a connection string, a signature, and a client's secret.

A token service on loopback stands for Entra ID. Azurite verifies the claims of its tokens.
"""

import base64
import json
import shutil
import ssl
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import trustme
from obstore.store import AzureStore

from model_loader.sources.azure import SharedKey
from support import loader_harness as harness
from support.loader_harness import Azurite, Loader, Reply, Request, WebServer

OBJECTS = {"iris/v 1/model.joblib": b"weights", "iris/v 1/a=b+ü#%.json": b"{}", "one.bin": b"1"}
ACCOUNT = "devstoreaccount1"

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm installs Azurite")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Azurite]:
    folder = tmp_path_factory.mktemp("azurite")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    with harness.azurite(folder / "data", folder / "server.pem") as running:
        made = AzureStore(
            "models",
            account_name=ACCOUNT,
            account_key=running.key,
            endpoint=running.endpoint,
            client_options={"allow_invalid_certificates": True},
        )
        create_container(running)
        for name, body in OBJECTS.items():
            made.put(name, body)
        yield running


def create_container(server: Azurite) -> None:
    """Create the container `models`."""
    url = f"{server.endpoint}/models?restype=container"
    headers: dict[str, str] = {}
    SharedKey(ACCOUNT, server.key).sign("PUT", urlsplit(url), headers)
    context = ssl._create_unverified_context()  # only the loader's requests are about certificates
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method="PUT"), context=context) as answer:
        assert answer.status == 201


@pytest.fixture
def trusting(load: Loader, authority: trustme.CA) -> Loader:
    load.credentials(**{"ca.crt": authority.cert_pem.bytes().decode()})
    return load


def check(load: Loader) -> None:
    assert load("az://models/iris/v%201").files() == {"model.joblib": b"weights", "a=b+ü#%.json": b"{}"}
    assert load("az://models/one.bin").files() == {"one.bin": b"1"}
    assert load("az://models/absent").code == "NotFound"


def test_the_accounts_key(trusting: Loader, blobs: Azurite) -> None:
    trusting.credentials(AZURE_STORAGE_ACCOUNT=ACCOUNT, AZURE_STORAGE_ENDPOINT=blobs.endpoint)
    assert trusting("az://models/one.bin").code in ("Unauthorized", "NotFound"), "the container is private"
    trusting.credentials(AZURE_STORAGE_KEY=f"{blobs.key}\n")
    check(trusting)


def test_a_connection_string(trusting: Loader, blobs: Azurite) -> None:
    parts = {"DefaultEndpointsProtocol": "https", "AccountName": ACCOUNT, "AccountKey": blobs.key}
    text = ";".join(f"{name}={value}" for name, value in {**parts, "BlobEndpoint": blobs.endpoint}.items())
    trusting.credentials(AZURE_STORAGE_CONNECTION_STRING=f"{text};\n")
    check(trusting)


def jwt(**claims: object) -> str:
    """Return a token as Entra ID issues it, without a valid signature."""
    parts = ({"typ": "JWT", "alg": "RS256", "kid": "1"}, claims)
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*texts, "c2lnbmF0dXJl"])


@pytest.mark.parametrize(
    ("audience", "code"), [("https://storage.azure.com", "Loaded"), ("https://other", "Unauthorized")]
)
def test_a_clients_secret(trusting: Loader, blobs: Azurite, web: WebServer, audience: str, code: str) -> None:
    now = int(time.time())
    claims = {"aud": audience, "iss": "https://sts.windows.net/tenant/", "iat": now, "nbf": now, "exp": now + 3600}

    def entra(request: Request, number: int) -> Reply:
        if request.form.get("client_secret") != "the-secret":
            return Reply(401, body=b'{"error": "invalid_client"}')
        token = jwt(**claims, appid="client", tid="tenant", sub="subject")
        return Reply(body=json.dumps({"access_token": token, "expires_in": 3599}).encode())

    web.fault = entra
    trusting.credentials(AZURE_STORAGE_ACCOUNT=ACCOUNT, AZURE_STORAGE_ENDPOINT=blobs.endpoint)
    trusting.credentials(AZURE_CLIENT_ID="client", AZURE_TENANT_ID="tenant", AZURE_CLIENT_SECRET="the-secret")
    trusting.credentials(AZURE_AUTHORITY_HOST=web.url)

    run = trusting("az://models/one.bin")

    assert run.code == code, run.output
    if code == "Loaded":
        check(trusting)
