"""The command line: arguments, exit codes and the termination message."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from model_loader.outcomes import OUTCOMES, Code
from model_loader.report import TERMINATION_BYTES, outcome, termination_message
from support.loader_harness import Loader, WebServer, contents
from support.paths import ROOT


def test_every_code_has_its_own_exit_code_and_a_hint() -> None:
    assert set(OUTCOMES) == set(Code)
    assert len({outcome.exit_code for outcome in OUTCOMES.values()}) == len(OUTCOMES)
    assert all(OUTCOMES[code].hint for code in Code if code is not Code.LOADED)


def test_a_termination_message_is_never_too_long() -> None:
    fields = outcome(Code.REFUSED, "ü" * 900, hint="h" * 900, file="\x01" * 500)

    text = termination_message(fields)

    assert len(text.encode()) <= TERMINATION_BYTES
    assert json.loads(text)["code"] == "Refused"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("nfs://host/model",), "nfs"),
        (("model.joblib",), "model.joblib"),
        (("s3://",), "names no bucket"),
        (("--digest=sha256:12", "--", "s3://models/a"), "sha256:"),
        (("--allow-network=10.0.0.1/8", "--", "s3://models/a"), "10.0.0.1/8"),
        (("--wrong", "--", "s3://models/a"), "--wrong"),
    ],
)
@pytest.mark.attack(16)
def test_invalid_arguments_are_reported_in_the_termination_message(
    load: Loader, arguments: tuple[str, ...], part: str
) -> None:
    *options, uri = arguments
    run = load(uri, options=tuple(option for option in options if option != "--"))

    assert (run.code, run.exit_code) == ("InvalidSource", 2)
    assert part in str(run.message["message"])


def test_the_digest_of_a_file_is_its_sha256(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = b"weights"

    run = load(f"{web.url}/model.bin")

    assert run.message["digest"] == "sha256:" + hashlib.sha256(b"weights").hexdigest()


def test_a_digest_mismatch_leaves_no_model(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = b"weights"

    run = load(f"{web.url}/model.bin", options=(f"--digest=sha256:{'0' * 64}",))

    assert (run.code, run.exit_code) == ("DigestMismatch", 12)
    assert not (run.volume / "model").exists()
    assert contents(run.volume).keys() == {"state/owner"}


def test_a_second_start_keeps_the_model_and_sends_no_request(load: Loader, web: WebServer) -> None:
    web.files["/model.bin"] = b"weights"
    first = load(f"{web.url}/model.bin")
    asked = len(web.requests)

    second = load(f"{web.url}/model.bin")

    assert len(web.requests) == asked
    assert (second.code, second.message["digest"]) == ("Loaded", first.message["digest"])


def test_a_local_folder_has_the_digest_of_its_manifest(load: Loader, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    (source / "b" / "two").write_bytes(b"2")
    (source / "B").write_bytes(b"1")
    lines = "".join(f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in [("B", b"1"), ("b/two", b"2")])

    run = load(source.as_uri())

    # "B" and "b" differ only by case, which some file systems do not distinguish.
    assert run.code == "Refused"
    (source / "B").rename(source / "A")
    run = load(source.as_uri())
    assert run.files() == {"A": b"1", "b/two": b"2"}
    assert run.message["digest"] == "sha256:" + hashlib.sha256(lines.replace("B\n", "A\n").encode()).hexdigest()


def test_files_that_may_run_code_are_counted_and_the_first_is_named(load: Loader, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    bodies = {
        "config.json": json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}),
        "generation_config.json": "{}",
        "model.safetensors": "",
        "sub/Weights.PKL": "",
        "sub/modeling.py": "",
        "sub/tokenizer_config.json": "[" * 100_000,
    }
    for name, body in bodies.items():
        (source / name).write_text(body)

    runs = [load(source.as_uri()), load(source.as_uri())]

    assert [(run.message["runs_code"], run.message["runs_code_first"]) for run in runs] == [(3, "config.json")] * 2


def test_files_in_archives_may_run_code_too(load: Loader, web: WebServer) -> None:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("saved/model.joblib", b"weights")
    web.files = {"/model.zip": body.getvalue(), "/model.onnx": b"weights"}

    assert load(f"{web.url}/model.zip").message["runs_code_first"] == "saved/model.joblib"
    assert "runs_code" not in load(f"{web.url}/model.onnx").message


def test_the_documentation_has_the_table_of_outcomes() -> None:
    text = (ROOT / "docs" / "loader.md").read_text()

    for code, end in OUTCOMES.items():
        row = f"| `{code}` | {end.exit_code} | {'yes' if end.retryable else 'no'} | {end.hint} |"
        assert row in text
