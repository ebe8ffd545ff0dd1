"""Models in a Hugging Face hub: its API and its redirects to a content network, both on loopback."""

import hashlib

import pytest

from support.loader_harness import Loader, Reply, Request, contents, manifest_digest
from support.loader_hub import COMMIT, Hub


def test_every_file_of_the_revision_is_read_by_commit(load: Loader, hub: Hub) -> None:
    run = load("hf://team/model")

    assert run.files() == hub.files | hub.large
    assert all(COMMIT in request.path for request in hub.api.requests[1:])


def test_a_revision_may_be_any_reference(load: Loader, hub: Hub) -> None:
    assert load("hf://team/model@refs/pr/1").code == "Loaded"
    assert load("hf://team/model@absent").code == "NotFound"


@pytest.mark.parametrize(
    "uri",
    [
        "hf://team/model@feature%2Fone", "hf://team/model:main", "hf://team/model:feature%2Fone",
        f"hf://team/model@{COMMIT}", f"hf://team/model:{COMMIT}", "hf://team/model@refs%2Fpr%2F1", "hf://team/model@main/",
    ],
)  # fmt: skip
def test_a_revision_has_several_forms(load: Loader, hub: Hub, uri: str) -> None:
    assert load(uri).files() == hub.files | hub.large


def test_a_repository_without_an_organisation_is_named_alone(load: Loader, hub: Hub) -> None:
    hub.name = "gpt2"

    assert load("hf://gpt2").files() == hub.files | hub.large
    assert load("hf://gpt2@feature%2Fone", options=("--hub-cache",)).files() == hub.files | hub.large
    assert "models--gpt2/refs/main" in contents(load.volume / "hub")
    requests = len(hub.api.requests)
    assert load("hf://gpt2@main", options=("--hub-cache",)).code == "Loaded"
    assert len(hub.api.requests) > requests, "another revision is another model"


@pytest.mark.parametrize(
    "uri",
    [
        "hf://team/model/gguf/tiny-Q4_K_M.gguf", "hf://team/model/gguf/tiny-Q4_K_M.gguf@main",
        "hf://team/model@main/gguf/tiny-Q4_K_M.gguf", "hf://team/model:main/gguf/tiny-Q4_K_M.gguf",
        "hf://team/model@refs/pr/1/gguf/tiny-Q4_K_M.gguf",
    ],
)  # fmt: skip
def test_one_file_of_a_repository_is_the_model(load: Loader, hub: Hub, uri: str) -> None:
    hub.large = {"gguf/tiny-Q4_K_M.gguf": b"weights", "gguf/tiny-Q8_0.gguf": b"more"}

    run = load(uri)

    assert run.files() == {"tiny-Q4_K_M.gguf": b"weights"}
    assert run.message["digest"] == f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    assert run.message["checked"] == 1


def test_one_part_of_a_gguf_model_stands_for_all(load: Loader, hub: Hub) -> None:
    parts = {f"Q8_0/tiny-0000{number}-of-00002.gguf": b"%d" % number for number in (1, 2)}
    hub.large = {**parts, "tiny-00001-of-00003.gguf": b"3"}

    run = load("hf://team/model/Q8_0/tiny-00001-of-00002.gguf")

    assert run.files() == {path.removeprefix("Q8_0/"): body for path, body in parts.items()}


@pytest.mark.parametrize("uri", ["hf://team/model/onnx", "hf://team/model/onnx/", "hf://team/model/onnx@main"])
def test_a_folder_of_a_repository_is_the_model(load: Loader, hub: Hub, uri: str) -> None:
    hub.files = {"onnx/config.json": b"{}", "onnx2/config.json": b"{2}", "onnx/a/b.json": b"1"}
    hub.large = {"onnx/model.onnx": b"weights"}

    run = load(uri)

    assert run.files() == {"config.json": b"{}", "a/b.json": b"1", "model.onnx": b"weights"}


def test_in_the_hubs_layout_a_file_has_its_path_in_the_repository(load: Loader, hub: Hub) -> None:
    hub.large = {"gguf/tiny.gguf": b"weights"}

    for uri in ("hf://team/model/gguf/tiny.gguf", "hf://team/model/gguf"):
        run = load(uri, options=("--hub-cache",))
        assert set(contents(run.volume / "hub")) == {
            f"models--team--model/snapshots/{COMMIT}/gguf/tiny.gguf",
            "models--team--model/refs/main",
        }


@pytest.mark.parametrize("path", ["absent.gguf", "config.json/", "model.safetensors/x", "Config.json"])
def test_a_path_that_is_not_in_the_repository_is_not_found(load: Loader, hub: Hub, path: str) -> None:
    run = load(f"hf://team/model/{path}")

    assert (run.code, run.files()) == ("NotFound", {})
    assert "It has config.json, model.safetensors." in str(run.message["hint"])


COPIES = {"pytorch_model.bin": b"copy", "original/consolidated.00.pth": b"a copy", "onnx/model.onnx": b"copies"}


def test_of_several_copies_of_the_weights_safetensors_are_loaded(load: Loader, hub: Hub) -> None:
    hub.files["original/params.json"] = b"{}"
    wanted = hub.files | hub.large
    hub.large = hub.large | COPIES

    run = load("hf://team/model", options=("--hub-cache",))

    assert run.files() == wanted
    assert run.message["digest"] == manifest_digest(wanted)
    skipped = {"skipped": 3, "skipped_bytes": 16, "skipped_first": "pytorch_model.bin"}
    assert run.message == run.message | skipped
    assert run.of("plan")[0] == run.of("plan")[0] | skipped | {"files": 3}
    assert not any(name in path for path in contents(run.volume / "hub") for name in COPIES)
    assert load("hf://team/model", options=("--hub-cache",)).message["skipped"] == 3, "as the first start reported"


def test_all_files_are_loaded_on_request(load: Loader, hub: Hub) -> None:
    hub.large = hub.large | COPIES

    run = load("hf://team/model", options=("--files", "*"))

    assert run.files() == hub.files | hub.large
    assert "skipped" not in run.message


def test_a_digest_of_all_files_is_verified_without_their_copies(load: Loader, hub: Hub) -> None:
    """The hub lists the copies' sha256: with those, the digest can only be the one of the same other files."""
    wanted = hub.files | hub.large
    hub.large = hub.large | COPIES
    everything = manifest_digest(hub.files | hub.large)

    run = load("hf://team/model", options=("--digest", everything))

    assert (run.code, run.files(), run.message["digest"]) == ("Loaded", wanted, everything)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_a_digest_of_all_files_fails_for_another_file(load: Loader, hub: Hub, name: str) -> None:
    hub.large = hub.large | COPIES
    everything = manifest_digest(hub.files | hub.large)
    for files in (hub.files, hub.large):
        if name in files:
            files[name] = files[name] + b"!"

    run = load("hf://team/model", options=("--digest", everything))

    assert (run.code, run.files()) == ("DigestMismatch", {})
    hint = str(run.message["hint"])
    assert hint.startswith('3 files with copies of the weights do not count; kubectl-serve.dev/files "*" loads all.')


def test_copies_without_a_sha256_are_loaded(load: Loader, hub: Hub) -> None:
    """They are small, and a digest of all files could not be verified without them."""
    hub.files["pytorch_model.bin"] = b"small"

    assert load("hf://team/model").files() == hub.files | hub.large


def test_of_several_gguf_models_one_must_be_named(load: Loader, hub: Hub) -> None:
    hub.large = {f"tiny-{kind}.gguf": bytes(3) for kind in ("F16", "IQ2_M", "Q4_K_M", "Q8_0")}

    run = load("hf://team/model@main")

    assert (run.code, run.files()) == ("InvalidSource", {})
    assert "hf://team/model@main has 4 models: tiny-F16.gguf (0.0 GB), tiny-IQ2_M.gguf" in str(run.message["message"])
    assert "for example hf://team/model/tiny-Q4_K_M.gguf@main, or set kubectl-serve.dev/files" in str(
        run.message["hint"]
    )
    assert load("hf://team/model", options=("--files", "*")).files() == hub.files | hub.large
    assert load("hf://team/model", options=("--files", "*IQ2*")).files() == {"tiny-IQ2_M.gguf": bytes(3)}


def test_one_gguf_model_is_loaded_with_all_that_belongs_to_it(load: Loader, hub: Hub) -> None:
    hub.large = {"tiny-Q8_0.gguf": b"1", "mmproj-F16.gguf": b"2"}

    assert load("hf://team/model").files() == hub.files | hub.large


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

    assert run.code in ("InvalidSource", "Unauthorized")
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


@pytest.mark.parametrize(
    ("status", "said", "code", "message", "hint"),
    [
        (404, "RevisionNotFound", "NotFound", "has no revision v9", "write %2F for a slash"),
        (403, "GatedRepo", "Unauthorized", "is gated", "Accept the conditions of {url}/team/model"),
        (
            401,
            "RepoNotFound",
            "Unauthorized",
            "does not exist, or HF_TOKEN has no access",
            "Check the name, and the token",
        ),
        (401, "", "Unauthorized", "does not exist, or HF_TOKEN has no access", "Check the name, and the token"),
        (404, "RepoNotFound", "NotFound", "does not exist, or HF_TOKEN has no access", "Check the name, and the token"),
    ],
)
def test_what_the_hub_says_of_a_failure_is_reported(
    load: Loader, hub: Hub, status: int, said: str, code: str, message: str, hint: str
) -> None:
    hub.api.fault = lambda request, number: Reply(status, {"X-Error-Code": said})

    run = load("hf://team/model@v9")

    assert run.code == code
    assert f"hf://team/model {message}" in str(run.message["message"])
    assert hint.format(url=hub.api.url) in str(run.message["hint"])


def test_a_name_without_an_organisation_may_lack_one(load: Loader, hub: Hub) -> None:
    hub.api.fault = lambda request, number: Reply(401, {"X-Error-Code": "RepoNotFound"})

    assert "an organisation is missing" in str(load("hf://model").message["hint"])


def test_a_former_name_leads_to_the_repository(load: Loader, hub: Hub) -> None:
    """A hub redirects it, on the same host, so that the token goes along."""
    hub.token = "hf_secret"
    load.credentials(HF_TOKEN="hf_secret")
    answer = hub.api.fault

    def redirect(request: Request, number: int) -> Reply | None:
        if request.path.startswith(("/api/models/gpt2/", "/gpt2/")):
            return Reply(307, {"Location": request.path.replace("gpt2", "team/model", 1)})
        return answer(request, number)

    hub.api.fault = redirect

    assert load("hf://gpt2").files() == hub.files | hub.large
