"""What the tests of the server share."""

import pytest

from webhook_api import Clock, MemoryApi


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
def clock() -> Clock:
    return Clock()
