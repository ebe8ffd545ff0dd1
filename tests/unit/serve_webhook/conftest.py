"""What the tests of the server share."""

from collections.abc import Iterator

import pytest

from support.fake_api import Clock, MemoryApi


@pytest.fixture
def api() -> Iterator[MemoryApi]:
    made = MemoryApi()
    yield made
    assert made.beyond == [], "the server writes what its own policies would refuse"


@pytest.fixture
def clock() -> Clock:
    return Clock()
