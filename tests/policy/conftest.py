"""The screen of the plugin's tests with its clock, and the API of the server's."""

from plugin.conftest import run
from webhook.conftest import api

__all__ = ["api", "run"]
