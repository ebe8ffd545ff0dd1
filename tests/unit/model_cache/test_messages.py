"""The wire format of the few messages: against the encoding that the specification documents."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as some

from model_cache import messages


@given(
    some.text(max_size=300), some.text(max_size=300), some.dictionaries(some.text(max_size=9), some.text(max_size=9))
)
def test_a_request_is_read_as_it_was_written(volume: str, target: str, secrets: dict[str, str]) -> None:
    pairs = [(7, messages.encode([(1, key.encode()), (2, value.encode())])) for key, value in secrets.items()]
    data = messages.encode([(1, volume.encode()), (4, target.encode()), (5, b"\x12\x00"), *pairs])
    found = messages.publish_request(data)
    assert found == (volume, target, secrets, {}, False)


@given(some.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    for parse in (messages.publish_request, messages.unpublish_request, messages.registration_status):
        with contextlib.suppress(ValueError):
            parse(data)


def test_the_encoding_is_that_of_protobuf() -> None:
    # https://protobuf.dev/programming-guides/encoding/: a string "testing" in field 2, and 150 in field 1.
    assert messages.encode([(2, b"testing")]) == bytes.fromhex("120774657374696e67")
    assert messages.decode(bytes.fromhex("089601")) == {1: [150]}


@pytest.mark.parametrize("data", ["08", "0aff", "0b", "08ffffffffffffffffffffff01"])
def test_cut_messages_are_refused(data: str) -> None:
    with pytest.raises(ValueError, match=r"cut off|unknown type"):
        messages.decode(bytes.fromhex(data))
