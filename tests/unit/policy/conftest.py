"""The screen of the plugin's tests with its clock, and the API of the server's."""

from unit.kubectl_serve.conftest import run
from unit.serve_webhook.conftest import api

__all__ = ["api", "run"]
