"""Models in a Hugging Face hub: its API and its redirects to a content network, both on loopback."""

import pytest

from support.loader_harness import Loader, Reply, Request
from support.loader_hub import COMMIT, Hub


def test_every_file_of_the_revision_is_read_by_commit(load: Loader, hub: Hub) -> None:
    run = load("hf://team/model")

    assert run.files() == hub.files | hub.large
    assert all(COMMIT in request.path for request in hub.api.requests[1:])


def test_a_revision_may_be_any_reference(load: Loader, hub: Hub) -> None:
    assert load("hf://team/model@refs/pr/1").code == "Loaded"
    assert load("hf://team/model@absent").code == "NotFound"


def test_only_the_hub_gets_the_token_not_its_content_network(load: Loader, hub: Hub) -> None:
    hub.token = "hf_secret"
    assert load("hf://team/model").code == "Unauthorized"
    load.credentials(HF_TOKEN="hf_secret")

    run = load("hf://team/model")

    assert run.code == "Loaded"
    assert not any("Authorization" in request.headers for request in hub.network.requests)
    assert "hf_secret" not in run.output
    assert "Signature" not in run.output


@pytest.mark.parametrize("token", ["hf_secret", "hf_secret\n", " hf_secret\r\n"])
def test_a_token_of_the_environment_may_end_in_a_line_break(load: Loader, hub: Hub, token: str) -> None:
    hub.token = "hf_secret"

    assert load("hf://team/model", environment={"HF_TOKEN": token}).code == "Loaded"


@pytest.mark.attack(35)
@pytest.mark.parametrize("token", ["hf_secret\r\nHost: other", "hf_secret\n\nGET / HTTP/1.1", "hf_secret\xff", "\0"])
def test_a_token_cannot_become_another_header_or_request(load: Loader, hub: Hub, token: str) -> None:
    run = load("hf://team/model", environment={"HF_TOKEN": token})

    assert run.code == "Unauthorized"
    assert "hf_secret" not in run.output
    assert not hub.api.requests


def test_an_expired_signed_url_is_requested_again(load: Loader, hub: Hub) -> None:
    hub.once = True

    assert load("hf://team/model").files() == hub.files | hub.large


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_with_another_checksum_is_corrupted(load: Loader, hub: Hub, name: str) -> None:
    siblings = hub.siblings()
    hub.siblings = lambda: siblings  # type: ignore[method-assign]
    for files in (hub.files, hub.large):
        if name in files:
            files[name] = files[name][:-1] + b"!"

    run = load("hf://team/model")

    assert (run.code, run.message["file"]) == ("Corrupted", name)
    assert run.files() == {}


def test_a_file_that_is_corrupted_once_is_read_again(load: Loader, hub: Hub) -> None:
    def corrupt(request: Request, number: int) -> Reply | None:
        reply = hub.network.answer(request)
        if number == 1:
            reply.body = bytes(len(reply.body))
        return reply

    hub.network.fault = corrupt
    run = load("hf://team/model")

    assert run.files() == hub.files | hub.large
    assert [line["code"] for line in run.of("retry")] == ["Corrupted"]


def test_the_next_start_reads_a_file_that_had_to_be_read_again(load: Loader, hub: Hub) -> None:
    """Its journal has the file from the first attempt."""
    hub.large = {"model.safetensors": b"weights"}
    hub.network.fault = lambda request, number: Reply(body=b"WEIGHTS") if number == 1 else Reply(403)
    first = load("hf://team/model")
    assert ([line["code"] for line in first.of("retry")], first.code) == (["Corrupted"], "Unauthorized")
    hub.network.fault = lambda request, number: None

    assert load("hf://team/model").files() == hub.files | hub.large


def test_an_unsafe_name_in_a_repository_is_refused(load: Loader, hub: Hub) -> None:
    hub.files["../escape"] = b"x"

    assert load("hf://team/model").code == "Refused"
