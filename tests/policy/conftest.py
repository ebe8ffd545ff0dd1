"""The screen of the plugin's tests with its clock, and the API of the server's."""

import pytest

from plugin.conftest import run
from webhook_api import MemoryApi

__all__ = ["run"]


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()
