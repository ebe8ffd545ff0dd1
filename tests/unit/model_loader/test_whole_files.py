"""Servers that ignore Range requests and send the whole file, as HTTP allows."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from model_loader.download import file_state, scheduler
from model_loader.storage.journal import Journal, Part
from model_loader.storage.volume import SafeDir
from support.loader_faults import without_range
from support.loader_harness import (
    KEYS,
    Loader,
    Registry,
    Reply,
    Request,
    Store,
    WebServer,
    forward,
    listing,
    manifest_digest,
)
from support.loader_hub import Hub
from unit.model_loader.test_faults import run_on_small_volume

PART = 64 << 10
SIZE = 20 * PART + 1
BODY = os.urandom(SIZE)
Answer = Callable[[Request], Reply]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files into more parts than a worker requests at once."""
    monkeypatch.setattr(file_state, "PART_BYTES", PART)
    monkeypatch.setattr(scheduler, "READ_AHEAD_BYTES", 8 * PART)


def deaf(answer: Answer) -> Callable[[Request, int], Reply]:
    """Return a server that answers so, but ignores Range."""
    return lambda request, number: answer(without_range(request))


def cutting(answer: Callable[[Request, int], Reply], cuts: Iterator[int]) -> Callable[[Request, int], Reply]:
    """Return a server that cuts the first files after these numbers of bytes, and later ones at once."""

    def cut(request: Request, number: int) -> Reply:
        reply = answer(request, number)
        if "list-type" not in request.path and request.method == "GET":
            reply.cut = next(cuts, 0)
        return reply

    return cut


def bucket(load: Loader, web: WebServer, objects: dict[str, bytes]) -> Answer:
    """Return the responses of an object store without checksums, with objects of one size."""
    load.credentials(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=web.url)
    web.files = {f"/models/m/{key}": body for key, body in objects.items()}
    page = Reply(body=listing(*(f"m/{key}" for key in objects), size=SIZE))
    return lambda request: page if "list-type" in request.path else web.answer(request)


def asked(web: WebServer) -> list[str]:
    """Return the requested parts of files."""
    files = [request for request in web.requests if "list-type" not in request.path and request.method == "GET"]
    return [request.headers.get("Range", "all") for request in files]


@pytest.mark.parametrize("options", [(), ("--no-digest",)], ids=["hashed", "not hashed"])
def test_a_store_that_ignores_range_requests_gets_requests_for_whole_files(
    load: Loader, web: WebServer, options: tuple[str, ...]
) -> None:
    """For all files, as soon as one response shows it."""
    objects = {"0.bin": BODY, "1.bin": BODY[::-1]}
    web.fault = deaf(bucket(load, web, objects))

    run = load("s3://models/m", options=options)

    assert run.files() == objects
    assert run.message.get("digest") == (None if options else manifest_digest(objects))
    messages = [line["message"] for line in run.of("retry")]
    assert messages == ["the server ignores Range requests, so the loader reads whole files"]
    assert asked(web)[-2:] == ["all", "all"]


def test_the_rest_of_a_truncated_response_is_requested_and_then_the_whole_file(load: Loader, web: WebServer) -> None:
    web.fault = cutting(
        deaf(bucket(load, web, {"model.bin": BODY})), itertools.chain([SIZE // 2], itertools.repeat(SIZE))
    )

    run = load("s3://models/m")

    assert run.files() == {"model.bin": BODY}
    assert [line["code"] for line in run.of("retry")] == ["Unreachable", "ServerError"]
    assert asked(web)[-1] == "all"


def test_a_hub_whose_content_network_ignores_ranges_is_read_and_verified(load: Loader, hub: Hub) -> None:
    hub.large = {"model.safetensors": BODY}
    hub.network.fault = deaf(hub.network.answer)

    run = load("hf://team/model", options=("--no-digest",))

    assert (run.files(), run.message["checked"]) == (hub.files | hub.large, 2)


def test_a_registry_that_ignores_ranges_is_read_and_verified(load: Loader, web: WebServer, registry: Registry) -> None:
    registry.push_artifact("team/whole", "v1", {"model.bin": BODY})
    web.fault = deaf(forward(registry.host))
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{urlsplit(web.url).netloc}/team/whole:v1", options=("--no-digest",))

    assert (run.files(), run.message["checked"]) == ({"model.bin": BODY}, 1)


def test_a_store_with_checksums_that_ignores_ranges_is_read_and_verified(
    load: Loader, web: WebServer, keeping: Store
) -> None:
    keeping.upload("models/whole/model.bin", BODY, "crc32")
    web.fault = deaf(forward(urlsplit(keeping.endpoint).netloc))
    load.credentials(**KEYS, AWS_ENDPOINT_URL=web.url)

    run = load("s3://models/whole", options=("--no-digest",))

    assert (run.files(), run.message["checked"]) == ({"model.bin": BODY}, 1)


def test_whole_files_are_verified_too(load: Loader, hub: Hub) -> None:
    hub.files, hub.large = {}, {"model.safetensors": BODY}
    siblings = hub.siblings()
    hub.siblings = lambda: siblings  # type: ignore[method-assign]
    hub.large = {"model.safetensors": BODY[::-1]}
    hub.network.fault = deaf(hub.network.answer)

    run = load("hf://team/model", options=("--no-digest",))

    assert (run.code, run.files()) == ("Corrupted", {})


def test_a_url_whose_server_stops_supporting_ranges_is_read_whole(load: Loader, web: WebServer) -> None:
    """Another server behind the same name gave the first response, which has the size and was partial."""
    web.files["/model.bin"] = BODY
    web.fault = lambda request, number: None if number in (1, 3) else deaf(web.answer)(request, number)

    assert load(f"{web.url}/model.bin", options=("--no-digest",)).files() == {"model.bin": BODY}


@pytest.mark.parametrize(("status", "code"), [(416, "Changed"), (204, "ServerError"), (203, "ServerError")])
def test_other_responses_to_a_range_request_are_failures(load: Loader, web: WebServer, status: int, code: str) -> None:
    store = bucket(load, web, {"model.bin": BODY})
    web.fault = lambda request, number: Reply(status) if "Range" in request.headers else store(request)

    run = load("s3://models/m", options=("--no-digest", "--patience=0.3"))

    assert (run.code, run.files()) == (code, {})


@pytest.mark.parametrize("options", [(), ("--no-digest",)], ids=["hashed", "not hashed"])
def test_after_a_file_starts_over_its_earlier_parts_do_not_count(
    load: Loader, web: WebServer, options: tuple[str, ...]
) -> None:
    """The first start writes parts, the second starts over and is cut, the third can request ranges again."""
    store = bucket(load, web, {"model.bin": BODY})
    options = ("--patience=0.3", *options)
    web.fault = cutting(lambda request, number: store(request), iter([15 * PART]))
    assert load("s3://models/m", options=options).code == "Unreachable"
    assert (load.volume / "state/journal").read_text().count("\n") > 3
    web.fault = cutting(deaf(store), itertools.repeat(PART))
    assert load("s3://models/m", options=options).code == "Unreachable"
    web.fault = lambda request, number: store(request)

    run = load("s3://models/m", options=options)

    assert run.files() == {"model.bin": BODY}
    assert not run.of("retry")


@pytest.fixture
def first_listed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the journal lists the end of the first file."""
    listed, add = threading.Event(), Journal.add

    def watched(self: Journal, part: Part) -> None:
        add(self, part)
        if part[0] == 0 and part[2] in (SIZE, -1):
            listed.set()

    monkeypatch.setattr(Journal, "add", watched)
    return listed


def test_a_file_that_was_read_whole_is_not_read_by_the_next_start(
    load: Loader, web: WebServer, first_listed: threading.Event
) -> None:
    objects = {"0.bin": BODY, "1.bin": BODY[::-1]}
    store = bucket(load, web, objects)

    def answer(request: Request, number: int) -> Reply:
        if request.path.endswith("/1.bin") and (request.method, "Range" in request.headers) == ("GET", False):
            return Reply(404 if first_listed.wait(30) else 500)
        return store(without_range(request))

    web.fault = answer
    assert load("s3://models/m", options=("--no-digest",)).code == "NotFound"
    web.requests.clear()
    web.fault = deaf(store)

    run = load("s3://models/m")

    assert run.files() == objects
    assert run.message["digest"] == manifest_digest(objects)
    assert {request.path for request in web.requests[1:]} == {"/models/m/1.bin"}


def test_the_space_of_earlier_parts_is_free_for_the_whole_file(load: Loader, web: WebServer) -> None:
    """In a process, with parts of 8 MiB: the volume has space for the file, but not for half of it in addition."""
    body = os.urandom(20 << 20)
    web.files["/model.bin"] = body
    hears = iter([True, True])

    def answer(request: Request, number: int) -> Reply:
        reply = web.answer(request if next(hears, False) else without_range(request))
        if number == 2:
            reply.cut = 12 << 20
        return reply

    web.fault = answer

    assert run_on_small_volume(load, f"{web.url}/model.bin", 26 << 20) == 0
    assert len(web.requests) == 5


def test_invalid_parts_are_recorded_at_once(tmp_path: Path) -> None:
    """After a kill, the next start must not trust a file that was emptied."""
    with SafeDir(os.open(tmp_path, os.O_RDONLY)) as folder, Journal(folder, "journal", "header") as journal:
        journal.add((0, 0, PART))
        journal.add((1, 0, PART))
        journal.drop(0)

        with Journal(folder, "journal", "header") as next_start:
            assert next_start.parts == {(1, 0, PART)}


def test_a_file_of_unknown_size_is_hashed_again_by_the_next_start(
    load: Loader, web: WebServer, first_listed: threading.Event
) -> None:
    """The file is complete, and another one is not."""
    objects = {"0.bin": BODY, "1.bin": BODY[::-1]}
    web.files = {f"/{name}": body for name, body in objects.items()}
    chunked = f"{SIZE:x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"
    fails = True

    def answer(request: Request, number: int) -> Reply | None:
        if request.path == "/0.bin":
            return Reply(200, {"Transfer-Encoding": "chunked", "Content-Length": ""}, chunked)
        if number > 2 and fails:
            return Reply(404 if first_listed.wait(30) else 500)
        return None

    web.fault = answer
    uris = [f"{web.url}/{name}=." for name in objects]
    assert load(*uris).code == "NotFound"
    fails = False

    run = load(*uris)

    assert run.files() == objects
    assert (run.message["digest"], run.message["bytes"]) == (manifest_digest(objects), 2 * SIZE)
