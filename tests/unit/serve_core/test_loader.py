"""What the loader says, as it is told to people."""

import json

import pytest

from model_loader.outcomes import Code
from serve_core.api import loader_protocol
from serve_core.api.loader_protocol import NOTHING, LoaderOutput


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (100 * 2**10, "100 KiB"),
        (2**20, "1.0 MiB"), (2**30, "1.0 GiB"), (5 * 2**40, "5.0 TiB"), (5000 * 2**40, "5000 TiB"),
    ],
)  # fmt: skip
def test_a_size_is_told_in_the_unit_that_is_best_to_read(size: int, text: str) -> None:
    assert loader_protocol.size_text(size) == text


def test_what_a_loader_brought_is_told_as_far_as_it_says() -> None:
    assert (
        loader_protocol.loaded_text(NOTHING)
        == loader_protocol.loaded_text(LoaderOutput(size=1))
        == loader_protocol.code_text(NOTHING)
        == loader_protocol.skipped_text(NOTHING)
        == ""
    )
    assert loader_protocol.loaded_text(LoaderOutput(size=2048, seconds=1)) == "2.0 KiB in 1.0 s"
    everything = {"bytes": 2048, "seconds": 1, "files": 1, "checked": 1, "signed": True, "digest": "sha256:0"}
    assert loader_protocol.loaded_text(loader_protocol.from_object(everything)) == (
        "2.0 KiB in 1 file in 1.0 s, 1 checked against the store's own checksum, its signature verified, sha256:0"
    )


def test_the_codes_are_those_of_the_loader() -> None:
    assert frozenset(Code) == loader_protocol.CODES


KEYS = {
    "event", "code", "message", "hint", "bytes", "total", "rate", "files", "seconds", "attempt", "wait", "checked",
    "signed", "digest", "runs_code", "runs_code_first", "skipped", "skipped_bytes", "skipped_first",
}  # fmt: skip
DEEP = '{"code": ' * 5000 + "1" + "}" * 5000


@pytest.mark.attack(24)
@pytest.mark.parametrize(
    "text",
    [
        None, 7, [], {}, "", "null", "[]", "7", "{", DEEP, '{"code": ' + "9" * 5000 + "}", '{"seconds": 1e999}',
        '{"seconds": NaN, "bytes": Infinity}', '{"code": [], "seconds": []}', '{"code": {"a": 1}, "bytes": {}}',
        '{"code": "Ready", "event": "anything"}', '{"bytes": -1, "total": -5, "seconds": -0.1, "files": true}',
        '{"bytes": 1e3, "seconds": "1", "digest": ["sha256:0"], "signed": "yes"}', '{"runs_code_first": 7}',
        json.dumps({"bytes": 10**30, "total": 2**63, "seconds": 10**400, "wait": 2**70}),
        json.dumps({"digest": "sha256:0\n\x1b[2J"}), json.dumps({"code": "Loaded", "message": "x" * 10**6}),
    ],
)  # fmt: skip
def test_what_is_not_as_the_loader_writes_it_counts_as_not_said(text: object) -> None:
    assert loader_protocol.parse(text) == NOTHING


@pytest.mark.attack(24)
def test_what_one_field_says_wrongly_takes_nothing_from_the_others() -> None:
    said = loader_protocol.parse(
        json.dumps({"code": "NotFound", "message": [], "seconds": {}, "bytes": "x", "hint": "y" * 9999})
    )
    assert said == LoaderOutput(code="NotFound", hint="y" * loader_protocol.MAX_TEXT)


@pytest.mark.attack(24)
@pytest.mark.parametrize("key", sorted(KEYS))
@pytest.mark.parametrize(
    "value", [None, True, -1, 2**80, 1.5, "", "x", [], [[]], {}, {"a": []}, "\ud800", "\x1b]52;c;x\x07"]
)
def test_whatever_a_field_holds_it_can_be_said(key: str, value: object) -> None:
    said = loader_protocol.from_object(
        {"event": "progress", "bytes": 1, "total": 2, "seconds": 1, "code": "Loaded", key: value}
    )
    texts = (loader_protocol.loaded_text(said), loader_protocol.code_text(said), loader_protocol.skipped_text(said))
    for text in (*texts, str(loader_protocol.share(said))):
        assert len(text) < 1000
