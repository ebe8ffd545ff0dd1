"""Objects that others stored, read with bounds."""

import json
import random
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from serve_core.base import bounded_reading
from serve_core.base.bounded_reading import ListReader, UnreadableObjectError
from support.stored import DEEP, READABLE, UNREADABLE, stored, text, with_value

pytestmark = pytest.mark.attack(23)


@pytest.mark.parametrize("document", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_said_with_what_its_metadata_tell(document: bytes) -> None:
    with pytest.raises(UnreadableObjectError) as caught:
        bounded_reading.read_object(document)
    assert 0 < len(caught.value.why) < 100
    assert all(isinstance(value, str | dict) for value in caught.value.metadata.values())


@pytest.mark.parametrize("document", READABLE.values(), ids=READABLE.keys())
def test_what_nobody_reads_keeps_nothing_from_being_read(document: bytes) -> None:
    found = bounded_reading.read_object(document)
    assert found["metadata"]["name"] == "evil"
    assert found["metadata"].get("managedFields") is None


@pytest.mark.parametrize("place", ["spec", "status", "data"])
def test_of_what_is_too_deep_or_too_large_the_name_is_known(place: str) -> None:
    huge = b"[" + b"{}," * 200_000 + b"{}]"
    for value in (DEEP, huge, b'"' + b"x" * 9_000_000 + b'"'):
        with pytest.raises(UnreadableObjectError) as caught:
            bounded_reading.read_object(with_value(value, place))
        known = {key: value for key, value in caught.value.metadata.items() if key != "labels"}
        assert known == {"name": "evil", "namespace": "default", "uid": "u-1", "resourceVersion": "7"}


def listed(items: list[bytes], *, last: bool = False) -> bytes:
    """As Go writes the lists of its own types, and those of custom resources, whose metadata come last."""
    metadata = b'"metadata":{"resourceVersion":"99","continue":"next"}'
    objects = b'"items":[' + b",".join(items) + b"]"
    parts = [b'"kind":"List"', objects, metadata] if last else [b'"kind":"List"', metadata, objects]
    return b"{" + b",".join(parts) + b"}\n"


def read_in_pieces(body: bytes, size: int) -> tuple[list[Any], Any]:
    reader, found = ListReader(), []
    for start in range(0, len(body), size):
        found += list(reader.feed(body[start : start + size]))
    return found, reader.end()


@pytest.mark.parametrize("last", [False, True], ids=["metadata first", "metadata last"])
@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_a_list_comes_object_by_object_however_it_is_cut(size: int, last: bool) -> None:
    tricky = [
        text(stored(name=f"a{n}", spec={"s": ']}"\\{[,', "items": [{"a": []}], "deep": [[[[{"b": {}}]]]]}))
        for n in range(4)
    ]
    items = [*tricky, b"{}", b'{"items":[{}]}', b'{"a":1}']
    found, metadata = read_in_pieces(listed(items, last=last), size)
    assert (found, metadata["continue"]) == (items, "next")


def test_an_empty_list_has_nothing_but_its_metadata() -> None:
    for body in (
        listed([]),
        b'{"metadata":{"resourceVersion":"5"},"items":null}',
        b'{"metadata":{"resourceVersion":"5"}}',
    ):
        found, metadata = read_in_pieces(body, 3)
        assert (found, "resourceVersion" in metadata) == ([], True)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"<html>", b"[]", listed([b"{}"])[:-9], b'{"items":[{"a"', b'{"items":[]}', b'"a"']
)
def test_what_is_no_whole_list_is_none(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        read_in_pieces(body, 5)


def test_of_a_list_of_random_objects_nothing_is_lost() -> None:
    rng = random.Random(4)

    def anything(depth: int) -> Any:
        if depth == 0:
            return rng.choice([1, None, "", "a\\", '"', "{", "]}", "é\u2028", -1.5e3, [], {}])
        if rng.random() < 0.5:
            return [anything(rng.randrange(depth)) for _ in range(rng.randrange(4))]
        return {
            rng.choice(["items", "metadata", "managed", '"', "{"]): anything(rng.randrange(depth)) for _ in range(3)
        }

    for _ in range(200):
        items = [text(stored(spec=anything(7))) for _ in range(rng.randrange(5))]
        found, _ = read_in_pieces(listed(items, last=rng.random() < 0.5), rng.randrange(1, 200))
        assert found == items
        assert [bounded_reading.read_object(each) for each in found] == [json.loads(each) for each in items]


def test_of_a_list_of_any_size_one_object_is_in_memory() -> None:
    large = b'{"metadata":{"name":"a"},"spec":"' + b"x" * 2_000_000 + b'"}'
    endless = b'{"metadata":{"name":"b"},"spec":[' + b'{"a":"bcdef"},' * 700_000 + b"1]}"
    tracemalloc.start()
    reader = ListReader()
    sizes: list[Any] = []
    body = [b'{"kind":"List","items":[', *[large + b","] * 10, endless, b'],"metadata":{"resourceVersion":"1"}}']
    before, _ = tracemalloc.get_traced_memory()
    for each in body:
        for start in range(0, len(each), 65536):
            found = reader.feed(each[start : start + 65536])
            sizes += [len(one) if isinstance(one, bytes) else one.metadata["name"] for one in found]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes == [len(large)] * 10 + ["b"]
    assert reader.end() == {"resourceVersion": "1"}
    assert most - before < 3 * bounded_reading.MAX_BYTES


GROWING = {
    "brackets": lambda n: b"[" * n,
    "braces and names": lambda n: b'{"a":' * n,
    "leaves": lambda n: b"[[[" + b"{}," * n + b"[[[[",
    "closed leaves in the deep": lambda n: b"[" * 50 + b"[[]]," * n,
    "quotes": lambda n: b'["' + b'\\"' * n,
    "backslashes": lambda n: b'["' + b"\\" * n,
    "strings": lambda n: b'["' + b'a","' * n,
    "managed fields": lambda n: b'{"metadata":{"managedFields":[' * n,
    "metadata": lambda n: b'{"metadata":{"a":{},' * n,
    "a name without an end": lambda n: b'{"metadata":{"name":"' + b'a","namespace":"' * n,
    "versions": lambda n: b'{"metadata":{"name":"a"' + b',"a":1' * n,
    "spaces": lambda n: b'{"metadata"' + b" " * n + b":" + b" " * n,
}


@pytest.mark.parametrize("of", GROWING.values(), ids=GROWING.keys())
def test_the_time_grows_as_the_text_does(of: Any) -> None:
    def spent(body: bytes) -> float:
        times = []
        for _ in range(3):
            started = time.process_time()
            with suppress(ValueError):
                bounded_reading.read_object(body)
            with suppress(ValueError):
                list(ListReader().feed(b'{"items":[' + body))
            times.append(time.process_time() - started)
        return min(times)

    small, large = of(20_000), of(160_000)
    assert spent(large) < 24 * max(spent(small), 0.002), "eight times the text"
