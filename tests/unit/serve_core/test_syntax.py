"""The grammars of Go and Kubernetes: durations, names of objects, and quantities of resources."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_core.syntax import duration, object_name, quantity

SECOND = duration.SECOND


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0), ("90s", 90 * SECOND), ("1m30s", 90 * SECOND), ("1.5m", 90 * SECOND), ("90000ms", 90 * SECOND),
        ("30s1m", 90 * SECOND), (".5s", SECOND // 2), ("1.s", SECOND), ("-1h", -3600 * SECOND), ("+1us", 1000),
        ("1µs", 1000), ("1μs", 1000), ("1.9ns", 1), ("2562047h47m16.854775807s", 2**63 - 1),
    ],
)  # fmt: skip
def test_a_duration_is_read_as_go_reads_it(text: str, nanoseconds: int) -> None:
    assert duration.parse(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "s", ".s", "-", "90", "1d", "1 s", "1S", "٣s", "1e3s", "1m-30s", "2562047h47m16.854775808s"]
)
def test_other_texts_are_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration.parse(text)


def test_a_fraction_of_a_second_is_not_a_number_of_seconds() -> None:
    assert duration.whole_seconds("1500ms500ms") == 2
    with pytest.raises(ValueError, match="whole seconds"):
        duration.whole_seconds("1500ms")


@given(st.text(alphabet="0123456789.+-hmsnuµ", max_size=30))
def test_any_text_is_a_duration_or_an_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert abs(duration.parse(text)) < 2**63


@pytest.mark.parametrize(
    ("name", "label", "subdomain", "service"),
    [
        ("iris", True, True, True),
        ("1-iris", True, True, False),
        ("a" * 63, True, True, True),
        ("a" * 64, False, True, False),
        ("a" * 253, False, True, False),
        ("a" * 254, False, False, False),
        ("team.iris", False, True, False),
        ("team..iris", False, False, False),
        ("-iris", False, False, False),
        ("iris-", False, False, False),
        ("Iris", False, False, False),
        ("iris\n", False, False, False),
        ("", False, False, False),
    ],
)
def test_names_of_objects_are_those_that_kubernetes_allows(
    name: str, label: bool, subdomain: bool, service: bool
) -> None:
    assert object_name.is_label(name) is label
    assert object_name.is_subdomain(name) is subdomain
    assert object_name.is_service_name(name) is service


@pytest.mark.parametrize("value", ["100m", "1.5Gi", 2, "0", "1e3"])
def test_a_container_can_request_a_quantity(value: object) -> None:
    assert quantity.is_amount(value)


@pytest.mark.parametrize("value", ["-1", "", "1Q", True, None, "1e100"])
def test_a_container_cannot_request_other_values(value: object) -> None:
    assert not quantity.is_amount(value)
