"""Values of Secrets as people write them: with a line break at the end, by Windows' editors, broken in the middle."""

import base64
import json

import pytest

from support import loader_harness as harness
from support.loader_harness import Loader, Reply, Request, Store, WebServer, listing
from support.loader_hub import Hub

ENDS = ["\n", "\r\n", " \n", "\n\n"]


@pytest.mark.parametrize("end", ENDS)
def test_keys_of_s3_may_end_in_a_line_break(load: Loader, store: Store, end: str) -> None:
    store.put("models", {"ends/model.joblib": b"weights"})
    keys = {key: f"{value}{end}" for key, value in harness.KEYS.items()}
    load.credentials(**keys, AWS_ENDPOINT_URL=f"{store.endpoint}/{end}", AWS_REGION=f"us-east-1{end}")

    assert load("s3://models/ends").files() == {"model.joblib": b"weights"}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("by", ["secret", "environment"])
def test_a_hubs_token_may_end_in_a_line_break(load: Loader, hub: Hub, end: str, by: str) -> None:
    if by == "secret":
        load.credentials(HF_TOKEN=f"hf_token{end}")

    run = load("hf://team/model", environment={"HF_TOKEN": f"hf_token{end}"} if by == "environment" else {})

    assert run.code == "Loaded"
    assert {request.headers.get("Authorization") for request in hub.api.requests} == {"Bearer hf_token"}


@pytest.mark.parametrize("end", ENDS)
def test_passwords_and_tokens_of_web_servers_may_end_in_a_line_break(load: Loader, web: WebServer, end: str) -> None:
    web.files["/model.bin"] = b"weights"
    load.credentials(username=f"user{end}", password=f"word{end}")
    assert load(f"{web.url}/model.bin").code == "Loaded"
    load.credentials(authorization=f"Bearer token{end}")
    web.files["/other.bin"] = b"weights"
    assert load(f"{web.url}/other.bin").code == "Loaded"

    basic = "Basic " + base64.b64encode(b"user:word").decode()
    assert {request.headers["Authorization"] for request in web.requests} == {basic, "Bearer token"}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("written", ["auth", "fields"])
def test_a_registrys_password_may_end_in_a_line_break(load: Loader, web: WebServer, end: str, written: str) -> None:
    """As `printf 'user:word\n' | base64` writes it."""
    host = web.url.removeprefix("http://")
    pair = base64.b64encode(f"user:word{end}".encode()).decode()
    entry = {"auth": pair} if written == "auth" else {"username": "user", "password": f"word{end}"}
    load.credentials(**{".dockerconfigjson": json.dumps({"auths": {host: entry}}), "plain-http": "true"})
    basic = "Basic " + base64.b64encode(b"user:word").decode()

    def answer(request: Request, number: int) -> Reply:
        known = request.headers.get("Authorization") == basic
        return Reply(404) if known else Reply(401, {"WWW-Authenticate": 'Basic realm="registry"'})

    web.fault = answer

    assert load(f"oci://{host}/team/model:1").code == "NotFound"


@pytest.mark.attack(15)
def test_a_registrys_password_with_a_line_break_inside_is_refused_without_it(load: Loader, web: WebServer) -> None:
    host = web.url.removeprefix("http://")
    pair = base64.b64encode(b"user:first\nsecond").decode()
    load.credentials(**{".dockerconfigjson": json.dumps({"auths": {host: {"auth": pair}}}), "plain-http": "true"})
    web.fault = lambda request, number: Reply(401, {"WWW-Authenticate": 'Basic realm="registry"'})

    run = load(f"oci://{host}/team/model:1")

    assert (run.code, "has a line break inside" in str(run.message["message"])) == ("InvalidSource", True)
    assert not {"first", "second", pair} & set(run.output.replace('"', " ").split())


def test_a_byte_order_mark_is_no_part_of_a_value(load: Loader, store: Store) -> None:
    store.put("models", {"marked/model.joblib": b"weights"})
    load.credentials(**{key: f"\ufeff{value}\r\n" for key, value in harness.KEYS.items()})
    load.credentials(AWS_ENDPOINT_URL=f"\ufeff{store.endpoint}")

    assert load("s3://models/marked").code == "Loaded"


@pytest.mark.parametrize(
    ("key", "uri"),
    [
        ("AWS_ACCESS_KEY_ID", "s3://models/m"),
        ("AWS_SECRET_ACCESS_KEY", "s3://models/m"),
        ("AWS_SESSION_TOKEN", "s3://models/m"),
        ("AWS_ENDPOINT_URL", "s3://models/m"),
        ("HF_TOKEN", "hf://team/model"),
        ("token", "gs://models/m"),
        ("authorization", "https://models.example.com/m.bin"),
        ("password", "https://models.example.com/m.bin"),
        ("AZURE_STORAGE_KEY", "az://models/m"),
        ("AZURE_STORAGE_SAS_TOKEN", "az://models/m"),
        ("AZURE_CLIENT_SECRET", "az://models/m"),
        ("AZURE_STORAGE_CONNECTION_STRING", "az://models/m"),
    ],
)
@pytest.mark.attack(15)
def test_a_line_break_inside_is_refused_without_the_value(load: Loader, key: str, uri: str) -> None:
    load.credentials(**(harness.KEYS | {"AZURE_STORAGE_ACCOUNT": "account"} | {key: "first-part\nX-Injected: second"}))

    run = load(uri)

    assert (run.code, run.message["message"]) == ("InvalidSource", f"{key} of the Secret has a line break inside")
    assert not {"first-part", "second"} & set(run.output.replace('"', " ").split())


def test_documents_of_many_lines_are_read(load: Loader, web: WebServer) -> None:
    load.credentials(**{".dockerconfigjson": json.dumps({"auths": {"other.example.com": {}}}, indent=2)})

    def answer(request: Request, number: int) -> Reply:
        return Reply(404)

    web.fault = answer
    host = web.url.removeprefix("http://")
    load.credentials(**{"plain-http": "true\n"})

    assert load(f"oci://{host}/team/model:1").code == "NotFound"


def test_a_value_that_is_not_text_is_reported(load: Loader) -> None:
    load.credentials()
    (load.secret / "AWS_ACCESS_KEY_ID").write_bytes("id".encode("utf-16"))

    run = load("s3://models/m")

    assert run.message["message"] == "key AWS_ACCESS_KEY_ID of the Secret cannot be read as text"


def test_a_listing_is_signed_with_the_stripped_keys(load: Loader, web: WebServer) -> None:
    web.fault = lambda request, number: Reply(body=listing("m/model.bin", size=0))
    load.credentials(AWS_ACCESS_KEY_ID="id\n", AWS_SECRET_ACCESS_KEY="s\n", AWS_ENDPOINT_URL=web.url)

    load("s3://models/m")

    assert "Credential=id/" in web.requests[0].headers["Authorization"]
