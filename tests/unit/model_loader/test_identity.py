"""Identities that are exchanged for a token: token services on loopback, with obstore's requests for comparison."""

import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import obstore
import pytest
import trustme
from awscrt import checksums as crt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from support.loader_harness import Loader, Reply, Request, WebServer

HTTP: Any = {"allow_http": True}


@pytest.fixture
def service() -> Iterator[WebServer]:
    """The token service."""
    server = WebServer()
    yield server
    server.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The service account's token, as the platform mounts it."""
    path = tmp_path / "token"
    path.write_text("the-pods-token")
    return path


def answered(service: WebServer, store: AzureStore | GCSStore | S3Store) -> Request:
    """Let obstore request an object; return its requests to the token service."""
    with contextlib.suppress(BaseError):  # only its token requests matter
        obstore.get(store, "iris/model.bin")
    found = service.requests[-1]
    service.requests.clear()
    return found


def asked(request: Request, *headers: str) -> tuple[str, str, dict[str, str | None], dict[str, str]]:
    """The relevant parts of a token request: method, path, some headers, and the fields of query or form."""
    known = {name.lower(): value for name, value in request.headers.items()}
    parts = urlsplit(request.path)
    fields = dict(parse_qsl(parts.query)) | request.form
    return request.method, parts.path, {name: known.get(name) for name in headers}, fields


def s3(web: WebServer) -> Callable[[Request, int], Reply | None]:
    """S3 with one object, for clients that sign with the session's key and send its token."""
    web.files["/models/iris/model.bin"] = b"weights"

    def answer(request: Request, number: int) -> Reply | None:
        known = {name.lower(): value for name, value in request.headers.items()}
        signed = "Credential=session-key/" in known.get("authorization", "") and "x-amz-security-token" in known.get(
            "authorization", ""
        )
        if not signed or known.get("x-amz-security-token") != "of-the-session":
            return Reply(403, body=b"<Error><Code>AccessDenied</Code></Error>")
        listed = b"<ListBucketResult><Contents><Key>iris/model.bin</Key><Size>7</Size></Contents></ListBucketResult>"
        return Reply(body=listed) if "list-type" in request.path else None

    return answer


def security_tokens(request: Request, number: int) -> Reply | None:
    """STS: returns the store's keys for the pod's token and the role, and nothing else."""
    fields = asked(request)[3]
    wanted = {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "WebIdentityToken": "the-pods-token"}
    if not (wanted.items() <= fields.items() and fields["RoleArn"].endswith(":role/reader")):
        return Reply(400, body=b"<ErrorResponse><Error><Code>InvalidIdentityToken</Code></Error></ErrorResponse>")
    return Reply(
        body=(
            b'<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            b"<AssumeRoleWithWebIdentityResult><Credentials>"
            b"<AccessKeyId>session-key</AccessKeyId>"
            b"<SecretAccessKey>session-secret</SecretAccessKey>"
            b"<SessionToken>of-the-session</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
            b"</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        )
    )


def test_iam_roles_for_service_accounts(load: Loader, web: WebServer, service: WebServer, token: Path) -> None:
    web.fault = s3(web)
    authority = trustme.CA()
    service.secure(authority.issue_cert("127.0.0.1"))
    load.credentials(**{"ca.crt": authority.cert_pem.bytes().decode()})
    service.fault = security_tokens
    role = "arn:aws:iam::111122223333:role/reader"
    environment = {
        "AWS_ROLE_ARN": role,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_ENDPOINT_URL_STS": service.url,
        "AWS_ENDPOINT_URL": web.url,
        "AWS_REGION": "us-east-1",
    }
    config: Any = {"web_identity_token_file": str(token), "role_arn": role, "endpoint_url_sts": service.url}
    other = S3Store(
        "models",
        endpoint=web.url,
        region="us-east-1",
        client_options={"allow_invalid_certificates": True},
        config=config,
    )
    theirs = asked(answered(service, other))

    run = load("s3://models/iris", environment=environment)

    assert run.files() == {"model.bin": b"weights"}, run.output
    ours = asked(service.requests[0])[3]
    assert ours.keys() - theirs[3].keys() == set()
    assert {name for name in ours if ours[name] != theirs[3][name]} == {"RoleSessionName"}
    assert "the-pods-token" not in run.output


def test_a_role_that_the_token_may_not_assume_is_unauthorized(
    load: Loader, web: WebServer, service: WebServer, token: Path
) -> None:
    service.fault = security_tokens
    environment = {
        "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/another",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_ENDPOINT_URL_STS": service.url,
        "AWS_ENDPOINT_URL": web.url,
    }

    run = load("s3://models/iris", environment=environment)

    assert (run.code, "InvalidIdentityToken" in str(run.message["message"])) == ("Unauthorized", True)


def test_eks_pod_identity(load: Loader, web: WebServer, service: WebServer, token: Path) -> None:
    web.fault = s3(web)
    keys = {
        "AccessKeyId": "session-key",
        "SecretAccessKey": "session-secret",
        "Token": "of-the-session",
        "Expiration": "2099-01-01T00:00:00Z",
    }

    def agent(request: Request, number: int) -> Reply | None:
        known = asked(request, "authorization")[:3]
        good = known == ("GET", "/v1/credentials", {"authorization": "the-pods-token"})
        return Reply(body=json.dumps(keys).encode()) if good else Reply(401)

    service.fault = agent
    environment = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{service.url}/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        "AWS_ENDPOINT_URL": web.url,
    }
    other = S3Store(
        "models",
        endpoint=web.url,
        region="us-east-1",
        client_options=HTTP,
        config={
            "container_credentials_full_uri": environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
            "container_authorization_token_file": str(token),
        },
    )
    theirs = asked(answered(service, other), "authorization")

    run = load("s3://models/iris", environment=environment)

    assert run.files() == {"model.bin": b"weights"}, run.output
    assert asked(service.requests[0], "authorization") == theirs


def test_an_agent_at_another_address_gets_no_request(load: Loader, token: Path) -> None:
    """Users control the variable: without TLS it may only lead to the node's agents."""
    environment = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.169.254/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
    }

    assert load("s3://models/iris", environment=environment, network="169.254.0.0/16").code == "Refused"


def bucket(web: WebServer, **about: str) -> Callable[[Request, int], Reply | None]:
    """Google Cloud Storage with one object, for clients with the token. ``about``: further fields of the object."""
    entry = {"name": "iris/model.bin", "generation": "1", "size": "7"} | about

    def answer(request: Request, number: int) -> Reply | None:
        if request.headers.get("Authorization") != "Bearer of-the-account":
            return Reply(401)
        if request.path.startswith("/storage/v1/b/models/o?"):
            return Reply(body=json.dumps({"items": [entry]}).encode())
        return Reply(200, body=b"weights")

    return answer


def test_gke_workload_identity(
    load: Loader, web: WebServer, service: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def metadata(request: Request, number: int) -> Reply | None:
        path = "/computeMetadata/v1/instance/service-accounts/default/token"
        good = asked(request, "metadata-flavor")[:3] == ("GET", path, {"metadata-flavor": "Google"})
        token = {"access_token": "of-the-account", "expires_in": 3599, "token_type": "Bearer"}
        return Reply(body=json.dumps(token).encode()) if good else Reply(403)

    service.fault = metadata
    web.fault = bucket(web)
    load.credentials(GS_ENDPOINT_URL=web.url)
    host = service.url.removeprefix("http://")
    with monkeypatch.context() as patch:
        patch.setenv("GCE_METADATA_HOST", host)
        other = GCSStore("models", client_options=HTTP, config={"base_url": web.url})
        theirs = asked(answered(service, other), "metadata-flavor")

    run = load("gs://models/iris", environment={"GCE_METADATA_HOST": host})

    assert run.files() == {"model.bin": b"weights"}, run.output
    assert asked(service.requests[0], "metadata-flavor") == (*theirs[:3], {})
    assert "of-the-account" not in run.output


def test_a_metadata_server_elsewhere_gets_no_request(load: Loader, web: WebServer) -> None:
    web.fault = bucket(web)
    load.credentials(GS_ENDPOINT_URL=web.url)

    run = load("gs://models/iris", environment={"GCE_METADATA_HOST": "10.0.0.1"}, network="127.0.0.1/32")

    assert run.code == "Unauthorized"


@pytest.fixture(scope="module")
def private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def key_file(private: rsa.RSAPrivateKey, service: WebServer) -> str:
    """Return a service account's key file, as Google creates it."""
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    fields = {"type": "service_account", "private_key_id": "the-key", "client_email": "reader@team.example.com"}
    return json.dumps(fields | {"private_key": pem, "token_uri": f"{service.url}/token"})


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def accounts(private: rsa.RSAPrivateKey, service: WebServer) -> Callable[[Request, int], Reply | None]:
    """Google's token service: returns a token for a current assertion signed with the account's key."""

    def answer(request: Request, number: int) -> Reply | None:
        fields = request.form
        head, claims, signature = fields["assertion"].split(".")
        said = json.loads(decoded(claims))
        try:
            key = private.public_key()
            key.verify(decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return Reply(400, body=b'{"error": "invalid_grant"}')
        good = (
            json.loads(decoded(head)) == {"alg": "RS256", "typ": "JWT", "kid": "the-key"}
            and fields["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
            and (said["iss"], said["aud"]) == ("reader@team.example.com", f"{service.url}/token")
            and said["scope"] == "https://www.googleapis.com/auth/devstorage.read_only"
            and abs(said["iat"] - time.time()) < 60
            and said["exp"] - said["iat"] == 3600
        )
        return Reply(body=b'{"access_token": "of-the-account", "expires_in": 3599}') if good else Reply(400)

    return answer


@pytest.mark.parametrize("name", ["gcloud-application-credentials.json", "key.json"])
def test_a_google_accounts_key_file(
    load: Loader, web: WebServer, service: WebServer, private: rsa.RSAPrivateKey, name: str
) -> None:
    service.fault = accounts(private, service)
    web.fault = bucket(web)
    load.credentials(**{name: key_file(private, service), "GS_ENDPOINT_URL": web.url})

    run = load("gs://models/iris")

    assert run.files() == {"model.bin": b"weights"}, run.output
    assert "PRIVATE" not in run.output


def test_a_revoked_key_is_reported(
    load: Loader, web: WebServer, service: WebServer, private: rsa.RSAPrivateKey
) -> None:
    another = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    service.fault = accounts(private, service)
    web.fault = bucket(web)
    load.credentials(**{"key.json": key_file(another, service), "GS_ENDPOINT_URL": web.url})

    run = load("gs://models/iris")

    assert (run.code, "identity service" in str(run.message["message"])) == ("Unauthorized", True)


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"type": "authorized_user"}', '{"type": "service_account"}'])
def test_an_invalid_key_file_is_reported(load: Loader, web: WebServer, text: str) -> None:
    load.credentials(**{"key.json": text, "GS_ENDPOINT_URL": web.url})

    run = load("gs://models/iris")

    assert (run.code, "key file" in str(run.message["message"])) == ("InvalidSource", True)


def test_a_composite_object_is_verified_by_its_crc32c(load: Loader, web: WebServer) -> None:
    """Google keeps no MD5 of it."""
    load.credentials(GS_ENDPOINT_URL=web.url, token="of-the-account")
    right, wrong = (base64.b64encode(crt.crc32c(body).to_bytes(4, "big")).decode() for body in (b"weights", b"WEIGHTS"))
    web.fault = bucket(web, crc32c=wrong)
    assert load("gs://models/iris").code == "Corrupted"
    web.fault = bucket(web, crc32c=right)

    run = load("gs://models/iris")

    assert (run.files(), run.message["checked"]) == ({"model.bin": b"weights"}, 1)


AZURE = {"AZURE_TENANT_ID": "the-tenant", "AZURE_CLIENT_ID": "the-client"}


def azure_environment(service: WebServer, token: Path) -> dict[str, str]:
    return AZURE | {"AZURE_FEDERATED_TOKEN_FILE": str(token), "AZURE_AUTHORITY_HOST": service.url}


def account(web: WebServer) -> Callable[[Request, int], Reply | None]:
    """Blob Storage with one blob, for clients with the token."""
    web.files["/models/iris/model.bin"] = b"weights"
    listed = (
        b"<EnumerationResults><Blobs><Blob><Name>iris/model.bin</Name><Properties><Content-Length>7</Content-Length>"
        b"</Properties></Blob></Blobs><NextMarker/></EnumerationResults>"
    )

    def answer(request: Request, number: int) -> Reply | None:
        known = {name.lower(): value for name, value in request.headers.items()}
        # Bearer tokens require a version of the protocol that supports them.
        if known.get("authorization") != "Bearer of-the-client" or known.get("x-ms-version", "") < "2017-11-09":
            return Reply(401)
        return Reply(body=listed) if "comp=list" in request.path else None

    return answer


def entra(request: Request, number: int) -> Reply | None:
    """The token service: returns a token for storage, for the pod's token and nothing else."""
    wanted = {
        "grant_type": "client_credentials",
        "client_id": "the-client",
        "client_assertion": "the-pods-token",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "scope": "https://storage.azure.com/.default",
    }
    if (request.method, request.path) != ("POST", "/the-tenant/oauth2/v2.0/token") or request.form != wanted:
        return Reply(401, body=b'{"error": "invalid_client"}')
    return Reply(body=b'{"token_type": "Bearer", "expires_in": 3599, "access_token": "of-the-client"}')


def test_azure_workload_identity(load: Loader, web: WebServer, service: WebServer, token: Path) -> None:
    service.fault = entra
    web.fault = account(web)
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=web.url)
    other = AzureStore(
        "models",
        account_name="account",
        endpoint=web.url,
        client_options=HTTP,
        config={
            "client_id": "the-client",
            "tenant_id": "the-tenant",
            "federated_token_file": str(token),
            "authority_host": service.url,
        },
    )
    theirs = asked(answered(service, other))

    run = load("az://models/iris", environment=azure_environment(service, token))

    assert run.files() == {"model.bin": b"weights"}, run.output
    assert asked(service.requests[0]) == theirs
    assert not {"the-pods-token", "of-the-client"} & set(run.output.split('"'))


def test_a_refused_identity_is_reported(load: Loader, web: WebServer, service: WebServer, token: Path) -> None:
    service.fault = entra
    web.fault = account(web)
    token.write_text("of another pod")
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=web.url)

    run = load("az://models/iris", environment=azure_environment(service, token))

    assert (run.code, "identity service" in str(run.message["message"])) == ("Unauthorized", True)
    assert "service account" in str(run.message["hint"])


def entra_for_secrets(request: Request, number: int) -> Reply | None:
    """The token service: returns a token for storage, for the client's secret and nothing else."""
    wanted = {
        "grant_type": "client_credentials",
        "client_id": "the-client",
        "client_secret": "the~secret+of=the client",
        "scope": "https://storage.azure.com/.default",
    }
    if (request.method, request.path) != ("POST", "/the-tenant/oauth2/v2.0/token") or request.form != wanted:
        said = "AADSTS7000215: Invalid client secret provided. the~secret+of=the client"
        return Reply(401, body=json.dumps({"error": "invalid_client", "error_description": said}).encode())
    return Reply(body=b'{"token_type": "Bearer", "expires_in": 3599, "access_token": "of-the-client"}')


CLIENT = AZURE | {"AZURE_CLIENT_SECRET": "the~secret+of=the client"}
KSERVES = {key.replace("AZURE_", "AZ_"): value for key, value in CLIENT.items()}


@pytest.mark.parametrize(
    "keys", [CLIENT, KSERVES | {"AZ_SUBSCRIPTION_ID": "x"}, CLIENT | {"AZURE_SUBSCRIPTION_ID": "x"}]
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_an_azure_clients_secret(
    load: Loader, web: WebServer, service: WebServer, keys: dict[str, str], end: str
) -> None:
    service.fault = entra_for_secrets
    web.fault = account(web)
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=web.url)
    load.credentials(
        **{key: f"{value}{end}" for key, value in keys.items()}, AZURE_AUTHORITY_HOST=f"{service.url}/{end}"
    )
    other = AzureStore(
        "models",
        account_name="account",
        endpoint=web.url,
        client_options=HTTP,
        config={
            "client_id": "the-client",
            "tenant_id": "the-tenant",
            "client_secret": CLIENT["AZURE_CLIENT_SECRET"],
            "authority_host": service.url,
        },
    )
    theirs = asked(answered(service, other))
    web.requests.clear()

    run = load("az://models/iris")

    assert run.files() == {"model.bin": b"weights"}, run.output
    assert asked(service.requests[0]) == theirs
    assert len(service.requests) == 1
    assert all("Authorization" in request.headers for request in web.requests), "no request goes out without the token"
    assert not {"the~secret", "of-the-client"} & set(run.output.replace('"', " ").split())


def test_a_refused_client_secret_is_reported_with_azures_code(load: Loader, web: WebServer, service: WebServer) -> None:
    service.fault = entra_for_secrets
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=web.url)
    load.credentials(**(CLIENT | {"AZURE_CLIENT_SECRET": "expired"}), AZURE_AUTHORITY_HOST=service.url)

    run = load("az://models/iris")

    assert (run.code, run.of("retry"), len(service.requests), web.requests) == ("Unauthorized", [], 1, [])
    assert "AADSTS7000215" in str(run.message["message"])
    assert "the key in the Secret" in str(run.message["hint"])
    assert "the~secret" not in run.output


def test_a_token_service_that_fails_is_asked_again(load: Loader, web: WebServer, service: WebServer) -> None:
    service.fault = lambda request, number: Reply(503) if number == 1 else entra_for_secrets(request, number)
    web.fault = account(web)
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=web.url)
    load.credentials(**CLIENT, AZURE_AUTHORITY_HOST=service.url)

    run = load("az://models/iris")

    assert (run.code, [each["code"] for each in run.of("retry")]) == ("Loaded", ["ServerError"])


def test_a_token_is_renewed_before_it_expires(load: Loader, web: WebServer, service: WebServer) -> None:
    """Each token is for less than the minute that the loader keeps in reserve, so each request fetches its own."""

    def brief(request: Request, number: int) -> Reply:
        return Reply(body=b'{"expires_in": 59, "access_token": "token-%d"}' % number)

    service.fault = brief
    answer = account(web)

    def store(request: Request, number: int) -> Reply | None:
        request.headers["Authorization"] = request.headers["Authorization"].replace(f"token-{number}", "of-the-client")
        return answer(request, number)

    web.fault = store
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=web.url)
    load.credentials(**CLIENT, AZURE_AUTHORITY_HOST=service.url)

    assert load("az://models/iris").code == "Loaded"
    assert len(service.requests) == len(web.requests) > 1


@pytest.mark.parametrize("lack", list(CLIENT))
def test_an_incomplete_client_is_refused_without_a_request(load: Loader, web: WebServer, lack: str) -> None:
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=web.url)
    load.credentials(**{key: value for key, value in CLIENT.items() if key != lack})

    run = load("az://models/iris")

    assert (run.code, run.message["message"], web.requests) == ("InvalidSource", f"the credentials lack {lack}", [])


@pytest.mark.parametrize(
    "name", ["https://acme.blob.core.windows.net", "acme.blob.core.windows.net", "evil.example/", "Ä"]
)
def test_an_account_is_a_name(load: Loader, name: str) -> None:
    load.credentials(AZURE_STORAGE_ACCOUNT=name)

    run = load("az://models/iris")

    assert (run.code, "AZURE_STORAGE_ACCOUNT is not the name" in str(run.message["message"])) == ("InvalidSource", True)


def test_the_secret_of_the_user_precedes_the_pods_identity(
    load: Loader, web: WebServer, service: WebServer, token: Path
) -> None:
    service.fault = entra_for_secrets
    web.fault = account(web)
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=web.url, **CLIENT)

    run = load("az://models/iris", environment=azure_environment(service, token))

    assert run.code == "Loaded", run.output


def test_an_account_without_public_access_asks_for_credentials(load: Loader, web: WebServer) -> None:
    web.fault = lambda request, number: Reply(409, body=b"<Error><Code>PublicAccessNotPermitted</Code></Error>")
    load.credentials(AZURE_STORAGE_ACCOUNT="account", AZURE_STORAGE_ENDPOINT=web.url)

    run = load("az://models/iris")

    assert (run.code, "Secret" in str(run.message["hint"])) == ("Unauthorized", True)


@pytest.mark.attack(33)
def test_a_fixed_store_gives_its_clients_secret_to_no_other_authority(load: Loader, web: WebServer) -> None:
    load.credentials(**CLIENT, AZURE_AUTHORITY_HOST=web.url)

    run = load("az://models/iris", options=("--store", f"az://models {web.url}"))

    assert (run.code, web.requests) == ("Refused", [])
    assert "AZURE_AUTHORITY_HOST" in str(run.message["message"])
