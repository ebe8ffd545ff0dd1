"""The CNCF's registry with users and passwords, and with a token service."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from support.loader_harness import Loader, Reply, Request, WebServer, distribution, forward

FILES = {"model.bin": b"weights" * 1000, "config.json": b"{}"}
# "user" with the password "secret", by bcrypt.
HTPASSWD = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
PASSWORD = {"username": "user", "password": "secret"}
WRONG = {"username": "user", "password": "wrong"}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry's folder, with an artifact."""
    folder = tmp_path_factory.mktemp("distribution")
    with distribution(folder) as registry:
        registry.push_artifact("team/private", "v1", FILES)
    return folder


@pytest.fixture(scope="module")
def basic(content: Path) -> Iterator[str]:
    """The address of the registry with passwords."""
    (content / "htpasswd").write_text(HTPASSWD)
    with distribution(content, {"htpasswd": {"realm": "tests", "path": str(content / "htpasswd")}}) as registry:
        yield registry.host


def docker_config(**auths: object) -> dict[str, str]:
    return {"plain-http": "true", ".dockerconfigjson": json.dumps({"auths": auths})}


@pytest.mark.parametrize("key", ["{}", "https://{}", "http://{}/v1/", "https://{}/v2/", "{}/team", "{}/team/private"])
def test_a_password_is_found_by_every_form_of_key(load: Loader, basic: str, key: str) -> None:
    load.credentials(**docker_config(**{key.format(basic): PASSWORD, "ghcr.io": WRONG}))

    assert load(f"oci://{basic}/team/private:v1").files() == FILES


def test_all_entries_for_a_repository_are_tried(load: Loader, basic: str) -> None:
    load.credentials(**docker_config(**{f"{basic}/team": WRONG, basic: PASSWORD}))

    assert load(f"oci://{basic}/team/private:v1").files() == FILES


@pytest.mark.parametrize("auths", [{}, {"ghcr.io": PASSWORD}, {"{}/other": PASSWORD}, {"{}": {}}])
def test_without_credentials_the_hint_is_the_command_that_makes_the_secret(
    load: Loader, basic: str, auths: dict[str, object]
) -> None:
    load.credentials(**docker_config(**{key.format(basic): entry for key, entry in auths.items()}))

    run = load(f"oci://{basic}/team/private:v1")

    assert run.code == "Unauthorized"
    assert f"--docker-server={basic}" in str(run.message["hint"])


def test_a_wrong_password_is_unauthorized(load: Loader, basic: str) -> None:
    load.credentials(**docker_config(**{basic: WRONG}))

    run = load(f"oci://{basic}/team/private:v1")

    assert run.code == "Unauthorized"
    assert "wrong" not in run.output


class TokenService:
    """Issues tokens for pulling. It is part of a server in front of the registry."""

    def __init__(self, content: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.requests: list[Request] = []
        point = self._key.public_key().public_numbers()
        jwk = {"kty": "EC", "crv": "P-256", "kid": "tests", "alg": "ES256", "use": "sig"}
        jwk |= {name: encoded(value.to_bytes(32)) for name, value in (("x", point.x), ("y", point.y))}
        (content / "jwks.json").write_text(json.dumps({"keys": [jwk]}))

    def answer(self, request: Request) -> Reply:
        """Return a token, empty for wrong credentials."""
        self.requests.append(request)
        form = request.form if request.method == "POST" else {}
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
        known = request.headers.get("Authorization") == f"Basic {base64.b64encode(b'user:secret').decode()}"
        renewed = (form.get("grant_type"), form.get("refresh_token")) == ("refresh_token", "renewable")
        if not (known or renewed):
            return Reply(401)
        token = self.token((form or query)["scope"], (form or query)["service"])
        name = "access_token" if renewed else "token"
        return Reply(body=json.dumps({name: token, "expires_in": 300}).encode())

    def token(self, scope: str, service: str) -> str:
        """Return a signed token."""
        kind, name, actions = scope.split(":")
        claims = {
            "iss": "tests",
            "sub": "user",
            "aud": service,
            "exp": int(time.time()) + 300,
            "nbf": int(time.time()) - 10,
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        head = {"typ": "JWT", "alg": "ES256", "kid": "tests"}
        text = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
        numbers = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{encoded(b''.join(number.to_bytes(32) for number in numbers))}"


def encoded(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


@pytest.fixture
def tokens(content: Path, web: WebServer) -> Iterator[TokenService]:
    """The token service of the registry behind `web`."""
    service = TokenService(content)
    realm = {"realm": f"{web.url}/token", "service": "registry", "issuer": "tests"}
    with distribution(content, {"token": realm | {"jwks": str(content / "jwks.json")}}) as registry:
        through = forward(registry.host)
        answer: Callable[[Request, int], Reply] = lambda request, _: (  # noqa: E731
            service.answer(request) if request.path.startswith("/token") else through(request)
        )
        web.fault = answer
        yield service


@pytest.mark.parametrize(
    "entry", [PASSWORD, {"identitytoken": "renewable"}, {"auth": "MDA6", "identitytoken": "renewable"}]
)
def test_a_password_or_an_identity_token_is_exchanged_for_a_token(
    load: Loader, web: WebServer, tokens: TokenService, entry: object
) -> None:
    host = web.url.removeprefix("http://")
    load.credentials(**docker_config(**{f"https://{host}": entry}))

    run = load(f"oci://{host}/team/private:v1")

    assert run.files() == FILES
    assert len(tokens.requests) == 1
    assert "renewable" not in run.output


def test_a_token_for_the_registry_itself_is_not_exchanged(load: Loader, web: WebServer, tokens: TokenService) -> None:
    host = web.url.removeprefix("http://")
    token = tokens.token("repository:team/private:pull", "registry")
    load.credentials(**docker_config(**{host: {"registrytoken": token}}))

    assert load(f"oci://{host}/team/private:v1").files() == FILES
    assert tokens.requests == []


@pytest.mark.parametrize("entry", [WRONG, {"identitytoken": "expired"}, {"registrytoken": "expired"}])
def test_a_wrong_password_or_token_is_unauthorized(
    load: Loader, web: WebServer, tokens: TokenService, entry: object
) -> None:
    host = web.url.removeprefix("http://")
    load.credentials(**docker_config(**{host: entry}))

    run = load(f"oci://{host}/team/private:v1")

    assert run.code == "Unauthorized"
    assert "expired" not in run.output
