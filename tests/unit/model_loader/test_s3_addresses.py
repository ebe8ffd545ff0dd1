"""Where the loader finds a bucket: styles of addresses, endpoints, variants of AWS's endpoints, and who pays."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from model_loader.http.network import Network
from model_loader.http.transport import Transport
from model_loader.outcomes import LoadError
from model_loader.plan.model import Context, Secret
from model_loader.sources import s3
from support import loader_harness as harness
from support.loader_harness import Loader, Reply, Request, Store, WebServer, listing

DOMAIN = "oss.example.com"


def base(tmp_path: Path, bucket: str = "models", **keys: str) -> str:
    """Return the URL of a bucket for a Secret."""
    for key, value in keys.items():
        (tmp_path / key).write_text(value)
    context = Context(Transport(Network()), Secret(tmp_path, {}))
    return s3._bucket(bucket, context, s3._region(context)).base


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with harness.store(tmp_path_factory.mktemp("hosted"), domain=DOMAIN) as running:
        yield running


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    "style",
    [{"AWS_S3_ADDRESSING_STYLE": "virtual"}, {"S3_USE_VIRTUAL_BUCKET": "1"}, {"S3_USER_VIRTUAL_BUCKET": "true"}],
)
def test_a_bucket_in_the_host_name_is_read_and_signed(load: Loader, hosted: Store, style: dict[str, str]) -> None:
    objects = {"iris/v 1/model.joblib": b"weights", "iris/v 1/a=b+ü#.json": b"{}", "one/model.joblib": b"1"}
    hosted.put("models", objects)
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=hosted.endpoint.replace("127.0.0.1", DOMAIN), **style)

    assert load("s3://models/iris/v%201").files() == {"model.joblib": b"weights", "a=b+ü#.json": b"{}"}
    assert load("s3://models/one/model.joblib").files() == {"model.joblib": b"1"}


@pytest.mark.usefixtures("names")
def test_requests_of_the_virtual_style_have_the_bucket_only_in_the_host(load: Loader, web: WebServer) -> None:
    """As Alibaba OSS requires."""
    web.files["/m/model.bin"] = b"weights"

    def answer(request: Request, number: int) -> Reply | None:
        if request.headers["Host"] != f"models.{DOMAIN}:{web.url.rpartition(':')[2]}":
            return Reply(403, body=b"<Error><Code>SecondLevelDomainForbidden</Code></Error>")
        return Reply(body=listing("m/model.bin", size=7)) if "list-type" in request.path else None

    web.fault = answer
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=web.url.replace("127.0.0.1", DOMAIN))

    run = load("s3://models/m")
    load.credentials(AWS_S3_ADDRESSING_STYLE="virtual")

    assert (run.code, run.exit_code) == ("InvalidSource", 2)
    assert "AWS_S3_ADDRESSING_STYLE with the value virtual" in str(run.message["hint"])
    assert load("s3://models/m").files() == {"model.bin": b"weights"}


@pytest.mark.usefixtures("names")
@pytest.mark.attack(33)
def test_a_fixed_store_keeps_its_host_in_the_virtual_style(load: Loader, web: WebServer) -> None:
    """The style is the user's, the bucket is the URI's, and the certificate is the store's."""
    authority = trustme.CA()
    web.secure(authority.issue_cert(f"*.{DOMAIN}"))
    web.files["/m/model.bin"] = b"weights"
    web.fault = lambda request, number: (
        Reply(body=listing("m/model.bin", size=7)) if "list-type" in request.path else None
    )
    store = harness_store(web, authority)
    load.credentials(AWS_S3_ADDRESSING_STYLE="virtual")

    assert load("s3://models/m", options=store).files() == {"model.bin": b"weights"}
    assert {request.headers["Host"].partition(":")[0] for request in web.requests} == {f"models.{DOMAIN}"}


def harness_store(web: WebServer, authority: trustme.CA) -> tuple[str, ...]:
    from model_uri import Store as Fixed

    pem = authority.cert_pem.bytes().decode()
    return ("--store", Fixed("s3://models", web.url.replace("127.0.0.1", DOMAIN), pem).argument)


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({}, "https://models.s3.us-east-1.amazonaws.com"),
        ({"AWS_ENDPOINT_URL": "https://s3.amazonaws.com/"}, "https://models.s3.us-east-1.amazonaws.com"),
        (
            {"S3_ENDPOINT": "s3.amazonaws.com", "S3_USE_HTTPS": "1", "AWS_DEFAULT_REGION": "eu-west-3"},
            "https://models.s3.eu-west-3.amazonaws.com",
        ),
        ({"AWS_ENDPOINT_URL": "https://s3.eu-west-3.amazonaws.com"}, "https://s3.eu-west-3.amazonaws.com/models"),
        ({"AWS_REGION": "cn-north-1"}, "https://models.s3.cn-north-1.amazonaws.com.cn"),
        ({"AWS_REGION": "eusc-de-east-1"}, "https://models.s3.eusc-de-east-1.amazonaws.eu"),
        ({"AWS_S3_ADDRESSING_STYLE": "path"}, "https://s3.us-east-1.amazonaws.com/models"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "https://models.s3.dualstack.us-east-1.amazonaws.com"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "https://models.s3-fips.us-east-1.amazonaws.com"),
        (
            {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
            "https://models.s3-fips.dualstack.us-east-1.amazonaws.com",
        ),
        ({"AWS_S3_USE_ACCELERATE_ENDPOINT": "true"}, "https://models.s3-accelerate.amazonaws.com"),
        ({"S3_USE_ACCELERATE": "1"}, "https://models.s3-accelerate.amazonaws.com"),
        ({"S3_USE_ACCELERATE": "0"}, "https://models.s3.us-east-1.amazonaws.com"),
        (
            {"S3_USE_ACCELERATE": "true", "AWS_USE_DUALSTACK_ENDPOINT": "True"},
            "https://models.s3-accelerate.dualstack.amazonaws.com",
        ),
    ],
)
def test_the_endpoints_of_aws(tmp_path: Path, keys: dict[str, str], found: str) -> None:
    assert base(tmp_path, **keys) == found


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"AWS_ENDPOINT_URL": "http://minio:9000"}, "http://minio:9000/models"),
        ({"AWS_ENDPOINT_URL": "https://MinIO.example.com:443/"}, "https://minio.example.com/models"),
        ({"AWS_ENDPOINT_URL_S3": "http://a", "AWS_ENDPOINT_URL": "http://b"}, "http://a/models"),
        ({"AWS_ENDPOINT_URL": "http://minio:9000/s3/"}, "http://minio:9000/s3/models"),
        ({"S3_ENDPOINT": "minio:9000"}, "https://minio:9000/models"),
        ({"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"}, "http://minio:9000/models"),
        ({"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "1"}, "https://minio:9000/models"),
        ({"AWS_ENDPOINT_URL": "minio:9000", "S3_USE_HTTPS": "false"}, "http://minio:9000/models"),
        ({"AWS_ENDPOINT_URL": "http://minio:9000", "S3_USE_VIRTUAL_BUCKET": "false"}, "http://minio:9000/models"),
        ({"AWS_ENDPOINT_URL": "https://oss", "AWS_S3_ADDRESSING_STYLE": "virtual"}, "https://models.oss"),
        ({"AWS_ENDPOINT_URL": "https://oss/x", "AWS_S3_ADDRESSING_STYLE": "Virtual"}, "https://models.oss/x"),
        (
            {"AWS_ENDPOINT_URL": "http://m", "AWS_S3_ADDRESSING_STYLE": "path", "S3_USE_VIRTUAL_BUCKET": "1"},
            "http://m/models",
        ),
        ({"AWS_ENDPOINT_URL": "http://10.0.0.1", "AWS_S3_ADDRESSING_STYLE": "virtual"}, "http://10.0.0.1/models"),
        ({"AWS_ENDPOINT_URL": "http://[fd00::1]:9", "AWS_S3_ADDRESSING_STYLE": "virtual"}, "http://[fd00::1]:9/models"),
    ],
)
def test_the_endpoints_of_other_stores(tmp_path: Path, keys: dict[str, str], found: str) -> None:
    assert base(tmp_path, **keys) == found


@pytest.mark.parametrize("endpoint", ["", "https://oss.example.com"])
def test_a_bucket_with_dots_is_in_the_path_where_there_is_tls(tmp_path: Path, endpoint: str) -> None:
    """A wildcard certificate matches one label."""
    found = base(tmp_path, "my.models", AWS_ENDPOINT_URL=endpoint, AWS_S3_ADDRESSING_STYLE="virtual")
    assert found == f"{endpoint or 'https://s3.us-east-1.amazonaws.com'}/my.models"
    assert base(tmp_path, "my.models", AWS_ENDPOINT_URL="http://oss") == "http://my.models.oss"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (
            {"AWS_S3_ADDRESSING_STYLE": "virtual-host"},
            "AWS_S3_ADDRESSING_STYLE of the Secret|AWS_S3_ADDRESSING_STYLE is",
        ),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "maybe"}, "AWS_USE_DUALSTACK_ENDPOINT of the Secret is not a switch"),
        ({"AWS_ENDPOINT_URL": "http://m", "S3_USE_ACCELERATE": "1"}, "ACCELERATE_ENDPOINT is for AWS itself"),
        ({"AWS_ENDPOINT_URL": "http://m", "AWS_USE_FIPS_ENDPOINT": "true"}, "FIPS_ENDPOINT is for AWS itself"),
        ({"S3_USE_ACCELERATE": "1", "AWS_USE_FIPS_ENDPOINT": "true"}, "excludes FIPS"),
        ({"AWS_ACCESS_KEY_ID": "an id", "AWS_SECRET_ACCESS_KEY": "s"}, "a character that no key has"),
        ({"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "ß"}, "a character that no key has"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(tmp_path: Path, keys: dict[str, str], why: str) -> None:
    with pytest.raises(LoadError, match=why) as failure:
        base(tmp_path, **keys)
    assert failure.value.code == "InvalidSource"


@pytest.mark.parametrize(
    ("key", "uri"),
    [
        ("AWS_ENDPOINT_URL", "s3://models/m"),
        ("AWS_ENDPOINT_URL_S3", "s3://models/m"),
        ("GS_ENDPOINT_URL", "gs://models/m"),
        ("HF_ENDPOINT", "hf://team/model"),
        ("AZURE_STORAGE_ENDPOINT", "az://models/m"),
    ],
)
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("127.0.0.1:18080", "https://127.0.0.1:18080, or http://127.0.0.1:18080 for"),
        ("minio.example.com:9000/s3", "https://minio.example.com:9000/s3, or http"),
        ("minio", "https://minio, or http://minio for"),
        ("https:/minio:9000", "a URL such as https://store.example.com:9000"),
        ("s3://minio:9000", "a URL such as"),
        ("https://", "a URL such as"),
        ("https://minio:port", "a URL such as"),
        ("https://user:word@minio:9000", "a URL such as"),
        ("user:word@minio:9000", "a URL such as"),
        ("minio:9000/?sig=word", "a URL such as"),
    ],
)
def test_an_endpoint_that_is_no_url_is_named_with_what_to_write(
    load: Loader, key: str, uri: str, text: str, hint: str
) -> None:
    load.credentials(**{key: f"{text}\n"}, AZURE_STORAGE_ACCOUNT="account")

    run = load(uri)

    assert (run.code, run.message["message"]) == ("InvalidSource", f"{key} of the Secret is not a URL")
    assert f"Write {hint}" in str(run.message["hint"])
    assert "word" not in run.output


def test_an_endpoint_in_the_environment_is_named_as_a_variable(load: Loader) -> None:
    run = load("s3://models/m", environment={"AWS_ENDPOINT_URL": "minio:9000"})
    assert run.message["message"] == "the variable AWS_ENDPOINT_URL is not a URL"


@pytest.mark.parametrize("key", ["AWS_NO_SIGN_REQUEST", "awsAnonymousCredential"])
def test_requests_are_not_signed_where_the_secret_asks_for_it(load: Loader, web: WebServer, key: str) -> None:
    web.files["/models/m/model.bin"] = b"weights"
    web.fault = lambda request, number: (
        Reply(body=listing("m/model.bin", size=7)) if "list-type" in request.path else None
    )
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=web.url, **{key: "true"})

    assert load("s3://models/m").files() == {"model.bin": b"weights"}
    assert not any("Authorization" in request.headers for request in web.requests)


def test_the_requester_pays_where_the_secret_asks_for_it(load: Loader, s3: Store, web: WebServer) -> None:
    """The real store verifies the signature, which includes the header."""
    s3.put("models", {"paid/model.joblib": b"weights"})
    forward = harness.forward(s3.endpoint.removeprefix("http://"))

    def answer(request: Request, number: int) -> Reply:
        paid = {name.lower(): value for name, value in request.headers.items()}.get("x-amz-request-payer")
        return forward(request) if paid == "requester" else Reply(403)

    web.fault = answer
    load.credentials(AWS_ENDPOINT_URL=web.url)
    assert load("s3://models/paid").code == "Unauthorized"
    load.credentials(AWS_REQUEST_PAYER="requester")

    assert load("s3://models/paid").files() == {"model.joblib": b"weights"}


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("status", [301, 307, 400, 403])
def test_a_bucket_in_another_region_is_found_by_the_stores_answer(load: Loader, web: WebServer, status: int) -> None:
    """AWS redirects to the region's host, where the request has no credentials."""
    web.files["/models/m/model.bin"] = b"weights"
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=web.url)
    there = web.url.replace("127.0.0.1", "region.example.com")

    def elsewhere(request: Request, number: int) -> Reply | None:
        if "/eu-west-3/s3/" not in request.headers.get("Authorization", ""):
            moved = (
                {"Location": f"{there}{request.path}"} if status == 307 and "Authorization" in request.headers else {}
            )
            return Reply(status if moved or status != 307 else 403, {"x-amz-bucket-region": "eu-west-3", **moved})
        return Reply(body=listing("m/model.bin", size=7)) if "list-type" in request.path else None

    web.fault = elsewhere

    assert load("s3://models/m").files() == {"model.bin": b"weights"}


@pytest.mark.parametrize(
    ("named", "loaded"), [("<Region>nl-ams</Region>", True), ("", False), ("<Region>nl.ams/</Region>", False)]
)
def test_a_store_can_name_its_region_in_the_error(load: Loader, web: WebServer, named: str, loaded: bool) -> None:
    web.files["/models/m/model.bin"] = b"weights"
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=web.url)

    def elsewhere(request: Request, number: int) -> Reply | None:
        if "/nl-ams/s3/" not in request.headers["Authorization"]:
            return Reply(400, body=f"<Error><Code>AuthorizationHeaderMalformed</Code>{named}</Error>".encode())
        return Reply(body=listing("m/model.bin", size=7)) if "list-type" in request.path else None

    web.fault = elsewhere

    run = load("s3://models/m")

    assert run.files() == ({"model.bin": b"weights"} if loaded else {})
    assert loaded or (run.code, "AWS_REGION" in str(run.message["hint"])) == ("InvalidSource", True)


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (Reply(400, body=b"Client sent an HTTP request to an HTTPS server.\n"), "write https:// instead of http://"),
        (
            Reply(400, body=b"<center>The plain HTTP request was sent to HTTPS port</center>"),
            "write https:// instead of http://",
        ),
        (Reply(403, body=b"<Error><Code>RequestTimeTooSkewed</Code></Error>"), "clock of the node"),
        (Reply(403, body=b"<Error><Code>InvalidObjectState</Code></Error>"), "restore it"),
    ],
)
def test_a_refusal_of_the_store_says_what_to_do(load: Loader, web: WebServer, reply: Reply, hint: str) -> None:
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=web.url)
    web.fault = lambda request, number: reply

    assert hint in str(load("s3://models/m").message["hint"])


def test_the_console_of_a_store_is_not_its_endpoint(load: Loader, web: WebServer) -> None:
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=web.url)
    web.fault = lambda request, number: Reply(headers={"Content-Type": "text/html"}, body=b"<!doctype html><p>")

    run = load("s3://models/m")

    assert "must be the store's API" in str(run.message["hint"])


def test_a_pattern_in_a_uri_is_a_name_that_is_not_found(load: Loader, web: WebServer) -> None:
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=web.url)
    web.fault = lambda request, number: Reply(body=b"<ListBucketResult/>") if "list-type" in request.path else None

    run = load("s3://models/iris/*")
    absent = load("s3://models/iris")

    assert (run.code, absent.code) == ("NotFound", "NotFound")
    assert "kubectl-serve.dev/files" in str(run.message["hint"])
    assert "kubectl-serve.dev/files" not in str(absent.message["hint"])
