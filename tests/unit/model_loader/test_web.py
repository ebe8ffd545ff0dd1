"""Models over http, from a server that can inject faults."""

import os
import socket
from collections.abc import Callable

import pytest

from support.loader_harness import Loader, Reply, Request, WebServer


def test_a_url_gives_the_file_it_names(load: Loader, web: WebServer) -> None:
    web.files["/a/model.joblib"] = b"weights"

    run = load(f"{web.url}/a/model.joblib")

    assert run.files() == {"model.joblib": b"weights"}
    assert (run.exit_code, run.code) == (0, "Loaded")


def test_a_server_without_ranges_is_read_in_one_piece(load: Loader, web: WebServer) -> None:
    web.ranges = False
    web.files["/model.bin"] = os.urandom(20 << 20)

    run = load(f"{web.url}/model.bin")

    assert run.files() == {"model.bin": web.files["/model.bin"]}


def test_an_empty_file_is_a_file(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = b""

    assert load(f"{web.url}/model.bin").files() == {"model.bin": b""}


def test_a_truncated_body_is_resumed_where_it_stopped(load: Loader, web: WebServer) -> None:
    weights = web.files["/model.bin"] = os.urandom(6 << 20)

    def cut(request: Request, number: int) -> Reply | None:
        if number != 2:
            return None
        reply = web.answer(request)
        reply.cut = 4 << 20
        return reply

    web.fault = cut
    run = load(f"{web.url}/model.bin")

    assert run.files() == {"model.bin": weights}
    assert web.requests[2].headers["Range"] == f"bytes={4 << 20}-{(6 << 20) - 1}"
    assert [line["code"] for line in run.of("retry")] == ["Unreachable"]


def test_repeated_503_responses_are_retried(load: Loader, web: WebServer) -> None:
    weights = web.files["/model.bin"] = os.urandom(40 << 20)
    web.fault = lambda request, number: Reply(503) if number % 2 else None

    run = load(f"{web.url}/model.bin")

    assert run.files() == {"model.bin": weights}
    assert {line["code"] for line in run.of("retry")} == {"ServerError"}


def test_a_server_that_always_fails_ends_as_server_error(load: Loader, web: WebServer) -> None:
    web.fault = lambda request, number: Reply(500)

    run = load(f"{web.url}/model.bin?signature=secret", options=("--patience=0.5",))

    assert (run.code, run.exit_code, run.message["retryable"]) == ("ServerError", 17, True)
    assert "answered 500" in str(run.message["message"])
    assert "secret" not in run.output


def test_a_basic_auth_secret_is_sent(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    load.credentials(username="ada", password="lovelace")

    run = load(f"{web.url}/model.bin")

    assert run.code == "Loaded"
    assert {request.headers["Authorization"] for request in web.requests} == {"Basic YWRhOmxvdmVsYWNl"}


@pytest.mark.attack(14)
def test_no_credential_follows_a_redirect_to_another_host(load: Loader, web: WebServer) -> None:
    other = WebServer()
    other.files["/elsewhere"] = b"weights"
    web.fault = lambda request, number: Reply(302, {"Location": f"{other.url}/elsewhere?x=1"})
    load.credentials(authorization="Bearer secret")

    run = load(f"{web.url}/model.bin")
    other.close()

    assert run.files() == {"model.bin": b"weights"}
    assert all("Authorization" in request.headers for request in web.requests)
    assert not any("Authorization" in request.headers for request in other.requests)


@pytest.mark.attack(14)
def test_a_redirect_to_a_refused_address_is_refused(load: Loader, web: WebServer) -> None:
    web.fault = lambda request, number: Reply(302, {"Location": "http://169.254.169.254/latest/meta-data/"})

    run = load(f"{web.url}/model.bin", network="127.0.0.1/32")

    assert (run.code, run.exit_code) == ("Refused", 14)
    assert "169.254.169.254" in str(run.message["message"])


def test_a_file_that_changes_between_parts_is_planned_again(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = b"a" * (20 << 20)
    after = b"b" * (20 << 20)

    def change(request: Request, number: int) -> Reply | None:
        if number == 3:
            web.files["/model.bin"] = after
        return None

    web.fault = change
    run = load(f"{web.url}/model.bin", options=("--no-digest",))

    assert run.files() == {"model.bin": after}
    assert [line["code"] for line in run.of("retry")] == ["Changed"]


def test_a_file_that_changes_when_its_response_is_cut_is_planned_again(load: Loader, web: WebServer) -> None:
    before = web.files["/model.bin"] = b"a" * (20 << 20)
    after = b"b" * (20 << 20)

    def change(request: Request, number: int) -> Reply | None:
        if number != 2:
            return None
        web.files["/model.bin"] = after
        return Reply(headers={"ETag": web.etag(before)}, body=before, cut=len(before) // 2)

    web.fault = change
    run = load(f"{web.url}/model.bin")

    assert run.files() == {"model.bin": after}
    assert [line["code"] for line in run.of("retry")] == ["Unreachable", "Changed"]


def test_a_file_that_never_stops_changing_is_refused_and_leaves_nothing(load: Loader, web: WebServer) -> None:
    def change(request: Request, number: int) -> Reply | None:
        web.files["/model.bin"] = bytes([number % 256]) * (20 << 20)
        return None

    web.fault = change
    run = load(f"{web.url}/model.bin")

    assert (run.code, run.exit_code) == ("Changed", 19)
    assert run.files() == {}


@pytest.mark.parametrize(
    ("host", "path", "meant"),
    [
        (
            "acme.blob.core.windows.net",
            "models/churn/7",
            "az://models/churn/7, with AZURE_STORAGE_ACCOUNT: acme in the",
        ),
        ("models.s3.eu-west-3.amazonaws.com", "churn/7", "s3://models/churn/7."),
        ("storage.googleapis.com", "models/churn/7", "gs://models/churn/7."),
        ("models.example.com", "churn/7", ""),
    ],
)
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_folder_at_a_stores_web_address_is_reported_with_what_to_write(
    load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch, host: str, path: str, meant: str, status: int
) -> None:
    port = int(web.url.rpartition(":")[2])
    known = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **options: known("127.0.0.1", *rest, **options))
    web.fault = lambda request, number: Reply(status)

    run = load(f"http://{host}:{port}/{path}")
    wrong = load(f"https://{host}/{path}/")

    assert (meant in str(run.message["hint"])) is True
    assert ("write" in str(run.message["hint"])) is bool(meant)
    assert (wrong.code, f"for a folder, write {meant[:-1]}" in str(wrong.message["message"])) == (
        "InvalidSource", bool(meant),
    )  # fmt: skip


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Sign in</title>", b"\n\n<html>"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_page_in_place_of_the_file_is_refused(load: Loader, web: WebServer, page: bytes, ranges: bool) -> None:
    web.ranges = ranges
    web.files["/team/iris/blob/main/model.joblib"] = page
    web.fault = _as_html(web)

    run = load(f"{web.url}/team/iris/blob/main/model.joblib")

    assert (run.exit_code, run.code) == (2, "InvalidSource")
    assert "is a web page" in str(run.message["message"])
    assert "/raw/" in str(run.message["hint"])
    assert "credentials" in str(run.message["hint"])


@pytest.mark.parametrize(("name", "body"), [("model.joblib", b"\x80\x04weights"), ("card.HTML", b"<html>")])
def test_a_file_that_a_server_calls_html_is_loaded_if_it_is_no_page(
    load: Loader, web: WebServer, name: str, body: bytes
) -> None:
    web.files[f"/{name}"] = body
    web.fault = _as_html(web)

    assert load(f"{web.url}/{name}").files() == {name: body}


def _as_html(web: WebServer) -> Callable[[Request, int], Reply]:
    def answer(request: Request, _number: int) -> Reply:
        reply = web.answer(request)
        reply.headers["Content-Type"] = "text/html; charset=utf-8"
        return reply

    return answer
