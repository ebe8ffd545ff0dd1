"""Models in an S3 store: versitygw on loopback."""

import contextlib
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from model_loader.download.hashing import FileHash
from model_loader.outcomes import Code, LoadError
from model_loader.sources import s3
from model_loader.sources.aws_identity import Keys
from model_loader.verify import checksums
from support import loader_harness as harness
from support.loader_harness import Loader, Reply, Store, WebServer, unused_address


def test_a_prefix_gives_its_objects_with_relative_paths(load: Loader, s3: Store) -> None:
    objects = {"iris/v1/model.joblib": b"weights", "iris/v1/config/a b+ü~.json": b"{}", "iris/v1/empty": b""}
    s3.put("models", objects | {"iris/v10/model.joblib": b"a sibling"})

    run = load("s3://models/iris/v1")

    assert run.files() == {"model.joblib": b"weights", "config/a b+ü~.json": b"{}", "empty": b""}
    assert (run.exit_code, run.code, run.message["bytes"], run.message["files"]) == (0, "Loaded", 9, 3)


def test_an_exact_key_gives_one_file_by_its_base_name(load: Loader, s3: Store) -> None:
    s3.put("models", {"one/model.joblib": b"weights", "one/model.joblib.bak": b"other"})

    run = load("s3://models/one/model.joblib")

    assert run.files() == {"model.joblib": b"weights"}


def test_a_file_of_many_parts_is_complete(load: Loader, s3: Store) -> None:
    weights = os.urandom((20 << 20) + 17)
    s3.put("models", {"large/model.bin": weights})

    run = load("s3://models/large")

    assert run.files() == {"model.bin": weights}


def test_more_objects_than_a_page_of_the_list_are_all_loaded(load: Loader, s3: Store) -> None:
    objects = {f"many/{number:04}": b"%d" % number for number in range(1100)}
    s3.put("models", objects)

    run = load("s3://models/many")

    assert run.files() == {key.removeprefix("many/"): body for key, body in objects.items()}


def test_the_model_is_readable_by_every_user(load: Loader, s3: Store) -> None:
    s3.put("models", {"modes/folder/model.joblib": b"weights"})

    run = load("s3://models/modes")

    model = run.volume / "model"
    assert {oct(path.stat().st_mode & 0o777) for path in (model, model / "folder")} == {"0o755"}
    assert oct((model / "folder/model.joblib").stat().st_mode & 0o777) == "0o644"


def test_kserves_names_of_the_keys_are_accepted(load: Loader, store: Store) -> None:
    store.put("models", {"legacy/model.joblib": b"weights"})
    load.credentials(awsAccessKeyID="reader", awsSecretAccessKey="reader-secret")

    run = load("s3://models/legacy", environment={"AWS_ENDPOINT_URL": store.endpoint})

    assert run.code == "Loaded"


@pytest.mark.attack(15)
def test_a_wrong_key_is_unauthorized_and_never_shown(load: Loader, s3: Store) -> None:
    s3.put("models", {"iris/model.joblib": b"weights"})
    load.credentials(AWS_SECRET_ACCESS_KEY="not-the-secret")

    run = load("s3://models/iris")

    assert (run.exit_code, run.code, run.message["retryable"]) == (10, "Unauthorized", False)
    assert "SignatureDoesNotMatch" in str(run.message["message"])
    assert "not-the-secret" not in run.output
    assert run.files() == {}


def test_half_a_pair_of_keys_is_refused_without_a_request(load: Loader, store: Store) -> None:
    load.credentials(AWS_ACCESS_KEY_ID="reader", AWS_ENDPOINT_URL=store.endpoint)

    run = load("s3://models/iris")

    assert (run.code, run.exit_code) == ("InvalidSource", 2)
    assert "AWS_SECRET_ACCESS_KEY" in str(run.message["message"])


def test_an_empty_prefix_and_a_missing_bucket_are_not_found(load: Loader, s3: Store) -> None:
    s3.put("models", {"iris/model.joblib": b"weights"})

    assert [load(uri).code for uri in ("s3://models/iri", "s3://absent/iris", "s3://models/iris/")] == [
        "NotFound",
        "NotFound",
        "Loaded",
    ]


def test_several_models_go_to_several_folders(load: Loader, s3: Store, tmp_path: Path) -> None:
    s3.put("models", {"base/model.bin": b"base", "adapter/adapter.bin": b"adapter"})

    run = load("s3://models/base", "s3://models/adapter=adapters/one")

    assert run.files() == {"model.bin": b"base", "adapters/one/adapter.bin": b"adapter"}


def test_an_endpoint_that_refuses_connections_is_reported_at_once_and_at_the_end(load: Loader, store: Store) -> None:
    load.credentials(AWS_ENDPOINT_URL=f"http://{unused_address()}")

    run = load("s3://models/iris")

    assert (run.code, run.exit_code, run.message["retryable"]) == ("Unreachable", 16, True)
    first = run.events[0]
    assert (first["event"], first["code"], first["attempt"]) == ("retry", "Unreachable", 1)
    assert "refused" in str(first["message"])
    assert first["hint"]


def test_the_signature_with_a_session_equals_obstores(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same request, at obstore's time, gets the same Authorization header; versitygw does not support sessions."""
    keys = Keys("access", "secret", "token/of+the session=")
    store = S3Store(
        "models",
        endpoint=web.url,
        access_key_id=keys.access,
        secret_access_key=keys.secret,
        token=keys.token,
        region="eu-west-3",
        client_options={"allow_http": True},
    )
    with contextlib.suppress(BaseError, FileNotFoundError):  # only its request matters
        obstore.list(store, "iris/v-1.0_2").collect()
    theirs = {name.lower(): value for name, value in web.requests[0].headers.items()}
    moment = time.strptime(theirs["x-amz-date"], "%Y%m%dT%H%M%SZ")
    monkeypatch.setattr(s3, "time", SimpleNamespace(gmtime=lambda: moment, strftime=time.strftime))
    ours: dict[str, str] = {}

    s3.RequestSigner(lambda: keys, "eu-west-3").sign("GET", urlsplit(f"{web.url}{web.requests[0].path}"), ours)

    assert theirs["x-amz-security-token"] == keys.token
    assert ours["Authorization"] == theirs["authorization"]


@pytest.mark.parametrize("size", [7, 9 << 20])
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("sha256", ()),
        ("sha256", ("--no-digest",)),
        ("crc64nvme", ()),
        ("crc64nvme", ("--no-digest",)),
        ("crc32c", ()),
        ("crc32", ()),
        ("sha1", ()),
    ],
)
def test_an_object_that_rots_in_the_store_is_corrupted_until_it_is_repaired(
    load: Loader, keeping: Store, size: int, algorithm: str, options: tuple[str, ...]
) -> None:
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=keeping.endpoint)
    body = os.urandom(size)
    keeping.upload("models/iris/model.bin", body, algorithm)
    run = load("s3://models/iris", options=options)
    assert (run.files(), run.message["checked"]) == ({"model.bin": body}, 1)
    shutil.rmtree(load.volume)
    load.volume.mkdir()
    file = keeping.folder / "models/iris/model.bin"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns

    def write(first: int) -> None:
        with file.open("r+b") as stream:
            stream.write(bytes([first]))
        os.utime(file, ns=times)  # it is the same object, so the loader could wrongly reuse its written parts

    write(body[0] ^ 1)
    run = load("s3://models/iris", options=options)
    assert (run.code, run.message["file"], run.files()) == ("Corrupted", "model.bin", {})
    write(body[0])

    assert load("s3://models/iris", options=options).files() == {"model.bin": body}


def test_without_permission_to_list_a_missing_object_is_unauthorized(load: Loader, web: WebServer) -> None:
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=web.url)
    web.fault = lambda request, number: Reply(403) if "list-type" in request.path else None

    assert load("s3://models/iris").code == "Unauthorized"


def test_a_file_that_one_start_did_not_verify_is_verified_by_the_next(
    load: Loader, keeping: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=keeping.endpoint)
    body = os.urandom(9 << 20)
    keeping.upload("models/late/model.bin", body, "sha256")
    with (keeping.folder / "models/late/model.bin").open("r+b") as stream:
        stream.write(bytes([body[0] ^ 1]))

    def end(_: object) -> NoReturn:
        raise LoadError(Code.INTERRUPTED, "the container was stopped")

    with monkeypatch.context() as patch:
        patch.setattr(FileHash, "is_genuine", end)
        assert load("s3://models/late").code == "Interrupted"

    assert load("s3://models/late").code == "Corrupted"


def test_an_unsupported_checksum_is_not_reported_as_checked(
    load: Loader, keeping: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the library, the message says that nothing was checked."""
    load.credentials(**harness.KEYS, AWS_ENDPOINT_URL=keeping.endpoint)
    keeping.upload("models/plain/model.bin", b"weights", "crc64nvme")
    monkeypatch.setattr(checksums, "_has_crt", lambda: False)

    run = load("s3://models/plain")

    assert (run.code, run.message["checked"]) == ("Loaded", 0)
