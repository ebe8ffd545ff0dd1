"""Servers that send the whole file whatever part of it is asked for, as the rules of HTTP allow."""

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
    """Cut files into more parts than a worker asks for at once."""
    monkeypatch.setattr(file_state, "PART_BYTES", PART)
    monkeypatch.setattr(scheduler, "READ_AHEAD_BYTES", 8 * PART)


def deaf(answer: Answer) -> Callable[[Request, int], Reply]:
    """Return who answers so, but does not hear which part is asked for."""
    return lambda request, number: answer(without_range(request))


def cutting(answer: Callable[[Request, int], Reply], cuts: Iterator[int]) -> Callable[[Request, int], Reply]:
    """Return who answers so, but cuts files after so many bytes, and those behind at once."""

    def cut(request: Request, number: int) -> Reply:
        reply = answer(request, number)
        if "list-type" not in request.path and request.method == "GET":
            reply.cut = next(cuts, 0)
        return reply

    return cut


def bucket(load: Loader, web: WebServer, objects: dict[str, bytes]) -> Answer:
    """Return what an object store that keeps no checksums answers, with objects of one size."""
    load.credentials(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=web.url)
    web.files = {f"/models/m/{key}": body for key, body in objects.items()}
    page = Reply(body=listing(*(f"m/{key}" for key in objects), size=SIZE))
    return lambda request: page if "list-type" in request.path else web.answer(request)


def asked(web: WebServer) -> list[str]:
    """Return which parts of files were asked for."""
    files = [request for request in web.requests if "list-type" not in request.path and request.method == "GET"]
    return [request.headers.get("Range", "all") for request in files]


@pytest.mark.parametrize("options", [(), ("--no-digest",)], ids=["hashed", "not hashed"])
def test_a_store_that_ignores_which_part_is_asked_for_is_asked_for_whole_files(
    load: Loader, web: WebServer, options: tuple[str, ...]
) -> None:
    """All of them, as soon as one answer tells it."""
    objects = {"0.bin": BODY, "1.bin": BODY[::-1]}
    web.fault = deaf(bucket(load, web, objects))

    run = load("s3://models/m", options=options)

    assert run.files() == objects
    assert run.message.get("digest") == (None if options else manifest_digest(objects))
    told = [line["message"] for line in run.of("retry")]
    assert told == ["the server ignores Range requests, so the loader reads whole files"]
    assert asked(web)[-2:] == ["all", "all"]


def test_the_rest_of_an_answer_that_was_cut_is_asked_for_and_then_the_whole_file(load: Loader, web: WebServer) -> None:
    web.fault = cutting(
        deaf(bucket(load, web, {"model.bin": BODY})), itertools.chain([SIZE // 2], itertools.repeat(SIZE))
    )

    run = load("s3://models/m")

    assert run.files() == {"model.bin": BODY}
    assert [line["code"] for line in run.of("retry")] == ["Unreachable", "ServerError"]
    assert asked(web)[-1] == "all"


def test_a_hub_whose_network_ignores_it_is_read_and_checked(load: Loader, hub: Hub) -> None:
    hub.large = {"model.safetensors": BODY}
    hub.network.fault = deaf(hub.network.answer)

    run = load("hf://team/model", options=("--no-digest",))

    assert (run.files(), run.message["checked"]) == (hub.files | hub.large, 2)


def test_a_registry_that_ignores_it_is_read_and_checked(load: Loader, web: WebServer, registry: Registry) -> None:
    registry.push_artifact("team/whole", "v1", {"model.bin": BODY})
    web.fault = deaf(forward(registry.host))
    load.credentials(**{"plain-http": "true"})

    run = load(f"oci://{urlsplit(web.url).netloc}/team/whole:v1", options=("--no-digest",))

    assert (run.files(), run.message["checked"]) == ({"model.bin": BODY}, 1)


def test_a_store_of_checksums_that_ignores_it_is_read_and_checked(load: Loader, web: WebServer, keeping: Store) -> None:
    keeping.upload("models/whole/model.bin", BODY, "crc32")
    web.fault = deaf(forward(urlsplit(keeping.endpoint).netloc))
    load.credentials(**KEYS, AWS_ENDPOINT_URL=web.url)

    run = load("s3://models/whole", options=("--no-digest",))

    assert (run.files(), run.message["checked"]) == ({"model.bin": BODY}, 1)


def test_what_a_store_that_ignores_it_sends_is_still_checked(load: Loader, hub: Hub) -> None:
    hub.files, hub.large = {}, {"model.safetensors": BODY}
    siblings = hub.siblings()
    hub.siblings = lambda: siblings  # type: ignore[method-assign]
    hub.large = {"model.safetensors": BODY[::-1]}
    hub.network.fault = deaf(hub.network.answer)

    run = load("hf://team/model", options=("--no-digest",))

    assert (run.code, run.files()) == ("Corrupted", {})


def test_a_url_whose_server_serves_parts_no_more_is_read_whole(load: Loader, web: WebServer) -> None:
    """Its first answer, which tells the size, was of a part: another server behind the same name gave it."""
    web.files["/model.bin"] = BODY
    web.fault = lambda request, number: None if number in (1, 3) else deaf(web.answer)(request, number)

    assert load(f"{web.url}/model.bin", options=("--no-digest",)).files() == {"model.bin": BODY}


@pytest.mark.parametrize(("status", "code"), [(416, "Changed"), (204, "ServerError"), (203, "ServerError")])
def test_other_answers_to_a_request_for_a_part_are_failures(
    load: Loader, web: WebServer, status: int, code: str
) -> None:
    store = bucket(load, web, {"model.bin": BODY})
    web.fault = lambda request, number: Reply(status) if "Range" in request.headers else store(request)

    run = load("s3://models/m", options=("--no-digest", "--patience=0.3"))

    assert (run.code, run.files()) == (code, {})


@pytest.mark.parametrize("options", [(), ("--no-digest",)], ids=["hashed", "not hashed"])
def test_of_a_file_that_was_begun_anew_nothing_counts_that_an_earlier_start_wrote(
    load: Loader, web: WebServer, options: tuple[str, ...]
) -> None:
    """The first start has written parts, the second begins anew and is cut, the third is served parts again."""
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


def test_the_room_of_what_was_read_in_parts_is_there_for_the_whole_file(load: Loader, web: WebServer) -> None:
    """In a process, whose parts are of 8 MiB: there is room for the file, and not for the half of it once more."""
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


def test_what_counts_no_more_is_written_down_at_once(tmp_path: Path) -> None:
    """A loader that is killed then must not have the next one trust a file that was emptied."""
    with SafeDir(os.open(tmp_path, os.O_RDONLY)) as folder, Journal(folder, "journal", "header") as journal:
        journal.add((0, 0, PART))
        journal.add((1, 0, PART))
        journal.drop(0)

        with Journal(folder, "journal", "header") as next_start:
            assert next_start.parts == {(1, 0, PART)}


def test_a_file_whose_size_nobody_told_is_hashed_again_by_the_next_start(
    load: Loader, web: WebServer, first_listed: threading.Event
) -> None:
    """It is complete, and another file is not."""
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
