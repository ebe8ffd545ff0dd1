"""The loader's arguments fix where a source leads: a Secret or environment with another store is refused."""

import base64
import json
import socket
from collections.abc import Iterator

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from model_loader.http.network import Network
from model_uri import Store, URIError
from support.loader_harness import Loader, Reply, Request, WebServer, listing
from support.loader_hub import Hub

HUB = "https://huggingface.co"


@pytest.fixture
def evil() -> Iterator[WebServer]:
    """The attacker's server, which answers every request."""
    server = WebServer()
    server.fault = lambda request, number: Reply(body=listing("m/model.bin", size=3))
    yield server
    server.close()


def fixed(place: str, endpoint: str = "", ca: str = "") -> tuple[str, ...]:
    return ("--store", Store(place, endpoint, ca).argument)


def test_a_fixed_hub_is_read(load: Loader, hub: Hub) -> None:
    run = load("hf://team/model", options=fixed("hf://team", hub.api.url))
    assert run.code == "Loaded"
    (load.secret / "HF_ENDPOINT").unlink()
    hub.push({"config.json": b"{ }"}, {})
    assert run.code == "Loaded"


def test_a_bucket_of_a_fixed_store_is_read(load: Loader, web: WebServer) -> None:
    web.files["/models/m/model.bin"] = b"abc"
    web.fault = lambda request, number: (
        Reply(body=listing("m/model.bin", size=3)) if "list-type" in request.path else None
    )

    run = load("s3://models/m", options=fixed("s3://models", web.url))

    assert run.files() == {"model.bin": b"abc"}


SECRETS = [
    ("hf://team/model", "hf://team", HUB, {"HF_ENDPOINT": "{evil}"}),
    ("hf://team/model", "hf://team", "", {"HF_ENDPOINT": "{evil}"}),
    ("hf://team/model", "hf://team", "", {"HF_ENDPOINT": "https://huggingface.co.evil.example"}),
    ("hf://team/model", "hf://team", "", {"HF_ENDPOINT": "http://huggingface.co"}),
    ("hf://team/model", "hf://team", "", {"ca.crt": "{pem}"}),
    ("s3://models/m", "s3://models", "", {"AWS_ENDPOINT_URL": "{evil}"}),
    ("s3://models/m", "s3://models", "", {"AWS_ENDPOINT_URL_S3": "{evil}"}),
    ("s3://models/m", "s3://models", "https://minio.example.com", {"AWS_ENDPOINT_URL_S3": "{evil}"}),
    ("s3://models/m", "s3://models", "", {"AWS_CA_BUNDLE": "{pem}"}),
    ("s3://models/m", "s3://models", "", {"AWS_REGION": "cn-north-1"}),
    ("s3://models/m", "s3://models", "", {"AWS_REGION": "us-gov-west-1"}),
    ("s3://models/m", "s3://models", "", {"AWS_DEFAULT_REGION": "us-iso-east-1"}),
    ("s3://models/m", "s3://models", "", {"AWS_REGION": "eusc-de-east-1"}),
    ("gs://models/m", "gs://models", "", {"GS_ENDPOINT_URL": "{evil}"}),
    ("az://models/m", "az://models", "https://us.blob.core.windows.net", {"AZURE_STORAGE_ENDPOINT": "{evil}"}),
    (
        "az://models/m",
        "az://models",
        "https://us.blob.core.windows.net",
        {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=us;BlobEndpoint={evil}"},
    ),
    (
        "az://models/m",
        "az://models",
        "https://us.blob.core.windows.net",
        {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=evil;EndpointSuffix=core.windows.net"},
    ),
    ("s3://models/m", "s3://models", "", {"S3_ENDPOINT": "evil.example.com"}),
    ("s3://models/m", "s3://models", "https://minio.example.com", {"S3_ENDPOINT": "evil.example.com"}),
    ("oci://r.example.com/a", "oci://r.example.com", "", {"plain-http": "true"}),
    ("https://models.example.com/m.bin", "https://models.example.com", "", {"ca.crt": "{pem}"}),
]


@pytest.mark.parametrize(("uri", "place", "endpoint", "secret"), SECRETS)
@pytest.mark.parametrize("by", ["secret", "environment"])
@pytest.mark.attack(33)
def test_a_secret_with_another_store_is_refused(
    load: Loader, evil: WebServer, uri: str, place: str, endpoint: str, secret: dict[str, str], by: str
) -> None:
    pem = trustme.CA().cert_pem.bytes().decode()
    said = {key: value.format(evil=evil.url, pem=pem) for key, value in secret.items()}
    (key,) = said
    load.credentials(AZURE_STORAGE_ACCOUNT="theirs") if by == "environment" else load.credentials(**said)
    if by == "environment" and not key.startswith(("AWS_", "HF_", "AZURE_")):
        pytest.skip("it is not read from the environment")

    run = load(uri, options=fixed(place, endpoint), environment=said if by == "environment" else {})

    assert (run.code, run.exit_code) == ("Refused", 14)
    assert key in str(run.message["message"])
    assert evil.requests == []


@pytest.mark.parametrize(
    ("uri", "secret"),
    [
        ("az://models/m", {"AZURE_STORAGE_ACCOUNT": "theirs", "AZURE_STORAGE_KEY": base64.b64encode(b"k").decode()}),
        ("https://evil.example.com/m.bin", {}),
        ("s3://other/m", {}),
        ("http://models.example.com/m.bin", {}),
        ("hf://team/model", {"HF_ENDPOINT": "{evil}"}),
    ],
)
@pytest.mark.attack(33)
def test_a_source_without_a_fixed_store_is_not_read(
    load: Loader, evil: WebServer, uri: str, secret: dict[str, str]
) -> None:
    load.credentials(**{key: value.format(evil=evil.url) for key, value in secret.items()})

    run = load(uri, options=(*fixed("s3://models"), "--store", "az://models -", "--store", "http://* -"))

    assert run.code == "Refused"
    assert evil.requests == []


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE"])
@pytest.mark.attack(33)
def test_a_variable_cannot_add_an_authority(load: Loader, evil: WebServer, name: str) -> None:
    run = load("hf://team/model", options=fixed("hf://team", evil.url), environment={name: "/tmp/theirs.pem"})
    assert (run.code, name in str(run.message["message"])) == ("Refused", True)
    assert evil.requests == []


@pytest.mark.attack(33)
def test_a_fixed_store_with_plain_http_is_not_reached_through_a_proxy(
    load: Loader, web: WebServer, evil: WebServer
) -> None:
    hub = web.url.replace("127.0.0.1", "hub.example.com")
    run = load("hf://team/model", options=fixed("hf://team", hub), environment={"HTTP_PROXY": evil.url})
    assert run.code == "Refused"
    assert "proxy" in str(run.message["message"])
    assert evil.requests == []


@pytest.mark.attack(33)
def test_a_fixed_authority_is_trusted_and_one_from_the_secret_is_not(load: Loader, web: WebServer) -> None:
    authority = trustme.CA()
    web.secure(authority.issue_cert("127.0.0.1"))
    web.files["/models/m/model.bin"] = b"abc"
    web.fault = lambda request, number: (
        Reply(body=listing("m/model.bin", size=3)) if "list-type" in request.path else None
    )
    pem = authority.cert_pem.bytes().decode()

    assert load("s3://models/m", options=fixed("s3://models", web.url)).code == "Refused"
    load.credentials(**{"ca.crt": pem})
    assert load("s3://models/m", options=fixed("s3://models", web.url)).code == "Refused"
    assert load("s3://models/m", options=fixed("s3://models", web.url, pem)).files() == {"model.bin": b"abc"}


@pytest.mark.attack(33)
def test_the_accounts_key_file_cannot_name_another_token_service(load: Loader, evil: WebServer) -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    account = {"type": "service_account", "client_email": "a@b", "private_key_id": "1", "private_key": key.decode()}
    load.credentials(**{"key.json": json.dumps(account | {"token_uri": f"{evil.url}/token"})})

    run = load("gs://models/m", options=fixed("gs://models", evil.url))

    assert (run.code, "token_uri" in str(run.message["message"])) == ("Refused", True)
    assert evil.requests == []


@pytest.mark.attack(33)
def test_the_names_of_a_fixed_store_are_absolute(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search domain of the pod is its user's namespace: a Service there can have the name of the first label."""
    asked: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name in ("huggingface.co", "hub", "hub.models"):
        load("hf://team/model", options=(*fixed("hf://team", f"https://{name}"), "--patience=0"))
    load("hf://team/model", options=(*fixed("hf://team", "http://hub.models.svc"), "--patience=0"))

    assert set(asked) == {"huggingface.co.", "hub.", "hub.models.", "hub.models.svc"}


@pytest.mark.attack(33)
def test_a_region_cannot_change_the_host(load: Loader, evil: WebServer) -> None:
    """Even if no store is fixed: the host would only look like AWS."""
    load.credentials(AWS_REGION=f"{evil.url.removeprefix('http://')}/")
    assert load("s3://models/m").code == "InvalidSource"
    assert evil.requests == []


@pytest.mark.parametrize(
    "text",
    [
        "", "s3://models", "s3://models  -", "s3://models - !", "s3://models - aGVsbG8=", "pvc://claim -",
        "https://a.example.com https://b.example.com", "s3://models ftp://x", "s3://models https://x/",
        "s3://models https://X", "file:///srv -", "s3://models https://u:p@x", "s3://models https://x?y",
        "s3://models https://x/../y", "models -", "s3://models - - -",
    ],
)  # fmt: skip
def test_an_invalid_store_is_an_invalid_argument(load: Loader, text: str) -> None:
    assert load("s3://models/m", options=("--store", text)).code == "InvalidSource"


@pytest.mark.parametrize("store", [Store("s3://models/a", "https://minio.example.com:9000"), Store("hf://org")])
def test_a_written_argument_is_read_back(store: Store) -> None:
    assert Store.of_argument(store.argument) == store


def test_of_several_fixed_stores_the_narrowest_applies(load: Loader, web: WebServer, evil: WebServer) -> None:
    def answer(request: Request, number: int) -> Reply | None:
        return Reply(body=listing("a/model.bin", size=3)) if "list-type" in request.path else None

    web.files["/models/a/model.bin"] = b"abc"
    web.fault = answer
    options = (*fixed("s3://models", evil.url), *fixed("s3://models/a", web.url), *fixed("hf://team"))

    assert load("s3://models/a", options=options).files() == {"model.bin": b"abc"}
    assert evil.requests == []


def test_the_network_rule_applies_to_a_fixed_store(load: Loader, web: WebServer) -> None:
    assert load("hf://team/model", options=fixed("hf://team", web.url), network=None).code == "Refused"
    assert Network().allowed == ()


def test_an_authority_is_a_certificate() -> None:
    with pytest.raises(URIError):
        Store("hf://team", ca="nothing")
